"""Joins the stages: sources are read and cut by threads, answered in one batch, merged to records.

Queues between the stages are bounded, so memory does not grow with the number or the length of
the sources. Records come as soon as they are complete.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .audio.sources import Source
from .audio.vad import Vad
from .engine.engine import Done, Engine, Work
from .engine.request import AudioInput
from .errors import InputCode, InputError
from .families.base import ClipAnswer, Family, Job
from .merge import Choice, ClipPart, merge
from .readers import Ended, Heard, Hearing, Readers, Reading
from .records import ErrorRecord, Record, Timing, record_id

LOG = logging.getLogger(__name__)
CLIPPING = 0.001
"""Share of samples at full scale from which a source is flagged."""

AHEAD = 2
"""Clips that may wait for the engine, in terms of its seats."""


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
    choice: Choice
    vad: Vad | None
    is_done: Callable[[str], bool]
    readers: int

    def identify(self, fingerprint: str) -> str:
        """The id of the record about the content that `fingerprint` stands for."""
        return record_id(fingerprint, self.job.task.name, self.family.label, self.options)


@dataclass(slots=True, eq=False)
class _Progress:
    """What is known of a source: complete when it is read (`ended`) and no clip is in work."""

    reading: Reading
    ended: Ended | None = None
    open_clips: int = 0
    parts: list[ClipPart] = field(default_factory=list)
    error: InputError | None = None
    begun: float = field(default_factory=time.perf_counter)


Key = tuple[_Progress, Heard]


def run(
    plan: Plan, engine: Engine[Key, ClipAnswer], sources: Iterator[Source]
) -> Iterator[Record | ErrorRecord]:
    """Answer for every source; one that fails gets an error record and disturbs no other.

    Closing the iterator ends the run. Raises what iterating `sources` raises.
    """
    hearing = Hearing(plan.family, plan.identify, plan.is_done, plan.vad)
    room = AHEAD * engine.scheduler.budget.seats
    readers = Readers(hearing, sources, count=plan.readers, room=room)
    known: dict[Reading, _Progress] = {}
    try:
        while not (readers.exhausted and engine.idle):
            while engine.hungry and (event := readers.take(wait=engine.idle)) is not None:
                progress = known.setdefault(event.reading, _Progress(event.reading))
                if isinstance(event, Heard):
                    engine.add(_work(plan, progress, event))
                else:
                    progress.ended = event
                    progress.error = progress.error or event.error
                    yield from _complete(plan, known, progress)
            for done in engine.turn():
                _answered(done)
                yield from _complete(plan, known, done.key[0])
    finally:
        readers.stop()


def _work(plan: Plan, progress: _Progress, heard: Heard) -> Work[Key, ClipAnswer]:
    progress.open_clips += 1
    dialogue = plan.family.answer(plan.job, heard.end - heard.start)
    return Work((progress, heard), (AudioInput(heard.features),), dialogue)


def _answered(done: Done[Key, ClipAnswer]) -> None:
    progress, heard = done.key
    progress.open_clips -= 1
    if done.error is not None:
        name = progress.reading.source.name
        progress.error = progress.error or _input_error(name, done.error)
    elif done.result is not None:
        progress.parts.append(ClipPart(heard.start, heard.end, done.result))


def _input_error(name: str, error: Exception) -> InputError:
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    code: InputCode = "memory" if memory else "internal"
    if not memory:
        LOG.error("%s: the model failed", name, exc_info=error)
    return InputError(code, name, f"{type(error).__name__}: {error}")


def _complete(
    plan: Plan, known: dict[Reading, _Progress], progress: _Progress
) -> Iterator[Record | ErrorRecord]:
    """The record of a source, if nothing more will be known of it."""
    if progress.ended is not None and not progress.open_clips:
        del known[progress.reading]
        yield _record(plan, progress, progress.ended)


def _record(plan: Plan, progress: _Progress, ended: Ended) -> Record | ErrorRecord:
    identifier, name = progress.reading.id, progress.reading.source.name
    task = plan.job.task.name
    if (error := progress.error) is not None:
        return ErrorRecord(id=identifier, task=task, file=name, code=error.code, message=str(error))
    merged = merge(progress.parts, scored=bool(plan.job.labels), choice=plan.choice)
    generate = time.perf_counter() - progress.begun if progress.parts else None
    return Record(
        id=identifier,
        task=task,
        file=name,
        model=plan.family.label,
        options=plan.options,
        text=merged.text,
        language=merged.language,
        duration=ended.duration,
        segments=merged.segments,
        labels=merged.labels,
        flags=merged.flags | ({"clipping"} if ended.clipping > CLIPPING else frozenset()),
        timing=Timing(decode=ended.decode_seconds, generate=generate),
    )
