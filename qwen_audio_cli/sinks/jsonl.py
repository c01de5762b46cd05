"""The JSONL sink: one line per record, written in one go, to standard output or to a file."""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
from pathlib import Path
from types import TracebackType

from ..errors import BusyError, OutputError, OutputWriteError
from ..records import ErrorRecord, Record, to_json
from .journal import mend


class JsonlSink:
    """Writes each record at once, unbuffered, so that a crash costs no finished record."""

    def __init__(self, descriptor: int, name: str) -> None:
        """Take over an open file descriptor; `name` is what errors call it."""
        self._descriptor = descriptor
        self._name = name

    @classmethod
    def to_stdout(cls) -> JsonlSink:
        """Write to standard output. Raises OutputError where it is closed."""
        # Python leaves sys.stdout None when the process starts with it closed.
        if sys.stdout is None:
            raise OutputError("standard output is closed")
        sys.stdout.flush()
        return cls(os.dup(sys.stdout.fileno()), "standard output")

    @classmethod
    def to_file(cls, path: Path) -> JsonlSink:
        """Append to a file, new or old, that no other run may write to meanwhile.

        A torn last line of an earlier run is mended first (`journal.mend`). Raises OutputError
        for a place that cannot be written, BusyError where another run holds the lock,
        ConfigError where the last line is torn and not ours.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
        sink = cls(descriptor, str(path))
        try:
            if sink._is_regular():
                _lock(descriptor, path)
                mend(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return sink

    def write(self, record: Record | ErrorRecord) -> None:
        """Write a record as one line.

        Raises OutputWriteError where the output takes no more, leaving whole lines in a file;
        BrokenPipeError where the reader has gone.
        """
        line = memoryview(to_json(record) + b"\n")
        done = 0
        try:
            while done < len(line):
                done += self._write_some(line[done:])
        except BrokenPipeError:
            raise
        except OSError as error:
            if done and self._is_regular():
                size = os.fstat(self._descriptor).st_size
                os.ftruncate(self._descriptor, size - done)
            raise OutputWriteError(f"{self._name}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the output and release its lock."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            os.close(descriptor)
        except OSError as error:
            raise OutputWriteError(f"{self._name}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> JsonlSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write_some(self, data: memoryview) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                # Whoever shares the terminal or pipe with us may have made it non-blocking.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()

    def _is_regular(self) -> bool:
        return stat.S_ISREG(os.fstat(self._descriptor).st_mode)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BusyError(f"{path}: another run is writing to it") from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be locked: {error.strerror}") from error
