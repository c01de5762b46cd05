"""The protocol of a model family: how a task becomes its tokens, and its tokens an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.request import Dialogue, FinishReason, Model
from ..errors import UsageError
from ..tags import TagSequence
from ..tasks import FAMILIES, TAKES_CONTEXT, Task


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier turn of a conversation: a question about `clips` further clips, and its answer."""

    question: str
    answer: str
    clips: int


@dataclass(frozen=True, slots=True)
class Job:
    """What a run asks of every clip.

    `tags` is what the model is given, in its own dialect; `task` says how its answer is read.
    `labels` are scored for classification; when there are none the answer is free text. `longest`
    bounds the tokens of an answer (None: the family's own bound for the task). `context` is text
    that helps to hear right: names and terms that may be spoken. `history` are the turns that went
    before; their clips come before all others.
    """

    task: Task
    tags: TagSequence
    labels: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    longest: int | None = None
    context: str = ""
    history: tuple[Turn, ...] = ()

    def require(self, family: str) -> None:
        """Raise UsageError naming the families that can, where this one cannot do the job."""
        self.task.require(family, self.tags.text_language)
        if self.context and family not in TAKES_CONTEXT:
            able = ", ".join(name for name in FAMILIES if name in TAKES_CONTEXT)
            raise UsageError(f"{family} takes no context; families that do: {able}")


@dataclass(frozen=True, slots=True)
class Subject:
    """What one dialogue is about: the lengths of its clips in seconds, in order.

    `text` is what is spoken in them, where the user gave it.
    """

    seconds: tuple[float, ...]
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a model is given and what it is to write behind that, in tokens; it ends with a stop."""

    prompt: list[int]
    answer: list[int]


class Refused(Exception):
    """A clip turns out to be of a kind that the model cannot do what is asked for; says why."""


class TooLong(Exception):
    """A request has no room in what the model can hold; the message says how much there is."""


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word (or a silence, an event) with its times in seconds from the clip's begin."""

    word: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class ClipAnswer:
    """What a family says of one clip; what does not apply is None or empty.

    `labels` are (label, probability), best first. `agreement` is how far a second hearing of the
    clip says the same (0 to 1), `confidence` the calibrated probability of being right. `flags` are
    those of the record schema.
    """

    text: str | None = None
    language: str | None = None
    words: tuple[TimedWord, ...] | None = None
    labels: tuple[tuple[str, float], ...] | None = None
    avg_logprob: float | None = None
    compression_ratio: float | None = None
    no_speech_prob: float | None = None
    agreement: float | None = None
    confidence: float | None = None
    finish_reason: FinishReason | None = None
    flags: frozenset[str] = field(default_factory=frozenset)


def require_room(name: str, positions: int, prompt: int, answer: int) -> None:
    """Raise TooLong where a model of so many `positions` cannot hold prompt and answer together."""
    if prompt + answer > positions:
        raise TooLong(
            f"{name} takes {positions} tokens at most: a prompt of {prompt} "
            f"leaves no room for an answer of {answer}"
        )


class Family(Protocol):
    """One loaded checkpoint of one architecture."""

    name: str
    """The family's name in the task table."""
    label: str
    """What records call the model: name@revision."""
    window: float
    """The longest clip it hears, in seconds."""

    @property
    def colleague(self) -> Family | None:
        """The family whose model it consults, for what its own cannot do."""

    @property
    def parameters(self) -> int:
        """How many weights `load` loads. Raises ConfigError where they cannot be read."""

    @property
    def model(self) -> Model:
        """What the engine drives; there once `load` was called."""

    def check(self, job: Job) -> None:
        """Raise UsageError, naming what is wrong, for a job this checkpoint cannot do."""

    def load(self, dtype: torch.dtype, device: torch.device, device_map: str | None = None) -> None:
        """Load the weights onto a device, or spread over several by `device_map`.

        Raises ConfigError where the weights do not fit the configuration, ModelError where memory
        is too small, UsageError for a family that is not spread.
        """

    def features(self, samples: NDArray[np.float32]) -> Tensor:
        """What `Model.encode` takes of one clip's samples: [mels, frames]. Thread-safe."""

    def answer(self, job: Job, subject: Subject) -> Dialogue[ClipAnswer]:
        """The dialogue that answers `job`. Raises TooLong where the subject has no room."""


class Teachable(Family, Protocol):
    """A family whose models can be trained."""

    def heard(self, subject: Subject, memory: object) -> Subject:
        """The subject of a lesson with what is known of its clip once that is encoded."""

    def lesson(self, job: Job, subject: Subject, target: str) -> Lesson:
        """What the model learns from when `target` is the right answer about a subject.

        Once `load` was called. Raises UsageError for what it cannot learn, TooLong where there is
        no room.
        """
