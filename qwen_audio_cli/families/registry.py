"""Which family loads a checkpoint: a row for each architecture that a configuration may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import ConfigError, UsageError
from .adapter import Adapter
from .base import Family
from .checkpoint import Checkpoint
from .qwen3_layout import is_aligner

_IM_END = 151645
"""Where an instructed Qwen2-Audio stops, and a base one does not."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A checkpoint to open, with its adapter, its label, and what was asked for with it.

    `aligner` opens the forced aligner that a family may consult, if there is one.
    """

    checkpoint: Checkpoint
    label: str
    full_window: bool
    aligner: Callable[[], Family | None]

    @property
    def directory(self) -> Path:
        """Where it lies."""
        return self.checkpoint.directory

    @property
    def adapter(self) -> Adapter | None:
        """What changes its weights."""
        return self.checkpoint.adapter

    def is_named(self, part: str) -> bool:
        """Whether its label, its directory or its repository is named as being of a kind."""
        directory = self.directory.resolve()
        repository = directory.parent.parent.name if directory.parent.name == "snapshots" else ""
        return any(part in name.lower() for name in (self.label, directory.name, repository))


def open_checkpoint(
    directory: Path,
    label: str,
    *,
    adapter: Adapter | None = None,
    full_window: bool = False,
    aligner: Callable[[], Family | None] = lambda: None,
) -> Family:
    """Open a checkpoint: its configuration and vocabulary, not its weights.

    `label` is what records call it, `adapter` what changes its weights; `aligner` opens a forced
    aligner, for a family that consults one. Raises ModelError where there is no such directory,
    ConfigError for what is no checkpoint of a known architecture, UsageError for an option that its
    family does not have.
    """
    opening = Opening(Checkpoint(directory, adapter), label, full_window, aligner)
    architectures = opening.checkpoint.config.get("architectures")
    named = [str(name) for name in architectures] if isinstance(architectures, list) else []
    opener = next((OPENERS[name] for name in named if name in OPENERS), None)
    if opener is None:
        what = f"its architecture, {named[0]}, is" if named else "it names no architecture,"
        raise ConfigError(f"{directory}: {what} none of {', '.join(OPENERS)}")
    if full_window and opener is not _whisper:
        raise UsageError(f"{label}: --full-window is for Whisper; this model hears clips alone")
    return opener(opening)


# Families are imported when they are opened: most of them bring large libraries along.


def _whisper(opening: Opening) -> Family:
    from .whisper import Whisper

    return Whisper(
        opening.directory,
        opening.label,
        full_window=opening.full_window,
        adapter=opening.adapter,
    )


def _qwen_audio(opening: Opening) -> Family:
    from .qwen_audio import QwenAudio

    return QwenAudio(opening.directory, opening.label, opening.adapter)


def _mini(opening: Opening) -> Family:
    from .mini import Mini

    return Mini(opening.directory, opening.label, opening.adapter)


def _qwen2_audio(opening: Opening) -> Family:
    """The base checkpoint or the instructed one: by its name or, without one, by where it stops."""
    from .chat import QWEN2_AUDIO_INSTRUCT, Chat
    from .qwen2_audio import Qwen2Audio

    facts: dict[str, Any] = {}
    if (opening.directory / "generation_config.json").exists():
        facts = opening.checkpoint.json("generation_config.json")
    stops = facts.get("eos_token_id")
    if opening.is_named("instruct") or _IM_END in (stops if isinstance(stops, list) else [stops]):
        return Chat(opening.directory, opening.label, QWEN2_AUDIO_INSTRUCT, opening.adapter)
    return Qwen2Audio(opening.directory, opening.label, opening.adapter)


def _qwen25_omni(opening: Opening) -> Family:
    from .chat import QWEN25_OMNI, Chat

    return Chat(opening.directory, opening.label, QWEN25_OMNI, opening.adapter)


def _qwen3_omni(opening: Opening) -> Family:
    """The captioner has the same architecture, and is known by its name alone."""
    from .chat import QWEN3_OMNI, QWEN3_OMNI_CAPTIONER, Chat

    captions = opening.is_named("captioner")
    dialect = QWEN3_OMNI_CAPTIONER if captions else QWEN3_OMNI
    return Chat(opening.directory, opening.label, dialect, opening.adapter)


def _qwen3_asr(opening: Opening) -> Family:
    """The forced aligner was published under the same architecture, with classes to choose from."""
    from .qwen3_asr import Qwen3Asr

    if is_aligner(opening.checkpoint.config):
        return _aligner(opening)
    return Qwen3Asr(opening.directory, opening.label, opening.aligner(), opening.adapter)


def _aligner(opening: Opening) -> Family:
    from .qwen3_aligner import Qwen3Aligner

    return Qwen3Aligner(opening.directory, opening.label, opening.adapter)


OPENERS: Mapping[str, Callable[[Opening], Family]] = MappingProxyType(
    {
        "WhisperForConditionalGeneration": _whisper,
        "WhisperModel": _whisper,
        "QWenLMHeadModel": _qwen_audio,
        "QwaMiniForAudioLanguage": _mini,
        "Qwen2AudioForConditionalGeneration": _qwen2_audio,
        "Qwen2_5OmniForConditionalGeneration": _qwen25_omni,
        "Qwen2_5OmniModel": _qwen25_omni,
        "Qwen2_5OmniThinkerForConditionalGeneration": _qwen25_omni,
        "Qwen3OmniMoeForConditionalGeneration": _qwen3_omni,
        "Qwen3OmniMoeThinkerForConditionalGeneration": _qwen3_omni,
        "Qwen3ASRForConditionalGeneration": _qwen3_asr,
        "Qwen3ASRForTokenClassification": _aligner,
    }
)
"""Architecture -> how its checkpoints are opened."""
