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
    confidence: float | None
    flags: frozenset[str]


def merge(
    parts: Sequence[ClipPart], *, scored: bool, choice: Choice, spoken: bool = False
) -> Merged:
    """One source's answer from those about its clips; without any, nothing was heard.

    Texts are joined in order. The language is the one heard longest. A label's probability is the
    mean over the clips, weighted by their lengths. The confidence is that of the best label, or the
    mean over the clips: by their words where they write down what is `spoken`, or else by length.
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
        confident = labels and all(part.answer.confidence is not None for part in parts)
        confidence = labels[0].probability if confident else None
        return Merged(None, language, None, labels, confidence, frozenset(flags))
    between = "" if language in UNSPACED else " "
    text = between.join(part.answer.text for part in parts if part.answer.text)
    if parts and text:  # some of it was speech
        flags.discard("no_speech")
    elif not parts:
        flags.add("no_speech")
    segments = tuple(_segment(part) for part in parts)
    confidence = _confidence(parts, by_words=spoken)
    return Merged(text, language, segments, None, confidence, frozenset(flags))


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


def _confidence(parts: Sequence[ClipPart], *, by_words: bool) -> float | None:
    """The mean over the clips; None where one has none, or there are none."""
    seconds = [part.end - part.start for part in parts]
    words = [_words(part.answer) for part in parts]
    weights = words if by_words and any(words) else seconds
    total = 0.0
    for part, weight in zip(parts, weights, strict=True):
        if part.answer.confidence is None:
            return None
        total += part.answer.confidence * weight
    return total / sum(weights) if parts else None


def _words(answer: ClipAnswer) -> float:
    """How many words an answer has, or characters in a script without spaces."""
    text = answer.text or ""
    return len(text if answer.language in UNSPACED else text.split())


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
