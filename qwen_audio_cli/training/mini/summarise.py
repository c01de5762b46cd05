"""How the summary of a clip is taught: each of its rows comes near the answer to a task.

It hears nothing but statistics of a clip, so that each clip is heard once and the rest is a matter
of a minute. Scores are cosines with the decoder's own embeddings of the labels, so that the decoder
can read a label from the row before it has learned anything about audio; the head is left behind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, linear, normalize

from ...families.base import Job, Subject
from ...families.mini import Mini
from ...families.mini_model import ASPECTS, Summary
from ..manifest import Item

PASSES, LEAST_STEPS = 60, 100
"""How often each item is drawn, about, and how many steps there are in any case."""

BATCH, RATE, DECAY = 256, 1.5e-3, 0.05
"""Each step is about one aspect, the aspects by turns."""

DROPPED = 0.2
"""The share of statistics that a step does not see."""

SMOOTHING = 0.05
_SCALE = 10.0
_SEVERAL = "sound-event"
"""The aspect of which a clip may have several labels, with commas between them."""


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

    def scores(self, task: str, summaries: Tensor) -> Tensor:
        """Of summaries [clips, aspects, width] the logits [clips, labels] of one aspect."""
        rows = normalize(summaries[:, ASPECTS.index(task)], dim=-1)
        scores: Tensor = linear(rows, self._embeddings[task])
        logits: Tensor = self.scales[task] * scores + self.biases[task]
        return logits

    def targets(self, items: Sequence[Item]) -> Tensor:
        """What is right of items of one task, in shares that add up to 1: [items, labels]."""
        labels = self.labels[items[0].task]
        hot = torch.zeros(len(items), len(labels))
        for row, item in zip(hot, items, strict=True):
            row[[labels.index(label) for label in labels_of(item)]] = 1
        return (hot / hot.sum(1, keepdim=True)).to(self.biases[items[0].task].device)

    def forward(self, task: str, summaries: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of clips, about one aspect."""
        return cross_entropy(self.scores(task, summaries), targets, label_smoothing=SMOOTHING)


def teach(summary: Summary, head: AspectHead, heard: Sequence[tuple[Item, Tensor]]) -> float:
    """Teach a summary by items with the statistics [2 * states] of their clips.

    Gives the last loss, the mean of the aspects'.
    """
    examples: dict[str, tuple[Tensor, Tensor]] = {}
    for task in head.labels:
        own = [(item, statistics) for item, statistics in heard if item.task == task]
        examples[task] = (
            torch.stack([statistics for _, statistics in own]),
            head.targets([item for item, _ in own]),
        )
    summary.norm.begin(torch.cat([statistics for statistics, _ in examples.values()]))
    learning = [*summary.hidden.parameters(), *summary.out.parameters(), *head.parameters()]
    for weight in learning:
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(learning, lr=RATE, weight_decay=DECAY)
    steps = max(LEAST_STEPS, PASSES * len(heard) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    tasks, losses = [*examples], dict.fromkeys(examples, 0.0)
    for step in range(steps):
        task = tasks[step % len(tasks)]
        statistics, targets = examples[task]
        drawn = torch.randint(len(targets), (BATCH,), device=targets.device)
        seen = dropout(summary.norm(statistics[drawn]), DROPPED)
        loss = head(task, summary.rows(seen), targets[drawn])
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses[task] = loss.item()
    return sum(losses.values()) / len(losses)


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
