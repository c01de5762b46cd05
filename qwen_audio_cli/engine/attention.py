"""Attention over the packed rows of many requests at once: the one function, and its back-ends.

A step's rows are the next tokens of many requests, one run of rows each. Keys and values of the
rows go into the arena, and every row attends to its own request's past there. Nothing is shared or
padded in a way that a neighbour could change a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .arena import Arena, Extent
from .transfer import to_device


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """The rows `start:stop` of a packed step that belong to one request.

    `tokens` are the rows' own, None for a single one that only the device knows. `context` is what
    the model keeps of the request beside its keys (`Model.open`). With `branches` the rows are
    several continuations, of these lengths, of the same past: none sees another.
    """

    start: int
    stop: int
    extent: Extent
    tokens: Sequence[int] | None = None
    context: object = None
    branches: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.stop - self.start

    def mask(self, device: torch.device) -> Tensor | None:
        """Which past and new rows each row sees, [rows, past + rows]; None for all or plain causal.

        Plain causal is a single row, or several without a past.
        """
        past, rows = self.extent.length, self.rows
        if self.branches:
            seen = torch.zeros(rows, past + rows, dtype=torch.bool, device=device)
            seen[:, :past] = True
            for begin, end in pairwise(accumulate(self.branches, initial=0)):
                seen[begin:end, past + begin : past + end] = True
            return seen.tril(past)
        if rows > 1 and past:  # aligned at the bottom right
            return torch.ones(rows, past + rows, dtype=torch.bool, device=device).tril(past)
        return None


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From queries [rows, heads, width] and an arena's layer [arena rows, key heads, width], twice."""

Backend = Callable[[Sequence[Span], torch.device], Attend]
"""Looks at a step's spans once, for all its layers."""


@dataclass(slots=True, eq=False)
class Step:
    """One packed step: which rows belong to which request, and where their keys go.

    `targets` [rows] are rows of the arena; those behind the last span are scratch.
    """

    arena: Arena
    spans: Sequence[Span]
    targets: Tensor
    backend: Backend
    _attends: dict[torch.device, tuple[Tensor, Attend]] = field(default_factory=dict, init=False)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal self-attention of packed rows, each over its own request's past.

        `query` [rows, heads, width]; `key`, `value` [rows, key heads, width], where heads is a
        multiple of key heads (grouped-query attention). Gives [rows, heads, width] in the query's
        type; rows of nobody are zero or undefined.
        """
        keys, values = self.arena.keys[layer], self.arena.values[layer]
        if (known := self._attends.get(keys.device)) is None:
            known = self.targets.to(keys.device), self.backend(self.spans, keys.device)
            self._attends[keys.device] = known
        targets, attend = known
        keys.index_copy_(0, targets, key.to(keys.dtype))
        values.index_copy_(0, targets, value.to(values.dtype))
        return attend(query.to(keys.dtype), keys, values).to(query.dtype)


def attention_dtype(weight: Tensor) -> torch.dtype:
    """The type that attention is computed, and keys and values are kept in, beside such weights.

    On a CPU it is float32: its kernels take several times longer in 16 bits.
    """
    return torch.float32 if weight.device.type == "cpu" else weight.dtype


def backend_for(device: torch.device, dtype: torch.dtype) -> Backend:
    """The back-end of a device, for keys of `dtype`."""
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        return varlen
    return views if device.type == "cpu" else padded


def views(spans: Sequence[Span], device: torch.device) -> Attend:
    """Each request's own rows of the arena in turn, in place: the CPU's back-end."""
    masks = [span.mask(device) for span in spans]

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out = torch.zeros_like(query)
        for span, mask in zip(spans, masks, strict=True):
            out[span.start : span.stop] = _attend_one(query, keys, values, span, mask)
        return out

    return attend


def _attend_one(
    query: Tensor, keys: Tensor, values: Tensor, span: Span, mask: Tensor | None
) -> Tensor:
    """Attention of a span's rows over its request's past and themselves, [rows, heads, width]."""
    extent = span.extent
    own = slice(extent.start, extent.start + extent.length + span.rows)
    mixed = scaled_dot_product_attention(
        query[span.start : span.stop].transpose(0, 1)[None],
        keys[own].transpose(0, 1)[None],
        values[own].transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=mask is None and span.rows > 1,
        enable_gqa=query.shape[1] != keys.shape[1],
    )
    return mixed[0].transpose(0, 1)


def padded(spans: Sequence[Span], device: torch.device) -> Attend:
    """All requests in one call, gathered to the longest: where a launch costs more than padding."""
    most = max(span.rows for span in spans)
    longest = max(span.extent.length + span.rows for span in spans)
    rows = torch.zeros(len(spans), most, dtype=torch.long)
    own = torch.zeros(len(spans), longest, dtype=torch.long)
    seen = torch.zeros(len(spans), 1, most, longest, dtype=torch.bool)
    for index, span in enumerate(spans):
        past = span.extent.length
        rows[index] = torch.arange(span.start, span.start + most).clamp(max=span.stop - 1)
        # Hidden places repeat the request's last row: foreign ones may hold what is no number.
        last = span.extent.start + past + span.rows - 1
        own[index] = torch.arange(span.extent.start, span.extent.start + longest).clamp(max=last)
        mask = span.mask(rows.device)
        plain = torch.ones(span.rows, past + span.rows, dtype=torch.bool).tril(past)
        seen[index, 0, :, : past + span.rows] = (plain if mask is None else mask)[
            (rows[index] - span.start)
        ]
    real = torch.cat([torch.arange(most) < span.rows for span in spans]).nonzero()[:, 0]
    targets = to_device(rows.flatten()[real], device)
    rows, own, real = (to_device(tensor, device) for tensor in (rows, own, real))
    seen = to_device(seen, device, torch.bool)

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        mixed = scaled_dot_product_attention(
            query[rows].transpose(1, 2),
            keys[own].transpose(1, 2),
            values[own].transpose(1, 2),
            attn_mask=seen,
            enable_gqa=query.shape[1] != keys.shape[1],
        )
        out = torch.zeros_like(query)
        return out.index_copy_(0, targets, mixed.transpose(1, 2).flatten(0, 1)[real])

    return attend


Kernel = Callable[..., Any]
"""`torch.nn.attention.varlen.varlen_attn`, or what stands for it in a test."""


def varlen(spans: Sequence[Span], device: torch.device, kernel: Kernel | None = None) -> Attend:
    """Flash attention over the arena in place: CUDA's back-end, in 16 bits.

    Branches come after all other spans (`Engine` sees to it) and are attended to one by one: the
    kernel knows no mask.
    """
    run = kernel or varlen_kernel()
    plain = [span for span in spans if not span.branches]
    branching = [span for span in spans if span.branches]
    masks = [span.mask(device) for span in branching]
    starts = [span.extent.start for span in plain]
    used = [span.extent.length + span.rows for span in plain]
    stop = plain[-1].stop if plain else 0
    begins = to_device([*(span.start for span in plain), stop], device, torch.int32)
    keys_begin = to_device([*starts, 0], device, torch.int32)
    keys_used = to_device(used, device, torch.int32)

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out = torch.zeros_like(query)
        if plain:
            out[:stop] = run(
                query[:stop],
                keys,
                values,
                begins,
                keys_begin,
                max(span.rows for span in plain),
                max(used),
                window_size=(-1, 0),
                enable_gqa=query.shape[1] != keys.shape[1],
                seqused_k=keys_used,
            )
        for span, mask in zip(branching, masks, strict=True):
            out[span.start : span.stop] = _attend_one(query, keys, values, span, mask)
        return out

    return attend


def varlen_kernel() -> Kernel:
    """PyTorch's own attention over sequences of different lengths."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn
