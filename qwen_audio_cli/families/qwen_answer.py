"""How Qwen-Audio's tokens are read as text, as words with times, and as label probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ..engine.request import Generated
from ..languages import UNSPACED
from .base import TimedWord
from .tag_tokenizer import TagTokenizer

SLACK = 0.04
"""Seconds that a time may lie behind the clip's end: a row of audio."""


def plain_text(tokenizer: TagTokenizer, tokens: Sequence[int], language: str | None) -> str:
    """What stands between the tags, stripped; joined by a space where `language` writes spaces."""
    runs = groupby(tokens, tokenizer.is_text)
    texts = [tokenizer.decode(run).strip() for is_text, run in runs if is_text]
    unspaced = language is not None and language.partition("_")[0] in UNSPACED
    return ("" if unspaced else " ").join(text for text in texts if text)


@dataclass(frozen=True, slots=True)
class Timeline:
    """The words of an answer with their times; `whole` if all times were there, and possible."""

    words: tuple[TimedWord, ...]
    whole: bool


def timeline(tokenizer: TagTokenizer, said: Generated, seconds: float) -> Timeline:
    """Read words and times that take turns, the first time (0.00) being the prompt's own.

    A word lies between the times around it; silence and other tags are dropped. What an answer
    lacks or mixes up is filled in with the nearest that is possible: no word ends before it
    begins, or after the clip, which is `seconds` long.
    """
    words: list[TimedWord] = []
    whole = True
    begin = 0.0
    for time, run in _runs(tokenizer, said.tokens):
        whole &= time is not None and begin <= time <= seconds + SLACK
        end = min(max(begin, seconds if time is None else time), seconds)
        if text := tokenizer.decode([said.tokens[index] for index in run]).strip():
            chances = [math.exp(said.logprobs[index]) for index in run]
            words.append(TimedWord(text, begin, end, sum(chances) / len(chances)))
        begin = end
    return Timeline(tuple(words), whole)


def _runs(
    tokenizer: TagTokenizer, tokens: Sequence[int]
) -> Iterator[tuple[float | None, list[int]]]:
    """Each time with the places of the text before it; None for text behind the last time."""
    run: list[int] = []
    for index, token in enumerate(tokens):
        if tokenizer.is_text(token):
            run.append(index)
        elif (time := tokenizer.time(token)) is not None:
            yield time, run
            run = []
    if run:
        yield None, run
