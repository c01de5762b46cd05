"""Learns from the dev split when mini is right, so that its answers carry a confidence."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...devices import find_device, find_dtype
from ...errors import UsageError
from ...families.accuracy import accuracy
from ...families.base import ClipAnswer, Family
from ...families.calibration import KINDS, Calibration, Kind
from ...families.registry import open_checkpoint
from ...families.spelling import spelling
from ...layout import CONFIG, read_object
from ..files import write_json, write_text
from ..manifest import Item, read
from .answers import answers
from .facts import plain, same_facts
from .fitting import fit_logistic, fit_temperature
from .reliability import Foretold, bins, draw, expected_error

PART = "calibration"
"""The key of `config.json`."""

DIAGRAM = "reliability.svg"
LABELS = "labels"

FEWEST = 10
"""Answers of a kind that anything can be learned from."""

_LEAST_SHARE = 1e-300  # a share that is less has become 0
_TITLES = {"transcript": "transcripts", "analysis": "analyses", LABELS: "labels"}

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Written:
    """Evidence of an answer that was written: its kind, what speaks for it, how far it is right.

    `logprob` is the mean of its tokens; a transcript has the `agreement` of the CTC head too.
    """

    kind: Kind
    logprob: float
    agreement: float | None
    right: float

    @property
    def evidence(self) -> list[float]:
        """The numbers that the confidence is a function of."""
        return [self.logprob] if self.agreement is None else [self.logprob, self.agreement]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Evidence of labels that were scored: their log-likelihoods, and the place of the right one.

    The log-likelihoods are known up to a constant.
    """

    logs: tuple[float, ...]
    truth: int


Evidence = Written | Chosen


@dataclass(frozen=True, slots=True)
class Outcome:
    """A calibration and, by kind of answer, how it holds.

    `foretold` has of each answer what the other half of the answers foretold, and what came.
    """

    calibration: Calibration
    foretold: Mapping[str, Foretold]

    def as_dict(self) -> dict[str, dict[str, float]]:
        """How many answers of each kind there were, and the error that is expected."""
        return {
            kind: {"answers": len(pairs), "error": round(expected_error(bins(pairs)), 4)}
            for kind, pairs in self.foretold.items()
        }


def calibrate(
    model: Path,
    manifests: Iterable[Path],
    limit: int | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    tell: Tell = lambda line: None,
) -> Outcome:
    """Answer the dev items of manifests, at most `limit` of a task, and calibrate mini by them.

    What was learned goes into the model's `config.json`, and `reliability.svg` beside it shows how
    it holds: each half of the answers is foretold by what the other half taught. Raises UsageError
    where there are too few items, what opening a model and reading its audio raise, and
    OutputWriteError.
    """
    config = read_object(model / CONFIG)
    before = Calibration.read(config.get(PART))
    family = open_checkpoint(model, model.name)
    chosen = _chosen(family, manifests, limit, tell)
    place = find_device(device)
    family.load(find_dtype(dtype, place), place)
    tell(f"{len(chosen):,} items of the dev split are answered")
    temperature = 1.0 if before is None else before.temperature
    told = (evidence(item, answer, temperature) for item, answer in answers(family, chosen, place))
    found = [one for one in told if one is not None]
    outcome = learned(found)
    write_json({**config, PART: outcome.calibration.as_dict()}, model / CONFIG)
    panels = {_TITLES[kind]: pairs for kind, pairs in outcome.foretold.items()}
    write_text(draw(panels), model / DIAGRAM)
    return outcome


def evidence(item: Item, answer: ClipAnswer, temperature: float = 1.0) -> Evidence | None:
    """What an answer says of when answers are right; its shares were made at a `temperature`.

    None where none of the labels is right, and of a translation: there is more than one right one.
    """
    if answer.labels is not None:
        labels = [label for label, _ in answer.labels]
        if item.target not in labels:
            return None
        shares = (max(share, _LEAST_SHARE) for _, share in answer.labels)
        logs = tuple(temperature * math.log(share) for share in shares)
        return Chosen(logs, labels.index(item.target))
    text, logprob = answer.text or "", answer.avg_logprob
    assert logprob is not None
    task = item.query.task
    if task.tag == "translate":
        return None
    if answer.agreement is None:
        right = same_facts(task, item.target, text)
        return Written("analysis", logprob, None, float(right))
    said, heard = spelling(plain(item.target)).split(), spelling(text).split()
    return Written("transcript", logprob, answer.agreement, accuracy(said, heard))


def learned(found: Sequence[Evidence]) -> Outcome:
    """What the evidence teaches. Raises UsageError where a kind of answer has too few items."""
    by_kind = _by_kind(found)
    for kind in (*KINDS, LABELS):
        if (count := len(by_kind[kind])) < FEWEST:
            raise UsageError(f"{count} {_TITLES[kind]} in the dev split: too few to learn from")
    return Outcome(_fit(found), cross_foretold(found))


def cross_foretold(found: Sequence[Evidence]) -> Mapping[str, Foretold]:
    """By kind what is foretold of each answer by the answers of the other half, and what came."""
    pairs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in (*KINDS, LABELS)}
    for kind, members in _by_kind(found).items():
        shuffled = random.Random(kind).sample(members, len(members))
        halves = shuffled[::2], shuffled[1::2]
        for taught, tested in (halves, halves[::-1]):
            calibration = _fit(taught)
            pairs[kind] += [_foretold(calibration, one) for one in tested]
    return pairs


def _foretold(calibration: Calibration, one: Evidence) -> tuple[float, float]:
    if isinstance(one, Written):
        return calibration.written(one.kind, one.logprob, one.agreement), one.right
    scaled = np.array(one.logs) / calibration.temperature
    best = int(scaled.argmax())
    return math.exp(scaled[best] - np.logaddexp.reduce(scaled)), float(best == one.truth)


def _fit(found: Sequence[Evidence]) -> Calibration:
    """What evidence teaches of the kinds that it is of."""
    by_kind = _by_kind(found)
    regressions = {}
    for kind in KINDS:
        if members := [one for one in by_kind[kind] if isinstance(one, Written)]:
            right = np.array([one.right for one in members], dtype=np.float64)
            numbers = np.array([one.evidence for one in members], dtype=np.float64)
            regressions[kind] = fit_logistic(numbers, right)
    scored = [one for one in by_kind[LABELS] if isinstance(one, Chosen)]
    logs = [np.array(one.logs) for one in scored]
    temperature = fit_temperature(logs, [one.truth for one in scored]) if scored else 1.0
    return Calibration(regressions, temperature)


def _by_kind(found: Iterable[Evidence]) -> dict[str, list[Evidence]]:
    by_kind: dict[str, list[Evidence]] = {kind: [] for kind in (*KINDS, LABELS)}
    for one in found:
        by_kind[one.kind if isinstance(one, Written) else LABELS].append(one)
    return by_kind


def _chosen(family: Family, manifests: Iterable[Path], limit: int | None, tell: Tell) -> list[Item]:
    """The dev items that the model is for, at most `limit` of a task: the same each time."""
    by_task: defaultdict[str, list[Item]] = defaultdict(list)
    for manifest in manifests:
        for item in read(manifest):
            if item.split == "dev":
                by_task[item.task].append(item)
    chosen: list[Item] = []
    for task, items in sorted(by_task.items()):
        able, refusal = _able(family, items)
        if refusal:
            tell(f"{task}: {len(items) - len(able)} items are left out: {refusal}")
        few = len(able) if limit is None else min(limit, len(able))
        chosen += random.Random(task).sample(able, few)
    return chosen


def _able(family: Family, items: Iterable[Item]) -> tuple[list[Item], str | None]:
    """The items that the model takes on, and why not others."""
    able, refusal = [], None
    for item in items:
        try:
            family.check(item.job())
        except UsageError as error:
            refusal = str(error)
        else:
            able.append(item)
    return able, refusal
