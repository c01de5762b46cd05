"""Whisper's text decoder: packed rows of many requests through one stack of blocks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from ..engine.attention import Span, Step
from .checkpoint import blank_embedding
from .encoder import Attention
from .packed import projection


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
class Hearing:
    """What one request hears: its clip, and what some heads looked at while it was answered.

    `watched` are those heads by layer; their attention over the clip [heads, rows, frames] is kept
    in `seen`, by layer and by the position of its first row, so that a step that is computed again
    counts once.
    """

    audio: AudioKeys
    watched: Mapping[int, Sequence[int]]
    seen: dict[int, dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))

    def attention(self, begin: int, count: int) -> Tensor:
        """What the watched heads looked at in `count` positions from `begin` on.

        Gives [heads, count, frames].
        """
        layers = []
        for steps in self.seen.values():
            rows = torch.cat([steps[position] for position in sorted(steps)], dim=1)
            first = begin - min(steps)
            layers.append(rows[:, first : first + count])
        return torch.cat(layers)


def hearing(span: Span) -> Hearing:
    """What the request of a span hears."""
    assert isinstance(span.context, Hearing)
    return span.context


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The silence behind every clip of a step, up to the window's end, which all clips share.

    `keys` are those of a whole silent window; `hidden` [rows, frames] is minus infinity for each
    packed row at the frames that its clip covers, and else 0.
    """

    keys: AudioKeys
    hidden: Tensor

    @classmethod
    def behind(cls, silence: AudioKeys, spans: Sequence[Span], rows: int) -> Tail:
        """The tail for `rows` packed rows, those of `spans` first."""
        keys, _ = silence.layers[0]
        covered = torch.zeros(rows, 1, dtype=torch.long)
        for span in spans:
            covered[span.start : span.stop] = hearing(span).audio.frames
        frames = torch.arange(silence.frames, device=keys.device)
        hidden = torch.zeros(rows, silence.frames, dtype=keys.dtype, device=keys.device)
        return cls(silence, hidden.masked_fill_(frames < covered.to(keys.device), -math.inf))


def attend(
    query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention over one clip, and the logarithm of its normaliser.

    `query` [heads, rows, width], `keys`, `values` [heads, frames, width]; `hidden` [rows, frames]
    is added to the scores. Gives [heads, rows, width] and [heads, rows].
    """
    if query.device.type == "cpu":  # several times as fast there as its parts in turn
        mixed, normaliser = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query[None], keys[None], values[None], attn_mask=hidden
        )
        return mixed[0], normaliser[0]
    scores = (query @ keys.transpose(1, 2)).float() * query.shape[-1] ** -0.5
    scores = scores if hidden is None else scores + hidden
    return scores.softmax(-1).to(values.dtype) @ values, scores.logsumexp(-1)


class CrossAttention(Attention):
    """Attention of text rows over their own request's audio and the silence behind it.

    The silence is the same for all rows, so its keys are read once for a whole step and not once a
    row: this is what decoding many short clips on a CPU would otherwise spend its time on. The two
    parts are joined by their normalisers, which gives the softmax over both.
    """

    def project(self, audio: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of [frames, width]: two of [heads, frames, head width] in `dtype`."""
        keys, values = (
            layer(audio).unflatten(1, (self.heads, -1)).transpose(0, 1).to(dtype).contiguous()
            for layer in (self.key, self.value)
        )
        return keys, values

    def forward(self, x: Tensor, spans: Sequence[Span], layer: int, tail: Tail | None) -> Tensor:
        """[rows, width] to the same shape; rows attend to the audio of their span only."""
        query = self.query(x).unflatten(1, (self.heads, -1)).transpose(0, 1)
        query = query.to(hearing(spans[0]).audio.layers[layer][0].dtype)
        mixed = torch.zeros_like(query)
        weight = torch.zeros(query.shape[:2], device=x.device)
        for span in spans:
            rows = slice(span.start, span.stop)
            heard = hearing(span)
            keys, values = heard.audio.layers[layer]
            mixed[:, rows], weight[:, rows] = attend(query[:, rows], keys, values)
            if heads := heard.watched.get(layer):
                scale = query.shape[-1] ** -0.5
                scores = query[heads, rows] @ keys[heads].transpose(1, 2) * scale
                heard.seen[layer][span.extent.length] = scores.float().softmax(-1)
        if tail is not None:
            silent, silent_weight = attend(query, *tail.keys.layers[layer], tail.hidden)
            share = (silent_weight - weight).sigmoid()[..., None]
            mixed = torch.lerp(mixed, silent, share.to(mixed.dtype))
        attended: Tensor = self.out(mixed.to(x.dtype).transpose(0, 1).flatten(1))
        return attended


class TextAttention(Attention):
    """Causal self-attention."""

    def forward(self, x: Tensor, step: Step, layer: int) -> Tensor:
        """[rows, width] to the same shape."""
        query, key, value = (
            projection(x).unflatten(1, (self.heads, -1))
            for projection in (self.query, self.key, self.value)
        )
        attended: Tensor = self.out(step.attend(layer, query, key, value).flatten(1))
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

    def forward(self, x: Tensor, step: Step, layer: int, tail: Tail | None) -> Tensor:
        """[rows, width] to the same shape."""
        x = x + self.attn(self.attn_ln(x), step, layer)
        x = x + self.cross_attn(self.cross_attn_ln(x), step.spans, layer, tail)
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

    def tie(self) -> None:
        """Make the output projection of the token embedding, once that is loaded."""
        self.output = projection(self.token_embedding.weight)

    def forward(self, tokens: Tensor, positions: Tensor, step: Step, tail: Tail | None) -> Tensor:
        """Hidden states [rows, width] of the packed `tokens` [rows] at `positions` [rows]."""
        x = self.token_embedding(tokens) + self.positional_embedding[positions]
        for layer, block in enumerate(self.blocks):
            x = block(x, step, layer, tail)
        hidden: Tensor = self.ln(x)
        return hidden

    @property
    def layers(self) -> list[DecoderBlock]:
        """The blocks, in order."""
        return [cast(DecoderBlock, block) for block in self.blocks]

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary, [rows, vocabulary] in float32."""
        return self.output(hidden).float()
