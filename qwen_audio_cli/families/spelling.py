"""A transcript as it is spelled for CTC: how it sounds, not how it is written."""

from __future__ import annotations

import re
import unicodedata

_APART = re.compile(r"[^\w']|_|\d|(?<!\w)'|'(?!\w)")


def spelling(text: str) -> str:
    """Lower-case words of letters and apostrophes, each behind a space; figures are left out.

    >>> spelling("Don't stop, she said.")
    " don't stop she said"
    """
    words = _APART.sub(" ", unicodedata.normalize("NFC", text).lower()).split()
    return "".join(f" {word}" for word in words)
