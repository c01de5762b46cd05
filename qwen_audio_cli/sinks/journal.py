"""The output of an earlier run, read back: what is done, and a last line that was torn."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import BinaryIO

import orjson

from ..errors import ConfigError, OutputError, UsageError
from ..records import SCHEMA_VERSION

_OPENING = b'{"schema":%d,"id":"' % SCHEMA_VERSION
_ID_BYTES = 16
_BLOCK = 1 << 16


class Journal:
    """The ids of the records in an output, each as often as it is there.

    Two sources of equal content have one id and need two records, hence the count. Error
    records do not count, so that their sources are tried again. An id takes about 100 bytes of
    memory.
    """

    def __init__(self, done: Counter[bytes]) -> None:
        self._done = done

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read an output line by line; one that does not exist is empty.

        Read it after `JsonlSink.to_file` has opened the same path: then it is locked, and its
        last line is whole. Raises ConfigError naming the first line that is no record,
        UsageError for a path that is no regular file.
        """
        done: Counter[bytes] = Counter()
        try:
            if not path.exists():
                return cls(done)
            if not path.is_file():
                raise UsageError(f"{path}: --resume needs a regular file")
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    identifier, is_done = _entry(path, number, line)
                    if is_done:
                        done[identifier] += 1
        except OSError as error:
            raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
        return cls(done)

    def take(self, identifier: str) -> bool:
        """Say whether this work is done already, using up one of its records."""
        key = bytes.fromhex(identifier)
        left = self._done.get(key, 0)
        if not left:
            return False
        self._done[key] = left - 1
        return True

    def __len__(self) -> int:
        """Count the records that have not been taken."""
        return self._done.total()


def mend(path: Path, descriptor: int) -> None:
    """Make an output, open for appending as `descriptor`, end with a whole line.

    A record is written with its newline in one go. So a last line without one is either a
    record torn by a crash, which is cut off to be done again, or whole but for the newline,
    which is then added: no part of a record is itself JSON. Anything else is not ours to cut:
    ConfigError. Raises OutputError where the file cannot be read or changed.
    """
    try:
        with path.open("rb") as file:
            start, tail = _last_line(file)
            torn = _is_torn(tail)
            if tail and not torn:
                _entry(path, 1 + _count_lines(file), tail)
        if torn:
            os.ftruncate(descriptor, start)
        elif tail:
            os.write(descriptor, b"\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be mended: {error.strerror}") from error


def _last_line(file: BinaryIO) -> tuple[int, bytes]:
    """Return the offset and the bytes of what follows the last newline."""
    end = file.seek(0, os.SEEK_END)
    start = 0
    for offset in range(max(0, end - _BLOCK), -_BLOCK, -_BLOCK):
        file.seek(max(0, offset))
        newline = file.read(_BLOCK).rfind(b"\n")
        if newline >= 0:
            start = max(0, offset) + newline + 1
            break
    file.seek(start)
    return start, file.read()


def _is_torn(tail: bytes) -> bool:
    """Say whether a last line without newline is the beginning of a record."""
    if not tail or tail[: len(_OPENING)] != _OPENING[: len(tail)]:
        return False
    try:
        orjson.loads(tail)
    except orjson.JSONDecodeError:
        return True
    return False


def _count_lines(file: BinaryIO) -> int:
    file.seek(0)
    return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))


def _entry(path: Path, number: int, line: bytes) -> tuple[bytes, bool]:
    """Return the id of a line's record and whether its work is done."""
    try:
        record = orjson.loads(line)
        identifier = bytes.fromhex(record["id"])
        done = {"ok": True, "error": False}[record["status"]]
        if record["schema"] == SCHEMA_VERSION and len(identifier) == _ID_BYTES:
            return identifier, done
    except (ValueError, LookupError, TypeError):
        pass
    raise ConfigError(
        f"{path}, line {number}: not a record of schema {SCHEMA_VERSION}; choose another output"
    )
