"""Works on their way through the engine: what was asked, how far it is, what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor

from .arena import Extent
from .request import AudioInput, Dialogue, Generate, Score
from .sampler import Sampled
from .scoring import Scoring

K = TypeVar("K")
R = TypeVar("R")


class Cancelled(Exception):
    """What ends a work that was cancelled."""


@dataclass(frozen=True, slots=True, eq=False)
class Work(Generic[K, R]):
    """One clip (or several, for one request about all of them) and the dialogue to hold over it."""

    key: K
    audios: tuple[AudioInput, ...]
    dialogue: Dialogue[R]


@dataclass(frozen=True, slots=True)
class Done(Generic[K, R]):
    """The outcome of a work: its result, or the exception that ended it."""

    key: K
    result: R | None
    error: Exception | None


@dataclass(slots=True, eq=False)
class Running(Generic[K, R]):
    """A clip in work: the request being answered, and what is in its rows of the arena.

    `fed` are the prompt's tokens whose keys the extent holds, `feed` those to compute next, None
    for the one that was sampled last. `launched` counts the steps of an answer so far, of which
    `tokens` have been read; `rows` is what the request needs of the arena.
    """

    work: Work[K, R]
    seat: int
    request: Generate | Score | None = None
    scoring: Scoring | None = None
    context: object = None
    extent: Extent | None = None
    rows: int = 0
    fed: list[int] = field(default_factory=list)
    feed: Sequence[int] | None = ()
    launched: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def branches(self) -> tuple[int, ...]:
        """The lengths of the continuations in `feed`, if it is of several."""
        return self.scoring.branches if self.scoring else ()

    @property
    def unfinished(self) -> bool:
        """Whether the answer may grow by what has been launched already and a token more."""
        return not isinstance(self.request, Generate) or self.launched < self.request.longest


@dataclass(frozen=True, slots=True, eq=False)
class Member(Generic[K, R]):
    """A clip in a step, with the request it takes part for: it may have another by the end."""

    number: int
    running: Running[K, R]
    request: Generate | Score | None


@dataclass(frozen=True, slots=True, eq=False)
class Launched(Generic[K, R]):
    """A step on its way: who takes part, what was sampled, and the scores of who scores."""

    generating: list[Member[K, R]]
    sampled: Sampled | None
    scoring: list[tuple[Member[K, R], Tensor]]
