"""Fits what turns a model's scores into probabilities of being right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...families.calibration import Logistic

Numbers = NDArray[np.float64]

RIDGE = 0.1
"""Half of it times the squared weights is added to the loss, so that they stay finite where the
evidence parts right from wrong exactly."""

LOWEST, HIGHEST = 0.05, 20.0
"""Between these a temperature is looked for."""

_STEPS = 100
_PRECISION = 1e-10
_GOLDEN = (math.sqrt(5) - 1) / 2


def fit_logistic(evidence: Numbers, right: Numbers, ridge: float = RIDGE) -> Logistic:
    """The logistic regression of how far answers are `right` [n], from 0 to 1, on [n, k] numbers.

    Newton's method (iteratively reweighted least squares). The loss is convex, and a step is halved
    until it lowers it. The bias is free of the ridge.
    """
    columns = np.hstack([np.ones((len(evidence), 1)), evidence])
    penalty = np.diag([1e-9, *[ridge] * evidence.shape[1]])  # all right alone fixes no bias
    weights = np.zeros(columns.shape[1])

    def loss(weights: Numbers) -> float:
        scores = columns @ weights
        entropy = np.logaddexp(0, scores) - right * scores
        return float(entropy.sum() + weights @ penalty @ weights / 2)

    for _ in range(_STEPS):
        foretold = 0.5 * (1 + np.tanh(columns @ weights / 2))
        gradient = columns.T @ (foretold - right) + penalty @ weights
        curvature = (columns * (foretold * (1 - foretold))[:, None]).T @ columns + penalty
        step = np.linalg.solve(curvature, gradient)
        now = loss(weights)
        while loss(weights - step) > now and np.abs(step).max() > _PRECISION:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() <= _PRECISION:
            break
    bias, *others = map(float, weights)
    return Logistic(bias, tuple(others))


def fit_temperature(logs: Sequence[Numbers], truth: Sequence[int]) -> float:
    """What the log-likelihoods of labels are to be divided by: that of the least surprise.

    `logs` has those of the labels of each item, up to a constant of its own, `truth` the place of
    the label that is right. In 1 / temperature the surprise is convex: it has one least value,
    which golden-section search finds.
    """

    def surprise(exponent: float) -> float:
        scaled = [own / math.exp(exponent) for own in logs]
        return math.fsum(
            float(np.logaddexp.reduce(own) - own[place])
            for own, place in zip(scaled, truth, strict=True)
        )

    return math.exp(_least(surprise, math.log(LOWEST), math.log(HIGHEST)))


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function of one valley has its least value (Kiefer 1953)."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > 1e-6:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2
