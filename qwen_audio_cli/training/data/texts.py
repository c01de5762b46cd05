"""What is spoken for training: WordNet's example sentences and our own templates.

Written and said forms go side by side, and every sentence belongs to one split for good: a hash of
its letters decides, so that no voice and no seed carries a sentence from one split to another.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from ...errors import UsageError
from ..manifest import SPLITS, Split
from .prompts import ENGLISH, TEMPLATES
from .templates import Piece, fill, plain, translated

Origin = Literal["wordnet", "template"]

# Percent of the texts; the rest is for training.
_HELD_OUT: Mapping[Split, int] = MappingProxyType({"dev": 3, "test": 3})
_LANGUAGE_SHARES: Mapping[str, float] = MappingProxyType(
    {"en": 0.76, "es": 0.06, "fr": 0.06, "it": 0.06, "pt": 0.06}
)
_WORDNET_SHARE = 0.75  # of the English texts
_PARAGRAPH_SHARE = 0.15
_MOST_WORDS = 45  # said in one go; a synthesiser hears some 500 phonemes

_WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
_EXAMPLE = re.compile(r'"([^"]+)"')
# One sentence of plain words: no figures, foreign letters or brackets ...
_PLAIN = re.compile(r"[A-Za-z][A-Za-z ,'?!;:-]*[.?!]?")
# ... nor acronyms, quotation marks, dashes, or marks without a space after them.
_ODD = re.compile(r"\b[A-Z]{2}|(?<![A-Za-z])'|\w'(?![A-Za-z])|(?<!\w)-|-(?!\w)|[?!;:,]\S")


@dataclass(frozen=True, slots=True)
class Text:
    """A text of one language in pieces, each written and said; `split` is that of its sentences.

    `english` is what a text of another language is in English, as `written` has it.
    """

    language: str
    pieces: tuple[Piece, ...]
    origin: Origin
    split: Split
    # No part of what is spoken: the digest of a plan does not depend on it.
    english: str | None = field(default=None, repr=False, compare=False)

    @property
    def written(self) -> str:
        """The text as a transcript has it: figures, capitals, punctuation."""
        return " ".join(piece.written for piece in self.pieces)

    @property
    def said(self) -> str:
        """The text in words as they are said aloud, with the punctuation that makes pauses."""
        return " ".join(piece.said for piece in self.pieces)

    @property
    def verbatim(self) -> str:
        """The text as a transcript without figures has it."""
        return " ".join(piece.verbatim for piece in self.pieces)


class _Sentence(NamedTuple):
    pieces: tuple[Piece, ...]
    english: str | None = None


def split_of(written: str) -> Split:
    """The split a sentence belongs to, by its letters and figures alone, in any case."""
    letters = re.sub(r"[^\w]+", " ", written.lower()).strip()
    place = int.from_bytes(hashlib.sha256(letters.encode()).digest()[:8], "big") % 100
    for split, percent in _HELD_OUT.items():
        if place < percent:
            return split
        place -= percent
    return "train"


def wordnet_sentences(directory: Path) -> list[str]:
    """WordNet's example sentences of 4 to 24 plain words, with capital and full stop, sorted.

    `directory` holds the database files of WordNet 3.0, as Debian's `wordnet-base` has them.
    Raises UsageError where they are missing.
    """
    found: set[str] = set()
    for name in _WORDNET_FILES:
        try:
            lines = (directory / name).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UsageError(
                f"{directory / name}: no WordNet database: {error.strerror}"
            ) from error
        for line in lines:
            _, _, gloss = line.partition(" | ")
            found.update(example.strip() for example in _EXAMPLE.findall(gloss))
    # Two spellings of one sentence are one sentence.
    unique = {_sentence(example).lower(): _sentence(example) for example in sorted(found)}
    return sorted(sentence for sentence in unique.values() if _usable(sentence))


def _sentence(example: str) -> str:
    example = " ".join(example.split()).rstrip(",;:- ")
    return example[:1].upper() + example[1:] + ("" if example[-1:] in tuple(".?!") else ".")


def _usable(sentence: str) -> bool:
    words = len(sentence.split())
    plain = _PLAIN.fullmatch(sentence) and not _ODD.search(sentence)
    return bool(plain) and 4 <= words <= 24


def stream(sentences: Sequence[str], seed: int) -> Iterator[Text]:
    """An endless stream of texts in all languages and splits, the same for the same arguments.

    English is three quarters of it, most of that `sentences`, each heard once before any is heard
    again; a share of the texts are paragraphs of several sentences.
    """
    rng = random.Random(seed)
    books = {
        split: _passes([s for s in sentences if split_of(s) == split], rng) for split in SPLITS
    }
    while True:
        place = rng.random() * 100
        split: Split = "dev" if place < _HELD_OUT["dev"] else "train"
        if place >= 100 - _HELD_OUT["test"]:
            split = "test"
        language = rng.choices(list(_LANGUAGE_SHARES), list(_LANGUAGE_SHARES.values()))[0]
        if language == "en" and rng.random() < _WORDNET_SHARE:
            yield _text("en", "wordnet", split, rng, partial(_example, books[split]))
        else:
            filled = partial(_filled, language, split, rng)
            yield _text(language, "template", split, rng, filled)


def _text(
    language: str,
    origin: Origin,
    split: Split,
    rng: random.Random,
    sentence: Callable[[], _Sentence],
) -> Text:
    """A sentence or, now and then, a paragraph of a few."""
    sentences = [sentence()]
    if rng.random() < _PARAGRAPH_SHARE:
        for _ in range(rng.randint(1, 3)):
            longer = [*sentences, sentence()]
            if sum(len(piece.said.split()) for piece in _pieces(longer)) > _MOST_WORDS:
                break
            sentences = longer
    english = " ".join(sentence.english for sentence in sentences if sentence.english)
    return Text(language, _pieces(sentences), origin, split, english or None)


def _pieces(sentences: Sequence[_Sentence]) -> tuple[Piece, ...]:
    return tuple(piece for sentence in sentences for piece in sentence.pieces)


def _example(book: Iterator[str]) -> _Sentence:
    return _Sentence(tuple(plain(word) for word in next(book).split()))


def _filled(language: str, split: Split, rng: random.Random) -> _Sentence:
    while True:
        template = rng.choice(TEMPLATES[language])
        pieces, slots = fill(template, language, rng)
        if split_of(" ".join(piece.written for piece in pieces)) == split:
            if language == "en":
                return _Sentence(pieces)
            return _Sentence(pieces, translated(ENGLISH[template], language, slots))


def _passes(sentences: list[str], rng: random.Random) -> Iterator[str]:
    """All sentences in a random order, again and again, each time in another."""
    if not sentences:
        raise UsageError("no sentences to read from in one of the splits")
    return itertools.chain.from_iterable(
        rng.sample(sentences, len(sentences)) for _ in itertools.count()
    )
