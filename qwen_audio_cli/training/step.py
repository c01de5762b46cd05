"""A packed step of training: whole lessons side by side, through the network that answers.

Nothing is padded. A lesson's rows attend to the rows before them in the same lesson alone; keys and
values live as long as the gradient needs them, so that there is no arena.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from ..engine.arena import Extent
from ..engine.attention import Span, Step, varlen_kernel
from ..engine.request import Model
from ..families.base import Lesson

ROW_TYPES = (torch.float16, torch.bfloat16)
"""Types that the kernel for sequences of different lengths computes, on a GPU."""


@dataclass(slots=True, eq=False)
class PackedStep:
    """What a network attends by; it takes the place of the engine's `Step`."""

    spans: Sequence[Span]
    _bounds: dict[torch.device, Tensor] = field(default_factory=dict, init=False)
    _mask: Tensor | None = field(default=None, init=False)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal self-attention within each lesson; shapes as `Step.attend`'s."""
        if query.device.type == "cuda" and query.dtype in ROW_TYPES:
            return self._attend_at_once(query, key.to(query.dtype), value.to(query.dtype))
        return self._attend_padded(query, key, value)

    def _attend_padded(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """By two products for all lessons, which are padded to the longest.

        Forward and backward, on a CPU in bfloat16, 1.5 to 3 times as fast as PyTorch's own kernel
        lesson by lesson (benchmarks/lessons.py). What is behind a lesson's end nobody looks at.
        """
        lengths = [span.rows for span in self.spans]
        q, k, v = (
            pad_sequence(list(torch.split(rows, lengths)), batch_first=True).transpose(1, 2)
            for rows in (query, key, value)
        )
        count, heads, longest, width = q.shape
        group = heads // k.shape[1]  # heads that share keys: their rows come one below the other
        scores = q.reshape(count, -1, group * longest, width) @ k.transpose(2, 3) / math.sqrt(width)
        behind = self._later(longest, scores.device).repeat(group, 1)
        weights = scores.masked_fill(behind, -math.inf).softmax(-1)
        mixed = (weights.to(v.dtype) @ v).view(q.shape).transpose(1, 2)
        return torch.cat([own[:rows] for own, rows in zip(mixed, lengths, strict=True)])

    def _later(self, longest: int, device: torch.device) -> Tensor:
        """Which columns come behind which rows: [longest, longest]."""
        if self._mask is None:
            self._mask = torch.ones(longest, longest, dtype=torch.bool, device=device).triu(1)
        return self._mask

    def _attend_at_once(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """By PyTorch's kernel for sequences of different lengths."""
        bounds = self._bounds.get(query.device)
        if bounds is None:
            ends = [0, *(span.stop for span in self.spans)]
            bounds = torch.tensor(ends, dtype=torch.int32, device=query.device)
            self._bounds[query.device] = bounds
        longest = max(span.rows for span in self.spans)
        mixed: Tensor = varlen_kernel()(
            query,
            key,
            value,
            bounds,
            bounds,
            longest,
            longest,
            window_size=(-1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return mixed


def answer_losses(model: Model, lessons: Sequence[Lesson], contexts: Sequence[object]) -> Tensor:
    """The negative log-likelihood of each lesson's answer, summed over its tokens: [lessons].

    `contexts` are what `Model.open` gives of each lesson's audio.
    """
    # The last token of an answer is only ever predicted.
    fed = [[*lesson.prompt, *lesson.answer[:-1]] for lesson in lessons]
    stops = [*accumulate(map(len, fed))]
    spans = [
        Span(stop - len(tokens), stop, Extent(stop - len(tokens), len(tokens)), tokens, context)
        for tokens, stop, context in zip(fed, stops, contexts, strict=True)
    ]
    counts = [len(lesson.answer) for lesson in lessons]
    rows = [
        row
        for span, count in zip(spans, counts, strict=True)
        for row in range(span.stop - count, span.stop)
    ]
    device = cast(Tensor, contexts[0]).device

    def on_device(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=device)

    scores = model.forward(
        on_device([token for tokens in fed for token in tokens]),
        on_device([place for tokens in fed for place in range(len(tokens))]),
        cast(Step, PackedStep(spans)),
        on_device(rows),
    )
    targets = on_device([token for lesson in lessons for token in lesson.answer])
    losses = cross_entropy(scores, targets.to(scores.device), reduction="none")
    return torch.stack([part.sum() for part in torch.split(losses, counts)])
