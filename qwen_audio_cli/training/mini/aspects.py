"""What a clip's summary learns first: that each row comes near the answer to a task.

This is for training alone. As with pieces, scores are cosines with the decoder's own embeddings, so
that the decoder can read a label from the row before it has learned anything about audio.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear, normalize

from ...families.base import Job, Subject
from ...families.mini import Mini
from ...families.mini_model import ASPECTS
from ..manifest import Item

_SCALE = 10.0
_SEVERAL = "sound-event"
"""The aspect of which a clip may have several labels, or none, with commas between them."""


class AspectHead(nn.Module):
    """Which label each aspect of a clip has."""

    def __init__(self, family: Mini, items: Iterable[Item]) -> None:
        """The labels are those of `items`."""
        super().__init__()
        found: dict[str, dict[str, Job]] = defaultdict(dict)
        for item in items:
            for label in labels_of(item) if item.task in ASPECTS else ():
                found[item.task].setdefault(label, item.job())
        self.labels: Mapping[str, list[str]] = {task: sorted(jobs) for task, jobs in found.items()}
        self._embeddings: dict[str, Tensor] = {}
        for task, labels in self.labels.items():
            own = torch.stack([_embedded(family, found[task][label], label) for label in labels])
            self._embeddings[task] = normalize(own - own.mean(0), dim=-1)
        self.scales = nn.ParameterDict({task: torch.tensor(_SCALE) for task in self.labels})
        self.biases = nn.ParameterDict(
            {task: torch.zeros(len(labels)) for task, labels in self.labels.items()}
        )
        self.to(family.model.decoder.wte.weight.device)

    def forward(self, summary: Tensor, item: Item) -> Tensor:
        """The loss of a clip's summary [aspects, width], in float32, about an item's label."""
        task, labels = item.task, self.labels[item.task]
        row = normalize(summary[ASPECTS.index(task)], dim=-1)
        scores = self.scales[task] * linear(row, self._embeddings[task]) + self.biases[task]
        right = torch.tensor([labels.index(label) for label in labels_of(item)], dtype=torch.long)
        right = right.to(scores.device)
        if task != _SEVERAL:
            return cross_entropy(scores[None], right, label_smoothing=0.05)
        hot = torch.zeros_like(scores).index_fill(0, right, 1.0)
        return binary_cross_entropy_with_logits(scores, hot, reduction="sum")


def labels_of(item: Item) -> list[str]:
    """The labels that are right for an item: one, but of sounds."""
    if item.task != _SEVERAL:
        return [item.target]
    return [label for label in item.target.split(", ") if label]


def _embedded(family: Mini, job: Job, label: str) -> Tensor:
    """The mean embedding of a label's tokens, [width] in float32."""
    stop = family.tokenizer.special["<|endoftext|>"]
    answer = family.lesson(job, Subject((1.0,)), label).answer
    embedding = family.model.decoder.wte
    tokens = torch.tensor([token for token in answer if token != stop])
    mean: Tensor = embedding(tokens.to(embedding.weight.device)).float().mean(0)
    return mean.detach()
