"""Runs one packed step: from the feeds of many requests to the scores of the rows they want."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from torch import Tensor

from .arena import Arena, Extent
from .attention import Backend, Span, Step
from .graphs import DecodeGraphs
from .request import Model
from .transfer import to_device

ROWS = 4
"""Rows of a step are filled up to a multiple of this.

Matrix products of fewer rows add up in another order (seen with torch 2.13 on x86: float32 with up
to 11 rows that are no multiple of 4, bfloat16 with a single one), so that a clip's scores would
depend, in their last bits, on how many others share its steps.
"""

FIXED_ROWS = 16
"""The same where bitwise equality was asked for, with a margin for other processors."""


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """What one request has computed in a step.

    `tokens` are its next ones, or None for the one that was sampled last, which may be known to the
    device only: that of `seat`. With `branches` they are several continuations, of these lengths,
    of the same past. Scores are wanted of the last row; of every one with `branches`, or of `rows`.
    """

    extent: Extent
    context: object
    tokens: Sequence[int] | None
    seat: int
    branches: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()

    @property
    def wanted(self) -> Sequence[int]:
        """The rows of the feed whose scores are wanted."""
        count = 1 if self.tokens is None else len(self.tokens)
        return range(count) if self.branches else self.rows or (count - 1,)


class Runner:
    """Packs feeds, calls the model and advances the extents."""

    def __init__(
        self,
        model: Model,
        arena: Arena,
        backend: Backend,
        multiple: int,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        """`multiple`: of this, steps have rows. `graphs` runs steps of sampled tokens alone."""
        self._model = model
        self._arena = arena
        self._backend = backend
        self._multiple = multiple
        self._graphs = graphs

    def run(self, feeds: Sequence[Feed], last: Tensor) -> Tensor:
        """Scores of the rows that feeds want, in order, [n, vocabulary], filled up at the end.

        `last` [seats] are the tokens sampled last. Extents are advanced, but not over branches,
        which come behind all other feeds.
        """
        if self._graphs and all(feed.tokens is None for feed in feeds):
            rows = [(feed.seat, feed.extent.start, feed.extent.length) for feed in feeds]
            scores = self._graphs.run(rows)
        else:
            scores = self._run(feeds, last)
        for feed in feeds:
            if not feed.branches:
                feed.extent.length += 1 if feed.tokens is None else len(feed.tokens)
        return scores

    def _run(self, feeds: Sequence[Feed], last: Tensor) -> Tensor:
        tokens, positions, targets, wanted = _pack(feeds)
        device = last.device
        spare = [0] * (-len(tokens) % self._multiple)
        ids = to_device([max(token, 0) for token in tokens] + spare, device)
        sampled = [row for row, token in enumerate(tokens) if token < 0]
        if sampled:
            seats = to_device([-1 - tokens[row] for row in sampled], device)
            ids.index_copy_(0, to_device(sampled, device), last.index_select(0, seats))
        step = Step(self._arena, _spans(feeds), to_device(targets + spare, device), self._backend)
        rows = to_device(wanted + wanted[:1] * (-len(wanted) % self._multiple), device)
        return self._model.forward(ids, to_device(positions + spare, device), step, rows)


def _spans(feeds: Sequence[Feed]) -> list[Span]:
    counts = [1 if feed.tokens is None else len(feed.tokens) for feed in feeds]
    bounds = pairwise(accumulate(counts, initial=0))
    return [
        Span(start, stop, feed.extent, feed.tokens, feed.context, feed.branches)
        for feed, (start, stop) in zip(feeds, bounds, strict=True)
    ]


def _pack(feeds: Sequence[Feed]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Token, position and arena row of every packed row, and the rows whose scores are wanted.

    A token that only the device knows is -1 - its seat.
    """
    tokens: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    wanted: list[int] = []
    for feed in feeds:
        own = [-1 - feed.seat] if feed.tokens is None else feed.tokens
        past, first = feed.extent.length, len(tokens)
        tokens += own
        targets += range(feed.extent.start + past, feed.extent.start + past + len(own))
        if feed.branches:
            for length in feed.branches:
                positions += range(past, past + length)
        else:
            positions += range(past, past + len(own))
        wanted += (first + row for row in feed.wanted)
    return tokens, positions, targets, wanted
