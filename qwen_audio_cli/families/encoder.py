"""The Whisper-style audio encoder that Whisper and Qwen-Audio share (one module for both)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Geometry of the encoder; `positions` is its longest input, in frames of 20 ms."""

    mels: int
    width: int
    layers: int
    heads: int
    positions: int = 1500


class Attention(nn.Module):
    """The projections of Whisper's attention, of which the key's has no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)


class SelfAttention(Attention):
    """Bidirectional self-attention."""

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """[batch, frames, width] to the same shape; `seen` as in `EncoderBlock`."""
        split = (*x.shape[:2], self.heads, -1)
        query, key, value = (
            projection(x).view(split).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=seen)
        attended: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return attended


class EncoderBlock(nn.Module):
    """One pre-norm transformer block of the encoder."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """[batch, frames, width] to the same shape.

        `seen` [batch, 1, 1, frames] is false for frames that are nobody's; None if there are none.
        """
        x = x + self.attn(self.attn_ln(x), seen)
        x = x + self.mlp(self.mlp_ln(x))
        return x


class AudioEncoder(nn.Module):
    """Two convolutions (the second halves the rate to 50 Hz) and a stack of blocks.

    The norm behind the blocks belongs to the family: Qwen-Audio pools before it. Module names are
    those of openai/whisper, which the 2023 Qwen-Audio checkpoints keep.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.mels, config.width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, kernel_size=3, stride=2, padding=1)
        self.positional_embedding = nn.Parameter(torch.empty(config.positions, config.width))
        self.blocks = nn.ModuleList(
            EncoderBlock(config.width, config.heads) for _ in range(config.layers)
        )
        self.ln_post = nn.LayerNorm(config.width)

    def forward(self, mel: Tensor, lengths: Sequence[int]) -> Tensor:
        """[batch, mels, frames] to [batch, ceil(frames / 2), width], before `ln_post`."""
        *_, last = self.states(mel, lengths)
        return last

    def states(self, mel: Tensor, lengths: Sequence[int]) -> Iterator[Tensor]:
        """What each block makes of [batch, mels, frames]: [batch, ceil(frames / 2), width].

        `lengths` are the clips' own frames, behind which there are zeros. A clip's result is that
        of the clip alone: a convolution sees zeros behind its end anyway, and what comes behind its
        end is hidden from attention. Frames past `2 * positions` are an error of the caller.
        """
        x = gelu(self.conv1(mel))
        seen = None
        if min(lengths) < mel.shape[-1]:
            ends = torch.tensor(lengths, device=mel.device)[:, None]
            own = torch.arange(mel.shape[-1], device=mel.device) < ends
            x = x * own[:, None]
            seen = own[:, None, None, ::2]
        x = gelu(self.conv2(x)).transpose(1, 2)
        x = x + self.positional_embedding[: x.shape[1]]
        for block in self.blocks:
            x = block(x, seen)
            yield x
