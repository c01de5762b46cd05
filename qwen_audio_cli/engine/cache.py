"""Keys and values of one request, and attention over the rows of many requests at once.

Every request owns one contiguous extent per layer, reserved when it is admitted: its final length
is known then (prompt + longest answer), so nothing is ever moved, paged or pre-empted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What a decoder keeps of every position: `layers` times `heads` (of keys) times `width`."""

    layers: int
    heads: int
    width: int
    dtype: torch.dtype
    device: torch.device


class KVCache:
    """Self-attention keys and values of one request: [layers, heads, capacity, width]."""

    __slots__ = ("_keys", "_values", "length", "shape")

    def __init__(self, shape: CacheShape, capacity: int) -> None:
        size = (shape.layers, shape.heads, capacity, shape.width)
        self._keys = torch.empty(size, dtype=shape.dtype, device=shape.device)
        self._values = torch.empty_like(self._keys)
        self.shape = shape
        self.length = 0

    @property
    def capacity(self) -> int:
        """How many positions there is room for."""
        return self._keys.shape[2]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store [n, heads, width] behind `length` in one layer; give all of it, [heads, m, width].

        `length` itself moves once per step, in `advance`, since every layer appends in turn.
        """
        end = self.length + keys.shape[0]
        self._keys[layer, :, self.length : end] = keys.transpose(0, 1)
        self._values[layer, :, self.length : end] = values.transpose(0, 1)
        return self._keys[layer, :, :end], self._values[layer, :, :end]

    def advance(self, count: int) -> None:
        """Count `count` positions as stored, after all layers have appended them."""
        self.length += count

    def adopt(self, other: KVCache) -> None:
        """Begin with what `other` holds."""
        self._keys[:, :, : other.length] = other._keys[:, :, : other.length]
        self._values[:, :, : other.length] = other._values[:, :, : other.length]
        self.length = other.length

    def alignment(self) -> object | None:
        """What the family keeps for word times, opaque to the engine; None where none is kept."""
        return None

    def fork(self, room: int) -> KVCache:
        """A copy with room for `room` more positions; several answers then share one prefix."""
        copy = KVCache(self.shape, self.length + room)
        copy.adopt(self)
        return copy


@dataclass(frozen=True, slots=True)
class Span:
    """The rows `start:stop` of a packed step that belong to one request."""

    start: int
    stop: int
    cache: KVCache


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], layer: int
) -> Tensor:
    """Causal self-attention of packed rows, each over its own request's past.

    `query` [rows, heads, width]; `key`, `value` [rows, key heads, width], where heads is a multiple
    of key heads (grouped-query attention). Gives [rows, heads, width]. A request's result depends
    on its own rows only: nothing is padded, so neighbours cannot change it.
    """
    out = torch.zeros_like(query)
    grouped = query.shape[1] != key.shape[1]
    for span in spans:
        keys, values = span.cache.append(
            layer, key[span.start : span.stop], value[span.start : span.stop]
        )
        rows, past = span.stop - span.start, span.cache.length
        mask = None
        if rows > 1 and past:  # several new rows behind a past: aligned at the bottom right
            mask = torch.ones(rows, past + rows, dtype=torch.bool, device=query.device).tril(past)
        out[span.start : span.stop] = scaled_dot_product_attention(
            query[span.start : span.stop].transpose(0, 1)[None],
            keys[None],
            values[None],
            attn_mask=mask,
            is_causal=rows > 1 and not past,
            enable_gqa=grouped,
        )[0].transpose(0, 1)
    return out
