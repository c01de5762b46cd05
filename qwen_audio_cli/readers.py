"""Threads that turn sources into clips with features, a bounded number ahead of the engine."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .answering import WINDOW
from .audio.sources import Source, fingerprint
from .errors import InputError
from .hearing import Ended, Heard, Hearing, Reading
from .plan import Plan

LOG = logging.getLogger(__name__)
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class _Exhausted:
    """A reader found no more sources, or the list of sources broke off."""

    error: Exception | None


class _Stopped(Exception):
    """The run was given up while a reader waited for room."""


class Readers:
    """Threads of a plan that turn sources into clips, at most `room` ahead of the engine.

    No source is taken while there are `WINDOW` whose records are not `written`.
    """

    def __init__(self, plan: Plan, sources: Iterator[Source], *, room: int) -> None:
        self._plan = plan
        self._sources = enumerate(sources)
        self._events: queue.Queue[Heard | Ended | _Exhausted] = queue.Queue(room)
        self._window = threading.Semaphore(WINDOW)
        self._next_lock = threading.Lock()  # held while a list is waited for
        self._done_lock = threading.Lock()
        self._stop = threading.Event()
        self._busy = plan.readers
        for number in range(plan.readers):
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
        self._plan.verify(source)
        ids = self._plan.identify(fingerprint(source))
        with self._done_lock:
            done = [self._plan.is_done(identifier, source.name) for identifier in ids]
        return Reading(number, source, ids, tuple(n for n in range(len(ids)) if not done[n]))

    def _read_source(self, number: int, source: Source) -> None:
        try:
            reading = self._identify(number, source)
        except InputError as error:
            ids = self._plan.identify(source.substitute)
            self._put(Ended(Reading(number, source, ids, tuple(range(len(ids)))), error))
            return
        self._put(self._hear(reading) if reading.pending else Ended(reading))

    def _hear(self, reading: Reading) -> Ended:
        """Hear a source, and say how it ended."""
        hearing = Hearing(self._plan, reading)
        begun = time.perf_counter()
        waited = 0.0
        problem: InputError | None = None
        try:
            for heard in hearing:
                before = time.perf_counter()
                self._put(heard)
                waited += time.perf_counter() - before
        except InputError as error:
            problem = error
        except _Stopped:
            raise
        except Exception as error:
            LOG.exception("%s: cannot be read", hearing.name)
            problem = InputError("internal", hearing.name, f"{type(error).__name__}: {error}")
        return hearing.ended(problem, time.perf_counter() - begun - waited)
