"""What a machine can do at most, in products and in reads, and what memory a process has taken."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

SECONDS = 0.3
"""How long each rate is measured at least."""

SIDE = {"cpu": 1024, "cuda": 8192, "mps": 4096}
BUFFER_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31, "mps": 1 << 30}
"""Several times what processors keep near them."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Operations a second in a large square matrix product, bytes a second read from memory."""

    flops: float
    bandwidth: float


def measure(device: torch.device, dtype: torch.dtype) -> Rates:
    """Measure both, at the number of threads that torch is set to."""
    side = SIDE[device.type]
    left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    product = _seconds(lambda: left @ right, device)
    buffer = torch.ones(BUFFER_BYTES[device.type] // 4, device=device)
    reading = _seconds(buffer.sum, device)
    return Rates(2 * side**3 / product, buffer.nbytes / reading)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The shortest time that `work` takes."""
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < SECONDS or best == float("inf"):
        synchronise(device)
        before = time.perf_counter()
        work()
        synchronise(device)
        best = min(best, time.perf_counter() - before)
    return best


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> tuple[int, int | None]:
    """Bytes that this process held at most, of the machine's memory and of a CUDA device's."""
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return own, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
