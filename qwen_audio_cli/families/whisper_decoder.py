"""Whisper's text decoder: packed rows of many requests through one stack of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ..engine.cache import CacheShape, KVCache, Span, causal_attention


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Geometry of the decoder; `positions` is the longest token sequence."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    positions: int = 448


class WhisperCache(KVCache):
    """A request's self-attention cache beside the audio's keys and values, written once.

    `audio` holds per layer (keys, values), each [heads, frames, head width]. With `watched` (heads
    by layer), the attention of those heads is kept for every token that is fed: word times are
    read from it. Forks share the audio and watch nothing.
    """

    __slots__ = ("attention", "audio", "watched")

    def __init__(
        self,
        shape: CacheShape,
        capacity: int,
        audio: Sequence[tuple[Tensor, Tensor]],
        watched: dict[int, list[int]] | None = None,
    ) -> None:
        super().__init__(shape, capacity)
        self.audio = audio
        self.watched = watched or {}
        self.attention: dict[int, list[Tensor]] = {layer: [] for layer in self.watched}

    def fork(self, room: int) -> WhisperCache:
        """A copy with room for `room` more positions, over the same audio."""
        copy = WhisperCache(self.shape, self.length + room, self.audio)
        copy.adopt(self)
        return copy

    def alignment(self) -> Tensor:
        """Attention of the watched heads: [heads, tokens fed, frames]."""
        return torch.cat([torch.cat(steps, dim=1) for steps in self.attention.values()])


class CrossAttention(nn.Module):
    """Attention of text rows over their own request's audio."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def project(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of [frames, width]: two of [heads, frames, head width]."""
        keys, values = (
            layer(audio).unflatten(1, (self.heads, -1)).transpose(0, 1).contiguous()
            for layer in (self.key, self.value)
        )
        return keys, values

    def forward(self, x: Tensor, spans: Sequence[Span], layer: int) -> Tensor:
        """[rows, width] to the same shape; rows attend to the audio of their span only."""
        query = self.query(x).unflatten(1, (self.heads, -1))
        out = torch.empty_like(query)
        for span in spans:
            assert isinstance(span.cache, WhisperCache)
            keys, values = span.cache.audio[layer]
            rows = query[span.start : span.stop].transpose(0, 1)
            if heads := span.cache.watched.get(layer):
                scores = rows[heads] @ keys[heads].transpose(1, 2) * rows.shape[-1] ** -0.5
                span.cache.attention[layer].append(scores.softmax(-1))
            mixed = scaled_dot_product_attention(rows[None], keys[None], values[None])[0]
            out[span.start : span.stop] = mixed.transpose(0, 1)
        attended: Tensor = self.out(out.flatten(1))
        return attended


class TextAttention(nn.Module):
    """Causal self-attention; its key projection has no bias (Whisper)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, spans: Sequence[Span], layer: int) -> Tensor:
        """[rows, width] to the same shape."""
        query, key, value = (
            projection(x).unflatten(1, (self.heads, -1))
            for projection in (self.query, self.key, self.value)
        )
        attended: Tensor = self.out(causal_attention(query, key, value, spans, layer).flatten(1))
        return attended


class DecoderBlock(nn.Module):
    """One pre-norm block: self-attention, cross-attention, MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = TextAttention(width, heads)
        self.attn_ln = nn.LayerNorm(width)
        self.cross_attn = CrossAttention(width, heads)
        self.cross_attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Tensor, spans: Sequence[Span], layer: int) -> Tensor:
        """[rows, width] to the same shape."""
        x = x + self.attn(self.attn_ln(x), spans, layer)
        x = x + self.cross_attn(self.cross_attn_ln(x), spans, layer)
        return x + self.mlp(self.mlp_ln(x))


class WhisperDecoder(nn.Module):
    """Embeddings, blocks, final norm; the output projection is the token embedding (tied)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.positions, config.width))
        self.blocks = nn.ModuleList(
            DecoderBlock(config.width, config.heads) for _ in range(config.layers)
        )
        self.ln = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor, positions: Tensor, spans: Sequence[Span]) -> Tensor:
        """Hidden states [rows, width] of the packed `tokens` [rows] at `positions` [rows]."""
        x = self.token_embedding(tokens) + self.positional_embedding[positions]
        for layer, block in enumerate(self.blocks):
            x = block(x, spans, layer)
        hidden: Tensor = self.ln(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary, [rows, vocabulary] in float32."""
        return (hidden @ self.token_embedding.weight.T).float()
