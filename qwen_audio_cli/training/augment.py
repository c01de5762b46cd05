"""SpecAugment (Park et al. 2019, arXiv 1904.08779): parts of a spectrogram blanked."""

from __future__ import annotations

import random

from torch import Tensor

BANDS, BAND = 2, 27
"""How many bands of mel bins, and how wide one is at most, of 80."""

STRETCHES, STRETCH = 2, 50
"""How many stretches of frames, and how long one is at most; never more than a tenth of a clip."""


def spec_augment(features: Tensor, seed: str) -> Tensor:
    """Features [mels, frames] with some of them at their mean; the same for the same `seed`."""
    draw = random.Random(seed)
    mels, frames = features.shape
    masked, mean = features.clone(), features.mean()
    for _ in range(BANDS):
        width = draw.randint(0, BAND * mels // 80)
        begin = draw.randint(0, mels - width)
        masked[begin : begin + width] = mean
    for _ in range(STRETCHES):
        width = draw.randint(0, min(STRETCH, frames // 10))
        begin = draw.randint(0, frames - width)
        masked[:, begin : begin + width] = mean
    return masked
