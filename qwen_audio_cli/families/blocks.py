"""Weights kept in few bits: how levels, scales and minima stand in a file, and what they stand for.

A matrix `NAME` lies beside its `NAME_scale` and, in four bits, its `NAME_min`. The block forms hold
exactly what GGUF's Q8_0 and Q4_1 hold (ggml-org/ggml, `ggml-common.h`), field by field.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

BLOCK = 32
"""Weights of a row that share a scale, in the block forms."""

SCALE = "_scale"
"""What is added to a matrix's name for its scales."""

MINIMUM = "_min"
"""What is added to a matrix's name for its blocks' minima."""


def is_aside(name: str, names: Collection[str]) -> bool:
    """Whether a tensor of a file belongs to the levels of another one of `names`."""
    return any(
        name.endswith(suffix) and name.removesuffix(suffix) in names for suffix in (SCALE, MINIMUM)
    )


def multiply_out(levels: Tensor, scale: Tensor, minimum: Tensor | None) -> Tensor:
    """The weights in float32.

    - `levels` int8 [rows, ...], `scale` [rows]: a scale a row;
    - `levels` int8 [rows, width], `scale` [rows, width / 32]: a scale a block;
    - `levels` uint8 [rows, width / 2], `scale` and `minimum` [rows, width / 32]: four bits each, of
      a block's 16 bytes the lower halves first.

    Raises ValueError where the shapes are none of these.
    """
    wide = scale.float()
    if scale.ndim == 1 and minimum is None:
        return levels * wide.view(-1, *[1] * (levels.ndim - 1))
    held = BLOCK if minimum is None else BLOCK // 2
    if scale.ndim != 2 or levels.shape != (scale.shape[0], scale.shape[1] * held):
        raise ValueError(f"scales {list(scale.shape)} for levels {list(levels.shape)}")
    blocks = levels.reshape(*scale.shape, held)
    if minimum is None:
        return (blocks * wide[..., None]).flatten(1)
    if minimum.shape != scale.shape:
        raise ValueError(f"minima {list(minimum.shape)} for scales {list(scale.shape)}")
    halves = torch.cat([blocks & 15, blocks >> 4], dim=-1)
    return (halves * wide[..., None] + minimum.float()[..., None]).flatten(1)
