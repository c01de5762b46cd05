"""Audio in: sources, decoding, segmentation, features. All samples are mono float32 at 16 kHz."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Samples per second (Hz) that every family of models here hears."""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A stretch of one source: `samples` [n] in [-1, 1], `start` its exact offset in samples."""

    samples: NDArray[np.float32]
    start: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.samples) / SAMPLE_RATE

    @property
    def start_seconds(self) -> float:
        """Begin within the source, in seconds."""
        return self.start / SAMPLE_RATE

    @property
    def end_seconds(self) -> float:
        """End within the source, in seconds."""
        return (self.start + len(self.samples)) / SAMPLE_RATE
