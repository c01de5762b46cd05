"""What one request is about: a source, a pair of them, all of a conversation, one with its text.

The one place between the sources as they are named and a run, whatever the run is on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from .audio.sources import Source
from .errors import InputError, UsageError
from .readback import Exchange
from .tasks import Task

MOST_TOGETHER = 256
"""Clips of one conversation: more than a model holds, and few enough to keep all of them."""


def group(
    sources: Iterator[Source],
    task: Task,
    *,
    text: str | Mapping[str, str] | None = None,
    history: Sequence[Exchange] = (),
) -> Iterator[Source]:
    """Sources as the requests of a task take them: lazily, those of one request together.

    `text` is what is spoken in the one source, or by the names of the sources. The clips of
    `history` come before all others. Raises UsageError, when iterated, for one text with several
    sources and for a conversation about more than `MOST_TOGETHER` clips.
    """
    if task.aligns and text is not None:
        return _with_text(sources, text)
    if task.clips == 1:
        return sources
    if task.clips is None:
        return _conversation(sources, history)
    return _by_number(sources, task.clips)


def verify(source: Source, task: Task) -> None:
    """Raise InputError for a source that lacks what a request is to be about."""
    if task.clips is not None and len(source.members) < task.clips:
        reason = f"has no second clip: '{task.name}' takes {task.clips} at a time"
        raise InputError("incomplete", source.name, reason)
    if task.aligns and not source.text:
        raise InputError("incomplete", source.name, "there is no text for it")


def _with_text(sources: Iterator[Source], text: str | Mapping[str, str]) -> Iterator[Source]:
    if isinstance(text, str):
        first = next(sources, None)
        if next(sources, None) is not None:
            raise UsageError(
                "the text is that of one source; for several give records: JSON lines with "
                "'file' and 'text'"
            )
        if first is not None:
            yield replace(first, text=text)
        return
    for source in sources:
        yield replace(source, text=text.get(source.name))


def _conversation(sources: Iterator[Source], history: Sequence[Exchange]) -> Iterator[Source]:
    heard = (Source(name, Path(name)) for exchange in history for name in exchange.files)
    members = tuple(islice(chain(heard, sources), MOST_TOGETHER + 1))
    if len(members) > MOST_TOGETHER:
        raise UsageError(f"a conversation is about {MOST_TOGETHER} clips at most")
    if members:
        yield _together(members)


def _by_number(sources: Iterator[Source], clips: int) -> Iterator[Source]:
    while members := tuple(islice(sources, clips)):
        yield _together(members)


def _together(members: tuple[Source, ...]) -> Source:
    return replace(members[0], others=members[1:])
