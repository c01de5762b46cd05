"""A recording as it might have been made elsewhere: in a room, over a line, with noise around.

What is learned from synthetic speech alone, which is as clean as can be, fails where people speak.
"""

from __future__ import annotations

import zlib

import numpy as np
import soxr
from numpy.typing import NDArray

from ..audio import SAMPLE_RATE
from ..audio.decode import Samples

SPEEDS = (0.9, 1.1)
"""How fast a retake is played: what is said is as high as it is fast, as if by another voice."""

ECHO_SECONDS = (0.1, 0.6)
"""How long a room takes to fall by 60 dB."""

ECHO_SHARES = (0.02, 0.3)
"""The energy of the echo, as a share of that of the sound itself."""

LOWEST, HIGHEST = (20.0, 350.0), (3_000.0, 8_000.0)
"""Where a line begins and ends to carry sound, in Hz."""

TILT = 3.0
"""By how many decibels at most each octave is louder or softer than the one below."""

NOISE_DECIBELS = (8.0, 40.0)
"""How far noise is below the sound."""

_MIDDLE = 1_000.0  # Hz; what is as loud as before, however a line tilts
_STEEPNESS = 6  # of a line's edges: 36 dB an octave

_Wave = NDArray[np.float64]


def retaken(samples: Samples, take: int) -> Samples:
    """Samples [n] at 16 kHz as another take of the same; take 0 is the recording itself.

    It is played at another speed, and so longer or shorter by a tenth or so; in a room or not; over
    a line that carries a part of all frequencies; with noise. Ko et al. 2015 and 2017 change speech
    in such ways to train recognisers.
    """
    if take == 0:
        return samples
    draw = np.random.default_rng([zlib.crc32(samples.tobytes()), take])
    wave = soxr.resample(samples, SAMPLE_RATE, SAMPLE_RATE / draw.uniform(*SPEEDS))
    if not wave.any():
        return np.asarray(wave, dtype=np.float32)
    wave = _in_a_room(wave.astype(np.float64), draw) if draw.random() < 0.5 else wave
    wave = _over_a_line(wave + _noise(wave, draw), draw)
    loudest = max(1.0, float(np.abs(wave).max()))
    return (wave / loudest).astype(np.float32)


def _in_a_room(wave: _Wave, draw: np.random.Generator) -> _Wave:
    """With an echo that is noise, and dies away exponentially."""
    seconds = draw.uniform(*ECHO_SECONDS)
    length = int(seconds * SAMPLE_RATE)
    echo = draw.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    echo *= np.sqrt(draw.uniform(*ECHO_SHARES) / np.square(echo).sum())
    echo[0] = 1.0  # the sound itself
    return _shaped(wave, np.fft.rfft(echo, _size(len(wave) + length)))


def _noise(wave: _Wave, draw: np.random.Generator) -> _Wave:
    """Noise as long as the wave: white, or softer towards high frequencies, up to brown."""
    softer = np.maximum(_frequencies(len(wave)), 20.0) ** -draw.uniform(0.0, 1.0)
    noise = _shaped(draw.standard_normal(len(wave)), softer)
    below = 10 ** (-draw.uniform(*NOISE_DECIBELS) / 20)
    gain = below * float(np.sqrt(np.square(wave).mean() / np.square(noise).mean()))
    return noise * gain


def _over_a_line(wave: _Wave, draw: np.random.Generator) -> _Wave:
    """What a line carries, of which some is louder than other."""
    low, high = draw.uniform(*LOWEST), draw.uniform(*HIGHEST)
    frequencies = np.maximum(_frequencies(len(wave)), 1.0)
    gain = (frequencies / _MIDDLE) ** (draw.uniform(-TILT, TILT) / (20 * np.log10(2)))
    gain /= 1 + (low / frequencies) ** _STEEPNESS
    gain /= 1 + (frequencies / high) ** _STEEPNESS
    return _shaped(wave, gain)


def _frequencies(length: int) -> _Wave:
    return np.fft.rfftfreq(_size(length), 1 / SAMPLE_RATE).astype(np.float64)


def _size(length: int) -> int:
    """How long a transform of so many samples is: of a power of two it takes a fraction."""
    return 1 << (length - 1).bit_length()


def _shaped(wave: _Wave, gain: _Wave | NDArray[np.complex128]) -> _Wave:
    """A wave of which each frequency is multiplied by its gain."""
    size = 2 * (len(gain) - 1)
    shaped: _Wave = np.fft.irfft(np.fft.rfft(wave, size) * gain, size)[: len(wave)]
    return shaped
