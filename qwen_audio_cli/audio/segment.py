"""From a stream of samples to clips that a model can hear: where a recording is cut, and why there.

Memory holds a little more than one window, however long the recording; one that must not be cut is
refused where it is longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from . import SAMPLE_RATE, Clip
from .decode import Audio
from .vad import FRAME, Vad

Samples = NDArray[np.float32]

SPEECH_ON = 0.5
"""Speech begins where its probability reaches this …"""

SPEECH_OFF = 0.35
"""… and ends where the probability stays below this for `SILENCE`."""

SURE = 0.9
"""A stretch of speech shorter than `SHORTEST` counts if its probability reaches this."""

SHORTEST = SAMPLE_RATE // 4
SILENCE = SAMPLE_RATE // 10
PADDING = 3 * SAMPLE_RATE // 10
"""Samples kept before and after speech."""

LARGEST_GAP = 2 * PADDING
"""Stretches of speech that are further apart (in samples) do not share a clip.

Across a longer pause Whisper tends to write one side only: the later sentence where the language
changes, a repeated one once. Word error rates on prompts are the same from 0.5 to 2 s here.
"""

SEARCH = 2 * SAMPLE_RATE
"""Samples at the end of a window in which sound without speech is cut."""

QUIET = SAMPLE_RATE // 10
"""Samples of the stretch whose middle is the cut: the quietest of its length."""


def segment(blocks: Iterable[Samples], vad: Vad | None, longest_seconds: float) -> Iterator[Clip]:
    """Cut a recording, given as blocks of any size, into clips of at most `longest_seconds`.

    With `vad`, the clips hold the speech and a margin around it; near stretches of speech share a
    clip, and one longer than a clip is cut at its quietest point. Without, they hold everything
    exactly once, cut where it is quiet. In order, without overlap, and the samples as they came.
    """
    longest = int(longest_seconds * SAMPLE_RATE)
    if vad is None:
        yield from _cut_everything(blocks, longest)
        return
    stream = vad.stream()
    cutter = _SpeechCutter(longest)
    for block in blocks:
        yield from cutter.feed(block, stream.feed(block))
    yield from cutter.feed(np.empty(0, np.float32), stream.flush())
    yield from cutter.finish()


def uncut(audio: Audio, longest_seconds: float) -> Clip:
    """A whole source as one clip.

    Raises InputError as iterating `audio` does, and for one that is longer than `longest_seconds`:
    it is decoded to its end, so that its length can be told.
    """
    longest = int(longest_seconds * SAMPLE_RATE)
    blocks: list[Samples] = []
    for block in audio:
        if audio.samples <= longest:
            blocks.append(block)
    if audio.samples > longest:
        seconds = audio.samples / SAMPLE_RATE
        reason = f"has {seconds:.2f} s, of which the model hears {longest_seconds:g} s at once"
        raise InputError("length", audio.source.name, reason)
    return Clip(np.concatenate(blocks), 0)


class _Tape:
    """An array that grows at its end and is forgotten at its beginning; indices are absolute."""

    def __init__(self) -> None:
        self.begin = 0
        self._values: Samples = np.empty(0, np.float32)

    @property
    def end(self) -> int:
        return self.begin + len(self._values)

    def append(self, values: Samples) -> None:
        self._values = np.concatenate([self._values, values])

    def read(self, begin: int, end: int) -> Samples:
        return self._values[begin - self.begin : end - self.begin].copy()

    def forget(self, before: int) -> None:
        self._values = self._values[before - self.begin :]
        self.begin = before


def _quietest(power: Samples) -> int:
    """The middle of the stretch of `QUIET` values with the smallest sum."""
    width = min(QUIET, len(power))
    sums = np.concatenate([[0.0], np.cumsum(power, dtype=np.float64)])
    return int(np.argmin(sums[width:] - sums[:-width])) + width // 2


def _cut_everything(blocks: Iterable[Samples], longest: int) -> Iterator[Clip]:
    tape = _Tape()
    search = min(SEARCH, longest // 3)

    def cut(begin: int, end: int) -> Clip:
        middle = begin + _quietest(tape.read(begin, end) ** 2)
        clip = Clip(tape.read(tape.begin, middle), tape.begin)
        tape.forget(middle)
        return clip

    for block in blocks:
        tape.append(block)
        # Wait for more than a window, so that no scrap is left over for the last clip.
        while tape.end - tape.begin > longest + search:
            end = tape.begin + longest
            yield cut(end - search, end)
    if tape.end - tape.begin > longest:
        middle = (tape.begin + tape.end) // 2
        yield cut(middle - search // 2, middle + search // 2)
    if tape.end > tape.begin:
        yield Clip(tape.read(tape.begin, tape.end), tape.begin)


@dataclass(slots=True)
class _Speech:
    """Speech that ended, in samples."""

    start: int
    end: int


@dataclass(slots=True)
class _OpenSpeech:
    """Speech that has not ended: where the present silence began, if any; the best probability."""

    start: int
    quiet: int | None = None
    peak: float = 0.0


class _SpeechCutter:
    """Follows the probabilities of speech and gives each clip as soon as its end is known.

    `_pending` is the speech of the next clip, `_open` the speech going on; when that ends, it joins
    the former if both fit into a clip.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._samples = _Tape()
        self._probabilities = _Tape()  # one a frame
        self._now = 0  # the end of the last frame
        self._floor = 0  # the end of the last clip
        self._pending: _Speech | None = None
        self._open: _OpenSpeech | None = None

    def feed(self, samples: Samples, probabilities: Samples) -> Iterator[Clip]:
        """Take samples, and the probabilities of the frames that they complete."""
        self._samples.append(samples)
        self._probabilities.append(probabilities)
        for probability in probabilities.tolist():
            self._now += FRAME
            yield from self._follow(probability)
        needed = self._pending or self._open
        start = needed.start if needed else self._now
        keep = max(self._floor, start - PADDING)
        self._samples.forget(keep)
        self._probabilities.forget(keep // FRAME)

    def finish(self) -> Iterator[Clip]:
        """End the recording."""
        if self._open:
            self._close(self._frontier(self._open))
        if self._pending:
            yield self._clip(self._pending, self._samples.end)

    def _follow(self, probability: float) -> Iterator[Clip]:
        begin = self._now - FRAME
        if self._open is None and probability >= SPEECH_ON:
            self._open = _OpenSpeech(begin)
        if self._open is None:
            if self._pending and self._now - self._pending.end > LARGEST_GAP:
                yield self._flush(self._pending, self._now)
            return
        speech = self._open
        speech.peak = max(speech.peak, probability)
        if probability >= SPEECH_ON:
            speech.quiet = None
        elif probability < SPEECH_OFF and speech.quiet is None:
            speech.quiet = begin
        end = self._frontier(speech)
        if self._pending and end + PADDING - self._clip_begin(self._pending) > self._longest:
            yield self._flush(self._pending, speech.start)
        if end - speech.start > self._longest:
            yield self._cut(speech)
        if speech.quiet is not None and self._now - speech.quiet >= SILENCE:
            self._close(speech.quiet)

    def _frontier(self, speech: _OpenSpeech) -> int:
        """How far the speech is known to reach."""
        return min(self._now, self._samples.end) if speech.quiet is None else speech.quiet

    def _close(self, end: int) -> None:
        speech, self._open = self._open, None
        assert speech is not None
        if end - speech.start < SHORTEST and speech.peak < SURE:
            return
        if self._pending:
            self._pending.end = end  # it fits: `_follow` has seen to that at every frame
        else:
            self._pending = _Speech(speech.start, end)

    def _flush(self, pending: _Speech, next_start: int) -> Clip:
        """The pending clip; the silence before `next_start` is shared with what comes there."""
        self._pending = None
        return self._clip(pending, (pending.end + next_start) // 2)

    def _cut(self, speech: _OpenSpeech) -> Clip:
        """The first part of speech that is longer than a window; the rest stays open."""
        end = speech.start + self._longest
        begin = end - self._longest // 3
        first = begin // FRAME
        weights = np.repeat(self._probabilities.read(first, -(-end // FRAME)), FRAME)
        weights = weights[begin - first * FRAME : end - first * FRAME]
        middle = begin + _quietest(self._samples.read(begin, end) ** 2 * weights)
        clip = self._clip(_Speech(speech.start, middle), middle)
        speech.start = middle
        speech.peak = 1.0  # however short, the rest belongs to speech that has counted
        return clip

    def _clip_begin(self, speech: _Speech) -> int:
        return max(self._floor, speech.start - PADDING)

    def _clip(self, speech: _Speech, limit: int) -> Clip:
        """Speech with its padding, which ends at `limit` and gives way to the longest clip."""
        begin = self._clip_begin(speech)
        end = min(limit, speech.end + PADDING)
        excess = max(0, end - begin - self._longest)
        before = speech.start - begin
        after = min(end - speech.end, max(excess - excess // 2, excess - before))
        begin, end = begin + excess - after, end - after
        self._floor = end
        return Clip(self._samples.read(begin, end), begin)
