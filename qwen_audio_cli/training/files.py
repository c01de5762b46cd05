"""Files that are whole or not there, however a run ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import OutputWriteError, UsageError


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file in place of an earlier one. Raises OutputWriteError."""
    from safetensors.torch import save_file

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _replace(path, lambda new: save_file(whole, new, dict(metadata or {"format": "pt"})))


def write_text(text: str, path: Path) -> None:
    """Write a text in place of an earlier one. Raises OutputWriteError."""
    _replace(path, lambda new: new.write_text(text, encoding="utf-8"))


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write a JSON object in place of an earlier one. Raises OutputWriteError."""
    write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", path)


def require_empty(directory: Path, why: str = "nothing is overwritten") -> None:
    """Raise UsageError for a directory in which something would be overwritten."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is not an empty directory: {why}")


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    new = path.with_name(f".{path.name}.new")
    try:
        try:
            write(new)
            with new.open("rb") as file:
                os.fsync(file.fileno())
            new.chmod(0o644)
            new.replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                new.unlink()
            raise
    except OSError as error:
        raise OutputWriteError(f"{path}: cannot be written: {error.strerror or error}") from error
