"""Threads that turn sources into clips with features, a bounded number ahead of the engine."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .answering import WINDOW
from .audio import SAMPLE_RATE
from .audio.decode import Audio
from .audio.segment import segment
from .audio.sources import Source, fingerprint
from .audio.vad import Vad
from .errors import InputError
from .families.base import Family

LOG = logging.getLogger(__name__)
_POLL_SECONDS = 0.1


@dataclass(slots=True, eq=False)
class Reading:
    """One source on its way: its place in the run, and per task of the run the id of its record.

    `pending` are the places of the tasks that are not done yet. Who sets `given_up` wants no more
    clips of it.
    """

    number: int
    source: Source
    ids: tuple[str, ...]
    pending: tuple[int, ...]
    given_up: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """One clip, `start` to `end` seconds of its source, and its features."""

    reading: Reading
    start: float
    end: float
    features: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """The last event of every source: it is read, or failed, or there was nothing to do.

    `duration` is in seconds of sound, `clipping` the share that is clipped, `decode_seconds` of
    work.
    """

    reading: Reading
    error: InputError | None = None
    duration: float = 0.0
    clipping: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Exhausted:
    """A reader found no more sources, or the list of sources broke off."""

    error: Exception | None


class _Stopped(Exception):
    """The run was given up while a reader waited for room."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """How sources are heard.

    `identify` gives the ids of a source's records, one per task, from what stands for the content;
    `is_done` says whether the work of an id is there already. `vad` finds speech; without it a
    source is heard whole.
    """

    family: Family
    identify: Callable[[str], tuple[str, ...]]
    is_done: Callable[[str], bool]
    vad: Vad | None


class Readers:
    """`count` threads that turn sources into clips, at most `room` of them ahead of the engine.

    No source is taken while there are `WINDOW` whose records are not `written`.
    """

    def __init__(
        self, hearing: Hearing, sources: Iterator[Source], *, count: int, room: int
    ) -> None:
        self._hearing = hearing
        self._sources = enumerate(sources)
        self._events: queue.Queue[Heard | Ended | _Exhausted] = queue.Queue(room)
        self._window = threading.Semaphore(WINDOW)
        self._next_lock = threading.Lock()  # held while a list is waited for
        self._done_lock = threading.Lock()
        self._stop = threading.Event()
        self._busy = count
        for number in range(count):
            threading.Thread(target=self._read, name=f"reader-{number}", daemon=True).start()

    @property
    def exhausted(self) -> bool:
        """All sources are read and all events taken."""
        return self._busy == 0

    def take(self, *, wait: bool) -> Heard | Ended | None:
        """The next event; None when there is none yet or, at the end, none will come.

        Raises what iterating the sources raised.
        """
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

    def written(self) -> None:
        """Take note that a source's records are out, so that a further source may be taken."""
        self._window.release()

    def stop(self) -> None:
        """Let the threads end."""
        self._stop.set()

    def _put(self, event: Heard | Ended | _Exhausted) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._events.put(event, timeout=_POLL_SECONDS)
                return
        raise _Stopped

    def _read(self) -> None:
        torch.set_num_threads(1)  # of this thread: many small jobs beside the model's large ones
        problem: Exception | None = None
        try:
            while (numbered := self._next()) is not None:
                self._read_source(*numbered)
        except _Stopped:
            return
        except Exception as error:  # the list of sources cannot be read, or a bug
            problem = error
        with contextlib.suppress(_Stopped):
            self._put(_Exhausted(problem))

    def _next(self) -> tuple[int, Source] | None:
        while not self._window.acquire(timeout=_POLL_SECONDS):
            if self._stop.is_set():
                raise _Stopped
        with self._next_lock:
            numbered = next(self._sources, None)
        if numbered is None:
            self._window.release()
        return numbered

    def _identify(self, number: int, source: Source) -> Reading:
        """Find out what is to be done for a source. Raises InputError where it cannot be read."""
        ids = self._hearing.identify(fingerprint(source))
        with self._done_lock:
            done = [self._hearing.is_done(identifier) for identifier in ids]
        return Reading(number, source, ids, tuple(n for n in range(len(ids)) if not done[n]))

    def _read_source(self, number: int, source: Source) -> None:
        try:
            reading = self._identify(number, source)
        except InputError as error:  # its name stands for the content that nobody can read
            ids = self._hearing.identify(source.name)
            self._put(Ended(Reading(number, source, ids, tuple(range(len(ids)))), error))
            return
        self._put(self._hear(reading) if reading.pending else Ended(reading))

    def _hear(self, reading: Reading) -> Ended:
        """Cut a source into clips, and say how it ended."""
        audio = Audio(reading.source)
        begun = time.perf_counter()
        waited = 0.0
        problem: InputError | None = None
        try:
            for clip in segment(audio, self._hearing.vad, self._hearing.family.window):
                if reading.given_up:
                    break
                features = self._hearing.family.features(clip.samples)
                before = time.perf_counter()
                self._put(Heard(reading, clip.start_seconds, clip.end_seconds, features))
                waited += time.perf_counter() - before
        except InputError as error:
            problem = error
        except _Stopped:
            raise
        except Exception as error:
            name = reading.source.name
            LOG.exception("%s: cannot be read", name)
            problem = InputError("internal", name, f"{type(error).__name__}: {error}")
        seconds = time.perf_counter() - begun - waited
        return Ended(reading, problem, audio.samples / SAMPLE_RATE, audio.clipping, seconds)
