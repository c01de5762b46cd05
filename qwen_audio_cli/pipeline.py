"""Joins the stages: sources are read and cut by threads, answered in one batch, merged to records.

Queues between the stages are bounded, so memory does not grow with the number or the length of
the sources. Records come as soon as they are complete.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .audio import Clip
from .audio.decode import Audio
from .audio.segment import segment
from .audio.sources import Source, fingerprint
from .audio.vad import Vad
from .engine.engine import Done, Engine, Work
from .engine.request import AudioInput
from .errors import InputCode, InputError
from .families.base import ClipAnswer, Family, Job
from .merge import Choice, ClipPart, merge
from .records import ErrorRecord, Record, Timing, record_id

LOG = logging.getLogger(__name__)
CLIPPING = 0.001
"""Share of samples at full scale from which a source is flagged."""

_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with every source, and how records name it.

    `options` is the hash of all that shapes an answer. `is_done` says whether the work of an id is
    there already. `vad` finds speech; without it a source is heard whole. `readers` is how many
    threads decode.
    """

    family: Family
    job: Job
    options: str
    choice: Choice = Choice()
    vad: Vad | None = None
    is_done: Callable[[str], bool] = lambda identifier: False
    readers: int = 2


@dataclass(slots=True, eq=False)
class _Reading:
    """A source on its way; complete when it is read (`ended`) and no clip is left in work."""

    source: Source
    id: str
    ended: bool = False
    open_clips: int = 0
    parts: list[ClipPart] = field(default_factory=list)
    error: InputError | None = None
    duration: float = 0.0
    clipping: float = 0.0
    decode_seconds: float = 0.0
    begun: float | None = None

    @property
    def complete(self) -> bool:
        return self.ended and not self.open_clips


@dataclass(frozen=True, slots=True, eq=False)
class _Heard:
    """Reader to engine: one clip, its features computed."""

    reading: _Reading
    start: float
    end: float
    features: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Ended:
    """Reader to engine: a source is read to its end, or failed."""

    reading: _Reading
    error: InputError | None
    duration: float = 0.0
    clipping: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Exhausted:
    """Reader to engine: a reader found no more sources, or the list of sources broke off."""

    error: Exception | None = None


_Event = _Heard | _Ended | _Exhausted


class _Stopped(Exception):
    """The run was given up while a reader waited for room."""


class _Readers:
    """Threads that turn sources into clips, at most `room` of them ahead of the engine."""

    def __init__(self, plan: Plan, sources: Iterator[Source], room: int) -> None:
        self._plan = plan
        self._sources = sources
        self._events: queue.Queue[_Event] = queue.Queue(room)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._busy = plan.readers
        for number in range(plan.readers):
            threading.Thread(target=self._read, name=f"reader-{number}", daemon=True).start()

    def take(self, wait: bool) -> _Heard | _Ended | None:
        """The next event, None when there is none yet or, at the end, none will come."""
        while self._busy:
            try:
                event = self._events.get(block=wait)
            except queue.Empty:
                return None
            if not isinstance(event, _Exhausted):
                return event
            self._busy -= 1
            if event.error:
                raise event.error
        return None

    @property
    def exhausted(self) -> bool:
        """All sources are read and all events taken."""
        return self._busy == 0

    def stop(self) -> None:
        """Let the threads end."""
        self._stop.set()

    def _put(self, event: _Event) -> None:
        while not self._stop.is_set():
            try:
                self._events.put(event, timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue
        raise _Stopped

    def _read(self) -> None:
        torch.set_num_threads(1)  # of this thread: many small jobs beside the model's large ones
        error: Exception | None = None
        try:
            while (source := self._next()) is not None:
                self._read_source(source)
        except _Stopped:
            return
        except Exception as problem:  # the list of sources cannot be read, or a bug
            error = problem
        with contextlib.suppress(_Stopped):
            self._put(_Exhausted(error))

    def _next(self) -> Source | None:
        with self._lock:
            return next(self._sources, None)

    def _read_source(self, source: Source) -> None:
        plan = self._plan
        try:
            identifier = self._identify(source)
        except InputError as error:
            self._put(_Ended(_Reading(source, self._id_of_unreadable(source)), error))
            return
        with self._lock:
            if plan.is_done(identifier):
                return
        reading = _Reading(source, identifier)
        audio = Audio(source)
        waited = 0.0
        begun = time.perf_counter()
        error: InputError | None = None
        try:
            for clip in segment(audio, plan.vad, plan.family.window):
                heard = self._hear(reading, clip)
                before = time.perf_counter()
                self._put(heard)
                waited += time.perf_counter() - before
        except InputError as problem:
            error = problem
        except _Stopped:
            raise
        except Exception as problem:
            LOG.exception("%s: cannot be read", source.name)
            error = InputError("internal", source.name, f"{type(problem).__name__}: {problem}")
        seconds = time.perf_counter() - begun - waited
        self._put(_Ended(reading, error, audio.samples / 16_000, audio.clipping, seconds))

    def _hear(self, reading: _Reading, clip: Clip) -> _Heard:
        features = self._plan.family.features(clip.samples)
        return _Heard(reading, clip.start_seconds, clip.end_seconds, features)

    def _identify(self, source: Source) -> str:
        plan = self._plan
        return record_id(fingerprint(source), plan.job.task.name, plan.family.label, plan.options)

    def _id_of_unreadable(self, source: Source) -> str:
        """An id for a source whose content is unknown: its name stands for it."""
        plan = self._plan
        return record_id(source.name, plan.job.task.name, plan.family.label, plan.options)


def run(plan: Plan, engine: Engine[Any], sources: Iterator[Source]) -> Iterator[Record | ErrorRecord]:
    """Answer for every source; one that fails gets an error record and disturbs no other.

    Closing the iterator ends the run. Raises what iterating `sources` raises.
    """
    readers = _Readers(plan, sources, room=2 * engine.scheduler.budget.seats)
    try:
        while not (readers.exhausted and engine.idle):
            while engine.hungry and (event := readers.take(wait=engine.idle)) is not None:
                reading = event.reading
                if isinstance(event, _Heard):
                    engine.add(_work(plan, event))
                else:
                    _end(reading, event)
                    if reading.complete:
                        yield _record(plan, reading)
            for done in engine.turn():
                heard = done.key
                _answered(heard, done)
                if heard.reading.complete:
                    yield _record(plan, heard.reading)
    finally:
        readers.stop()


def _work(plan: Plan, heard: _Heard) -> Work[ClipAnswer]:
    reading = heard.reading
    reading.open_clips += 1
    if reading.begun is None:
        reading.begun = time.perf_counter()
    dialogue = plan.family.answer(plan.job, heard.end - heard.start)
    return Work(heard, (AudioInput(heard.features),), dialogue)


def _end(reading: _Reading, event: _Ended) -> None:
    reading.ended = True
    reading.error = reading.error or event.error
    reading.duration = event.duration
    reading.clipping = event.clipping
    reading.decode_seconds = event.decode_seconds


def _answered(heard: _Heard, done: Done[ClipAnswer]) -> None:
    reading = heard.reading
    reading.open_clips -= 1
    if done.error is not None:
        reading.error = reading.error or _input_error(reading.source.name, done.error)
    elif done.result is not None:
        reading.parts.append(ClipPart(heard.start, heard.end, done.result))


def _input_error(name: str, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    code: InputCode = "memory" if memory else "internal"
    if not memory:
        LOG.error("%s: the model failed", name, exc_info=error)
    return InputError(code, name, f"{type(error).__name__}: {error}")


def _record(plan: Plan, reading: _Reading) -> Record | ErrorRecord:
    task = plan.job.task.name
    if (error := reading.error) is not None:
        return ErrorRecord(
            id=reading.id,
            task=task,
            file=reading.source.name,
            code=error.code,
            message=str(error),
        )
    merged = merge(reading.parts, scored=bool(plan.job.labels), choice=plan.choice)
    flags = merged.flags | ({"clipping"} if reading.clipping > CLIPPING else set())
    generate = None if reading.begun is None else time.perf_counter() - reading.begun
    return Record(
        id=reading.id,
        task=task,
        file=reading.source.name,
        model=plan.family.label,
        options=plan.options,
        text=merged.text,
        language=merged.language,
        duration=reading.duration,
        segments=merged.segments,
        labels=merged.labels,
        flags=flags,
        timing=Timing(decode=reading.decode_seconds, generate=generate),
    )
