"""Which files make a checkpoint in the Hugging Face layout: here, in a cache, or on the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import ConfigError, ModelError

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
"""The two files of an adapter, as peft names them; where the first is, it is one."""

WEIGHTS = Path(__file__).resolve().parent / "weights"
"""Where the embedded models lie."""

SMALL_SUFFIXES = frozenset({".json", ".tiktoken"})
SMALL_NAMES = frozenset({"merges.txt", "vocab.txt"})


def main_name(names: Collection[str]) -> str | None:
    """The file that says what a directory is: an adapter, or else a checkpoint; None: neither."""
    return next((name for name in (ADAPTER_CONFIG, CONFIG) if name in names), None)


def is_adapter(directory: Path) -> bool:
    """Whether a directory is an adapter, which changes the weights of a model that it names."""
    return os.path.exists(directory / ADAPTER_CONFIG)  # noqa: PTH110 - never raises


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint. Raises ConfigError, or ModelError where it may not be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path.parent}: no model checkpoint ({path.name} is missing)") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a JSON object is expected")
    return content


def small_names(names: Collection[str]) -> list[str]:
    """What is read beside the weights: configuration and vocabulary. Never code, never pickles."""
    if ADAPTER_CONFIG in names:
        return [ADAPTER_CONFIG]  # all else is its base model's
    return sorted(
        name
        for name in names
        if "/" not in name and (name in SMALL_NAMES or PurePosixPath(name).suffix in SMALL_SUFFIXES)
    )


def weight_names(names: Collection[str], index: Path | None) -> list[str]:
    """The files of the weights: an adapter's, those of the index, the one file, or all there are.

    Beside them the same weights may lie in another precision, as in openai/whisper-large-v3.
    Raises ConfigError for an index that cannot be read.
    """
    if ADAPTER_CONFIG in names:
        return [ADAPTER_WEIGHTS]
    if index is not None:
        return _indexed(index)
    if SINGLE in names:
        return [SINGLE]
    return sorted(name for name in names if "/" not in name and name.endswith(".safetensors"))


def is_whole(directory: Path) -> bool:
    """Whether a directory has a configuration and all weights; it may still be damaged.

    An adapter is whole without the model that it changes.
    """
    names = {path.name for path in directory.iterdir() if path.exists()}  # no link to nothing
    try:
        weights = weight_names(names, directory / INDEX if INDEX in names else None)
    except ConfigError:
        return False
    return main_name(names) is not None and bool(weights) and names.issuperset(weights)


def _indexed(index: Path) -> list[str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{index}: {error}") from error
    weights = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise ConfigError(f"{index}: does not name the weights' files")
    names = sorted({str(name) for name in weights.values()})
    if outside := [name for name in names if PurePosixPath(name).name != name]:
        raise ConfigError(f"{index}: {outside[0]} is no file beside it")
    return names
