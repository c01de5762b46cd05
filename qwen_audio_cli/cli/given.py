"""What a user gives a run beside audio: labels, names to expect, a text, earlier questions."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from ..audio.sources import STANDARD_INPUT
from ..errors import UsageError
from ..readback import Exchange, read_exchanges, read_text


def parse_labels(text: str | None) -> tuple[str, ...]:
    """The labels of `a,b,c`, or those of `@file`, one a line.

    Raises UsageError for a file that cannot be read and where there are none.
    """
    if text is None:
        return ()
    lines = _read_lines("--labels", text[1:]) if text.startswith("@") else text.split(",")
    labels = tuple(label for line in lines if (label := line.strip()))
    if not labels:
        raise UsageError("--labels: there are none")
    return labels


def parse_context(text: str) -> str:
    """The text itself, or that of `@file`. Raises UsageError as `parse_labels`."""
    if text.startswith("@"):
        text = "\n".join(_read_lines("--context", text[1:]))
    return text.strip()


def spoken_text(path: Path | None, claims: Iterable[str]) -> str | dict[str, str] | None:
    """The text of `--text`, or the texts by file; `-` is standard input, unless `claims` has it.

    Raises UsageError for what cannot be read, and as `readback.read_text`.
    """
    if path is None:
        return None
    if path != Path(STANDARD_INPUT):
        return read_text(_read("--text", path), f"--text: {path}")
    if STANDARD_INPUT in claims:
        raise UsageError("standard input (-) cannot be the text and a source or list of sources")
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise UsageError("--text: standard input is closed or a terminal: pipe the text into it")
    return read_text(sys.stdin.buffer.read(), "--text: standard input")


def earlier_turns(path: Path | None) -> tuple[Exchange, ...] | None:
    """The turns of `--history`. Raises UsageError as `readback.read_exchanges`."""
    return None if path is None else read_exchanges(_read("--history", path), f"--history: {path}")


def _read_lines(option: str, name: str) -> list[str]:
    try:
        return _read(option, Path(name)).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{option}: {name} cannot be read: not UTF-8") from error


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{option}: {path} cannot be read: {reason}") from error
