"""The output of an earlier run, read back: what is done, and a last line that was torn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import orjson

from ..errors import ConfigError, OutputError, UsageError
from ..records import SCHEMA_VERSION

_OPENING = b'{"schema":%d,"id":"' % SCHEMA_VERSION
_ID_BYTES = 16
_BLOCK = 1 << 16


class Journal:
    """The ids of the records in an output, and the names of the sources that they are about.

    Two sources of equal content have one id and need two records. Error records do not count, so
    that their sources are tried again. A record takes about 250 bytes of memory.
    """

    def __init__(self) -> None:
        self._names: dict[bytes, list[str]] = {}

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read an output line by line; one that does not exist is empty.

        Read it after `JsonlSink.to_file` has opened the same path: then it is locked, and its
        last line is whole. Raises ConfigError naming the first line that is no record,
        UsageError for a path that is no regular file.
        """
        journal = cls()
        try:
            if not path.exists():
                return journal
            if not path.is_file():
                raise UsageError(f"{path}: --resume needs a regular file")
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    identifier, name, is_done = _entry(path, number, line)
                    if is_done:
                        journal.add(identifier, name)
        except OSError as error:
            raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
        return journal

    def add(self, identifier: bytes, name: str) -> None:
        """Take note of a record."""
        self._names.setdefault(identifier, []).append(name)

    def take(self, identifier: str, name: str) -> bool:
        """Say whether there is a record of the source of that name already, using it up.

        A record of another name counts where the source was called so before it was moved, not
        where that is another file, which needs its own.
        """
        names = self._names.get(bytes.fromhex(identifier), [])
        own = name if name in names else next((n for n in names if not _is_another(n, name)), None)
        if own is None:
            return False
        names.remove(own)
        return True

    def __len__(self) -> int:
        """Count the records that have not been taken."""
        return sum(map(len, self._names.values()))


def _is_another(name: str, source: str) -> bool:
    """Whether a record's name is that of a file that is there, and not the source's own."""
    try:
        return not Path(name).samefile(source)
    except (OSError, ValueError):  # one of them is no file
        return os.path.lexists(name)


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


def _entry(path: Path, number: int, line: bytes) -> tuple[bytes, str, bool]:
    """Return the id of a line's record, its source's name and whether its work is done."""
    try:
        record = orjson.loads(line)
        identifier = bytes.fromhex(record["id"])
        done = {"ok": True, "error": False}[record["status"]]
        if record["schema"] == SCHEMA_VERSION and len(identifier) == _ID_BYTES:
            return identifier, str(record["file"]), done
    except (ValueError, LookupError, TypeError):
        pass
    raise ConfigError(
        f"{path}, line {number}: not a record of schema {SCHEMA_VERSION}; choose another output"
    )
