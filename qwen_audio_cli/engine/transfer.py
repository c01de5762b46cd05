"""Numbers on their way to a device, without making the host wait for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(
    values: Sequence[int] | Sequence[float] | Tensor,
    device: torch.device,
    dtype: torch.dtype = torch.long,
) -> Tensor:
    """A tensor of these values; on CUDA from pinned memory, since a copy from other waits."""
    host = torch.as_tensor(values, dtype=dtype)
    if device.type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)
