"""From a manifest's items to batches of lessons: which come together, and how they are read.

What is in a batch, and in which order, depends on items, seed and epoch alone, never on how fast a
thread was.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import soundfile
from torch import Tensor

from ..audio import SAMPLE_RATE, Clip
from ..audio.decode import Audio, Samples
from ..audio.segment import uncut
from ..audio.sources import Source
from ..errors import UsageError
from ..families.base import Job, Lesson, Subject, Teachable, TooLong
from .manifest import Item

AHEAD = 2
"""Batches that are read before they are needed."""

Batch = tuple[int, ...]
"""Places of items."""


class Ear(Protocol):
    """What of a family a lesson is made with."""

    name: str
    window: float

    def features(self, samples: Samples) -> Tensor:
        """What the trained network takes of a clip's samples: [channels, frames]. Thread-safe."""

    def lesson(self, job: Job, subject: Subject, target: str) -> Lesson:
        """As `Teachable.lesson`."""


class Augment(Protocol):
    """Changes what is heard, so that nothing is heard alike too often."""

    def retaken(self, item: Item, samples: Samples, epoch: int) -> Samples:
        """What is heard of an item in an epoch, in the place of its recording's samples."""

    def masked(self, features: Tensor, seed: str) -> Tensor:
        """Features [channels, frames] with parts of them blanked, as `seed` decides."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """An item as the network takes it: `features` [mels, frames], and what is to be written."""

    item: Item
    features: Tensor
    subject: Subject
    lesson: Lesson


def heard(family: Teachable, example: Example, memory: object) -> Lesson:
    """The lesson of an example whose clip is encoded."""
    subject = family.heard(example.subject, memory)
    if subject == example.subject:
        return example.lesson
    return family.lesson(example.item.job(), subject, example.item.target)


class Lessons:
    """The items of one split, verified for a family whose network is loaded."""

    def __init__(
        self,
        ear: Ear,
        items: Sequence[Item],
        seed: int,
        *,
        portions: Mapping[str, float] = MappingProxyType({}),
        augment: Augment | None = None,
    ) -> None:
        """Count each item's rows. Raises UsageError naming the item that cannot be learned.

        Its audio is not decoded for it where its length is known otherwise. `portions` tell, by
        task, how often an epoch hears each item, if not once; `augment` changes what is heard.
        """
        self.items = items
        self._ear, self._seed, self._augment = ear, seed, augment
        self._portions = portions
        self._rows: list[int] = []
        for item in items:
            lesson = self._lesson(item, item.job(), item.seconds or _seconds(item))
            self._rows.append(len(lesson.prompt) + len(lesson.answer))

    @property
    def rows(self) -> int:
        """Rows of all lessons together."""
        return sum(self._rows)

    def plan(self, budget: int, epoch: int | None, bucket: int = 1) -> list[Batch]:
        """All items, in batches of at most `budget` rows; an item that has more is alone.

        Drawn by their portions and shuffled anew in each epoch, in which items are sorted by length
        within each `bucket` batches; each once and sorted by length where there is no epoch.
        """
        order = list(range(len(self.items)))
        draw = random.Random(f"{self._seed} {epoch}")
        if epoch is not None:
            portions = [self._portions.get(item.task, 1.0) for item in self.items]
            # A portion of 2.3 is twice, and a third time with a chance of 0.3.
            order = [
                place
                for place, portion in enumerate(portions)
                for _ in range(int(portion + draw.random()))
            ]
            draw.shuffle(order)
        batches: list[Batch] = []
        for pool in _cut(order, self._rows, budget * (bucket if epoch is not None else len(order))):
            batches += _cut(sorted(pool, key=self._rows.__getitem__), self._rows, budget)
        if epoch is not None:
            draw.shuffle(batches)
        return batches

    def read(
        self, batches: Iterable[tuple[int, Batch]], workers: int
    ) -> Iterator[tuple[int, list[Example]]]:
        """The examples of batches, each with its epoch, in this order.

        They are read by `workers` threads. Raises InputError naming the recording that cannot be
        heard.
        """
        waiting: deque[tuple[int, list[Future[Example]]]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="lessons") as pool:
            try:
                for epoch, batch in batches:
                    waiting.append((epoch, [pool.submit(self._read, p, epoch) for p in batch]))
                    if len(waiting) > AHEAD:
                        yield _gathered(waiting.popleft())
                while waiting:
                    yield _gathered(waiting.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(self, place: int, epoch: int) -> Example:
        item = self.items[place]
        samples = clip_of(item, self._ear.window).samples
        if self._augment:
            samples = self._augment.retaken(item, samples, epoch)
        features = self._ear.features(samples)
        if self._augment:
            features = self._augment.masked(features, f"{self._seed} {epoch} {place}")
        seconds = len(samples) / SAMPLE_RATE
        lesson = self._lesson(item, item.job(), seconds)
        return Example(item, features, Subject((seconds,)), lesson)

    def _lesson(self, item: Item, job: Job, seconds: float) -> Lesson:
        window = self._ear.window
        if seconds > window + 1 / SAMPLE_RATE:
            raise UsageError(
                f"{item.audio}: {self._ear.name} hears {window:g} s at once, and not all of the "
                f"{seconds:.2f} s that the target is about: cut it into several items"
            )
        try:
            return self._ear.lesson(job, Subject((seconds,)), item.target)
        except (UsageError, TooLong) as error:
            raise UsageError(f"{item.audio}: {error}") from error


def clip_of(item: Item, window: float) -> Clip:
    """The whole recording of an item, of `window` seconds at most. Raises InputError."""
    return uncut(_audio(item), window)


def _gathered(waiting: tuple[int, list[Future[Example]]]) -> tuple[int, list[Example]]:
    epoch, examples = waiting
    return epoch, [example.result() for example in examples]


def _cut(order: Sequence[int], rows: Sequence[int], budget: int) -> Iterator[Batch]:
    """Parts of an order of at most `budget` rows each, one place at least."""
    part: list[int] = []
    held = 0
    for place in order:
        if part and held + rows[place] > budget:
            yield tuple(part)
            part, held = [], 0
        part.append(place)
        held += rows[place]
    if part:
        yield tuple(part)


def _audio(item: Item) -> Audio:
    return Audio(Source(str(item.audio), item.audio))


def _seconds(item: Item) -> float:
    """The length of a recording: by its header or, of what has none, by decoding it."""
    try:
        return float(soundfile.info(item.audio).duration)
    except soundfile.SoundFileError:
        audio = _audio(item)
        for _ in audio:
            pass
        return audio.samples / SAMPLE_RATE
