"""From the words of a command line to sources: which files are meant, in which order, each once.

A source is opened here as well, so that every stage refuses what is not a readable file alike.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import FileIO
from itertools import islice
from pathlib import Path

from ..errors import InputCode, InputError, UsageError

AUDIO_NAME = re.compile(
    r".+\.(?:3gp|aac|ac3|aifc?|aiff|amr|ape|au|avi|caf|flac|flv|m4[abv]|mk[av]|mov|mp[234]|mpe?g"
    r"|mpga|og[agv]|opus|rf64|snd|sph|tta|voc|w64|wave?|web[am]|wm[av]|wv)",
    re.IGNORECASE,
)
"""What counts as audio within a directory. A file that is named itself may be called anything."""

STANDARD_INPUT = "-"
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or standard input (`path` is None). `name` is what the user is shown.

    `others` are heard together with it, behind it, in one request. `text` is what is spoken in it,
    where a task needs to know.
    """

    name: str
    path: Path | None
    others: tuple[Source, ...] = ()
    text: str | None = None

    @property
    def members(self) -> tuple[Source, ...]:
        """All that is heard in one request, itself first."""
        return (self, *self.others)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its members."""
        return tuple(member.name for member in self.members)

    @property
    def title(self) -> str:
        """What messages about all its members call it."""
        return f"{self.name} and {len(self.others)} more" if self.others else self.name

    @property
    def substitute(self) -> str:
        """What stands for its content where nobody can read that."""
        return "\n".join(self.names)


def expand_sources(
    words: Sequence[str | os.PathLike[str]],
    *,
    files_from: str | os.PathLike[str] | None = None,
    null: bool = False,
    recursive: bool = False,
    each_once: bool = True,
) -> Iterator[Source]:
    """Expand words into sources, lazily and in a fixed order.

    A word is a file, a directory (the audio files in it, and below it if `recursive`), a glob (`*`,
    `?`, `[…]`, `**`) unless a file of that very name exists, or `-` for audio on standard input.
    `files_from` names a list of files, `-` for standard input: one a line, or separated by NUL if
    `null`; nothing in a list is a glob. What does not exist is a source too, so that it is reported
    when it is opened.

    The same file is given once, unless `each_once` is False: then it is given as often as it is
    named. Two names of one inode are the same file. Raises `UsageError` for an empty word, for
    standard input claimed twice and, when iterated, for a list that cannot be read.
    """
    names = [os.fspath(word) for word in words]
    if "" in names:
        raise UsageError("an empty name is no source")
    listing = None if files_from is None else os.fspath(files_from)
    if listing == STANDARD_INPUT and STANDARD_INPUT in names:
        raise UsageError("standard input cannot be both audio (-) and a list (--files-from -)")
    sources = _expand(names, listing, null, recursive)
    if each_once:
        return _once(sources)
    if names.count(STANDARD_INPUT) > 1:
        raise UsageError("standard input (-) is one recording: it can be named once")
    return sources


def _expand(
    words: Sequence[str], listing: str | None, null: bool, recursive: bool
) -> Iterator[Source]:
    for word in words:
        if word == STANDARD_INPUT:
            yield Source(word, None)
        elif _is_glob(word) and not os.path.lexists(word):
            for match in _glob(word, recursive):
                yield Source(match, Path(match))
        else:
            yield from _expand_path(word, recursive)
    if listing is not None:
        for entry in _read_list(listing, b"\0" if null else b"\n"):
            yield from _expand_path(entry, recursive)


def _expand_path(path: str, recursive: bool) -> Iterator[Source]:
    files = _search(path, recursive) if os.path.isdir(path) else (path,)  # noqa: PTH112 - says no where Path raises
    for file in files:
        yield Source(file, Path(file))


def _once(sources: Iterator[Source]) -> Iterator[Source]:
    seen: set[int | str | None] = set()  # an int a file: about 70 MB for a million
    for source in sources:
        identity = _identity(source)
        if identity not in seen:
            seen.add(identity)
            yield source


def _identity(source: Source) -> int | str | None:
    if source.path is None:
        return None
    try:
        status = source.path.stat()
    except (OSError, ValueError):  # opening it will tell why
        return source.name
    return status.st_dev << 64 | status.st_ino


# --- directories and globs --------------------------------------------------------------------


def _search(top: str, recursive: bool) -> Iterator[str]:
    """Audio files in `top`; also directories that cannot be read, so that they are reported."""
    for directory, files in islice(_traverse(top), None if recursive else 1):
        if files is None:
            yield directory
            continue
        for name in files:
            if AUDIO_NAME.fullmatch(name):
                yield _join(directory, name)


def _traverse(top: str) -> Iterator[tuple[str, list[str] | None]]:
    """Directories from `top` down and their files, None for a directory that cannot be read.

    A directory comes before its subdirectories, and these in order of their names. Symbolic links
    are followed, but no directory is entered twice.
    """
    entered: set[tuple[int, int]] = set()
    pending = [top]
    while pending:
        directory = pending.pop()
        try:
            status = Path(directory).stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            files, directories = _list(directory)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            yield directory, None
            continue
        yield directory, files
        pending.extend(_join(directory, name) for name in reversed(directories))


def _list(directory: str, pattern: str = "*") -> tuple[list[str], list[str]]:
    """The sorted names of files and of directories that match; hidden ones only if asked for."""
    files: list[str] = []
    directories: list[str] = []
    with os.scandir(directory or ".") as entries:
        for entry in entries:
            hidden = entry.name.startswith(".") and not pattern.startswith(".")
            if hidden or not fnmatchcase(entry.name, pattern):
                continue
            try:
                is_directory = entry.is_dir()
            except OSError:  # such as a link to itself: opening it will tell
                is_directory = False
            (directories if is_directory else files).append(entry.name)
    return sorted(files), sorted(directories)


def _is_glob(word: str) -> bool:
    return re.search(r"[*?\[]", word) is not None


def _glob(pattern: str, recursive: bool) -> Iterator[str]:
    """Files that match, and those below directories that match if `recursive`."""
    parts = [part for part in pattern.split("/") if part]
    return _match("/" if pattern.startswith("/") else "", parts, recursive)


def _match(base: str, parts: list[str], recursive: bool) -> Iterator[str]:
    part, *rest = parts
    if part == "**":
        for directory, files in _traverse(base):
            if files is None:
                yield directory
            else:
                yield from _match(directory, rest or ["*"], recursive)
        return
    if not _is_glob(part):
        paths = [_join(base, part)] if os.path.lexists(_join(base, part)) else []
    else:
        try:
            files, directories = _list(base, part)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:
            yield base
            return
        paths = [_join(base, name) for name in (*files, *directories)]
    for path in paths:
        if rest:
            yield from _match(path, rest, recursive)
        elif not os.path.isdir(path):  # noqa: PTH112 - says no where Path raises
            yield path
        elif recursive:
            yield from _search(path, recursive)


def _join(directory: str, name: str) -> str:
    return os.path.join(directory, name)  # noqa: PTH118 - Path would rewrite what the user wrote


# --- lists --------------------------------------------------------------------------------------


def _read_list(listing: str, separator: bytes) -> Iterator[str]:
    """The entries of a list, as soon as they arrive; empty ones are skipped."""
    try:
        with _open_list(listing) as file:
            rest = b""
            while block := file.read(_READ_BYTES):
                *entries, rest = (rest + block).split(separator)
                yield from _decode_entries(entries, separator)
            yield from _decode_entries([rest], separator)
    except OSError as error:
        raise UsageError(f"{listing}: the list cannot be read: {error.strerror}") from error


def _open_list(listing: str) -> FileIO:
    # Unbuffered, so that a read returns what a pipe holds now and does not wait for a full block.
    if listing == STANDARD_INPUT:
        return FileIO(os.dup(sys.stdin.fileno()))
    return FileIO(listing)


def _decode_entries(entries: list[bytes], separator: bytes) -> Iterator[str]:
    for entry in entries:
        if separator == b"\n":
            entry = entry.removesuffix(b"\r")
        if entry:
            yield os.fsdecode(entry)


# --- opening ------------------------------------------------------------------------------------

_CODES: dict[int | None, InputCode] = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ELOOP: "missing",
    errno.ENAMETOOLONG: "missing",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.ENXIO: "unsupported",  # a socket
}


def open_source(source: Source) -> FileIO:
    """Open a source for reading from its beginning, as a regular file that can seek.

    Never waits for the other end of a FIFO. Standard input is copied to an anonymous temporary file
    when first opened, so that it can be read more than once.

    Raises `InputError`: missing, permission, directory, unsupported (FIFO, device), empty.
    """
    if source.path is None:
        return _reopen(_spooled_input(source.name), source.name)
    try:
        descriptor = os.open(source.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        code = _CODES.get(error.errno, "internal")
        raise InputError(code, source.name, (error.strerror or str(error)).lower()) from error
    except ValueError as error:  # a NUL within the name
        raise InputError("missing", source.name, str(error)) from error
    try:
        _refuse_special(os.fstat(descriptor), source.name)
    except InputError:
        os.close(descriptor)
        raise
    return FileIO(descriptor)


def _refuse_special(status: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise InputError("directory", name, "is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise InputError("unsupported", name, "is not a regular file (pipe it in, and name it -)")
    if status.st_size == 0:
        raise InputError("empty", name, "is empty (0 bytes)")


@functools.cache
def _spooled_input(name: str) -> FileIO:
    if sys.stdin is None or sys.stdin.closed:
        raise InputError("missing", name, "standard input is closed")
    if sys.stdin.isatty():
        raise InputError("unsupported", name, "standard input is a terminal")
    spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the process
    try:
        shutil.copyfileobj(sys.stdin.buffer, spool)
    except OSError as error:
        raise InputError("internal", name, f"cannot be spooled: {error.strerror}") from error
    return spool


def _reopen(spool: FileIO, name: str) -> FileIO:
    _refuse_special(os.fstat(spool.fileno()), name)
    file = FileIO(os.dup(spool.fileno()))
    file.seek(0)
    return file


def fingerprint(source: Source) -> str:
    """BLAKE2b of the content, 32 hexadecimal digits. Raises `InputError` as `open_source` does.

    That of a source with others or a text depends on all of them, and on their order.
    """
    contents = [_fingerprint(member) for member in source.members]
    if not source.others and source.text is None:
        return contents[0]
    everything = json.dumps([contents, source.text]).encode()
    return hashlib.blake2b(everything, digest_size=16).hexdigest()


def _fingerprint(source: Source) -> str:
    """The fingerprint of a source alone."""
    with open_source(source) as file:
        try:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
            raise InputError("decode", source.name, reason) from error
    return digest.hexdigest()
