"""Finding a task: by name, by subcommand, or the subcommand's default."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from .errors import UsageError
from .task import COMMANDS, FAMILIES, TAKES_CONTEXT, Parser, Task, able_families, marked
from .task_table import TABLE

__all__ = [
    "COMMANDS",
    "DEFAULTS",
    "FAMILIES",
    "TAKES_CONTEXT",
    "TASKS",
    "Parser",
    "Task",
    "able_families",
    "find",
    "marked",
]

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in TABLE})
"""Every task by its name, in the order of the subcommands."""

DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "transcribe": "asr",
        "translate": "translation",
        "caption": "audio-caption",
        "classify": "sound-event",
        "timestamp": "word-times",
        "ask": "audio-qa",
    }
)
"""The task of a subcommand where the user names none."""


def find(command: str, name: str | None = None) -> Task:
    """Return a task of a subcommand by name, or the subcommand's default task.

    Raises UsageError with the nearest names for one that is not there, and with the right
    subcommand for a task of another one.
    """
    if command not in COMMANDS:
        raise UsageError(f"unknown command '{command}': {_nearest(command, COMMANDS)}")
    if name is None:
        return TASKS[DEFAULTS[command]]
    task = TASKS.get(name.strip().lower())
    if task is None:
        raise UsageError(f"unknown task '{name}': {_nearest(name, TASKS)}")
    if task.command != command:
        raise UsageError(f"'{task.name}' is a task of 'qwa {task.command}'")
    return task


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name.strip().lower(), names, n=3, cutoff=0.5)
    return "did you mean " + " or ".join(near) + "?" if near else "known are " + ", ".join(names)
