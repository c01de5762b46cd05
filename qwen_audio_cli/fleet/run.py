"""One run of several workers: what the parent asks and tells them, and whose turn it is.

The parent alone holds the sources, the journal and the log; workers ask it for what they need.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, cast

from ..answering import WINDOW, IsDone
from ..audio.sources import Source, fingerprint
from ..errors import InputError, ModelError
from ..records import ErrorRecord, Record
from .worker import Answered, Asked, Errand, Failed, Finished, Logged, Message, Reply, Wanted

LOG = logging.getLogger("qwen_audio_cli")

# A fresh interpreter, as multiprocessing's "spawn" starts it, but one that never imports the user's
# own script again: no need to write `if __name__ == "__main__"` around a run.
_START = "import sys; sys.path[:] = {path!r}; from {module} import main; main({descriptor})"

GiveUp = Callable[[str, Source, InputError], ErrorRecord]
"""The error record that a source is to have for one task of the run.

The first argument stands for the source's content, as for a record's id: its fingerprint, or its
substitute where it cannot be read.
"""


class Feed:
    """Takes sources one by one, when asked, in a thread of its own: a list may come slowly.

    From `bell` can be read when a source was found.
    """

    def __init__(self, sources: Iterator[Source]) -> None:
        self._sources = sources
        self.bell, self._ringer = Pipe(duplex=False)
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._found: queue.SimpleQueue[Source | Exception | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="sources", daemon=True).start()

    def ask(self) -> None:
        """Begin to look for the next source."""
        self._asked.put(True)

    def take(self) -> Source | None:
        """The source that was found, None at their end. Raises what iterating them raised."""
        self.bell.recv_bytes()
        found = self._found.get()
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Let the thread end, as soon as it does not wait for a source."""
        self._asked.put(False)

    def _work(self) -> None:
        while self._asked.get():
            try:
                self._found.put(next(self._sources, None))
            except Exception as error:
                self._found.put(error)
            self._ringer.send_bytes(b"\a")


@dataclass(slots=True, eq=False)
class Held:
    """A source that a worker has, the ids that were `asked` for, and those that are `settled`.

    It is `over` when the ids of all `tasks` are settled: done before, or with one of `records`.
    """

    source: Source
    tasks: int
    asked: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    records: list[Record | ErrorRecord] = field(default_factory=list)
    over: bool = False

    def settle(self, identifier: str, record: Record | ErrorRecord | None = None) -> None:
        """Take note that an id has its record, or needs none."""
        self.settled.add(identifier)
        self.over = len(self.settled) >= self.tasks
        if record is not None:
            self.records.append(record)


class Line:
    """The sources that are out, in the order in which they went; how many are left is its length.

    What is over leaves it with its records: at once or, `in_order`, after all before it.
    """

    def __init__(self, in_order: bool) -> None:
        self._in_order = in_order
        self._out: dict[Held, None] = {}

    def __len__(self) -> int:
        return len(self._out)

    def join(self, held: Held) -> None:
        """Put a source at the end."""
        self._out[held] = None

    def leave(self, held: Held) -> Iterator[Record | ErrorRecord]:
        """The records that may come now that a source is over."""
        for first in tuple(self._out) if self._in_order else (held,):
            if not first.over:
                return
            yield from first.records
            del self._out[first]


@dataclass(slots=True, eq=False)
class Worker:
    """A process, the parent's end of the connection, and what it holds.

    `reading` is what each of its threads was given last.
    """

    device: str
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    ready: bool = False
    held: list[Held] = field(default_factory=list)
    reading: dict[int, Held] = field(default_factory=dict)

    @classmethod
    def start(cls, device: str) -> Worker:
        """Start a process, which waits for its errand."""
        ours, theirs = Pipe()
        with theirs:
            # Standard input is inherited: the worker that is given `-` reads it. Standard output
            # is for records, which the parent writes.
            process = subprocess.Popen(
                [sys.executable, "-c", _command(theirs.fileno())],
                stdout=2,
                pass_fds=[theirs.fileno()],
            )
        LOG.debug("%s: process %d", device, process.pid)
        return cls(device, process, ours)

    def send(self, message: Errand | Reply) -> None:
        """Send a message; one that is gone is noticed when it is read from."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def receive(self) -> Message | None:
        """The next message, None if there is none and the worker is gone."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            return None
        return message

    def end(self) -> None:
        """End the process, if it has not ended, and wait until nothing is left of it."""
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def give(self, thread: int, held: Held | None) -> None:
        """Answer a thread that asks for a source."""
        if held is not None:
            self.reading[thread] = held
            self.held.append(held)
        self.send(Reply(thread, None if held is None else held.source))

    def find(self, record: Record | ErrorRecord) -> Held | None:
        """The source of a record: which asked for its id or, where that failed, has its name."""
        named = [held for held in self.held if _is_about(record, held.source)]
        asked = [held for held in named if record.id in held.asked - held.settled]
        unread = [held for held in named if not held.asked and record.id not in held.settled]
        return next(iter(asked + unread), None)

    def epitaph(self) -> ModelError:
        """How the process ended, which is gone."""
        self.end()
        code = self.process.returncode
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with {code}"
        return ModelError(f"the worker on {self.device} {how}")


def _is_about(record: Record | ErrorRecord, source: Source) -> bool:
    """Whether a record is about a source, by name; it may leave out the first of several clips."""
    files = record.files or ()
    return record.file == source.name and source.names[len(source.names) - len(files) :] == files


def _command(descriptor: int) -> str:
    path = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100 - an entry may be ''
    module = f"{__package__}.worker"
    return _START.format(path=path, module=module, descriptor=descriptor)


class Run:
    """The parent's side of one run: hands sources out and passes records on.

    No source is looked for while there are `WINDOW` in the line: a record that has to wait for an
    earlier source's waits in memory.
    """

    def __init__(
        self,
        workers: Iterable[Worker],
        feed: Feed,
        is_done: IsDone,
        give_up: Sequence[GiveUp],
        line: Line,
    ) -> None:
        self._workers = list(workers)
        self._feed = feed
        self._is_done = is_done
        self._give_up = give_up
        self._line = line
        self._wanting: deque[tuple[Worker, int]] = deque()
        self._spare: Source | None = None
        self._seeking = self._exhausted = self._finished = False
        self._untold: list[Exception] = []

    def records(self) -> Iterator[Record | ErrorRecord]:
        """All records. Raises as `Fleet` does."""
        while self._workers:
            self._hand_out()
            workers = {worker.connection: worker for worker in self._workers}
            for ready in wait([self._feed.bell, *workers]):
                if ready is self._feed.bell:
                    self._spare = self._feed.take()
                    self._seeking, self._exhausted = False, self._spare is None
                else:
                    worker = workers[cast("Connection[Any, Any]", ready)]
                    yield from self._attend(worker, worker.receive())
        if self._untold:
            raise self._untold[0]

    def _attend(self, worker: Worker, message: Message | None) -> Iterator[Record | ErrorRecord]:
        match message:
            case Answered(record):
                if (held := worker.find(record)) is None:
                    yield record  # its file has changed between two mentions of it
                else:
                    yield from self._settle(worker, held, record.id, record)
            case Asked(thread, identifier):
                held = worker.reading[thread]
                held.asked.add(identifier)
                done = self._is_done(identifier, held.source.name)
                worker.send(Reply(thread, done))
                if done:
                    yield from self._settle(worker, held, identifier)
            case Wanted(thread):
                worker.ready = True
                self._wanting.append((worker, thread))
            case Logged():
                _log(message)
            case Finished():
                self._finished = True
                yield from self._dismiss(worker)
            case Failed(kind, text):
                yield from self._dismiss(worker, (kind or RuntimeError)(text))
            case None:
                yield from self._dismiss(worker, worker.epitaph())

    def _settle(
        self,
        worker: Worker,
        held: Held,
        identifier: str,
        record: Record | ErrorRecord | None = None,
    ) -> Iterator[Record | ErrorRecord]:
        held.settle(identifier, record)
        if held.over and held in worker.held:
            worker.held.remove(held)
            yield from self._line.leave(held)

    def _hand_out(self) -> None:
        """Answer those that want a source, in the order in which they asked.

        Nobody gets one before all have loaded their models, or a short list would be gone by then.
        """
        if not self._wanting or not all(worker.ready for worker in self._workers):
            return
        for error in self._untold:
            LOG.warning("%s; the other devices go on", error)
        self._untold.clear()
        while self._exhausted and self._wanting:
            worker, thread = self._wanting.popleft()
            worker.give(thread, None)
        if self._spare is not None:
            worker, thread = self._wanting.popleft()
            held = Held(self._spare, len(self._give_up))
            self._line.join(held)
            worker.give(thread, held)
            self._spare = None
        if self._wanting and not self._seeking and len(self._line) < WINDOW:
            self._feed.ask()
            self._seeking = True

    def _dismiss(
        self, worker: Worker, error: Exception | None = None
    ) -> Iterator[Record | ErrorRecord]:
        """Part from a worker, and from all that it holds; what failed with it is reported."""
        self._workers.remove(worker)
        self._wanting = deque(wanting for wanting in self._wanting if wanting[0] is not worker)
        worker.end()
        if error is not None:
            if self._finished or (worker.ready and self._workers):
                LOG.error("%s", error)
            else:
                self._untold.append(error)
        for held in worker.held:
            if error is not None:
                self._mourn(held, error)
            held.over = True
            yield from self._line.leave(held)

    def _mourn(self, held: Held, error: Exception) -> None:
        """Settle what failed of a source; ids that are already done, or answered, did not."""
        failure = InputError("internal", held.source.title, str(error))
        content = _content(held.source)
        for give_up in self._give_up:
            record = give_up(content, held.source, failure)
            if record.id not in held.settled:
                asked = record.id in held.asked
                done = not asked and self._is_done(record.id, held.source.name)
                held.settle(record.id, None if done else record)


def _content(source: Source) -> str:
    """What stands for a source's content; standard input cannot be read a second time."""
    if any(member.path is None for member in source.members):
        return source.substitute
    try:
        return fingerprint(source)
    except InputError:
        return source.substitute


class _WorkerTraceback(Exception):
    """A traceback that comes as text."""


def _log(message: Logged) -> None:
    error = _WorkerTraceback(f"\n{message.trace}") if message.trace else None
    LOG.log(message.level, "%s", message.text, exc_info=error)
