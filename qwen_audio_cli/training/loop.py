"""The loop: batches to losses, losses to steps, and what is kept of it on the way.

Nothing of a step depends on the steps before but what `State` holds, so that a run that was
interrupted goes on as if it had not been: on a CPU to the last bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import orjson
import torch
from torch import Tensor, nn

from ..errors import ModelError, UsageError
from .batches import Augment, Batch, Ear, Example, Lessons
from .curve import draw
from .files import write_text
from .manifest import Item
from .recipe import Recipe
from .signals import end, interrupts
from .state import State, digest

METRICS, CURVE = "metrics.jsonl", "curve.svg"

BETWEEN = 5.0
"""Seconds between two lines about single steps."""

Tell = Callable[[str], None]
"""Takes a line about how it goes."""


class Learner(Augment, Protocol):
    """What a run trains: its weights by name, in float32, and what `recipe` makes of them."""

    @property
    def label(self) -> str:
        """What records call its model."""

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""

    @property
    def ear(self) -> Ear:
        """What its lessons are made with."""

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """What is trained."""

    @property
    def count(self) -> int:
        """How many numbers are trained."""

    def losses(self, batch: Sequence[Example]) -> Tensor:
        """The loss of each example, summed over its answer: [examples]."""

    def weight(self, example: Example) -> float:
        """What each token of an answer counts, beside those of other examples."""

    def learning(self) -> AbstractContextManager[None]:
        """While it learns, not only computes."""

    def save(self, directory: Path) -> None:
        """Write a directory that `--model` takes. Raises OutputWriteError."""


L = TypeVar("L", bound=Learner)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a run ended: losses are per token of the answers, natural logarithm."""

    model: str
    steps: int
    items: int
    trained_weights: int
    loss: float
    dev_loss: float | None
    dev_step: int | None
    seconds: float
    output: str


@dataclass(slots=True, eq=False)
class Training(Generic[L]):
    """One run: what is trained, on what, into which directory."""

    trainee: L
    items: Sequence[Item]
    output: Path
    device: torch.device
    workers: int
    tell: Tell
    accelerator: Any = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)
    train: Lessons = field(init=False)
    dev: Lessons = field(init=False)
    state: State = field(init=False)
    _told: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """Verify all items. Raises UsageError."""
        recipe, ear = self.recipe, self.trainee.ear
        parts = {split: [i for i in self.items if i.split == split] for split in ("train", "dev")}
        if not parts["train"]:
            raise UsageError("the manifest has no items to train on (split 'train')")
        self.train = Lessons(
            ear,
            parts["train"],
            recipe.seed,
            portions=recipe.portions,
            augment=self.trainee if recipe.augment else None,
        )
        self.dev = Lessons(ear, parts["dev"], recipe.seed)
        self.accelerator = _accelerator(self.device, self.trainee.dtype)
        self.optimizer = torch.optim.AdamW(
            self.trainee.weights.values(),
            lr=recipe.peak_rate,
            weight_decay=recipe.weight_decay,
        )
        self.state = State(
            {
                "model": self.trainee.label,
                "manifest": digest(self.items),
                "dtype": str(self.trainee.dtype),
                **recipe.values(),
            }
        )

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        return self.trainee.recipe

    def run(self, *, resume: bool) -> Summary:
        """Train to the end. Raises KeyboardInterrupt or SystemExit once an interrupt is dealt with.

        Raises UsageError where there is nothing to `resume`, ModelError where the loss is no
        number, InputError for a recording that cannot be heard.
        """
        begun = time.perf_counter()
        steps = self._steps()
        if resume:
            self.state.load(self.output, self.trainee.weights, self.optimizer)
            self.tell(f"goes on behind step {self.state.step:,} of {steps:,}")
        else:
            self._validate()
        groups = islice(self._groups(), self.state.step, steps)
        with interrupts() as interrupted, self.trainee.learning():
            for group in self._read(groups):
                self._learn(group, steps)
                step = self.state.step
                if step % self.recipe.evaluate_every == 0 and step < steps:
                    self._validate()
                    self._save()
                if interrupted:
                    self._save()
                    self.tell(f"stopped behind step {step:,}: --resume goes on from there")
                    end(interrupted[0])
        self._validate()
        if self.state.best is None:
            self.trainee.save(self.output)
        self._save()
        return self._summary(steps, time.perf_counter() - begun)

    def _steps(self) -> int:
        """How many steps there are in all."""
        if self.recipe.steps is not None:
            return self.recipe.steps
        whole = int(self.recipe.epochs)
        part = self.recipe.epochs - whole
        steps = sum(len(self._epoch(epoch)) for epoch in range(whole))
        return max(1, steps + round(part * len(self._epoch(whole))) if part else steps)

    def _epoch(self, epoch: int) -> list[list[tuple[int, Batch]]]:
        """The batches of each step of an epoch."""
        batches = [
            (epoch, batch) for batch in self.train.plan(self.recipe.rows, epoch, self.recipe.bucket)
        ]
        size = self.recipe.accumulate
        return [batches[begin : begin + size] for begin in range(0, len(batches), size)]

    def _groups(self) -> Iterator[list[tuple[int, Batch]]]:
        for epoch in count():
            yield from self._epoch(epoch)

    def _read(self, groups: Iterator[list[tuple[int, Batch]]]) -> Iterator[list[list[Example]]]:
        """The examples of each step's batches."""
        sizes: list[int] = []

        def batches() -> Iterator[tuple[int, Batch]]:
            for group in groups:
                sizes.append(len(group))
                yield from group

        reader = self.train.read(batches(), self.workers)
        for _, first in reader:
            yield [first, *(next(reader)[1] for _ in range(sizes.pop(0) - 1))]

    def _learn(self, group: Sequence[Sequence[Example]], steps: int) -> None:
        """One step of the optimizer."""
        step = self.state.step
        rate = self.recipe.rate_at(step, steps)
        for settings in self.optimizer.param_groups:
            settings["lr"] = rate
        torch.manual_seed(self.recipe.seed + step + 1)  # of what is dropped out
        examples = [example for batch in group for example in batch]
        whole = sum(self.trainee.weight(e) * len(e.lesson.answer) for e in examples)
        total = 0.0
        for batch in group:
            losses = self._losses(batch)
            weights = [self.trainee.weight(example) / whole for example in batch]
            loss = (losses * torch.tensor(weights, device=losses.device)).sum()
            self.accelerator.backward(loss)
            total += loss.item()
        norm = self.accelerator.clip_grad_norm_(self.trainee.weights.values(), self.recipe.clip)
        if not (torch.isfinite(norm) and torch.isfinite(torch.tensor(total))):
            raise ModelError(f"step {step + 1}: the loss is {total:g}; try a lower --rate")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        tokens = sum(len(example.lesson.answer) for example in examples)
        line = {"loss": total, "rate": rate, "gradient": float(norm), "tokens": tokens}
        self._record(line)
        if time.monotonic() - self._told > BETWEEN:
            self._told = time.monotonic()
            self.tell(f"step {step + 1:,} of {steps:,}: loss {total:.4f}")

    def _losses(self, batch: Sequence[Example]) -> Tensor:
        with self.accelerator.autocast():
            return self.trainee.losses(batch)

    def _validate(self) -> None:
        """Hear the dev split, by task; the weights are saved where none were better."""
        heard = any(
            "dev" in line and line["step"] == self.state.step for line in self.state.recorded
        )
        if heard or not self.dev.items:
            return
        by_task: dict[str, list[tuple[float, int]]] = {}
        for example, loss in self._dev_losses():
            by_task.setdefault(example.item.task, []).append((loss, len(example.lesson.answer)))
        found = {task: by_task[task] for task in sorted(by_task)}
        mean = _per_token([one for some in found.values() for one in some])
        self._record(
            {
                "dev_loss": mean,
                "dev": {task: _per_token(some) for task, some in found.items()},
                "sure": {task: _sure(some) for task, some in found.items()},
                "items": {task: len(some) for task, some in found.items()},
            }
        )
        self.tell(f"step {self.state.step:,}: dev loss {mean:.4f}")
        if self.state.step and (self.state.best is None or mean < self.state.best):
            self.state.best, self.state.best_step = mean, self.state.step
            self.trainee.save(self.output)

    @torch.no_grad()
    def _dev_losses(self) -> Iterator[tuple[Example, float]]:
        """Each example of the dev split with its loss, summed over its answer."""
        plan = ((0, batch) for batch in self.dev.plan(self.recipe.rows, None))
        for _, batch in self.dev.read(plan, self.workers):
            yield from zip(batch, self._losses(batch).tolist(), strict=True)

    def _record(self, line: dict[str, Any]) -> None:
        self.state.recorded.append({"step": self.state.step, **line})

    def _save(self) -> None:
        """Keep what a run goes on from, and show how it went."""
        self.state.save(self.output, self.trainee.weights, self.optimizer)
        lines = [orjson.dumps(line).decode() + "\n" for line in self.state.recorded]
        write_text("".join(lines), self.output / METRICS)
        write_text(draw(self.state.recorded), self.output / CURVE)

    def _summary(self, steps: int, seconds: float) -> Summary:
        losses = [line["loss"] for line in self.state.recorded if "loss" in line]
        return Summary(
            model=self.trainee.label,
            steps=steps,
            items=len(self.train.items),
            trained_weights=self.trainee.count,
            loss=losses[-1],
            dev_loss=self.state.best,
            dev_step=self.state.best_step,
            seconds=round(seconds, 3),
            output=str(self.output),
        )


def _per_token(losses: Sequence[tuple[float, int]]) -> float:
    """The mean of losses of answers of so many tokens."""
    return sum(loss for loss, _ in losses) / sum(tokens for _, tokens in losses)


def _sure(losses: Sequence[tuple[float, int]]) -> float:
    """How many answers have a probability above one half: greedy decoding is bound to write them.

    Losses may have more in them than the answer's own; then it is fewer.
    """
    return sum(math.exp(-loss) > 0.5 for loss, _ in losses) / len(losses)


def _accelerator(device: torch.device, dtype: torch.dtype) -> Any:
    """What computes in lower precision where that is asked for. Raises UsageError."""
    from accelerate import Accelerator

    if dtype is torch.float16:
        raise UsageError("training takes float32 or bfloat16: float16 has too little range")
    precision = "bf16" if dtype is torch.bfloat16 else "no"
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
    if accelerator.num_processes > 1:
        raise UsageError("training takes one process")
    return accelerator
