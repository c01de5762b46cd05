"""Reads the files in Qt's binary resources (.rcc), in which gcompris keeps its sounds."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from ...errors import ConfigError

_MAGIC = b"qres"
_COMPRESSED, _DIRECTORY, _ZSTD = 1, 2, 4


def read_resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """The name and the content of each file, directories before what follows them.

    Raises ConfigError for what is no resource file, or is compressed by anything but zlib.
    """
    data = path.read_bytes()
    try:
        magic, version, tree, contents, names = struct.unpack_from(">4s4I", data)
        if magic != _MAGIC:
            raise ConfigError(f"{path}: not a Qt resource file")
        node_size = 14 if version < 2 else 22  # with the time of the last change
        yield from _walk(_Resources(data, tree, contents, names, node_size), 0, "")
    except (struct.error, IndexError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: a damaged Qt resource file: {error}") from error


class _Resources:
    """The three tables of a file: nodes, contents and names."""

    def __init__(self, data: bytes, tree: int, contents: int, names: int, node_size: int) -> None:
        self._data, self._contents, self._names = data, contents, names
        self._tree, self._node_size = tree, node_size

    def node(self, number: int) -> tuple[int, int, int, int]:
        """Offset of its name, flags; children and the first of them, or locale and content."""
        at = self._tree + number * self._node_size
        name, flags, second, third = struct.unpack_from(">IHII", self._data, at)
        return name, flags, second, third

    def name(self, offset: int) -> str:
        """A name: its length, a hash, and UTF-16."""
        at = self._names + offset
        (length,) = struct.unpack_from(">H", self._data, at)
        return self._data[at + 6 : at + 6 + 2 * length].decode("utf-16-be")

    def content(self, offset: int, flags: int) -> bytes:
        """A content: its size and its bytes; those of zlib follow the size that they have then."""
        at = self._contents + offset
        (size,) = struct.unpack_from(">I", self._data, at)
        stored = self._data[at + 4 : at + 4 + size]
        if flags & _ZSTD:
            raise ConfigError("a Qt resource compressed by Zstandard")
        return zlib.decompress(stored[4:]) if flags & _COMPRESSED else stored


def _walk(resources: _Resources, number: int, parent: str) -> Iterator[tuple[str, bytes]]:
    name_at, flags, second, third = resources.node(number)
    path = f"{parent}/{resources.name(name_at)}".lstrip("/") if number else ""
    if flags & _DIRECTORY:
        for child in range(third, third + second):
            yield from _walk(resources, child, path)
    else:
        yield path, resources.content(third, flags)
