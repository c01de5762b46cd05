"""Qwen's decoder: packed rows of many requests through one stack of blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ..engine.attention import Step
from .checkpoint import blank_embedding
from .packed import projection


@dataclass(frozen=True, slots=True)
class QwenConfig:
    """Geometry of the decoder.

    `key_heads` below `heads` is grouped-query attention; `ffn` is the width within the MLP;
    `positions` the longest sequence, in tokens, for which this arithmetic is the model's: the 2023
    checkpoints change theirs (dynamic NTK, log-n scaling) past 2,048. `tied`: the output
    projection is the token embedding.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    ffn: int
    positions: int
    eps: float = 1e-6
    rope_base: float = 10_000.0
    qkv_bias: bool = True
    tied: bool = False


Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of every row's angles, each [rows, 1, head width / 2] in float32."""


def rotation(positions: Tensor, width: int, base: float) -> Rotation:
    """Angles of rotary embedding (Su et al. 2021) at `positions` [rows] for heads of `width`."""
    exponents = torch.arange(0, width, 2, device=positions.device).float() / width
    angles = positions[:, None, None].float() / base**exponents
    return angles.cos(), angles.sin()


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn [rows, heads, width], pairing the first half of the width with the second."""
    cos, sin = by
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32; the weight is applied in the input's own precision."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[rows, width] to the same shape."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


class QwenAttention(nn.Module):
    """Causal self-attention; `c_attn` holds the rows of query, key and value, in this order."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.heads = (config.heads, config.key_heads, config.key_heads)
        self.head_width = config.head_width
        self.c_attn = nn.Linear(
            config.width, sum(self.heads) * config.head_width, bias=config.qkv_bias
        )
        self.c_proj = nn.Linear(config.heads * config.head_width, config.width, bias=False)

    def forward(self, x: Tensor, by: Rotation, step: Step, layer: int) -> Tensor:
        """[rows, width] to the same shape."""
        heads = self.c_attn(x).unflatten(1, (-1, self.head_width))
        query, key, value = heads.split(self.heads, dim=1)
        mixed = step.attend(layer, rotate(query, by), rotate(key, by), value)
        attended: Tensor = self.c_proj(mixed.flatten(1))
        return attended


class QwenMLP(nn.Module):
    """SwiGLU (Shazeer 2020): `w2` is the gate, `w1` the branch it opens."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.width, config.ffn, bias=False)
        self.w2 = nn.Linear(config.width, config.ffn, bias=False)
        self.c_proj = nn.Linear(config.ffn, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, width] to the same shape."""
        out: Tensor = self.c_proj(self.w1(x) * silu(self.w2(x)))
        return out


class QwenBlock(nn.Module):
    """One pre-norm block: self-attention, MLP."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.ln_1 = RMSNorm(config.width, config.eps)
        self.attn = QwenAttention(config)
        self.ln_2 = RMSNorm(config.width, config.eps)
        self.mlp = QwenMLP(config)

    def forward(self, x: Tensor, by: Rotation, step: Step, layer: int) -> Tensor:
        """[rows, width] to the same shape."""
        x = x + self.attn(self.ln_1(x), by, step, layer)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class QwenDecoder(nn.Module):
    """Token embedding `wte`, blocks `h`, final norm, output projection.

    Module names are those of the 2023 checkpoints. Embeddings go in rather than tokens, so that a
    family can put audio among them.
    """

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = blank_embedding(config.vocabulary, config.width)
        self.h = nn.ModuleList(QwenBlock(config) for _ in range(config.layers))
        self.ln_f = RMSNorm(config.width, config.eps)
        if not config.tied:
            self.lm_head: Callable[[Tensor], Tensor] = nn.Linear(
                config.width, config.vocabulary, bias=False
            )

    def tie(self) -> None:
        """Make the output projection, once all is loaded, where it is the token embedding."""
        if self.config.tied:
            self.lm_head = projection(self.wte.weight)

    def forward(self, x: Tensor, positions: Tensor, step: Step) -> Tensor:
        """Hidden states of packed embeddings [rows, width] at `positions` [rows]."""
        by = rotation(positions, self.config.head_width, self.config.rope_base)
        for layer, block in enumerate(self.h):
            x = block(x, by, step, layer)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary, [rows, vocabulary] in float32."""
        scores: Tensor = self.lm_head(self.ln_f(hidden))
        return scores.float()
