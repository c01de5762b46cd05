"""Numbers in words: cardinals of five languages as they are said aloud, and English ordinals.

The words are for a synthesiser: spaces stand where print has hyphens, which `hyphenated` puts in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from ...errors import UsageError


def _words(text: str) -> list[str]:
    return text.split()


_EN_SMALL = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_EN_TENS = _words("zero ten twenty thirty forty fifty sixty seventy eighty ninety")
_EN_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_ES_SMALL = _words(
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince "
    "dieciséis diecisiete dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro "
    "veinticinco veintiséis veintisiete veintiocho veintinueve"
)
_ES_TENS = _words("- - - treinta cuarenta cincuenta sesenta setenta ochenta noventa")
_ES_HUNDREDS = _words(
    "- ciento doscientos trescientos cuatrocientos quinientos seiscientos setecientos "
    "ochocientos novecientos"
)
_FR_SMALL = _words(
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze "
    "seize dix-sept dix-huit dix-neuf"
)
_FR_TENS = (
    *_words("- - vingt trente quarante cinquante soixante soixante"),
    "quatre vingt",
    "quatre vingt",
)
_IT_SMALL = _words(
    "zero uno due tre quattro cinque sei sette otto nove dieci undici dodici tredici quattordici "
    "quindici sedici diciassette diciotto diciannove"
)
_IT_TENS = _words("- - venti trenta quaranta cinquanta sessanta settanta ottanta novanta")
_PT_SMALL = _words(
    "zero um dois três quatro cinco seis sete oito nove dez onze doze treze quatorze quinze "
    "dezesseis dezessete dezoito dezenove"
)
_PT_TENS = _words("- - vinte trinta quarenta cinquenta sessenta setenta oitenta noventa")
_PT_HUNDREDS = _words(
    "- cento duzentos trezentos quatrocentos quinhentos seiscentos setecentos oitocentos novecentos"
)


def _english(number: int) -> str:
    if number < 20:
        return _EN_SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _EN_TENS[tens] + (f" {_EN_SMALL[ones]}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_EN_SMALL[hundreds]} hundred" + (f" and {_english(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    joint = " and " if 0 < rest < 100 else " "
    return f"{_english(thousands)} thousand" + (joint + _english(rest) if rest else "")


def _spanish(number: int) -> str:
    if number < 30:
        return _ES_SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _ES_TENS[tens] + (f" y {_ES_SMALL[ones]}" if ones else "")
    if number == 100:
        return "cien"
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return _ES_HUNDREDS[hundreds] + (f" {_spanish(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    many = "mil" if thousands == 1 else f"{_spanish(thousands)} mil"
    return many + (f" {_spanish(rest)}" if rest else "")


def _french(number: int) -> str:
    if number < 20:
        return _FR_SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        if tens in (7, 9):  # counted on from sixty and from eighty
            ones += 10
        if number == 80:
            return "quatre vingts"
        joint = " et " if ones in (1, 11) and tens < 8 else " "
        return _FR_TENS[tens] + (joint + _FR_SMALL[ones] if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        if not rest:
            return "cent" if hundreds == 1 else f"{_FR_SMALL[hundreds]} cents"
        return ("" if hundreds == 1 else f"{_FR_SMALL[hundreds]} ") + f"cent {_french(rest)}"
    thousands, rest = divmod(number, 1000)
    many = "mille" if thousands == 1 else f"{_french(thousands)} mille"
    return many + (f" {_french(rest)}" if rest else "")


def _italian(number: int) -> str:
    if number < 20:
        return _IT_SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        if not ones:
            return _IT_TENS[tens]
        stem = _IT_TENS[tens][:-1] if ones in (1, 8) else _IT_TENS[tens]
        return stem + ("tré" if ones == 3 else _IT_SMALL[ones])
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        many = "cento" if hundreds == 1 else f"{_IT_SMALL[hundreds]}cento"
        return many + (_accented(rest) if rest else "")
    thousands, rest = divmod(number, 1000)
    many = "mille" if thousands == 1 else f"{_italian(thousands).replace('tré', 'tre')}mila"
    return many + (_accented(rest) if rest else "")


def _accented(rest: int) -> str:
    """The end of an Italian compound, where a final three bears an accent."""
    return "tré" if rest == 3 else _italian(rest)


def _portuguese(number: int) -> str:
    if number < 20:
        return _PT_SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _PT_TENS[tens] + (f" e {_PT_SMALL[ones]}" if ones else "")
    if number == 100:
        return "cem"
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return _PT_HUNDREDS[hundreds] + (f" e {_portuguese(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    many = "mil" if thousands == 1 else f"{_portuguese(thousands)} mil"
    joint = " e " if rest < 100 or rest % 100 == 0 else " "
    return many + (joint + _portuguese(rest) if rest else "")


_SPEAKERS: Mapping[str, Callable[[int], str]] = MappingProxyType(
    {
        "en": _english,
        "es": _spanish,
        "fr": _french,
        "it": _italian,
        "pt": _portuguese,
    }
)
LANGUAGES: tuple[str, ...] = tuple(_SPEAKERS)
"""The languages whose numbers can be said; Portuguese is that of Brazil."""

_LIMITS: Mapping[str, int] = MappingProxyType({"en": 1_000_000})
_LIMIT = 10_000


def cardinal(number: int, language: str) -> str:
    """A whole number in words: up to 999 999 in English, 9 999 in the others.

    Raises UsageError for a number or a language out of range.
    """
    speaker = _SPEAKERS.get(language)
    if speaker is None:
        raise UsageError(f"no words for numbers in '{language}'")
    if not 0 <= number < _LIMITS.get(language, _LIMIT):
        raise UsageError(f"{number} is out of the range that is said in '{language}'")
    return speaker(number)


def ordinal(number: int) -> str:
    """An English ordinal in words, of 1 to 99. Raises UsageError out of that range."""
    if not 0 < number < 100:
        raise UsageError(f"{number} is out of the range of ordinals")
    *tens, last = _english(number).split()
    if last in _EN_ORDINALS:
        last = _EN_ORDINALS[last]
    else:
        last = last.removesuffix("y") + ("ieth" if last.endswith("y") else "th")
    return " ".join((*tens, last))


def ordinal_figure(number: int) -> str:
    """An English ordinal in figures, as `21st`."""
    tail = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{tail}"


def year(number: int) -> str:
    """An English year of 1100 to 2099 in words, as `nineteen oh five`.

    Raises UsageError out of that range.
    """
    if not 1100 <= number < 2100:
        raise UsageError(f"{number} is out of the range of years")
    century, rest = divmod(number, 100)
    if 2000 <= number < 2010:
        return _english(number)
    if not rest:
        return f"{_english(century)} hundred"
    return f"{_english(century)} " + (f"oh {_EN_SMALL[rest]}" if rest < 10 else _english(rest))


_COMPOUND = re.compile(
    r"\b(twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety) (?=(?:one|two|three|four|five|six|"
    r"seven|eight|nine|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)\b)"
)


def hyphenated(words: str, language: str) -> str:
    """A number's words as they are printed: `twenty-one`, `deux-cent-treize` (reform of 1990)."""
    if language == "fr":
        return words.replace(" ", "-")
    return _COMPOUND.sub(r"\1-", words) if language == "en" else words
