"""How the scores of continuations become the probabilities of labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..engine.request import Scored

Shares = tuple[tuple[str, float], ...]
"""Labels with their probabilities, best first."""


def probabilities(logprobs: Sequence[Sequence[float]], temperature: float = 1.0) -> list[float]:
    """Share of each continuation in the likelihood of all, from the log-probabilities of tokens.

    Above a `temperature` of 1 the shares are evener than the likelihoods (Guo et al. 2017).
    """
    sums = [sum(tokens) / temperature for tokens in logprobs]
    top = max(sums)
    weights = [math.exp(value - top) for value in sums]
    return [weight / sum(weights) for weight in weights]


def shares(labels: Sequence[str], scored: Scored, temperature: float = 1.0) -> Shares:
    """Probability of each label among all, best first; `temperature` as for `probabilities`.

    The summed log-likelihood of a label with the stop token behind it is the probability of the
    model's answering this label and nothing else, which is what a greedy answer is compared by. A
    mean per token is no probability, and favours long labels whose end follows from their begin.
    """
    return ranked(dict(zip(labels, probabilities(scored.logprobs, temperature), strict=True)))


def ranked(weights: Mapping[str, float]) -> Shares:
    """Labels by weight, best first, normalised among themselves."""
    total = sum(weights.values())
    by_weight = sorted(weights.items(), key=lambda item: -item[1])
    return tuple((label, weight / total) for label, weight in by_weight)
