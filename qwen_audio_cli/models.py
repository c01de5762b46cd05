"""Which models there are: aliases, where their checkpoints lie, which family loads them."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigError, ModelError, UsageError

if TYPE_CHECKING:
    from .families.base import Family
    from .tasks import Task

WEIGHTS = Path(__file__).resolve().parent / "weights"
"""Where the embedded models lie."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One row of `qwa models`; `parameters` in millions, `directory` where it is embedded."""

    alias: str
    family: str
    source: str
    parameters: int
    directory: Path | None = None

    @property
    def present(self) -> bool:
        """Whether the checkpoint is on this machine."""
        return self.directory is not None and self.directory.is_dir()


MODELS: tuple[ModelCard, ...] = (
    ModelCard("whisper-base", "whisper", "openai/whisper-base", 73, WEIGHTS / "whisper-base"),
    ModelCard("qwen-audio", "qwen-audio", "Qwen/Qwen-Audio", 8396),
    ModelCard("qwen-audio-chat", "qwen-audio-chat", "Qwen/Qwen-Audio-Chat", 8396),
)
"""Models by alias; any checkpoint of a family that is listed loads by its path too."""


def default_for(*tasks: Task) -> str:
    """The best embedded model that can do all of `tasks`. Raises UsageError where none can."""
    able = [card for card in MODELS if all(card.family in task.families for task in tasks)]
    for card in able:
        if card.present:
            return card.alias
    what = ", ".join(f"'{task.name}' ({task.title})" for task in tasks)
    names = ", ".join(card.alias for card in able)
    can = f"models that can: {names}" if able else "no model of this release can"
    raise UsageError(
        f"no embedded model can do {'all of ' if len(tasks) > 1 else ''}{what}; {can} "
        "(--model PATH names a checkpoint)"
    )


def open_model(name: str, *, full_window: bool = False) -> Family:
    """Open an alias or the path of a checkpoint: its configuration and vocabulary, not its weights.

    Raises ModelError for what is not on this machine, ConfigError for what is no checkpoint of a
    known architecture, UsageError for an unknown name (with the nearest aliases).
    """
    directory, label = _locate(name)
    architecture = _architecture(directory)
    if architecture == "WhisperForConditionalGeneration":
        from .families.whisper import Whisper

        return Whisper(directory, label, full_window=full_window)
    if architecture == "QWenLMHeadModel":
        if full_window:
            raise UsageError(f"{label}: --full-window is for Whisper; this model hears clips alone")
        from .families.qwen_audio import QwenAudio

        return QwenAudio(directory, label)
    raise ConfigError(f"{directory}: the architecture {architecture or 'it has'} is not known")


def _locate(name: str) -> tuple[Path, str]:
    """The directory of a model and what records call it."""
    aliases = {card.alias: card for card in MODELS}
    card = aliases.get(name)
    path = Path(name).expanduser()
    if card is None and ("/" in name or os.path.isdir(path)):  # noqa: PTH112 - never raises
        return path, path.resolve().name
    if card is None:
        near = difflib.get_close_matches(name, aliases, n=3, cutoff=0.5) or list(aliases)
        raise UsageError(f"unknown model '{name}': did you mean {' or '.join(near)}, or a path?")
    if card.directory is None or not card.present:
        raise ModelError(
            f"{name} is not on this machine; --model PATH names a checkpoint of {card.source}"
        )
    return card.directory, card.alias


def _architecture(directory: Path) -> str | None:
    try:
        if not directory.is_dir():
            raise ModelError(f"{directory}: no such model directory")
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        return str(config["architectures"][0])
    except FileNotFoundError:
        raise ConfigError(f"{directory}: no model checkpoint (config.json is missing)") from None
    except PermissionError as error:
        raise ModelError(f"{directory}: cannot be read: {error.strerror}") from error
    except (OSError, ValueError, LookupError, TypeError):
        raise ConfigError(f"{directory}/config.json: does not name its architecture") from None
