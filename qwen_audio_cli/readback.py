"""Records read back: the turns of a conversation, and the texts of sources by their names."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from .audio.sources import STANDARD_INPUT
from .errors import UsageError
from .records import SCHEMA_VERSION, ErrorRecord, Record
from .tags import neutralise


@dataclass(frozen=True, slots=True)
class Exchange:
    """A turn of a conversation: a question about further `files`, and what was answered."""

    question: str
    answer: str
    files: tuple[str, ...]


class _Unfit(ValueError):
    """An object is not what is needed; the message is a clause that says why."""


def exchanges(
    records: Iterable[Record | ErrorRecord | Mapping[str, Any]], where: str = "history"
) -> tuple[Exchange, ...]:
    """The turns that records of `ask` tell of, in their order; error records are left out.

    A record may be an object of JSON. Raises UsageError naming `where` and the number of the first
    that does not tell of a turn.
    """
    objects = (r.as_dict() if isinstance(r, Record | ErrorRecord) else r for r in records)
    return tuple(_exchanges(enumerate(objects, start=1), f"{where}, record"))


def read_exchanges(content: bytes, where: str) -> tuple[Exchange, ...]:
    """The same of JSON lines, as `qwa ask` writes them."""
    return tuple(_exchanges(_lines(content), f"{where}, line"))


def read_text(content: bytes, where: str) -> str | dict[str, str]:
    """What is spoken: a plain text or, in JSON lines with `file` and `text`, texts by file.

    JSON lines are told by the first line: an object with a `file`. Error records are left out.
    Raises UsageError naming `where` for what is not UTF-8, or empty, and with the line's number for
    a line among JSON lines that has no file or no text, or another text for the same file.
    """
    first = next(_lines(content), None)
    if first is not None and isinstance(first[1], Mapping) and "file" in first[1]:
        return _texts_by_file(content, where)
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: not UTF-8") from error
    if not text:
        raise UsageError(f"{where}: holds no text")
    return text


def _texts_by_file(content: bytes, where: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, value in _lines(content):
        try:
            record = _object(value)
            if record.get("status") == "error":
                continue
            name, text = _name(record), _string(record, "text").strip()
            if texts.setdefault(name, text) != text:
                raise _Unfit(f"another text for {name}")
        except _Unfit as error:
            raise UsageError(f"{where}, line {number}: {error}") from error
    return texts


def _exchanges(numbered: Iterable[tuple[int, object]], where: str) -> Iterator[Exchange]:
    for number, value in numbered:
        try:
            record = _object(value)
            if record.get("schema") != SCHEMA_VERSION:
                raise _Unfit(f"not a record of schema {SCHEMA_VERSION}")
            if record.get("status") != "error":
                question = neutralise(_string(record, "question"))
                yield Exchange(question, _string(record, "text"), _names(record))
        except _Unfit as error:
            raise UsageError(f"{where} {number}: {error}") from error


def _lines(content: bytes) -> Iterator[tuple[int, object]]:
    """The numbers and the values of JSON lines, None for one that is not JSON; no blank ones."""
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield number, orjson.loads(line)
        except orjson.JSONDecodeError:
            yield number, None


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _Unfit("not a record")
    return value


def _string(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise _Unfit(f"has no {key}")
    return value


def _names(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The files that a turn adds. Standard input cannot be heard again."""
    names = (_name(record),)
    if "files" in record:
        encoded = record.get("files_b64")
        listed = record["files"] if encoded is None else encoded
        if not (isinstance(listed, list) and all(n and isinstance(n, str) for n in listed)):
            raise _Unfit("has no list of files")
        names = tuple(listed if encoded is None else map(_decode, listed))
    if STANDARD_INPUT in names:
        raise _Unfit("is about standard input, which cannot be heard again")
    return names


def _name(record: Mapping[str, Any]) -> str:
    encoded = record.get("file_b64")
    name = _string(record, "file") if encoded is None else _decode(encoded)
    if not name:
        raise _Unfit("has no file")
    return name


def _decode(name: object) -> str:
    try:
        return os.fsdecode(base64.b64decode(str(name), validate=True))
    except binascii.Error as error:
        raise _Unfit("has a name that is not in base64") from error
