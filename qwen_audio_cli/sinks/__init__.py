"""Where records go: one module per format."""

from __future__ import annotations

from typing import Protocol

from ..records import ErrorRecord, Record


class Sink(Protocol):
    """Takes records one by one, in the order they are to be written."""

    def write(self, record: Record | ErrorRecord) -> None:
        """Write a record. Raises OutputWriteError where it cannot be written."""

    def close(self) -> None:
        """Finish the output; nothing can be written after."""
