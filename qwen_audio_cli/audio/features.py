"""The log-mel spectrogram of Whisper, which every family here starts from."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import SAMPLE_RATE

N_FFT = 400
HOP = 160
"""Samples between two mel frames: 10 ms."""


def _hz_to_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = hz * 3 / 200
    return np.where(hz < 1000, linear, 15 + 27 * np.log(np.maximum(hz, 1e-9) / 1000) / np.log(6.4))


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))


@cache
def mel_filters(mels: int) -> Tensor:
    """Slaney's triangular mel filter bank with unit area, [mels, N_FFT // 2 + 1] (float32)."""
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    top = _hz_to_mel(np.array(SAMPLE_RATE / 2))
    edges = _mel_to_hz(np.linspace(0, float(top), mels + 2))
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return torch.from_numpy((triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype("float32"))


def log_mel(samples: NDArray[np.float32] | Tensor, mels: int, length: int) -> Tensor:
    """Log-mel features [mels, length // HOP] of `samples` zero-padded or cut to `length` samples.

    16 kHz, 25 ms Hann window, 10 ms hop, floor 80 dB under the loudest bin, scaled as by Whisper
    (openai/whisper, `audio.py`). One clip a call: features never depend on other clips.
    """
    wave = torch.as_tensor(samples, dtype=torch.float32)[:length]
    wave = torch.nn.functional.pad(wave, (0, length - wave.shape[0]))
    window = torch.hann_window(N_FFT, device=wave.device)
    spectrum = torch.stft(wave, N_FFT, HOP, window=window, return_complex=True)
    power = spectrum[:, :-1].abs().square()
    log = (mel_filters(mels).to(wave.device) @ power).clamp(min=1e-10).log10()
    return (torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0
