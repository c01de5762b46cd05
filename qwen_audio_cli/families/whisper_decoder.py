"""Whisper's text decoder: packed rows of many requests through one stack of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..engine.cache import CacheShape, KVCache, Span, causal_attention
from .checkpoint import blank_embedding
from .encoder import Attention


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Geometry of the decoder; `positions` is the longest token sequence."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    positions: int = 448


@dataclass(frozen=True, slots=True, eq=False)
class AudioKeys:
    """A decoder's keys and values of audio, by layer, each [heads, frames, head width].

    `level` [frames] is how loud the frames are (`word_times.frame_levels`).
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    level: Tensor

    @property
    def frames(self) -> int:
        """How many frames of 20 ms there are."""
        return self.layers[0][0].shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """What word times are read from.

    `attention` [heads, tokens fed, frames] is that of the watched heads, `level` [frames] how loud
    the clip's frames are.
    """

    attention: Tensor
    level: Tensor


class WhisperCache(KVCache):
    """A request's self-attention cache beside its clip's keys and values, which are written once.

    With `watched` (heads by layer), the attention of those heads is kept for every token that is
    fed: word times are read from it. Forks share the audio and watch nothing.
    """

    __slots__ = ("attention", "audio", "watched")

    def __init__(
        self,
        shape: CacheShape,
        capacity: int,
        audio: AudioKeys,
        watched: dict[int, list[int]] | None = None,
    ) -> None:
        super().__init__(shape, capacity)
        self.audio = audio
        self.watched = watched or {}
        # By layer and position, so that a step that is computed again counts once.
        self.attention: dict[int, dict[int, Tensor]] = {layer: {} for layer in self.watched}

    def fork(self, room: int) -> WhisperCache:
        """A copy with room for `room` more positions, over the same audio."""
        copy = WhisperCache(self.shape, self.length + room, self.audio)
        copy.adopt(self)
        return copy

    def alignment(self) -> Alignment | None:
        """What the watched heads looked at, where there are any."""
        if not self.watched:
            return None
        rows = [torch.cat(list(steps.values()), dim=1) for steps in self.attention.values()]
        return Alignment(torch.cat(rows), self.audio.level)


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The silence behind every clip of a step, up to the window's end, which all clips share.

    `keys` are those of a whole silent window; `hidden` [rows, frames] marks for each packed row
    the frames that its clip covers.
    """

    keys: AudioKeys
    hidden: Tensor

    @classmethod
    def behind(cls, silence: AudioKeys, spans: Sequence[Span], rows: int) -> Tail:
        """The tail for `rows` packed rows, those of `spans` first."""
        device = silence.layers[0][0].device
        covered = torch.zeros(rows, 1, dtype=torch.long)
        for span in spans:
            covered[span.start : span.stop] = _cache(span).audio.frames
        frames = torch.arange(silence.frames, device=device)
        return cls(silence, frames < covered.to(device))


def _cache(span: Span) -> WhisperCache:
    assert isinstance(span.cache, WhisperCache)
    return span.cache


def _weigh(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax of `scores` [heads, rows, frames] over `values`, and its normaliser's logarithm."""
    scores = scores.float()
    mixed = scores.softmax(-1).to(values.dtype) @ values
    return mixed.float(), scores.logsumexp(-1, keepdim=True)


class CrossAttention(Attention):
    """Attention of text rows over their own request's audio and the silence behind it.

    The silence is the same for all rows, so its keys are read once for a whole step and not once a
    row: this is what decoding many short clips on a CPU would otherwise spend its time on. The two
    parts are joined by their normalisers, which gives the softmax over both.
    """

    def project(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of [frames, width]: two of [heads, frames, head width]."""
        keys, values = (
            layer(audio).unflatten(1, (self.heads, -1)).transpose(0, 1).contiguous()
            for layer in (self.key, self.value)
        )
        return keys, values

    def forward(self, x: Tensor, spans: Sequence[Span], layer: int, tail: Tail | None) -> Tensor:
        """[rows, width] to the same shape; rows attend to the audio of their span only."""
        query = self.query(x).unflatten(1, (self.heads, -1)).transpose(0, 1)
        query = query * query.shape[-1] ** -0.5
        mixed = torch.zeros(query.shape, device=x.device)
        weight = torch.zeros(*query.shape[:2], 1, device=x.device)
        for span in spans:
            rows = slice(span.start, span.stop)
            cache = _cache(span)
            keys, values = cache.audio.layers[layer]
            scores = query[:, rows] @ keys.transpose(1, 2)
            mixed[:, rows], weight[:, rows] = _weigh(scores, values)
            if heads := cache.watched.get(layer):
                cache.attention[layer][cache.length] = scores[heads].softmax(-1)
        if tail is not None:
            keys, values = tail.keys.layers[layer]
            scores = (query @ keys.transpose(1, 2)).masked_fill(tail.hidden, -1e30)
            silent, silent_weight = _weigh(scores, values)
            share = (silent_weight - weight).sigmoid()
            mixed = torch.lerp(mixed, silent, share)
        attended: Tensor = self.out(mixed.to(x.dtype).transpose(0, 1).flatten(1))
        return attended


class TextAttention(Attention):
    """Causal self-attention."""

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

    def forward(self, x: Tensor, spans: Sequence[Span], layer: int, tail: Tail | None) -> Tensor:
        """[rows, width] to the same shape."""
        x = x + self.attn(self.attn_ln(x), spans, layer)
        x = x + self.cross_attn(self.cross_attn_ln(x), spans, layer, tail)
        x = x + self.mlp(self.mlp_ln(x))
        return x


class WhisperDecoder(nn.Module):
    """Embeddings, blocks, final norm; the output projection is the token embedding (tied)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = blank_embedding(config.vocabulary, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.positions, config.width))
        self.blocks = nn.ModuleList(
            DecoderBlock(config.width, config.heads) for _ in range(config.layers)
        )
        self.ln = nn.LayerNorm(config.width)

    def forward(
        self, tokens: Tensor, positions: Tensor, spans: Sequence[Span], tail: Tail | None
    ) -> Tensor:
        """Hidden states [rows, width] of the packed `tokens` [rows] at `positions` [rows]."""
        x = self.token_embedding(tokens) + self.positional_embedding[positions]
        for layer, block in enumerate(self.blocks):
            x = block(x, spans, layer, tail)
        hidden: Tensor = self.ln(x)
        return hidden

    @property
    def layers(self) -> list[DecoderBlock]:
        """The blocks, in order."""
        return [cast(DecoderBlock, block) for block in self.blocks]

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary, [rows, vocabulary] in float32."""
        return (hidden @ self.token_embedding.weight.T).float()
