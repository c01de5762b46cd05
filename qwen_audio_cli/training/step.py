"""A packed step of training: whole lessons side by side, through the network that answers.

Nothing is padded. A lesson's rows attend to the rows before them in the same lesson alone; keys and
values live as long as the gradient needs them, so that there is no arena.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

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

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal self-attention within each lesson; shapes as `Step.attend`'s."""
        grouped = query.shape[1] != key.shape[1]
        if query.device.type == "cuda" and query.dtype in ROW_TYPES:
            return self._attend_at_once(query, key.to(query.dtype), value.to(query.dtype), grouped)
        mixed = []
        for span in self.spans:
            own = slice(span.start, span.stop)
            q, k, v = (rows[own].transpose(0, 1)[None] for rows in (query, key, value))
            out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
            mixed.append(out[0].transpose(0, 1))
        return torch.cat(mixed)

    def _attend_at_once(self, query: Tensor, key: Tensor, value: Tensor, grouped: bool) -> Tensor:
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
            enable_gqa=grouped,
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
