"""Manifests: what a model learns from, a recording and what is to be written of it a line.

A line says nothing that the command line cannot: its keys are the options of a task, so that what
was learned is asked for in the same words.
"""

from __future__ import annotations

import difflib
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import orjson

from ..errors import OutputError, UsageError
from ..options import Options
from ..queries import Query
from ..tasks import TASKS

if TYPE_CHECKING:
    from ..families.base import Job

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

TimedText = tuple[str, float, float]
"""A word with its begin and end in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One line: a recording, the task, and the `target` that the model is to write.

    `language`, `to`, `question`, `tags` and `timestamps` are the options of the task, by the same
    names as on the command line. `speaker`, `source` and `licence` tell where the recording is
    from, `words` when each word is spoken, `seconds` how long it is.
    """

    audio: Path
    target: str
    task: str
    language: str | None = None
    to: str | None = None
    question: str | None = None
    tags: str | None = None
    timestamps: bool = False
    split: Split = "train"
    speaker: str | None = None
    source: str | None = None
    licence: str | None = None
    words: tuple[TimedText, ...] | None = None
    seconds: float | None = None

    @property
    def query(self) -> Query:
        """What would be asked of the recording. Raises UsageError for an unknown task."""
        task = TASKS.get(self.task)
        if task is None:
            near = difflib.get_close_matches(self.task, TASKS, n=3, cutoff=0.5) or list(TASKS)
            raise UsageError(f"unknown task '{self.task}': did you mean {' or '.join(near)}?")
        options = Options(
            task=task.name,
            language=self.language,
            to=self.to,
            question=self.question,
            tags=self.tags,
            timestamps=self.timestamps,
            free=task.scored and self.target not in task.labels,
        )
        return Query(task.command, options)

    def job(self) -> Job:
        """The same as families take it. Raises UsageError for options that the task has not."""
        from ..families.base import Job

        query = self.query
        return Job(query.task, query.tags, labels=query.options.chosen_labels(query.task))


KEYS = tuple(field.name for field in fields(Item))
NEEDED = ("audio", "target", "task")


def read(path: Path) -> Iterator[Item]:
    """The items of a manifest, each verified; audio is beside it, or has an absolute path.

    Raises UsageError naming file and line.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield _item(line, path.parent)
                    except UsageError as error:
                        raise UsageError(f"{path}:{number}: {error}") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: cannot be read: {reason}") from error


def write(items: Iterable[Item], path: Path) -> None:
    """Write a manifest: all of it or, where writing fails, none. Raises OutputError."""
    directory = path.absolute().parent
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=directory)
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(_line(item, directory) for item in items)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _line(item: Item, directory: Path) -> bytes:
    values = {key: value for key in KEYS if (value := getattr(item, key)) is not None}
    values["audio"] = Path(os.path.relpath(item.audio.absolute(), directory)).as_posix()
    if not item.timestamps:
        del values["timestamps"]
    try:
        return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:  # a name that is no text
        raise OutputError(f"{item.audio!r}: cannot stand in a manifest: {error}") from error


def _item(line: bytes, directory: Path) -> Item:
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"no JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError("a JSON object is expected")
    values = {key: value for key, value in values.items() if value is not None}
    if missing := [key for key in NEEDED if key not in values]:
        raise UsageError(f"no '{missing[0]}'")
    for key, value in values.items():
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            meant = f": did you mean '{near[0]}'?" if near else f"; there are {', '.join(KEYS)}"
            raise UsageError(f"unknown key '{key}'{meant}")
        kind, fits = _RULES.get(key, _TEXT)
        if not fits(value):
            raise UsageError(f"'{key}' is {kind}")
    return _verified(values, directory)


def _verified(values: Mapping[str, Any], directory: Path) -> Item:
    """The item of values that are of the right types."""
    audio = directory / values["audio"]
    words = values.get("words")
    item = Item(
        **{
            **values,
            "audio": audio,
            "words": None if words is None else tuple(map(tuple, words)),
        }
    )
    if not item.target.strip():
        raise UsageError("the target is empty")
    query = item.query
    if query.task.clips != 1:
        raise UsageError(f"'{item.task}' hears several clips at once, an item has one")
    _ = query.tags  # that its options go together
    if not audio.is_file():
        raise UsageError(f"{audio}: no such file")
    return item


# --- what values may be -------------------------------------------------------------------------


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


def _is_word(value: Any) -> bool:
    if not (isinstance(value, list) and len(value) == 3 and isinstance(value[0], str)):
        return False
    return all(map(_is_time, value[1:])) and bool(value[1] <= value[2])


Rule = tuple[str, Callable[[object], bool]]

_TEXT: Rule = ("a text", lambda value: isinstance(value, str))
_RULES: Mapping[str, Rule] = {
    "timestamps": ("true or false", lambda value: isinstance(value, bool)),
    "split": (" or ".join(SPLITS), lambda value: value in SPLITS),
    "seconds": ("a number of seconds", _is_time),
    "words": (
        "a list of [word, begin, end]",
        lambda value: isinstance(value, list) and all(map(_is_word, value)),
    ),
}
