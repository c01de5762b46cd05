"""Which files make a checkpoint in the Hugging Face layout: here, in a cache, or on the hub."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from .errors import ConfigError

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

SMALL_SUFFIXES = frozenset({".json", ".tiktoken"})
SMALL_NAMES = frozenset({"merges.txt", "vocab.txt"})


def small_names(names: Collection[str]) -> list[str]:
    """What is read beside the weights: configuration and vocabulary. Never code, never pickles."""
    return sorted(
        name
        for name in names
        if "/" not in name and (name in SMALL_NAMES or PurePosixPath(name).suffix in SMALL_SUFFIXES)
    )


def weight_names(names: Collection[str], index: Path | None) -> list[str]:
    """The files of the weights: those of the index, or the one file, or all there are.

    Beside them the same weights may lie in another precision, as in openai/whisper-large-v3.
    Raises ConfigError for an index that cannot be read.
    """
    if index is not None:
        return _indexed(index)
    if SINGLE in names:
        return [SINGLE]
    return sorted(name for name in names if "/" not in name and name.endswith(".safetensors"))


def is_whole(directory: Path) -> bool:
    """Whether a directory has a configuration and all weights; it may still be damaged."""
    names = {path.name for path in directory.iterdir() if path.exists()}  # no link to nothing
    try:
        weights = weight_names(names, directory / INDEX if INDEX in names else None)
    except ConfigError:
        return False
    return CONFIG in names and bool(weights) and names.issuperset(weights)


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
