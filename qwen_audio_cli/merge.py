"""From the answers about a source's clips to what its record says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .families.base import ClipAnswer
from .languages import UNSPACED
from .records import Label, Segment, Word


@dataclass(frozen=True, slots=True)
class ClipPart:
    """One clip's place in its source (seconds) and the answer about it."""

    start: float
    end: float
    answer: ClipAnswer


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of the scored labels are kept: the `top_k` best, of at least `threshold`."""

    top_k: int | None = None
    threshold: float = 0.0


@dataclass(frozen=True, slots=True)
class Merged:
    """The parts of a record that come from its clips' answers."""

    text: str | None
    language: str | None
    segments: tuple[Segment, ...] | None
    labels: tuple[Label, ...] | None
    flags: frozenset[str]


def merge(parts: Sequence[ClipPart], *, scored: bool, choice: Choice) -> Merged:
    """One source's answer from those about its clips; without any, nothing was heard.

    Texts are joined in order. The language is the one heard longest. A label's probability is the
    mean over the clips, weighted by their lengths.
    """
    parts = sorted(parts, key=lambda part: part.start)
    language = _language(parts)
    flags = {flag for part in parts for flag in part.answer.flags}
    if scored:
        labels = _labels(parts, choice)
        if not parts:
            flags.add("no_speech")
        elif not labels:
            flags.add("abstained")
        return Merged(None, language, None, labels, frozenset(flags))
    between = "" if language in UNSPACED else " "
    text = between.join(part.answer.text for part in parts if part.answer.text)
    if parts and text:  # some of it was speech
        flags.discard("no_speech")
    elif not parts:
        flags.add("no_speech")
    segments = tuple(_segment(part) for part in parts)
    return Merged(text, language, segments, None, frozenset(flags))


def _language(parts: Iterable[ClipPart]) -> str | None:
    seconds: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        if part.answer.language:
            seconds[part.answer.language] += part.end - part.start
    return max(seconds, key=lambda code: seconds[code]) if seconds else None


def _labels(parts: Sequence[ClipPart], choice: Choice) -> tuple[Label, ...]:
    total = sum(part.end - part.start for part in parts)
    mean: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        for label, probability in part.answer.labels or ():
            mean[label] += probability * (part.end - part.start) / total
    ranked = sorted(mean.items(), key=lambda item: -item[1])[: choice.top_k]
    return tuple(Label(name, p) for name, p in ranked if p >= choice.threshold)


def _segment(part: ClipPart) -> Segment:
    answer = part.answer
    words = None
    if answer.words is not None:
        words = tuple(
            Word(word.word, part.start + word.start, part.start + word.end, word.probability)
            for word in answer.words
        )
    return Segment(
        start=part.start,
        end=part.end,
        text=answer.text or "",
        words=words,
        avg_logprob=answer.avg_logprob,
        compression_ratio=answer.compression_ratio,
        no_speech_prob=answer.no_speech_prob,
        finish_reason=answer.finish_reason,
    )
