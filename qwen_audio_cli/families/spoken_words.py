"""Cuts a text into the words whose times are sought, as the forced aligner learnt to take them.

QwenLM/Qwen3-ASR, `qwen3_forced_aligner.py`: a model is given letters, digits and apostrophes alone;
a user is shown each word as it was written, with its marks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from unicodedata import category

IDEOGRAPHS = (
    range(0x3400, 0x4DC0), range(0x4E00, 0xA000), range(0xF900, 0xFB00), range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2CEB0), range(0x2F800, 0x2FA20),
)  # fmt: skip
"""Chinese characters: each is a word."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word as it was `written`, and as it is `spoken`: without marks."""

    written: str
    spoken: str


def spoken_words(text: str, language: str | None) -> list[SpokenWord]:
    """The words of a text in a language, by code: all marks are shown with one or the other.

    Words end at white space, Chinese characters are words of their own, and Japanese is cut by
    nagisa, which must be there. Korean is cut at white space too: soynlp, which the authors take,
    does so without the scores that they give it.
    """
    if language == "ja":
        spoken = [word for word in map(_clean, _japanese(text)) if word]
        if "".join(spoken) != _clean(text):  # half and full widths are made one
            return [SpokenWord(word, word) for word in spoken]
        spans = _spans_of(text, spoken)
    else:
        spans = list(_spans(text))
    if not spans:
        return []
    cuts = [_cut(text, one, other) for (_, one), (other, _) in pairwise(spans)]
    written = [text[begin:end].strip() for begin, end in pairwise([0, *cuts, len(text)])]
    return [
        SpokenWord(word, _clean(text[begin:end]))
        for word, (begin, end) in zip(written, spans, strict=True)
    ]


def _spans(text: str) -> Iterator[Span]:
    """From the first to the last letter of each word."""
    begin = end = 0
    for place, char in enumerate(text):
        alone = _is_ideograph(char)
        if (alone or char.isspace()) and begin < end:
            yield begin, end
            begin = end
        if alone:
            yield place, place + 1
        elif _is_spoken(char):
            begin = begin if begin < end else place
            end = place + 1
    if begin < end:
        yield begin, end


def _japanese(text: str) -> list[str]:
    import nagisa  # type: ignore[import-not-found, unused-ignore]

    words: list[str] = nagisa.tagging(text).words
    return words


def _spans_of(text: str, spoken: Sequence[str]) -> list[Span]:
    """Where words are in a text that has their characters in this order, and marks besides."""
    places = [place for place, char in enumerate(text) if _is_spoken(char)]
    bounds = pairwise(accumulate(map(len, spoken), initial=0))
    return [(places[begin], places[end - 1] + 1) for begin, end in bounds]


def _cut(text: str, begin: int, end: int) -> int:
    """Where the marks between two words part: what opens belongs to the next, else to the last."""
    opening = [place for place in range(begin, end) if category(text[place]) in ("Ps", "Pi")]
    spaces = [place for place in range(begin, end) if text[place].isspace()]
    if not spaces:
        return min(opening, default=end)
    # What closes a quotation in one language opens it in another; a space before it tells.
    return min((p for p in opening if text[p - 1].isspace()), default=spaces[-1] + 1)


def _clean(text: str) -> str:
    return "".join(filter(_is_spoken, text))


def _is_spoken(char: str) -> bool:
    return char == "'" or category(char)[0] in "LN" or _is_ideograph(char)


def _is_ideograph(char: str) -> bool:
    return any(ord(char) in run for run in IDEOGRAPHS)
