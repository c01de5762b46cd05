"""Quality values of an answer, as openai/whisper defines them, and the flags its end gives it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from types import MappingProxyType

from ..engine.request import FinishReason

FINISH_FLAGS: Mapping[FinishReason, frozenset[str]] = MappingProxyType(
    {
        "stop": frozenset(),
        "length": frozenset({"truncated"}),
        "repeat": frozenset({"repetition"}),
    }
)
"""Why an answer ended -> the flags of the record schema that follow from it."""


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of its zlib compression; high where it repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))
