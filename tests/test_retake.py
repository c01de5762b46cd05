"""Other takes of a recording: the same words, heard otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import recording
from numpy.typing import NDArray

from qwen_audio_cli import Qwa
from qwen_audio_cli.audio import SAMPLE_RATE
from qwen_audio_cli.records import Record
from qwen_audio_cli.training.retake import NOISE_DECIBELS, SPEEDS, retaken

Samples = NDArray[np.float32]
TAKES = range(1, 9)


@pytest.fixture(scope="module")
def spoken() -> Samples:
    return recording("en-no-connection")


def level(samples: Samples) -> float:
    """In decibels."""
    return float(10 * np.log10(np.square(samples).mean()))


def test_the_first_take_is_the_recording(spoken: Samples) -> None:
    assert retaken(spoken, 0) is spoken


def test_a_take_is_always_the_same_and_unlike_any_other(spoken: Samples) -> None:
    takes = [retaken(spoken, take) for take in TAKES]
    assert len({take.tobytes() for take in takes}) == len(takes)
    again = [retaken(spoken.copy(), take) for take in TAKES]
    assert all(np.array_equal(one, other) for one, other in zip(takes, again, strict=True))
    # Another recording is not taken at the same speeds.
    other = [len(retaken(spoken[:-800], take)) / (len(spoken) - 800) for take in TAKES]
    assert other != pytest.approx([len(take) / len(spoken) for take in takes], abs=1e-3)


def test_takes_are_no_longer_than_their_speed_makes_them(spoken: Samples) -> None:
    slow, fast = SPEEDS
    for take in TAKES:
        heard = retaken(spoken, take)
        assert len(spoken) / fast - 1 <= len(heard) <= len(spoken) / slow + 1
        assert heard.dtype == np.float32
        assert np.abs(heard).max() <= 1


def test_noise_is_where_nothing_was_and_so_far_below_the_sound() -> None:
    quiet = np.zeros(SAMPLE_RATE, dtype=np.float32)
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = (0.3 * np.sin(2 * np.pi * 1000 * times)).astype(np.float32)
    for take in TAKES:
        heard = retaken(np.concatenate([quiet, tone]), take)
        begun, ended = heard[: len(heard) // 3], heard[-len(heard) // 3 :]
        below = level(ended) - level(begun)
        # The tone is half of the clip, and a line takes some of the noise away, or makes it louder.
        assert NOISE_DECIBELS[0] - 3 <= below <= NOISE_DECIBELS[1] + 20


def test_takes_differ_in_what_their_line_carries() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * SAMPLE_RATE).astype(np.float32)
    centroids = []
    for take in TAKES:
        energy = np.square(np.abs(np.fft.rfft(retaken(noise, take))))
        share = np.linspace(0, 1, len(energy))
        centroids.append(float((share * energy).sum() / energy.sum()))
    assert min(centroids) < 0.3 < max(centroids)  # of white noise it is 0.5


def test_silence_stays_silence() -> None:
    assert not retaken(np.zeros(SAMPLE_RATE, dtype=np.float32), 1).any()


def test_what_is_said_is_still_said(spoken: Samples, tmp_path: Path) -> None:
    for take in TAKES:
        soundfile.write(tmp_path / f"{take}.wav", retaken(spoken, take), SAMPLE_RATE)
    records = list(Qwa(device="cpu").transcribe([str(tmp_path)], language="en"))
    texts = [record.text or "" for record in records if isinstance(record, Record)]
    assert len(texts) == len(TAKES)
    # Whisper itself may mishear the worst of them.
    assert sum("connection" in text.lower() for text in texts) >= len(TAKES) - 1
