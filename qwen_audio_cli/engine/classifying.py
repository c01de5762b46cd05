"""Reads classes off the rows of a prompt, for networks whose head gives classes."""

from __future__ import annotations

import math

from torch import Tensor

from .request import Classified, Classify


class Classifying:
    """One `Classify` request on its way: its prompt is all that is fed."""

    rows = 0
    """Rows that are needed behind the prompt."""
    tokens: tuple[int, ...] = ()
    """What to feed behind the prompt."""
    branches: tuple[int, ...] = ()

    def __init__(self, request: Classify) -> None:
        """Raises ValueError for rows that are not in the prompt."""
        if not request.rows or not all(0 <= row < len(request.prompt) for row in request.rows):
            raise ValueError("classes are asked of rows that the prompt does not have")
        self._wanted = request.rows

    @property
    def first(self) -> int:
        """The first row of the prompt whose scores are wanted."""
        return min(self._wanted)

    def wanted(self, fed: int) -> tuple[int, ...]:
        """The rows whose scores are wanted, in what is left of the prompt behind `fed` tokens."""
        return tuple(row - fed for row in self._wanted)

    def take(self, scores: Tensor) -> Classified:
        """The likeliest classes by scores [rows, classes].

        Raises ArithmeticError for scores that are no finite numbers.
        """
        best = scores.log_softmax(-1).max(-1)
        logprobs: list[float] = best.values.tolist()
        if not all(map(math.isfinite, logprobs)):
            raise ArithmeticError("the model's scores are not finite")
        return Classified(best.indices.tolist(), logprobs)
