"""Ctrl-C and SIGTERM while a model is trained: a step that has begun is finished first."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from ..exits import Exit


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM, which waits until a step is done; the second one does not."""
    seen: list[int] = []
    before = {}

    def take(number: int, frame: FrameType | None) -> None:
        if seen:
            end(number)
        seen.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, take)
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end(number: int) -> NoReturn:
    """End as the signal would have."""
    if number == signal.SIGTERM:
        sys.exit(Exit.TERMINATED)
    raise KeyboardInterrupt
