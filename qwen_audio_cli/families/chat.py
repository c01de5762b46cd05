"""The models that chat: Qwen2-Audio-Instruct, the Omni thinkers, and the captioner made of one.

All speak ChatML; what differs is a `Dialect` each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ..prompts import instruction
from .adapter import Adapter
from .base import Job, Subject
from .chatml import Message, Piece, chatml
from .worded import Worded

ASSISTANT = "You are a helpful assistant."
_AUDIO_2 = ("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>")
_AUDIO_3 = ("<|audio_start|>", "<|audio_pad|>", "<|audio_end|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one of these models is talked to.

    `name` is its family, `window` the longest clip in seconds. `system` is the message that comes
    first, for some tasks that of `roles`. `told` is whether there are words beside the audio, which
    comes before them or behind; `numbered` gives each clip a line of its own, counted over the
    whole conversation.
    """

    name: str
    window: float
    audio_tokens: tuple[str, str, str]
    system: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    told: bool = True
    audio_first: bool = True
    numbered: bool = False


QWEN2_AUDIO_INSTRUCT = Dialect(
    # Its chat template, as transformers has it.
    name="qwen2-audio-instruct",
    window=30.0,
    audio_tokens=_AUDIO_2,
    system=ASSISTANT,
    numbered=True,
)
QWEN25_OMNI = Dialect(
    # QwenLM/Qwen2.5-Omni, `cookbooks/universal_audio_understanding.ipynb`.
    name="qwen-omni",
    window=300.0,
    audio_tokens=_AUDIO_2,
    system=ASSISTANT,
    roles=MappingProxyType(
        {
            "asr": "You are a speech recognition model.",
            "translation": "You are a speech translation model.",
            "vocal-sound": "You are a vocal sound classification model.",
        }
    ),
    audio_first=False,
)
QWEN3_OMNI = Dialect(name="qwen-omni", window=300.0, audio_tokens=_AUDIO_3)
QWEN3_OMNI_CAPTIONER = Dialect(
    # Its model card: one clip, best below 30 s, and no words.
    name="qwen3-omni-captioner",
    window=30.0,
    audio_tokens=_AUDIO_3,
    told=False,
)


class Chat(Worded):
    """A checkpoint that is asked in words, of one clip or of several, in one turn or in several."""

    def __init__(
        self, directory: Path, label: str, dialect: Dialect, adapter: Adapter | None = None
    ) -> None:
        super().__init__(directory, label, dialect.audio_tokens, adapter)
        self.name, self.window = dialect.name, dialect.window
        self._dialect = dialect

    def _prompt(self, job: Job, subject: Subject) -> list[int]:
        return chatml(self.tokenizer, self._messages(job, subject))

    def _messages(self, job: Job, subject: Subject) -> Iterator[Message]:
        dialect = self._dialect
        clips = [self._audio(seconds) for seconds in subject.seconds]
        if (system := dialect.roles.get(job.task.name, dialect.system)) is not None:
            yield "system", [system]
        heard = 0
        for turn in job.history:
            end = heard + turn.clips
            yield "user", self._said(clips[heard:end], turn.question, heard)
            yield "assistant", [turn.answer]
            heard = end
        words = instruction(job.task, job.tags, job.labels) if dialect.told else ""
        yield "user", self._said(clips[heard:], words, heard)

    def _said(self, clips: Sequence[Sequence[int]], words: str, before: int) -> list[Piece]:
        """What a user says about clips, of which there were so many `before`."""
        pieces: list[Piece] = []
        for number, clip in enumerate(clips, before + 1):
            pieces += [f"Audio {number}: ", clip, "\n"] if self._dialect.numbered else [clip]
        return [*pieces, words] if self._dialect.audio_first else [words, *pieces]
