"""Works on their way through the engine: what was asked, how far it is, what came of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from torch import Tensor

from .arena import Extent
from .classifying import Classifying
from .request import AudioInput, Dialogue, Generate, Request
from .sampler import Sampled
from .scoring import Scoring

K = TypeVar("K")
Q = TypeVar("Q")
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

    def go_on(self, dialogue: Generator[Q, object, object]) -> Callable[[], Q]:
        """What lets the dialogue that waits for this go on: to its next request."""
        if self.error is not None:
            return partial(dialogue.throw, self.error)
        return partial(dialogue.send, self.result)


@dataclass(slots=True, eq=False)
class Running(Generic[K, R]):
    """A clip in work: the request being answered, and what is in its rows of the arena.

    `fed` are the prompt's tokens whose keys the extent holds, `feed` those to compute next, None
    for the one that was sampled last. `launched` counts the steps of an answer so far, of which
    `tokens` have been read; `rows` is what the request needs of the arena.
    """

    work: Work[K, R]
    seat: int
    request: Request | None = None
    scoring: Scoring | Classifying | None = None
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
    def wanted(self) -> tuple[int, ...]:
        """The rows of `feed` whose scores are wanted, if not the last or those of branches."""
        return self.scoring.wanted(len(self.fed)) if self.scoring else ()

    @property
    def unfinished(self) -> bool:
        """Whether the answer may grow by what has been launched already and a token more."""
        return not isinstance(self.request, Generate) or self.launched < self.request.longest


@dataclass(frozen=True, slots=True, eq=False)
class Member(Generic[K, R]):
    """A clip in a step, with the request it takes part for: it may have another by the end."""

    number: int
    running: Running[K, R]
    request: Request | None


@dataclass(frozen=True, slots=True, eq=False)
class Launched(Generic[K, R]):
    """A step on its way: who takes part, what was sampled, and the scores of who scores."""

    generating: list[Member[K, R]]
    sampled: Sampled | None
    scoring: list[tuple[Member[K, R], Tensor]]


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
