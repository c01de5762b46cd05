"""Errors a user can meet. Each names what is wrong and carries its exit code.

QwaError
├── UsageError          wrong options or an impossible request        exit 2
├── NoInputError        nothing to work on                            exit 3
├── InputError          one bad source; becomes an error record       exit 1 or 4
├── ModelError          model or device unavailable                   exit 69
├── ConfigError         a model's files or the configuration is wrong exit 78
├── OutputError         the output cannot be created or written       exit 73 or 74
└── BusyError           another run holds the output                  exit 75
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from .exits import Exit

InputCode = Literal[
    "missing",  # no such file
    "permission",  # not readable
    "directory",  # a directory where a file is needed
    "empty",  # no bytes, or no samples
    "unsupported",  # not audio, or a format nothing here reads
    "decode",  # audio that breaks off or is damaged
    "samples",  # NaN or infinite samples
    "timeout",  # the decoder did not answer in time
    "length",  # longer than what the model hears or holds at once
    "incomplete",  # without what its task needs of it: a second clip, a text
    "beyond",  # what the model cannot do, as it turned out when it heard it
    "memory",  # the device ran out of memory on this input alone
    "internal",  # an unexpected error while working on this input
]
INPUT_CODES: tuple[str, ...] = get_args(InputCode)


class QwaError(Exception):
    """Base of all errors that are shown to the user without a traceback."""

    exit: ClassVar[Exit] = Exit.INTERNAL


class UsageError(QwaError):
    """Options that contradict each other, or a task the model cannot do."""

    exit = Exit.USAGE


class NoInputError(QwaError):
    """No source matched."""

    exit = Exit.NO_INPUT


class InputError(QwaError):
    """One source that cannot be worked on; its neighbours are not affected.

    `name` is the source as the user wrote it, `reason` a clause that follows it.
    """

    exit = Exit.SOME_FAILED

    def __init__(self, code: InputCode, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.code: InputCode = code
        self.name = name
        self.reason = reason


class ModelError(QwaError):
    """The model or the device is not available."""

    exit = Exit.UNAVAILABLE


class ConfigError(QwaError):
    """A checkpoint or a configuration that does not fit together."""

    exit = Exit.CONFIG


class OutputError(QwaError):
    """The output cannot be created (73)."""

    exit = Exit.CANNOT_CREATE


class OutputWriteError(OutputError):
    """The output cannot be written any more (74), as on a full disk."""

    exit = Exit.IO_ERROR


class BusyError(QwaError):
    """Another run holds the output's lock."""

    exit = Exit.TRY_LATER
