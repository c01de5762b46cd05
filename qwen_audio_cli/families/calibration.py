"""How sure an answer is: what a checkpoint learned of when it is right, kept in `config.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from ..errors import ConfigError

Kind = Literal["transcript", "analysis"]
"""Of a transcript the share of words that are right is foretold, of another text whether it is."""

KINDS: tuple[Kind, ...] = get_args(Kind)

EVIDENCE: Mapping[Kind, tuple[str, ...]] = MappingProxyType(
    {"transcript": ("logprob", "agreement"), "analysis": ("logprob",)}
)
"""What speaks for an answer of each kind: the mean log-probability of its tokens and, from 0 to 1,
how far the CTC head agrees with it."""

BIAS = "bias"
TEMPERATURE = "temperature"

_WHERE = "config.json: calibration"


@dataclass(frozen=True, slots=True)
class Logistic:
    """A logistic regression: a weight for each number of evidence, and a bias."""

    bias: float
    weights: tuple[float, ...]

    def __call__(self, evidence: Sequence[float]) -> float:
        """The probability that goes with the evidence."""
        score = self.bias + math.fsum(
            weight * value for weight, value in zip(self.weights, evidence, strict=True)
        )
        # In this form nothing overflows.
        return 0.5 * (1 + math.tanh(score / 2))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Turns a model's own scores into probabilities of being right.

    Written answers by logistic regression (Platt 1999), scored labels by a `temperature` that the
    sums of their log-likelihoods are divided by before the softmax (Guo et al. 2017, arXiv
    1706.04599).
    """

    regressions: Mapping[Kind, Logistic]
    temperature: float

    @classmethod
    def read(cls, part: object) -> Calibration | None:
        """The object "calibration" of `config.json`; None without one.

        Raises ConfigError naming what does not make sense.
        """
        if part is None:
            return None
        content = _object(part, _WHERE, (*KINDS, TEMPERATURE))
        temperature = _number(content, TEMPERATURE, _WHERE)
        if temperature <= 0:
            raise ConfigError(f"{_WHERE}.{TEMPERATURE} is {temperature}, not above 0")
        return cls({kind: _logistic(content[kind], kind) for kind in KINDS}, temperature)

    def as_dict(self) -> dict[str, object]:
        """The object that `read` reads."""
        written: dict[str, object] = {
            kind: {BIAS: line.bias, **dict(zip(EVIDENCE[kind], line.weights, strict=True))}
            for kind, line in self.regressions.items()
        }
        return {**written, TEMPERATURE: self.temperature}

    def written(self, kind: Kind, logprob: float, agreement: float | None = None) -> float:
        """How likely a written answer is right, or of a transcript each of its words.

        `logprob` is the mean log-probability of its tokens. A transcript needs the `agreement` of
        the CTC head with it, from 0 to 1; another answer has none.
        """
        evidence = [logprob] if agreement is None else [logprob, agreement]
        return self.regressions[kind](evidence)


def _logistic(part: object, kind: Kind) -> Logistic:
    where = f"{_WHERE}.{kind}"
    names = EVIDENCE[kind]
    content = _object(part, where, (BIAS, *names))
    weights = tuple(_number(content, name, where) for name in names)
    return Logistic(_number(content, BIAS, where), weights)


def _object(part: object, where: str, keys: Sequence[str]) -> Mapping[str, object]:
    if not isinstance(part, dict) or part.keys() != set(keys):
        found = ", ".join(map(str, part)) if isinstance(part, dict) else repr(part)
        raise ConfigError(f"{where} has {found or 'nothing'}: {', '.join(keys)} are expected")
    return part


def _number(content: Mapping[str, object], name: str, where: str) -> float:
    value = content[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{where}.{name} is {value!r}, not a number")
    return float(value)
