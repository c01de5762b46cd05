"""Scores many continuations of one prompt behind the one copy of its keys and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor

from .request import Score, Scored
from .transfer import to_device

BRANCH_ROWS = 512
"""Tokens of continuations that share a step; more than one takes is for the next step."""


class Scoring:
    """The progress of one `Score` request: its prompt first, then its continuations in chunks.

    A chunk is a packed run of branches: all see the prompt, and none sees another.
    """

    def __init__(self, request: Score) -> None:
        self._request = request
        self._logprobs: list[list[float]] = []
        self._chunks = _chunks(request.continuations)
        self._chunk: list[int] = []

    @property
    def first(self) -> int:
        """The first row of the prompt whose scores are wanted: the last."""
        return len(self._request.prompt) - 1

    @property
    def rows(self) -> int:
        """Rows that the continuations take behind the prompt at most."""
        lengths = [len(tokens) - 1 for tokens in self._request.continuations]
        return max((sum(lengths[i] for i in chunk) for chunk in self._chunks), default=0)

    @property
    def tokens(self) -> list[int]:
        """What to feed next behind the prompt: the branches, packed."""
        return [t for i in self._chunk for t in self._request.continuations[i][:-1]]

    @property
    def branches(self) -> tuple[int, ...]:
        """The lengths of the branches to feed next."""
        return tuple(len(self._request.continuations[i]) - 1 for i in self._chunk)

    def wanted(self, fed: int) -> tuple[int, ...]:
        """Rows of what is fed next whose scores are wanted: the last, and all of branches."""
        return ()

    def take(self, scores: Tensor) -> Scored | None:
        """Read the scores of what was fed, [rows, vocabulary]; the outcome when it was the last.

        Raises ArithmeticError for scores that are no finite numbers.
        """
        shares = scores.log_softmax(-1)
        continuations = self._request.continuations
        if not self._logprobs:
            first = to_device([tokens[0] for tokens in continuations], shares.device)
            self._logprobs = [[value] for value in shares[0, first].tolist()]
        else:
            following = [t for i in self._chunk for t in continuations[i][1:]]
            chosen = to_device(following, shares.device)[:, None]
            values = shares.gather(1, chosen)[:, 0].tolist()
            ends = accumulate(self.branches)
            for i, length, end in zip(self._chunk, self.branches, ends, strict=True):
                self._logprobs[i] += values[end - length : end]
        if self._chunks:
            self._chunk = self._chunks.pop(0)
            return None
        if not all(math.isfinite(value) for values in self._logprobs for value in values):
            raise ArithmeticError("the model's scores are not finite")
        return Scored(self._logprobs)


def _chunks(continuations: Sequence[Sequence[int]]) -> list[list[int]]:
    """The numbers of the continuations of several tokens, in runs of bounded length."""
    chunks: list[list[int]] = []
    taken = BRANCH_ROWS
    for index, tokens in enumerate(continuations):
        rows = len(tokens) - 1
        if not rows:
            continue
        if taken + rows > BRANCH_ROWS:
            chunks.append([])
            taken = 0
        chunks[-1].append(index)
        taken += rows
    return chunks
