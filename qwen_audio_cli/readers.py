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

from .audio import SAMPLE_RATE
from .audio.decode import Audio
from .audio.segment import segment
from .audio.sources import Source, fingerprint
from .audio.vad import Vad
from .errors import InputError
from .families.base import Family

LOG = logging.getLogger(__name__)
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One source on its way, and the id of its record."""

    source: Source
    id: str


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """One clip, `start` to `end` seconds of its source, and its features."""

    reading: Reading
    start: float
    end: float
    features: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """A source is read to its end, or failed; seconds of sound, share clipped, seconds of work."""

    reading: Reading
    error: InputError | None
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

    `identify` gives the id of a record from what stands for the content; `is_done` says whether
    the work of an id is there already. `vad` finds speech; without it a source is heard whole.
    """

    family: Family
    identify: Callable[[str], str]
    is_done: Callable[[str], bool]
    vad: Vad | None


class Readers:
    """`count` threads that turn sources into clips, at most `room` of them ahead of the engine."""

    def __init__(
        self, hearing: Hearing, sources: Iterator[Source], *, count: int, room: int
    ) -> None:
        self._hearing = hearing
        self._sources = sources
        self._events: queue.Queue[Heard | Ended | _Exhausted] = queue.Queue(room)
        self._lock = threading.Lock()
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
            while (source := self._next()) is not None:
                self._read_source(source)
        except _Stopped:
            return
        except Exception as error:  # the list of sources cannot be read, or a bug
            problem = error
        with contextlib.suppress(_Stopped):
            self._put(_Exhausted(problem))

    def _next(self) -> Source | None:
        with self._lock:
            return next(self._sources, None)

    def _read_source(self, source: Source) -> None:
        hearing = self._hearing
        try:
            reading = Reading(source, hearing.identify(fingerprint(source)))
        except InputError as error:  # its name stands for the content that nobody can read
            self._put(Ended(Reading(source, hearing.identify(source.name)), error))
            return
        with self._lock:
            if hearing.is_done(reading.id):
                return
        audio = Audio(source)
        begun = time.perf_counter()
        waited = 0.0
        problem: InputError | None = None
        try:
            for clip in segment(audio, hearing.vad, hearing.family.window):
                features = hearing.family.features(clip.samples)
                before = time.perf_counter()
                self._put(Heard(reading, clip.start_seconds, clip.end_seconds, features))
                waited += time.perf_counter() - before
        except InputError as error:
            problem = error
        except _Stopped:
            raise
        except Exception as error:
            LOG.exception("%s: cannot be read", source.name)
            problem = InputError("internal", source.name, f"{type(error).__name__}: {error}")
        seconds = time.perf_counter() - begun - waited
        self._put(Ended(reading, problem, audio.samples / SAMPLE_RATE, audio.clipping, seconds))
