"""One process of a fleet: it asks its parent for sources, answers for them, and sends the records.

It ends with its parent: nothing that it holds outlives the connection between them.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, NoReturn

from ..answering import Answering
from ..audio.sources import Source
from ..errors import QwaError
from ..records import ErrorRecord, Record

LOG = logging.getLogger("qwen_audio_cli")
"""The package's own logger: what it is told in a worker is said by the parent."""


@dataclass(frozen=True, slots=True)
class Errand:
    """The first message to a worker: what it is for.

    `prepare` makes the run from the name of a device. `sharing` is how many workers divide the
    cores among them, `level` the least that the parent logs.
    """

    prepare: Callable[[str], Answering]
    device: str
    sharing: int
    level: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A thread of the worker asks for its next source."""

    thread: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A thread asks whether the work of an id, about its last source, is there already."""

    thread: int
    id: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What the parent answers a thread that asked."""

    thread: int
    value: Source | bool | None


@dataclass(frozen=True, slots=True)
class Answered:
    """A record is complete."""

    record: Record | ErrorRecord


@dataclass(frozen=True, slots=True)
class Logged:
    """A message for the parent's log, and its traceback."""

    level: int
    text: str
    trace: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The run broke off; `kind` is None for an error that no user should meet."""

    kind: type[QwaError] | None
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """All sources are answered."""


Message = Wanted | Asked | Answered | Logged | Failed | Finished


class _Parent:
    """The worker's end of the connection. Threads may ask at the same time, each one thing."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._replies: dict[int, SimpleQueue[Any]] = {}

    def listen(self) -> None:
        """Hand replies to the threads that wait for them, until the parent is gone: then end."""
        try:
            while True:
                reply: Reply = self._connection.recv()
                self._replies[reply.thread].put(reply.value)
        except (EOFError, OSError):
            os._exit(0)

    def tell(self, message: Message) -> None:
        """Send a message; this is the end if there is nobody to hear it."""
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:
            os._exit(0)

    def sources(self) -> Iterator[Source]:
        """The sources that the parent gives this worker; many threads may take them."""
        return iter(self._next_source, None)

    def is_done(self, identifier: str, name: str) -> bool:
        """Whether there is a record of the source that this thread took last: the parent knows."""
        return bool(self._ask(Asked(threading.get_ident(), identifier)))

    def _next_source(self) -> Source | None:
        source: Source | None = self._ask(Wanted(threading.get_ident()))
        return source

    def _ask(self, question: Wanted | Asked) -> Any:
        replies = self._replies.setdefault(question.thread, SimpleQueue())
        self.tell(question)
        return replies.get()


class _Forward(logging.Handler):
    """Sends what is logged to the parent, a traceback as text."""

    def __init__(self, parent: _Parent) -> None:
        super().__init__()
        self._parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        self._parent.tell(Logged(record.levelno, record.getMessage(), trace))


def main(descriptor: int) -> NoReturn:
    """Work for the parent at the other end of a connection until all is done or it is gone."""
    # A terminal's Ctrl-C and a service's SIGTERM reach the whole group: the parent decides. Not
    # SIG_IGN, which programs that a worker starts would inherit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)
    os.set_inheritable(descriptor, False)
    connection: Connection[Any, Any] = Connection(descriptor)
    parent = _Parent(connection)
    try:
        _run(connection, parent)
    except QwaError as error:
        parent.tell(Failed(type(error), str(error)))
    except Exception as error:
        LOG.debug("it happened here:", exc_info=error)
        parent.tell(Failed(None, f"{type(error).__name__}: {error}"))
    # All is said, and readers may be within native code, which would crash the interpreter's end.
    os._exit(0)


def _run(connection: Connection[Any, Any], parent: _Parent) -> None:
    errand: Errand = connection.recv()
    threading.Thread(target=parent.listen, name="listener", daemon=True).start()
    LOG.addHandler(_Forward(parent))
    LOG.setLevel(errand.level)
    answering = errand.prepare(errand.device)
    if errand.sharing > 1:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // errand.sharing))
    for record in answering(parent.sources(), parent.is_done):
        parent.tell(Answered(record))
    parent.tell(Finished())
