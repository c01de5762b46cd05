"""What is heard, changed: parts of it blanked (SpecAugment, arXiv 1904.08779), or with noise."""

from __future__ import annotations

import random

import torch
from torch import Tensor

BANDS, BAND = 2, 27
"""How many bands of mel bins, and how wide one is at most, of 80."""

STRETCHES, STRETCH = 2, 50
"""How many stretches of frames, and how long one is at most; never more than a tenth of a clip."""


def spec_augment(features: Tensor, seed: str) -> Tensor:
    """Features [mels, frames] with some of them at their mean; the same for the same `seed`."""
    draw = random.Random(seed)
    masked, mean = features.clone(), features.mean()
    mels = len(features)
    for _ in range(BANDS):
        width = draw.randint(0, BAND * mels // 80)
        begin = draw.randint(0, mels - width)
        masked[begin : begin + width] = mean
    _mask_stretches(masked, mean, draw)
    return masked


def mask_stretches(features: Tensor, seed: str) -> Tensor:
    """Features [channels, frames] of which stretches are at each channel's mean."""
    masked = features.clone()
    _mask_stretches(masked, features.mean(1, keepdim=True), random.Random(seed))
    return masked


def with_noise(features: Tensor, deviation: Tensor, seed: str) -> Tensor:
    """Features [channels, frames] with noise of a standard `deviation` [channels] in each."""
    generator = torch.Generator().manual_seed(random.Random(seed).getrandbits(63))
    noise = torch.randn(features.shape, generator=generator)
    return features + (noise * deviation.cpu()[:, None]).to(features)


def _mask_stretches(features: Tensor, mean: Tensor, draw: random.Random) -> None:
    frames = features.shape[1]
    for _ in range(STRETCHES):
        width = draw.randint(0, min(STRETCH, frames // 10))
        begin = draw.randint(0, frames - width)
        features[:, begin : begin + width] = mean
