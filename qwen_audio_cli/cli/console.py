"""What standard error shows: messages, progress and the summary. Standard output is for records."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from typer import style

from ..records import ErrorRecord, Record

if TYPE_CHECKING:
    from tqdm import tqdm

LOG = logging.getLogger("qwen_audio_cli")
"""The package's own logger: `configure` gives it standard error."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def configure(*, quiet: bool = False, verbose: bool = False, color: bool = True) -> None:
    """Show the package's messages on standard error, one line each.

    `quiet` leaves warnings and errors; `verbose` adds details and tracebacks.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(color and _is_terminal() and not os.environ.get("NO_COLOR")))
    # What is logged with a traceback is an input that failed, and that has its own line.
    handler.addFilter(lambda record: verbose or not record.exc_info)
    LOG.handlers[:] = [handler]
    LOG.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def _is_terminal() -> bool:
    """Whether standard error is a terminal that can move its cursor."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class _Formatter(logging.Formatter):
    """`qwa: message` on one line, whatever a file's name puts into the message."""

    def __init__(self, color: bool) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        prefix = "qwa:"
        if self._color and record.levelno >= logging.WARNING:
            prefix = style(prefix, fg="red")
        message = _CONTROL.sub(lambda match: repr(match[0])[1:-1], record.getMessage())
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{prefix} {message}{trace}"


class Progress:
    """Counts the files of a run, shows a bar on a terminal, and sums the run up in a line.

    `answered` is how many records are no errors; a file with an error record has failed.
    """

    def __init__(self, tasks: int) -> None:
        """`tasks` is how many records a file may give, one after the other."""
        self.files = self.failed = self.answered = 0
        self._tasks = tasks
        self._names: tuple[str, ...] = ()
        self._errors = self._answers = 0  # of the last file
        self._seconds = 0.0
        self._begun = time.perf_counter()
        self._bar: tqdm[Any] | None = None
        # With --quiet the level is above INFO; with --verbose messages would cut through the bar.
        if _is_terminal() and LOG.level == logging.INFO:
            from tqdm import tqdm

            self._bar = tqdm(file=sys.stderr, bar_format="{n_fmt} files{postfix} [{elapsed}]")

    def aside(self) -> AbstractContextManager[None]:
        """Clear the bar while something else is written to the terminal."""
        return nullcontext() if self._bar is None else self._bar.external_write_mode(sys.stderr)

    def count(self, record: Record | ErrorRecord) -> None:
        """Take note of a record."""
        names = (record.file, *(record.files or ()))
        is_new = self._tasks == 1 or names != self._names
        if is_new:
            self.files += 1 if record.files is None else len(record.files)
            self._names, self._errors, self._answers = names, 0, 0
        if isinstance(record, ErrorRecord):
            self.failed += not self._errors
            self._errors += 1
        else:
            self.answered += 1
            self._seconds += 0.0 if self._answers else record.duration or 0.0
            self._answers += 1
        if self._bar is not None:
            hours, speed = self._seconds / 3600, self._speed()
            self._bar.set_postfix_str(f"{hours:.2f} h of audio, {speed:.1f}x real time", False)
            self._bar.update(is_new)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.leave = False
            self._bar.close()

    def summary(self, before: int) -> str:
        """One line about the run; `before` is how many records were there before it."""
        parts = [f"{self.files} file{'' if self.files == 1 else 's'}", f"{self.failed} failed"]
        if before:
            parts.append(f"{before} {'' if self._tasks == 1 else 'records '}done before")
        if self.answered:
            elapsed = time.perf_counter() - self._begun
            speed = f"in {elapsed:.1f} s: {self._speed():.1f}x real time"
            parts.append(f"{self._seconds:.1f} s of audio {speed}")
        return ", ".join(parts)

    def _speed(self) -> float:
        return self._seconds / (time.perf_counter() - self._begun)
