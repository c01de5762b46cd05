"""Exit codes of `qwa`: the one table that the code, the help and the man page share."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, after sysexits.h where it has a meaning for the case."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    NO_INPUT = 3
    ALL_FAILED = 4
    FLAGGED = 5
    UNAVAILABLE = 69
    INTERNAL = 70
    CANNOT_CREATE = 73
    IO_ERROR = 74
    TRY_LATER = 75
    CONFIG = 78
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


MEANINGS: dict[Exit, str] = {
    Exit.OK: "all inputs done, also when nothing was left to do",
    Exit.SOME_FAILED: "some inputs failed; each has an error record",
    Exit.USAGE: "wrong usage",
    Exit.NO_INPUT: "no input matched",
    Exit.ALL_FAILED: "all inputs failed",
    Exit.FLAGGED: "a record carries a flag named by --fail-on-flag",
    Exit.UNAVAILABLE: "the model or the device is unavailable",
    Exit.INTERNAL: "internal error: a bug, please report it",
    Exit.CANNOT_CREATE: "the output cannot be created",
    Exit.IO_ERROR: "the output cannot be written, as on a full disk",
    Exit.TRY_LATER: "another run holds the output: try later",
    Exit.CONFIG: "the model's files or the configuration are wrong",
    Exit.INTERRUPTED: "interrupted (SIGINT); finished records are kept",
    Exit.BROKEN_PIPE: "the reader of standard output went away (SIGPIPE)",
    Exit.TERMINATED: "terminated (SIGTERM); finished records are kept",
}
