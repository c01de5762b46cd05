"""How the summary of a clip is taught: each of its rows comes near the answer to a task.

It hears nothing but statistics of a clip, so that each clip is heard once and the rest is a matter
of minutes. Scores are cosines with the embeddings that the labels' text has in the decoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, dropout

from ...families.mini import Mini
from ...families.mini_model import ASPECTS, Summary, likenesses
from ...families.qwen_audio import LANGUAGE_TASK
from ...tags import UNKNOWN
from ..manifest import Item

PASSES, LEAST_STEPS = 60, 100
"""How often each item is drawn, about, and how many steps there are in any case."""

BATCH, RATE, DECAY = 256, 1.5e-3, 0.05
"""Each step is about one aspect, the aspects by turns."""

DROPPED = 0.2
"""The share of statistics that a step does not see."""

SMOOTHING = 0.05
_SEVERAL = "sound-event"
"""The aspect of which a clip may have several labels, with commas between them."""


def teach(family: Mini, heard: Sequence[tuple[Item, Tensor]]) -> None:
    """Teach a mini's summary by items with the statistics [2 * states] of their clips."""
    summary = family.model.audio.summary.float()
    lessons = [_Lesson(family, task, own) for task, own in _by_task(heard).items()]
    summary.norm.begin(torch.cat([lesson.statistics for lesson in lessons]))
    learning = [summary.scales, *summary.hidden.parameters(), *summary.out.parameters()]
    for weight in learning:
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(learning, lr=RATE, weight_decay=DECAY)
    steps = max(LEAST_STEPS, PASSES * len(heard) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for step in range(steps):
        lesson = lessons[step % len(lessons)]
        loss = lesson.loss(summary)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


class _Lesson:
    """What is right of all clips that have labels of one aspect."""

    def __init__(self, family: Mini, task: str, heard: Sequence[tuple[Item, Tensor]]) -> None:
        self.place = ASPECTS.index(task)
        self.statistics = torch.stack([statistics for _, statistics in heard])
        labels = labels_in(item for item, _ in heard)[task]
        self.embeddings = family.embedded(labels)
        hot = torch.zeros(len(heard), len(labels))
        for row, (item, _) in zip(hot, heard, strict=True):
            row[[labels.index(label) for label in labels_of(item)]] = 1
        targets = hot / hot.sum(1, keepdim=True)
        self.targets = targets.to(self.embeddings.device)
        self._weights = targets @ (1 / hot.sum(0).clamp(min=1))

    def loss(self, summary: Summary) -> Tensor:
        """The mean loss of a batch in which every label is as frequent as any other.

        Most of the speech is in English, which the user's need not be.
        """
        drawn = torch.multinomial(self._weights, BATCH, replacement=True)
        seen = dropout(summary.norm(self.statistics[drawn]), DROPPED)
        cosines = likenesses(summary.rows(seen)[:, self.place], self.embeddings)
        logits = summary.scales[self.place] * cosines
        return cross_entropy(logits, self.targets[drawn], label_smoothing=SMOOTHING)


def _by_task(heard: Sequence[tuple[Item, Tensor]]) -> dict[str, list[tuple[Item, Tensor]]]:
    by_task: dict[str, list[tuple[Item, Tensor]]] = {}
    for item, statistics in heard:
        by_task.setdefault(item.task, []).append((item, statistics))
    return by_task


def labels_in(items: Iterable[Item]) -> dict[str, list[str]]:
    """The labels of each aspect that items have, in order; of languages, that there is none too."""
    found: dict[str, set[str]] = {}
    for item in items:
        if item.task in ASPECTS:
            found.setdefault(item.task, set()).update(labels_of(item))
    if LANGUAGE_TASK in found:
        found[LANGUAGE_TASK].add(UNKNOWN)
    return {task: sorted(labels) for task, labels in sorted(found.items())}


def labels_of(item: Item) -> list[str]:
    """The labels that are right for an item: one, but of sounds."""
    if item.task != _SEVERAL:
        return [item.target]
    return [label for label in item.target.split(", ") if label]
