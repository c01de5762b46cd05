"""Joins the stages: sources are read and cut by threads, answered in one batch, merged to records.

Queues between the stages are bounded, so memory does not grow with the number or the length of
the sources. The records of a source come as soon as all its tasks are complete, or in the order of
the sources.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from .audio.sources import Source
from .engine.engine import Engine
from .engine.memory import is_out_of_memory
from .engine.request import AudioInput, Dialogue
from .engine.work import Done, Work
from .errors import InputCode, InputError
from .families.base import ClipAnswer, Refused, Subject, TooLong
from .hearing import Ended, Heard, Reading
from .merge import ClipPart, merge
from .plan import Plan
from .readers import Readers
from .records import ErrorRecord, Record, Timing

LOG = logging.getLogger(__name__)
CLIPPING = 0.001
"""Share of samples at full scale from which a source is flagged."""

AHEAD = 2
"""Clips that may wait for the engine, in terms of its seats."""

T = TypeVar("T")
Records = list[Record | ErrorRecord]


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
    """A clip in work, or several together: `start` to `end` seconds of their source."""

    progress: _Progress
    start: float
    end: float
    subject: Subject


Outcomes = dict[int, ClipAnswer | InputError]
"""What came of a clip, by the place of the task in the plan."""


def run(
    plan: Plan, engine: Engine[_Clip, Outcomes], sources: Iterator[Source]
) -> Iterator[Record | ErrorRecord]:
    """Answer for every source; what fails gets an error record and disturbs nothing else.

    The records of a source come one after the other, in the order of the tasks. Closing the
    iterator ends the run. Raises what iterating `sources` raises.
    """
    readers = Readers(plan, sources, room=AHEAD * engine.scheduler.budget.seats)
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
            subject = Subject(heard.seconds, heard.reading.source.text)
            clip = _Clip(progress, heard.start, heard.end, subject)
            audios = tuple(map(AudioInput, heard.features))
            self._engine.add(Work(clip, audios, self._dialogue(clip)))
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
            error = _input_error(progress.reading.source.title, done.error)
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
            try:
                outcomes[task] = yield from plan.family.answer(plan.tasks[task].job, clip.subject)
            except Exception as error:
                outcomes[task] = _input_error(progress.reading.source.title, error)
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
        identifier, source = reading.ids[number], reading.source
        if (error := progress.errors.get(number)) is not None:
            return task.error_record(identifier, source, error)
        parts = progress.parts.get(number, [])
        merged = merge(
            parts,
            scored=bool(task.job.labels),
            choice=task.choice,
            spoken=task.job.tags.phase == "startoftranscript",
        )
        # Of all tasks together: their answers share the steps of the model.
        generate = time.perf_counter() - progress.begun if parts else None
        return Record(
            id=identifier,
            task=task.job.task.name,
            file=source.name,
            files=task.files(source),
            model=plan.family.label,
            options=task.options,
            question=task.question,
            text=merged.text,
            language=merged.language,
            duration=ended.duration,
            segments=merged.segments,
            labels=merged.labels,
            confidence=merged.confidence,
            flags=merged.flags | ({"clipping"} if ended.clipping > CLIPPING else frozenset()),
            timing=Timing(decode=ended.decode_seconds, generate=generate),
        )


def _input_error(name: str, error: Exception) -> InputError:
    if isinstance(error, TooLong):
        return InputError("length", name, str(error))
    if isinstance(error, Refused):
        return InputError("beyond", name, str(error))
    memory = is_out_of_memory(error)
    code: InputCode = "memory" if memory else "internal"
    if not memory:
        LOG.error("%s: the model failed", name, exc_info=error)
    return InputError(code, name, f"{type(error).__name__}: {error}")
