"""What a run computes on: the device, the number type, whether a model has room there, and how much
is in work at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from . import host_memory
from .engine.memory import rows_that_fit
from .engine.scheduler import Budget
from .errors import ModelError, UsageError

if TYPE_CHECKING:
    from .engine.request import Model

SEATS = 32
"""Clips in work at once on a CPU, where more gain nothing."""

MOST_SEATS = 256
"""The same on a GPU, where memory allows: a decode step reads the weights once for all of them."""

ROWS_A_SEAT = 1024
"""Of a clip of 30 s, its prompt and its answer: by this, memory bounds the seats."""

LONGEST_FRAMES = 3_000
"""Mel frames of the longest clip that most models hear, 30 s."""

HELD_BYTES = 256e6
"""Of the clips in work, what the encoder gave for the decoder, on a CPU."""

LOADING = 1.1
"""Bytes that loading a model takes for each byte of its weights. The largest matrix is there twice
while its type or layout is changed (7 % of Qwen-Audio), and a first clip needs keys and values."""

LARGE = 70e9
"""Bytes from which a GPU computes longer prompts and more audio at a time."""


def find_device(name: str) -> torch.device:
    """A device by name, `auto` for the best there is. Raises ModelError where it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"the device '{name}' is not available: {reason}") from error
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", 0)
    return device


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """A floating-point type by name, `auto` for the fastest that the device computes natively."""
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        native = features.get("avx512_bf16") or features.get("amx_bf16")
        return torch.bfloat16 if native else torch.float32
    try:
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[name]
    except KeyError:
        raise UsageError(f"unknown dtype '{name}': auto, float32, bfloat16 or float16") from None


def require_memory(
    label: str, weights: int, dtype: torch.dtype, device: torch.device, device_map: str | None
) -> None:
    """Raise ModelError where a model of so many weights has no room to be loaded."""
    needed = LOADING * weights * dtype.itemsize
    free = _free_bytes(device, device_map)
    if needed <= free:
        return
    where = "all devices have" if device_map else f"'{device}' has"
    name = str(dtype).removeprefix("torch.")
    advice = "; --dtype bfloat16 takes half" if dtype.itemsize > 2 else ""
    raise ModelError(
        f"{label} needs {needed / 1e9:,.1f} GB of memory in {name}, "
        f"{where} {free / 1e9:,.1f} GB free{advice}"
    )


def _free_bytes(device: torch.device, device_map: str | None) -> int:
    """What can be allocated on a device, or on all that a model is spread over."""
    if device_map and torch.cuda.is_available():
        free = [torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())]
        return sum(free) + host_memory.free_bytes()
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return host_memory.free_bytes()


def budget_for(model: Model, device: torch.device, batch: int | None) -> Budget:
    """What may be in work at once with a loaded model; `batch` is how many clips, if told."""
    if device.type != "cuda":
        seats = batch or SEATS
        held = int(HELD_BYTES / model.frame_bytes)
        return Budget(seats=seats, held_frames=min(LONGEST_FRAMES * seats, held))
    fitting = rows_that_fit(model.cache) // ROWS_A_SEAT
    seats = batch or min(MOST_SEATS, max(SEATS, fitting))
    large = torch.cuda.get_device_properties(device).total_memory >= LARGE
    return Budget(
        seats=seats,
        held_frames=LONGEST_FRAMES * seats,
        encoder_frames=48_000 if large else 12_000,
        prompt_tokens=16_384 if large else 4_096,
        patience=8,
    )
