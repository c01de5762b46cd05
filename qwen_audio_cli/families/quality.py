"""Quality values of an answer, as openai/whisper defines them."""

from __future__ import annotations

import zlib


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of its zlib compression; high where it repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))
