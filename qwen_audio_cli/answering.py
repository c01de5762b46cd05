"""What a verified run is, whatever it runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from .audio.sources import Source
from .records import ErrorRecord, Record

WINDOW = 256
"""Sources that may be taken without their records being written: a record that has to wait for an
earlier source's waits in memory."""


IsDone = Callable[[str, str], bool]
"""Whether there is a record already: by its id, and the name of the source that it is about."""


class Answering(Protocol):
    """A verified run: loads its model if need be and answers for sources.

    `is_done` is asked in the thread that took the source. Raises ConfigError where the weights do
    not fit.
    """

    def __call__(
        self, sources: Iterator[Source], is_done: IsDone = ..., /
    ) -> Iterator[Record | ErrorRecord]:
        """Give a record for each source and task that is not done yet."""
