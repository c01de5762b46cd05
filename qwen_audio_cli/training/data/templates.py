"""What fills the slots of a sentence: figures, dates, names, in writing and as they are said."""

from __future__ import annotations

import random
import re
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from . import numerals
from .foreign import FOREIGN


class Piece(NamedTuple):
    """A word or figure as it is written, as it is said, and in words as a transcript has it."""

    written: str
    said: str
    verbatim: str


def plain(word: str) -> Piece:
    """A word that is said as it is written."""
    return Piece(word, word, word)


def _figures(written: str, said: str, language: str = "en") -> Piece:
    return Piece(written, said, numerals.hyphenated(said, language))


_SLOT = re.compile(r"(\W*)\{(\w+)\}(\W*)")

_LETTER_NAMES = (
    "ay,bee,see,dee,ee,eff,jee,aitch,eye,jay,kay,ell,em,en,oh,pee,cue,are,ess,tee,you,vee,"
    "double you,ex,why,zee"
)
LETTERS: Mapping[str, str] = MappingProxyType(
    dict(
        zip(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            _LETTER_NAMES.split(","),
            strict=True,
        )
    )
)
"""English letter names in words that a synthesiser reads as the letter, and never as an article."""


def _words(text: str) -> list[str]:
    return text.split()


def _among(words: str) -> Callable[[random.Random], list[Piece]]:
    return _choice(*words.split())


def _choice(*pieces: str) -> Callable[[random.Random], list[Piece]]:
    return lambda rng: [plain(word) for word in rng.choice(pieces).split()]


def _number(language: str, low: int, high: int) -> Callable[[random.Random], list[Piece]]:
    # Romance numbers that end in one agree with what is counted; they are left out.
    numbers = [n for n in range(low, high + 1) if language == "en" or n < 10 or n % 10 != 1]

    def fill(rng: random.Random) -> list[Piece]:
        number = rng.choice(numbers)
        figures = f"{number:,}" if number >= 10_000 else str(number)
        return [_figures(figures, numerals.cardinal(number, language), language)]

    return fill


def _digits(language: str, length: int) -> Callable[[random.Random], list[Piece]]:
    def fill(rng: random.Random) -> list[Piece]:
        figures = [rng.randrange(10) for _ in range(length)]
        said = " ".join(numerals.cardinal(figure, language) for figure in figures)
        return [Piece("".join(map(str, figures)), said, said)]

    return fill


def _phone(rng: random.Random) -> list[Piece]:
    groups = ["".join(str(rng.randrange(10)) for _ in range(n)) for n in (3, 3, 4)]
    said = (" ".join(numerals.cardinal(int(d), "en") for d in group) for group in groups)
    return [_figures("-".join(groups), ", ".join(said))]


def _time(rng: random.Random) -> list[Piece]:
    hour, minute = rng.randint(1, 12), 5 * rng.randrange(12)
    half = rng.choice((None, "a.m.", "p.m."))
    said = numerals.cardinal(hour, "en")
    if minute:
        said += " oh five" if minute == 5 else f" {numerals.cardinal(minute, 'en')}"
    elif half is None:
        return [_figures(f"{hour}", said), plain("o'clock")]
    clock = _figures(f"{hour}:{minute:02}", said)
    if half is None:
        return [clock]
    return [clock, Piece(half, f"{LETTERS[half[0].upper()]} {LETTERS['M']}", half)]


_MONTHS = _words(
    "January February March April May June July August September October November December"
)
_DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


def _date(rng: random.Random) -> list[Piece]:
    month, day = rng.choice(_MONTHS), rng.randint(1, 28)
    pieces = [plain(month)]
    if rng.random() < 0.4:
        year = rng.randint(1950, 2030)
        return [
            *pieces,
            _figures(f"{day},", f"{numerals.ordinal(day)},"),
            _figures(f"{year}", numerals.year(year)),
        ]
    return [*pieces, _figures(f"{day}", numerals.ordinal(day))]


def _ordinal(rng: random.Random) -> list[Piece]:
    number = rng.randint(1, 60)
    return [_figures(numerals.ordinal_figure(number), numerals.ordinal(number))]


def _year(rng: random.Random) -> list[Piece]:
    number = rng.randint(1500, 2030)
    return [_figures(f"{number}", numerals.year(number))]


def _money(rng: random.Random) -> list[Piece]:
    units, cents = rng.randint(2, 999), rng.choice((0, 0, rng.randint(2, 99)))
    sign, unit, part = rng.choice((("$", "dollars", "cents"), ("€", "euros", "cents")))
    said = f"{numerals.cardinal(units, 'en')} {unit}"
    if not cents:
        return [_figures(f"{sign}{units}", said)]
    said += f" and {numerals.cardinal(cents, 'en')} {part}"
    return [_figures(f"{sign}{units}.{cents:02}", said)]


def _percent(rng: random.Random) -> list[Piece]:
    number = rng.randint(1, 100)
    return [_figures(f"{number}%", f"{numerals.cardinal(number, 'en')} percent")]


def _decimal(rng: random.Random) -> list[Piece]:
    whole, part = rng.randint(0, 99), rng.randint(1, 9)
    said = f"{numerals.cardinal(whole, 'en')} point {numerals.cardinal(part, 'en')}"
    return [_figures(f"{whole}.{part}", said)]


_NAMES = _words(
    "Alice Arthur Clara Daniel Edith Felix Grace Henry Irene Jacob Karen Lucas Maria Nathan "
    "Olivia Peter Quentin Rachel Samuel Teresa Ulysses Victor Wendy Xavier Yvonne Zachary"
)
_SURNAMES = _words(
    "Adams Baker Carter Dawson Edwards Fisher Garcia Hughes Irving Jensen Kowalski Lambert Morris "
    "Novak Ortega Palmer Quinn Rossi Schmidt Turner Underwood Vasquez Walker Young Zimmer"
)


def _spelled(rng: random.Random) -> list[Piece]:
    letters = rng.choice(_NAMES + _SURNAMES).upper()
    written = "-".join(letters)
    return [Piece(written, ", ".join(LETTERS[letter] for letter in letters), written)]


def _code(rng: random.Random) -> list[Piece]:
    letters = [rng.choice("ABCDEFGHJKLMNPRSTVWXYZ") for _ in range(2)]
    figures = [rng.randrange(10) for _ in range(3)]
    names = [LETTERS[letter] for letter in letters]
    numbers = [numerals.cardinal(figure, "en") for figure in figures]
    written = "".join(letters) + "".join(map(str, figures))
    return [Piece(written, " ".join(names + numbers), " ".join(letters + numbers))]


Slot = Callable[[random.Random], list[Piece]]

_DIGIT = {language: _number(language, 0, 9) for language in numerals.LANGUAGES}
_COUNT = {language: _number(language, 2, 99) for language in numerals.LANGUAGES}
_MONTHDAY = {language: _number(language, 2, 28) for language in numerals.LANGUAGES}
_LARGE = {language: _number(language, 100, 9999) for language in numerals.LANGUAGES}
_PIN = {language: _digits(language, 4) for language in numerals.LANGUAGES}
_NUMBERS = {
    "digit": _DIGIT,
    "count": _COUNT,
    "monthday": _MONTHDAY,
    "large": _LARGE,
    "pin": _PIN,
}

_ENGLISH: Mapping[str, Slot] = {
    "huge": _number("en", 10_000, 999_999),
    "phone": _phone,
    "time": _time,
    "date": _date,
    "ordinal": _ordinal,
    "year": _year,
    "money": _money,
    "percent": _percent,
    "decimal": _decimal,
    "spelled": _spelled,
    "code": _code,
    "name": _choice(*_NAMES),
    "surname": _choice(*_SURNAMES),
    "month": _choice(*_MONTHS),
    "day": _choice(*_DAYS),
    "when": _choice("today", "tonight", "tomorrow", "next week", "later"),
    "office": _choice(
        *_words("sales support billing reception accounting security engineering"),
        "customer service",
        "human resources",
        "the front desk",
    ),
    "key": _choice("pound", "star", "hash"),
    "device": _choice(
        *_words("lights heater radio television fan oven alarm printer camera speaker"),
        "coffee machine",
        "washing machine",
        "air conditioner",
    ),
    "room": _choice(
        *_words("kitchen bedroom bathroom garage hallway office basement attic garden"),
        "living room",
        "dining room",
    ),
    "place": _choice(
        *_words("London Paris Boston Chicago Dublin Sydney Toronto Denver Madrid Vienna Oslo"),
        "New York",
        "San Francisco",
        "Cape Town",
    ),
    "state": _choice("on", "off"),
    "unit": _among("minutes seconds hours days weeks"),
    "song": _choice("some jazz", "the next song", "my playlist", "classical music", "the news"),
    "item": _choice("milk", "eggs", "bread", "two apples", "olive oil", "coffee", "paper towels"),
}

SLOTS: Mapping[str, Mapping[str, Slot]] = MappingProxyType(
    {
        "en": _ENGLISH,
        **{
            language: {name: _choice(*values) for name, values in slots.items()}
            for language, slots in FOREIGN.items()
        },
    }
)


class Filled(NamedTuple):
    """The pieces of a template, and the names of its slots with what fills them, as written."""

    pieces: tuple[Piece, ...]
    slots: tuple[tuple[str, str], ...]


def fill(template: str, language: str, rng: random.Random) -> Filled:
    """Fill a template's slots by `rng`; punctuation stays at the words it is at."""
    pieces: list[Piece] = []
    slots: list[tuple[str, str]] = []
    for word in template.split():
        match = _SLOT.fullmatch(word)
        if match is None:
            pieces.append(plain(word))
            continue
        before, name, after = match.groups()
        filling = _slot(language, name)(rng)
        slots.append((name, " ".join(piece.written for piece in filling)))
        filling[0] = Piece(*(before + form for form in filling[0]))
        filling[-1] = Piece(*(_closed(form, after) for form in filling[-1]))
        pieces += filling
    return Filled(tuple(pieces), tuple(slots))


def translated(english: str, language: str, slots: Sequence[tuple[str, str]]) -> str:
    """An English template with what fills, in another language, the slots of its counterpart."""
    words = FOREIGN[language]
    waiting: defaultdict[str, deque[str]] = defaultdict(deque)
    for name, value in slots:
        waiting[name].append(value if name in _NUMBERS else words[name][value])
    return re.sub(r"\{(\w+)\}", lambda slot: waiting[slot[1]].popleft(), english)


def _closed(form: str, mark: str) -> str:
    """A form with the mark behind it; an abbreviation's own point ends the sentence too."""
    return form if mark == "." and form.endswith(".") else form + mark


def _slot(language: str, name: str) -> Slot:
    return _NUMBERS[name][language] if name in _NUMBERS else SLOTS[language][name]
