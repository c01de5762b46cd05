"""Joins the stages: sources are read and cut by threads, answered in one batch, merged to records.

Queues between the stages are bounded, so memory does not grow with the number or the length of
the sources. The records of a source come as soon as all its tasks are complete, or in the order of
the sources.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from .audio.sources import Source
from .audio.vad import Vad
from .engine.engine import Engine
from .engine.memory import is_out_of_memory
from .engine.request import AudioInput, Dialogue
from .engine.work import Done, Work
from .errors import InputCode, InputError
from .families.base import ClipAnswer, Family, Job, Subject
from .merge import Choice, ClipPart, merge
from .readers import Ended, Heard, Hearing, Readers, Reading
from .records import ErrorRecord, Record, Timing, record_id

LOG = logging.getLogger(__name__)
CLIPPING = 0.001
"""Share of samples at full scale from which a source is flagged."""

AHEAD = 2
"""Clips that may wait for the engine, in terms of its seats."""

T = TypeVar("T")
Records = list[Record | ErrorRecord]


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """What is asked of every clip for one task, and how its records come of the answers.

    `options` is the hash of all that shapes an answer.
    """

    job: Job
    options: str
    choice: Choice

    @property
    def question(self) -> str | None:
        """What is asked, where the task is to answer a question of the user's."""
        return self.job.tags.question if self.job.task.command == "ask" else None

    def identify(self, fingerprint: str, model: str) -> str:
        """The id of the record about the content that `fingerprint` stands for."""
        return record_id(fingerprint, self.job.task.name, model, self.options)

    def give_up(self, model: str, fingerprint: str, error: InputError) -> ErrorRecord:
        """What stands in place of the record about a source whose work was lost."""
        return self.error_record(self.identify(fingerprint, model), error)

    def error_record(self, identifier: str, error: InputError) -> ErrorRecord:
        """What stands in place of a record that could not be."""
        return ErrorRecord(
            id=identifier,
            task=self.job.task.name,
            file=error.name,
            question=self.question,
            code=error.code,
            message=str(error),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with every source: one record for each of `tasks`, which hear the same clips.

    `is_done` says whether the work of an id is there already. `vad` finds speech; without it a
    source is heard whole. `readers` is how many threads decode. `in_order` keeps the records in the
    order of the sources.
    """

    family: Family
    tasks: tuple[TaskPlan, ...]
    vad: Vad | None
    is_done: Callable[[str], bool]
    readers: int
    in_order: bool

    def identify(self, fingerprint: str) -> tuple[str, ...]:
        """The ids of the records about the content that `fingerprint` stands for."""
        return tuple(task.identify(fingerprint, self.family.label) for task in self.tasks)


@dataclass(slots=True, eq=False)
class _Progress:
    """What is known of a source: complete when it is read (`ended`) and no clip is in work.

    `parts` and `errors` are by the place of their task in the plan.
    """

    reading: Reading
    ended: Ended | None = None
    open_clips: int = 0
    parts: dict[int, list[ClipPart]] = field(default_factory=dict)
    errors: dict[int, InputError] = field(default_factory=dict)
    begun: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True, eq=False)
class _Clip:
    """A clip in work: `start` to `end` seconds of its source."""

    progress: _Progress
    start: float
    end: float


Outcomes = dict[int, ClipAnswer | InputError]
"""What came of a clip, by the place of the task in the plan."""


def run(
    plan: Plan, engine: Engine[_Clip, Outcomes], sources: Iterator[Source]
) -> Iterator[Record | ErrorRecord]:
    """Answer for every source; what fails gets an error record and disturbs nothing else.

    The records of a source come one after the other, in the order of the tasks. Closing the
    iterator ends the run. Raises what iterating `sources` raises.
    """
    hearing = Hearing(plan.family, plan.identify, plan.is_done, plan.vad)
    room = AHEAD * engine.scheduler.budget.seats
    readers = Readers(hearing, sources, count=plan.readers, room=room)
    numbered = _work_through(plan, engine, readers)
    groups = in_order(numbered) if plan.in_order else (records for _, records in numbered)
    try:
        for records in groups:
            yield from records
            readers.written()
    finally:
        readers.stop()


def in_order(numbered: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Give items in the order of their numbers, 0, 1, 2, …, each as soon as it may come."""
    held: dict[int, T] = {}
    due = 0
    for number, item in numbered:
        held[number] = item
        while due in held:
            yield held.pop(due)
            due += 1


def _work_through(
    plan: Plan, engine: Engine[_Clip, Outcomes], readers: Readers
) -> Iterator[tuple[int, Records]]:
    """Per source its number and its records, as soon as they are complete."""
    desk = _Desk(plan, engine)
    while not (readers.exhausted and engine.idle):
        while engine.hungry and (event := readers.take(wait=engine.idle)) is not None:
            progress = desk.heard(event) if isinstance(event, Heard) else desk.ended(event)
            yield from desk.complete(progress)
        for done in engine.turn():
            yield from desk.complete(desk.answered(done))


class _Desk:
    """Keeps book of the sources on their way, from the first clip to the records."""

    def __init__(self, plan: Plan, engine: Engine[_Clip, Outcomes]) -> None:
        self._plan = plan
        self._engine = engine
        self._known: dict[Reading, _Progress] = {}

    def heard(self, heard: Heard) -> _Progress:
        """Take on a clip, unless all is lost for its source."""
        progress = self._progress(heard.reading)
        if not heard.reading.given_up:
            progress.open_clips += 1
            clip = _Clip(progress, heard.start, heard.end)
            self._engine.add(Work(clip, (AudioInput(heard.features),), self._dialogue(clip)))
        return progress

    def ended(self, ended: Ended) -> _Progress:
        """Take note of a source's end."""
        progress = self._progress(ended.reading)
        progress.ended = ended
        if ended.error is not None:
            self._fail(progress, dict.fromkeys(ended.reading.pending, ended.error))
        return progress

    def answered(self, done: Done[_Clip, Outcomes]) -> _Progress:
        """Take note of what came of a clip."""
        clip, progress = done.key, done.key.progress
        progress.open_clips -= 1
        if progress.reading.given_up:
            return progress
        outcomes = done.result or {}
        if done.error is not None:
            error = _input_error(progress.reading.source.name, done.error)
            outcomes = dict.fromkeys(progress.reading.pending, error)
        for task, outcome in outcomes.items():
            if isinstance(outcome, ClipAnswer):
                part = ClipPart(clip.start, clip.end, outcome)
                progress.parts.setdefault(task, []).append(part)
        failures = {n: error for n, error in outcomes.items() if isinstance(error, InputError)}
        self._fail(progress, failures)
        return progress

    def complete(self, progress: _Progress) -> Iterator[tuple[int, Records]]:
        """The number and the records of a source, if nothing more will be known of it."""
        if (ended := progress.ended) is not None and not progress.open_clips:
            reading = progress.reading
            del self._known[reading]
            yield reading.number, [self._record(progress, ended, n) for n in reading.pending]

    def _progress(self, reading: Reading) -> _Progress:
        return self._known.setdefault(reading, _Progress(reading))

    def _dialogue(self, clip: _Clip) -> Dialogue[Outcomes]:
        """The dialogues of all tasks in turn; an error that is thrown into one ends it alone."""
        progress, plan = clip.progress, self._plan
        outcomes: Outcomes = {}
        for task in progress.reading.pending:
            if task in progress.errors:  # in another clip
                continue
            job, subject = plan.tasks[task].job, Subject((clip.end - clip.start,))
            try:
                outcomes[task] = yield from plan.family.answer(job, subject)
            except Exception as error:
                outcomes[task] = _input_error(progress.reading.source.name, error)
        return outcomes

    def _fail(self, progress: _Progress, errors: dict[int, InputError]) -> None:
        """Note the first error of each task; when all have one, the other clips are for nothing."""
        progress.errors = errors | progress.errors
        if progress.errors.keys() >= {*progress.reading.pending}:
            progress.reading.given_up = True
            self._engine.cancel(lambda clip: clip.progress is progress)

    def _record(self, progress: _Progress, ended: Ended, number: int) -> Record | ErrorRecord:
        plan, reading = self._plan, progress.reading
        task = plan.tasks[number]
        identifier, name = reading.ids[number], reading.source.name
        if (error := progress.errors.get(number)) is not None:
            return task.error_record(identifier, error)
        parts = progress.parts.get(number, [])
        merged = merge(parts, scored=bool(task.job.labels), choice=task.choice)
        # Of all tasks together: their answers share the steps of the model.
        generate = time.perf_counter() - progress.begun if parts else None
        return Record(
            id=identifier,
            task=task.job.task.name,
            file=name,
            model=plan.family.label,
            options=task.options,
            question=task.question,
            text=merged.text,
            language=merged.language,
            duration=ended.duration,
            segments=merged.segments,
            labels=merged.labels,
            flags=merged.flags | ({"clipping"} if ended.clipping > CLIPPING else frozenset()),
            timing=Timing(decode=ended.decode_seconds, generate=generate),
        )


def _input_error(name: str, error: Exception) -> InputError:
    memory = is_out_of_memory(error)
    code: InputCode = "memory" if memory else "internal"
    if not memory:
        LOG.error("%s: the model failed", name, exc_info=error)
    return InputError(code, name, f"{type(error).__name__}: {error}")
