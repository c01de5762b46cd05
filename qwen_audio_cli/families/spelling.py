"""A transcript as it is spelled for CTC: how it sounds, not how it is written.

What is spelled with are symbols: letters, of which the first of a word are symbols of their own, so
that no space has to be said.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import groupby

LETTERS = "'abcdefghijklmnopqrstuvwxyzàáâãäçèéêëìíîïñòóôõöùúûüýœæ"
SYMBOLS = 2 * len(LETTERS)
"""Letter n is symbol n within a word, and n + len(LETTERS) at its beginning."""

_PLACES = {letter: place for place, letter in enumerate(LETTERS)}
_APART = re.compile(r"[^\w']|_|\d|(?<!\w)'|'(?!\w)")


def spelling(text: str) -> str:
    """Lower-case words of letters and apostrophes, each behind a space; figures are left out.

    >>> spelling("Don't stop, she said.")
    " don't stop she said"
    """
    words = _APART.sub(" ", unicodedata.normalize("NFC", text).lower()).split()
    return "".join(f" {word}" for word in words)


def symbols(text: str) -> list[int]:
    """The symbols that spell a text; what is none of LETTERS is left out."""
    return [
        _PLACES[letter] + (0 if place else len(LETTERS))
        for word in spelling(text).split()
        for place, letter in enumerate(letter for letter in word if letter in _PLACES)
    ]


def read(path: Iterable[int | None]) -> str:
    """The text that a CTC path says: None is the blank, and a symbol said on is said once.

    >>> read([None, *symbols("he"), None, *symbols("is")])
    " he is"
    """
    said = [symbol for symbol, _ in groupby(path) if symbol is not None]
    return "".join(
        LETTERS[symbol] if symbol < len(LETTERS) else f" {LETTERS[symbol - len(LETTERS)]}"
        for symbol in said
    )
