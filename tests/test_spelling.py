"""How transcripts are spelled for CTC, and how what CTC says is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_audio_cli.families.spelling import LETTERS, SYMBOLS, read, spelling, symbols

ALPHABET = LETTERS.replace("'", "")
BEGIN = len(LETTERS)
E, H, S = (LETTERS.index(letter) for letter in "ehs")

words = st.lists(
    st.lists(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=3).map("'".join),
    max_size=6,
)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ([], ""),
        ([None, None], ""),
        ([H + BEGIN, E, S], " hes"),
        ([H + BEGIN, H + BEGIN, E, E, E, S], " hes"),  # said on
        ([None, H + BEGIN, E, None, E, None], " hee"),  # said twice
        ([H + BEGIN, None, H + BEGIN], " h h"),
        ([H + BEGIN, H], " hh"),  # a letter that begins a word is another symbol
        ([H, E, S + BEGIN], "he s"),
    ],
)
def test_a_path_is_read(path: list[int | None], text: str) -> None:
    assert read(path) == text


@given(words, st.data())
def test_every_path_of_a_text_is_read_as_its_spelling(said: list[str], data: st.DataObject) -> None:
    """Whatever letters are held, and wherever a blank is; between two alike one has to be."""
    text = " ".join(said).title()
    spelled = symbols(text)
    path: list[int | None] = []
    for symbol in spelled:
        blanks = data.draw(st.integers(int(path[-1:] == [symbol]), 2))
        path += [None] * blanks + [symbol] * data.draw(st.integers(1, 3))
    assert read(path) == spelling(text) == "".join(f" {word}" for word in said)
    assert symbols(read(path)) == spelled
    assert all(0 <= symbol < SYMBOLS for symbol in spelled)


def test_what_is_no_letter_is_left_out() -> None:
    assert spelling("Don't stop, she said 5 'times'.") == " don't stop she said times"
    assert read(symbols("Ça va? \N{CYRILLIC SMALL LETTER A} été")) == " ça va été"
    assert spelling("e\N{COMBINING ACUTE ACCENT}te") == " éte"
