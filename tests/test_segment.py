"""Where recordings are cut: exact properties under scripted probabilities, and real recordings."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwen_audio_cli.audio import SAMPLE_RATE, Clip
from qwen_audio_cli.audio.segment import segment
from qwen_audio_cli.audio.vad import FRAME, SileroVad, Vad

EXAMPLES = Path(__file__).parent.parent / "examples"
PADDING = 4800  # 0.3 s
GAP = 2 * PADDING
SEARCH = 2 * SAMPLE_RATE

Samples = NDArray[np.float32]


@dataclass
class Scripted:
    """A detector that answers from a list, whatever it hears: [frames]."""

    script: Samples

    def stream(self) -> Scripted:
        return Scripted(self.script)

    def __post_init__(self) -> None:
        self.rest = 0

    def feed(self, samples: Samples) -> Samples:
        frames, self.rest = divmod(self.rest + len(samples), FRAME)
        answer, self.script = self.script[:frames], self.script[frames:]
        return answer

    def flush(self) -> Samples:
        return self.script[: self.rest > 0]


def noise(count: int) -> Samples:
    return np.random.default_rng(count).uniform(-0.5, 0.5, count).astype(np.float32)


def blocks(samples: Samples, size: int) -> Iterator[Samples]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def spans(clips: list[Clip]) -> list[tuple[int, int]]:
    return [(clip.start, clip.start + len(clip.samples)) for clip in clips]


def verify(clips: list[Clip], samples: Samples, longest_seconds: float) -> None:
    """In order, without overlap, not too long, not empty, and exactly the samples of the source."""
    end = 0
    for clip, (start, stop) in zip(clips, spans(clips), strict=True):
        assert end <= start < stop <= len(samples)
        assert stop - start <= longest_seconds * SAMPLE_RATE
        np.testing.assert_array_equal(clip.samples, samples[start:stop])
        end = stop


def regions(script: Samples, length: int) -> list[tuple[int, int]]:
    """Speech in samples, found by a regular expression over one letter a frame."""
    letters = "".join("S" if p >= 0.5 else "m" if p >= 0.35 else "q" for p in script)
    found = []
    for match in re.finditer(r"S(?:[Sm]|q[qm]{0,2}(?=S))*", letters):
        start, end = match.start() * FRAME, min(match.end() * FRAME, length)
        if end - start >= SAMPLE_RATE // 4 or script[match.start() : match.end()].max() >= 0.9:
            found.append((start, end))
    return found


# Runs of frames of about the same probability, as speech and silence have, with some flicker.
runs = st.lists(
    st.tuples(st.sampled_from([0.02, 0.4, 0.6, 0.98]), st.integers(1, 90)), min_size=1, max_size=14
)


def play(timeline: list[tuple[float, int]]) -> Samples:
    return np.concatenate([np.full(count, p, np.float32) for p, count in timeline])


@settings(max_examples=150, deadline=None)
@given(
    timeline=runs,
    missing=st.integers(0, FRAME - 1),
    size=st.integers(300, 60_000),
    longest_seconds=st.sampled_from([0.9, 2.0, 5.0, 30.0]),
)
@example(timeline=[(0.98, 90)] * 11, missing=256, size=48_000, longest_seconds=30.0)
@example(timeline=[(0.98, 938)], missing=256, size=480_000, longest_seconds=30.0)  # just a window
def test_speech_is_never_lost_nor_given_twice(
    timeline: list[tuple[float, int]], missing: int, size: int, longest_seconds: float
) -> None:
    script = play(timeline)
    samples = noise(len(script) * FRAME - missing)
    clips = list(segment(blocks(samples, size), Scripted(script), longest_seconds))
    verify(clips, samples, longest_seconds)

    covered = np.zeros(len(samples), bool)
    for start, end in spans(clips):
        covered[start:end] = True
    speech = regions(script, len(samples))
    allowed = np.zeros(len(samples), bool)
    for start, end in speech:
        assert covered[start:end].all()
        allowed[max(0, start - PADDING) : end + PADDING] = True
    for (_, end), (start, _) in pairwise(speech):
        allowed[end:start] |= start - end <= GAP
    assert not (covered & ~allowed).any()

    again = list(segment(blocks(samples, 48_000), Scripted(script), longest_seconds))
    assert spans(again) == spans(clips)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(10, 200), st.integers(5, 120)), min_size=1, max_size=10),
    st.sampled_from([8.0, 30.0]),
)
def test_near_speech_shares_a_clip_as_long_as_it_fits(
    timeline: list[tuple[int, int]], longest_seconds: float
) -> None:
    script = play([run for speech, gap in timeline for run in ((0.98, speech), (0.02, gap))])
    samples = noise(len(script) * FRAME)
    clips = list(segment(blocks(samples, 48_000), Scripted(script), longest_seconds))
    speech = regions(script, len(samples))
    for (begin, end), (following, _) in pairwise(spans(clips)):
        before = max(stop for start, stop in speech if start < end)
        after, stop = min(region for region in speech if region[1] > following)
        far = after - before > GAP
        full = stop + PADDING - begin > longest_seconds * SAMPLE_RATE
        assert far or full
        if following >= before and after - before >= 2 * PADDING:
            assert end - before == PADDING
            assert after - following == PADDING


@settings(max_examples=150, deadline=None)
@given(
    length=st.integers(0, 400_000),
    size=st.integers(200, 100_000),
    longest_seconds=st.sampled_from([0.5, 3.0, 7.3, 30.0]),
)
def test_without_a_detector_everything_is_given_once(
    length: int, size: int, longest_seconds: float
) -> None:
    samples = noise(length)
    clips = list(segment(blocks(samples, size), None, longest_seconds))
    verify(clips, samples, longest_seconds)
    assert sum(len(clip.samples) for clip in clips) == length
    longest = int(longest_seconds * SAMPLE_RATE)
    for clip in clips[:-2]:
        assert len(clip.samples) >= longest - min(SEARCH, longest // 3)
    if len(clips) > 1:
        assert len(clips[-1].samples) >= longest // 4  # no scrap is left over


def test_sound_is_cut_where_it_is_quiet() -> None:
    samples = noise(45 * SAMPLE_RATE)
    quiet = slice(int(28.7 * SAMPLE_RATE), int(28.9 * SAMPLE_RATE))
    samples[quiet] *= 0.01
    first, second = segment(blocks(samples, 99_999), None, 30)
    assert quiet.start <= second.start == len(first.samples) <= quiet.stop


def test_a_little_more_than_a_window_is_cut_in_the_middle() -> None:
    samples = noise(int(30.013 * SAMPLE_RATE))
    first, second = segment(blocks(samples, 99_999), None, 30)
    assert 13 < first.duration < 17
    assert first.duration + second.duration == pytest.approx(30.013)


def test_long_speech_is_cut_at_its_quietest_point() -> None:
    samples = noise(45 * SAMPLE_RATE)
    script = np.full(len(samples) // FRAME + 1, 0.99, np.float32)
    quiet = slice(int(24.0 * SAMPLE_RATE), int(24.2 * SAMPLE_RATE))
    samples[quiet] *= 0.1
    samples[int(5.0 * SAMPLE_RATE) : int(5.2 * SAMPLE_RATE)] = 0  # too early to be of use
    first, second = segment(blocks(samples, 99_999), Scripted(script), 30)
    assert quiet.start <= second.start == len(first.samples) <= quiet.stop
    # Of two places as quiet, the one less probably speech is taken.
    samples[:] = noise(len(samples))
    script[26 * 31 : 26 * 31 + 3] = 0.36
    first, second = segment(blocks(samples, 99_999), Scripted(script), 30)
    assert abs(second.start - (26 * 31 + 1.5) * FRAME) < 0.06 * SAMPLE_RATE


@pytest.mark.parametrize(
    ("probability", "frames", "clips"), [(0.6, 7, 0), (0.6, 8, 1), (0.95, 1, 1), (0.49, 99, 0)]
)
def test_short_speech_counts_if_it_is_sure(probability: float, frames: int, clips: int) -> None:
    script = play([(0.02, 40), (probability, frames), (0.02, 40)])
    samples = noise(len(script) * FRAME)
    found = list(segment([samples], Scripted(script), 30))
    assert len(found) == clips
    if found:
        assert spans(found) == [(40 * FRAME - PADDING, (40 + frames) * FRAME + PADDING)]


def test_clips_come_as_soon_as_their_end_is_known() -> None:
    consumed = 0

    def source() -> Iterator[Samples]:
        nonlocal consumed
        while True:
            consumed += 1
            yield np.zeros(SAMPLE_RATE, np.float32)

    always = np.ones(100_000, np.float32)
    next(segment(source(), Scripted(always), 30))
    assert consumed <= 31
    consumed = 0
    word = np.zeros(100_000, np.float32)
    word[31:62] = 0.99
    next(segment(source(), Scripted(word), 30))
    assert consumed <= 6
    consumed = 0
    next(segment(source(), None, 30))
    assert consumed <= 33


@pytest.mark.parametrize("probability", [1.0, 0.0, None])
def test_memory_is_bounded_by_the_window(probability: float | None) -> None:
    vad = None if probability is None else Scripted(np.full(20_000, probability, np.float32))
    source = (np.ones(SAMPLE_RATE * 2, np.float32) for _ in range(300))
    tracemalloc.start()
    total = sum(len(clip.samples) for clip in segment(source, vad, 10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == (0 if probability == 0 else 600 * SAMPLE_RATE)
    assert peak < 6 * 10 * SAMPLE_RATE * 4 < 600 * SAMPLE_RATE * 4 / 8


# --- real recordings ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def silero() -> Vad:
    return SileroVad()


def recording(name: str) -> Samples:
    samples, rate = soundfile.read(EXAMPLES / f"{name}.wav", dtype="float32")
    assert rate == SAMPLE_RATE
    return samples  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.wav")), ids=lambda path: path.stem)
def test_a_short_recording_full_of_speech_stays_whole(path: Path, silero: Vad) -> None:
    samples = recording(path.stem)
    (clip,) = segment(blocks(samples, 48_000), silero, 30)
    assert len(clip.samples) > 0.9 * len(samples)


def test_recordings_between_silences_are_found_where_they_are(silero: Vad) -> None:
    names = ("en-one-participant", "fr-one-participant", "it-no-connection")
    generator = np.random.default_rng(0)
    parts: list[Samples] = []
    begins = []
    for name in names:
        silence = generator.standard_normal(5 * SAMPLE_RATE) * 0.0005
        parts.append(silence.astype(np.float32))
        begins.append(sum(map(len, parts)))
        parts.append(recording(name))
    samples = np.concatenate(parts)
    clips = list(segment(blocks(samples, 30_000), silero, 30))
    verify(clips, samples, 30)
    assert len(clips) == len(names)
    for clip, begin, part in zip(clips, begins, parts[1::2], strict=True):
        assert begin - 0.35 * SAMPLE_RATE <= clip.start <= begin + 0.3 * SAMPLE_RATE
        assert abs(clip.start + len(clip.samples) - begin - len(part)) <= 0.6 * SAMPLE_RATE


def test_a_long_recording_is_cut_between_words(silero: Vad) -> None:
    samples = np.concatenate([recording("en-echo-test")] * 3)
    clips = list(segment(blocks(samples, 48_000), silero, 10))
    verify(clips, samples, 10)
    assert sum(len(clip.samples) for clip in clips) > 0.97 * len(samples)
    loudness = np.sqrt(np.mean(samples**2))
    for clip in clips[:-1]:
        end = clip.start + len(clip.samples)
        around = samples[end - 800 : end + 800]
        assert np.sqrt(np.mean(around**2)) < 0.25 * loudness


def test_a_word_of_four_tenths_of_a_second_survives(silero: Vad) -> None:
    word = recording("en-no-connection")[: int(0.4 * SAMPLE_RATE)]
    (clip,) = segment([word], silero, 30)
    assert clip.duration > 0.35


@pytest.mark.parametrize("level", [0.0, 0.001, 0.1])
def test_no_speech_gives_no_clips(level: float, silero: Vad) -> None:
    assert not list(segment(blocks(noise(160_000) * np.float32(level), 48_000), silero, 30))
    assert not list(segment([], silero, 30))
