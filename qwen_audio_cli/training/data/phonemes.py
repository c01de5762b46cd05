"""From words to the symbols Kokoro reads: the espeak-ng program's IPA in Kokoro's own alphabet.

The alphabet and which sounds have a letter of their own are those of Kokoro-82M v1.0
(hexgrad/Kokoro-82M, config.json) and of misaki, the transcriber it was trained with.
"""

# ruff: noqa: RUF001 - phonetic letters look like others

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from ...errors import ModelError, UsageError

Accent = Literal["en-us", "en-gb", "es", "fr-fr", "it", "pt-br"]
"""A way to speak, by the name of espeak-ng's voice."""

ACCENTS: Mapping[str, tuple[Accent, ...]] = MappingProxyType(
    {"en": ("en-us", "en-gb"), "es": ("es",), "fr": ("fr-fr",), "it": ("it",), "pt": ("pt-br",)}
)
"""The accents of a language."""

_RUNS = {
    1: ";:,.!?",
    9: '—…"()“” \N{COMBINING TILDE}ʣʥʦʨᵝꭧAI',
    31: "O",
    33: "Q",
    35: "ST",
    39: "W",
    41: "Yᵊabcdef",
    50: "hijklmnopqrstuvwxyzɑɐɒæ",
    75: "βɔɕç",
    80: "ɖðʤə",
    85: "ɚɛɜ",
    90: "ɟ",
    92: "ɡ",
    99: "ɥ",
    101: "ɨɪʝ",
    110: "ɯɰŋɳɲɴø",
    118: "ɸθœ",
    123: "ɹ",
    125: "ɾɻ",
    128: "ʁɽʂʃʈʧ",
    135: "ʊʋ",
    138: "ʌɣɤ",
    142: "χʎ",
    147: "ʒʔ",
    156: "ˈˌː",
    162: "ʰ",
    164: "ʲ",
    169: "↓",
    171: "→↗↘",
    177: "ᵻ",
}
SYMBOLS: Mapping[str, int] = MappingProxyType(
    {symbol: start + place for start, run in _RUNS.items() for place, symbol in enumerate(run)}
)
"""Symbol -> number of Kokoro-82M v1.0, which has no symbol of two characters."""

# espeak-ng ties the two letters of one sound by a caret, as we ask it to.
_TIED = {
    "a^ɪ": "I",
    "a^ʊ": "W",
    "e^ɪ": "A",
    "ɔ^ɪ": "Y",
    "o^ʊ": "O",
    "ə^ʊ": "Q",
    "d^ʒ": "ʤ",
    "t^ʃ": "ʧ",
    "^": "",
    "-": "",
    "\N{ZERO WIDTH JOINER}": "",
    "\N{COMBINING DOUBLE INVERTED BREVE}": "",
    "g": "ɡ",
}
_ENGLISH = {
    "ə^l": "ᵊl",
    "ʔˌn\N{COMBINING VERTICAL LINE BELOW}": "tᵊn",
    "n\N{COMBINING VERTICAL LINE BELOW}": "ᵊn",
    "m\N{COMBINING VERTICAL LINE BELOW}": "ᵊm",
    "l\N{COMBINING VERTICAL LINE BELOW}": "ᵊl",
    "\N{COMBINING TILDE}": "",
    "ʲ": "",
    "ɚ": "əɹ",
    "ɐ": "ə",
    "e": "A",
    "o": "ɔ",
    "r": "ɹ",
    "x": "k",
    "ç": "k",
    "ɬ": "l",
    "ʔ": "t",
}
_AMERICAN = {
    "ɜː^ɹ": "ɜɹ",
    "ɜːɹ": "ɜɹ",
    "ɜː": "ɜɹ",
    "ɪ^ə": "iə",
    "ɪə": "iə",
    "ɾ": "T",
    "ː": "",
}
_BRITISH = {"e^ə": "ɛː", "i^ə": "ɪə", "iə": "ɪə"}
_ROMANCE = {"d^z": "ʣ", "t^s": "ʦ"}

_REWRITES: Mapping[Accent, Mapping[str, str]] = MappingProxyType(
    {
        "en-us": {**_TIED, **_ENGLISH, **_AMERICAN},
        "en-gb": {**_TIED, **_ENGLISH, **_BRITISH},
        **{accent: {**_TIED, **_ROMANCE} for accent in ("es", "fr-fr", "it", "pt-br")},
    }
)
_PATTERNS = {
    accent: re.compile("|".join(sorted(map(re.escape, rewrites), key=len, reverse=True)))
    for accent, rewrites in _REWRITES.items()
}
_SWITCH = re.compile(r"\([a-z-]+\)")  # espeak-ng's note that it goes over to another language
_PAUSES = ",.;:?!—…"
_MARKS = _PAUSES + '¿¡"“”()'


@dataclass(frozen=True, slots=True)
class Pronunciation:
    """Symbols to speak, and for each word the stretch `[start, stop)` of its own."""

    symbols: str
    spans: tuple[tuple[int, int], ...]


def pronounce(words: Sequence[str], accent: Accent) -> Pronunciation:
    """How words are said, none of them figures.

    Punctuation at a word's end makes a pause, and stands between the words' stretches. Raises
    UsageError for a word without letters and for a sound that Kokoro has no symbol for, ModelError
    where espeak-ng is missing.
    """
    symbols = ""
    spans: list[tuple[int, int]] = []
    phrase: list[str] = []
    for place, word in enumerate(words, 1):
        core = word.strip(_MARKS)
        if not core:
            raise UsageError(f"nothing to say for '{word}'")
        phrase.append(core)
        pause = word[-1] if word[-1] in _PAUSES else ""
        if pause or place == len(words):
            spoken, stretches = _phrase(tuple(phrase), accent)
            spans += [(len(symbols) + start, len(symbols) + stop) for start, stop in stretches]
            symbols += f"{spoken}{pause} "
            phrase = []
    return Pronunciation(symbols.rstrip(), tuple(spans))


def _phrase(words: tuple[str, ...], accent: Accent) -> tuple[str, list[tuple[int, int]]]:
    """A phrase's symbols and each word's stretch of them."""
    spoken = kokoro_symbols(_espeak(" ".join(words), accent), accent)
    chunks = list(re.finditer(r"\S+", spoken))
    if len(chunks) == len(words):
        return spoken, [chunk.span() for chunk in chunks]
    # espeak-ng runs some words together (`of the`): each word's own sounds tell where it ends.
    alone = [kokoro_symbols(_alone(word, accent), accent).replace(" ", "") for word in words]
    return spoken, _divided(spoken, alone)


def _divided(spoken: str, alone: Sequence[str]) -> list[tuple[int, int]]:
    """Stretches of `spoken` for the words that sound like `alone`, at the least edit distance."""
    expected = " ".join(alone)
    places = _aligned(expected, spoken)
    ends = list(itertools.accumulate(len(word) + 1 for word in alone))
    cuts = [0, *(places[end - 1] for end in ends[:-1]), len(spoken)]
    spans = []
    for start, stop in itertools.pairwise(cuts):
        taken = spoken[start:stop]
        begin = start + len(taken) - len(taken.lstrip())
        spans.append((begin, max(begin, start + len(taken.rstrip()))))
    return spans


def _aligned(source: str, target: str) -> list[int]:
    """For each place in `source`, the place in `target` where the cheapest edits have come to."""
    rows = [list(range(len(target) + 1))]
    for i, char in enumerate(source, 1):
        row = [i]
        for j, other in enumerate(target, 1):
            row.append(min(rows[-1][j - 1] + _swap(char, other), rows[-1][j] + 1, row[-1] + 1))
        rows.append(row)
    places = [0] * (len(source) + 1)
    i, j = len(source), len(target)
    places[i] = j
    while i:
        here = rows[i][j]
        if j and here == rows[i - 1][j - 1] + _swap(source[i - 1], target[j - 1]):
            i, j = i - 1, j - 1
            places[i] = j
        elif here == rows[i - 1][j] + 1:
            i -= 1
            places[i] = j
        else:
            j -= 1
    return places


def _swap(char: str, other: str) -> int:
    """What it costs to take one symbol for another; a space is a border and never a sound."""
    if char == other:
        return 0
    return 3 if " " in (char, other) else 1


def kokoro_symbols(ipa: str, accent: Accent) -> str:
    """IPA as espeak-ng writes it (`--ipa --tie=^`) in Kokoro's symbols.

    Raises UsageError for a sound that has none.
    """
    rewrites = _REWRITES[accent]
    ipa = " ".join(_SWITCH.sub("", ipa).split())
    symbols = _PATTERNS[accent].sub(lambda match: rewrites[match[0]], ipa)
    if strange := sorted({symbol for symbol in symbols if symbol not in SYMBOLS}):
        names = ", ".join(f"{symbol} (U+{ord(symbol):04X})" for symbol in strange)
        raise UsageError(f"'{ipa}' in {accent}: no symbol for {names}")
    return symbols


@lru_cache(maxsize=1 << 16)
def _alone(word: str, accent: Accent) -> str:
    return _espeak(word, accent)


def _espeak(text: str, accent: Accent) -> str:
    command = ["espeak-ng", "-v", accent, "-q", "--ipa", "--tie=^", "--stdin"]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise ModelError("espeak-ng, which tells how words sound, is not installed") from error
    except subprocess.CalledProcessError as error:
        raise ModelError(f"espeak-ng failed: {error.stderr.strip()}") from error
    return done.stdout
