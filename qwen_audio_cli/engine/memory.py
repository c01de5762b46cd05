"""How much memory there is for keys and values, and what running out of it looks like."""

from __future__ import annotations

import ctypes
import logging
import os
from collections import Counter
from pathlib import Path

import torch

from .arena import CacheShape

LOG = logging.getLogger(__name__)

SHARE = 0.85
"""Of what is free on an accelerator; the rest is for the steps themselves."""

HOST_SHARE = 0.5
"""The same of this machine's memory, which others use too."""


def rows_that_fit(shape: CacheShape) -> int:
    """How many positions memory has room for, on the fullest of the devices that keep layers."""
    layers = Counter(shape.devices)
    per_layer = shape.row_bytes // len(shape.devices)
    return min(int(_free_bytes(device) // (count * per_layer)) for device, count in layers.items())


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return SHARE * free
    if device.type == "mps":
        used = torch.mps.driver_allocated_memory()
        return SHARE * (torch.mps.recommended_max_memory() - used)
    return HOST_SHARE * _available()


def _available() -> float:
    """Bytes that a new process could have without swapping, as far as the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def give_back() -> None:
    """Return to the system what the C library keeps for later, where it can be asked to.

    Audio of ever new lengths leaves gaps between what is in use, and a long run would hold more and
    more of them.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def free_memory(consequence: str) -> None:
    """Make room where memory ran out, and say what follows from that."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    LOG.warning("memory ran out: from now on %s", consequence)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: the device's, or this machine's."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The allocators of the CPU and of MPS raise RuntimeError.
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "not enough memory" in text or "out of memory" in text
    )
