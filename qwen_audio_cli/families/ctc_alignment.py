"""When each word of a transcript is said, by CTC: which rows of audio spell its tokens.

A head that is trained with CTC (Graves et al. 2006) says a token in a row or two, a spike, and the
blank before and behind it: where a word is is told well, where it begins and ends is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from ..audio import SAMPLE_RATE
from ..audio.features import HOP
from .base import TimedWord

ROW_SECONDS = 4 * HOP / SAMPLE_RATE
"""How much audio a row is about."""

LETTER_SECONDS = 0.06
"""How long a letter takes."""

STRETCH = 2.5
"""Letters that are farther apart than so many letters last have a pause between them. Fitted, as
LETTER_SECONDS was, to 47 utterances of mini's dev split, in which 91 % of the words then begin and
end within 100 ms of the truth, where the transcript is given."""

FIGURE_LETTERS = 4
"""Letters that a character of what is not spelled, such as a figure, takes in speech."""

Bounds = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Spike:
    """The rows `first` to `last` that say one token, and their mean probability of it."""

    first: int
    last: int
    probability: float


@dataclass(frozen=True, slots=True)
class SpelledWord:
    """A word as it is `written`, and the letters that spell it, if any."""

    written: str
    tokens: tuple[int, ...]


def align(logprobs: NDArray[np.float32], tokens: Sequence[int]) -> list[Spike] | None:
    """Where a sequence of tokens is said: along its likeliest path (Viterbi) through all rows.

    `logprobs` [rows, tokens + 1] are those of each token in order and of the blank. A path stays
    with a token, or goes on to the blank behind it or, unless that is the same token again, to the
    next one. None where there is no path: there are too few rows.
    """
    if not tokens:
        return []
    count = len(tokens)
    column = np.full(2 * count + 1, count)  # of each state: blank, token, blank, token, ..., blank
    column[1::2] = np.arange(count)
    shut = np.ones(2 * count + 1, dtype=bool)  # no way past the blank before a state
    shut[3::2] = np.asarray(tokens[1:]) == np.asarray(tokens[:-1])
    came = np.zeros((len(logprobs), 2 * count + 1), dtype=np.int8)  # by how many states
    best = np.full(2 * count + 1, -np.inf)
    best[0] = 0.0  # before the first row, as if in the first blank
    for row, emitted in enumerate(logprobs.astype(np.float64)):
        ways = np.full((3, 2 * count + 1), -np.inf)
        ways[0] = best
        ways[1, 1:] = best[:-1]
        ways[2, 2:] = np.where(shut[2:], -np.inf, best[:-2])
        came[row] = ways.argmax(0)
        best = ways.max(0) + emitted[column]
    state = 2 * count if best[2 * count] > best[2 * count - 1] else 2 * count - 1
    if not np.isfinite(best[state]):
        return None
    path = np.empty(len(logprobs), dtype=np.int64)
    for row in range(len(logprobs) - 1, -1, -1):
        path[row] = state
        state -= int(came[row, state])
    return [_spike(logprobs[:, place], path == 2 * place + 1) for place in range(count)]


def _spike(logprobs: NDArray[np.float32], said: NDArray[np.bool_]) -> Spike:
    rows = np.flatnonzero(said)
    return Spike(int(rows[0]), int(rows[-1]), float(np.exp(logprobs[rows]).mean()))


def timed_words(
    words: Sequence[SpelledWord],
    spikes: Sequence[Spike] | None,
    seconds: float,
    otherwise: float,
) -> tuple[TimedWord, ...]:
    """Words with their times in a clip of `seconds`; they ascend and do not overlap.

    `spikes` are those of all words' letters in order, each taken for the middle of its letter:
    where two words meet, the time between their spikes is parted in two. Where it is too long for
    that, there is a pause between them, which neither has a part in. What has no spikes (with None,
    no word has) takes the time that its neighbours leave, and the probability `otherwise`.
    """
    rest = iter(spikes or ())
    places: list[_Place | float] = []
    chances: list[float] = []
    for word in words:
        own = [] if spikes is None else [next(rest) for _ in word.tokens]
        if own:
            places.append(_place(own, seconds))
            chances.append(sum(spike.probability for spike in own) / len(own))
        else:
            places.append(LETTER_SECONDS * FIGURE_LETTERS * len(word.written))
            chances.append(otherwise)
    return tuple(
        TimedWord(word.written, *bounds, chance)
        for word, bounds, chance in zip(words, _bounds(places, seconds), chances, strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """A word on a clip's line of time: the middles of its `first` and `last` letter.

    It usually lasts for `before` and `after` on either side of these. All in seconds.
    """

    first: float
    last: float
    before: float
    after: float


def _place(spikes: Sequence[Spike], seconds: float) -> _Place:
    first, last = (
        min(ROW_SECONDS * (spike.first + spike.last + 1) / 2, seconds)
        for spike in (spikes[0], spikes[-1])
    )
    return _Place(first, last, LETTER_SECONDS / 2, LETTER_SECONDS / 2)


def _bounds(places: Sequence[_Place | float], seconds: float) -> Iterator[Bounds]:
    """Begin and end of words, of which those without a place are given by their usual length."""
    edges: list[float] = []
    left: _Place | None = None
    lengths: list[float] = []
    for place in (*places, None):
        if isinstance(place, float):
            lengths.append(place)
            continue
        cuts = _cuts(left, lengths, place, seconds)
        if left is not None:
            edges.append(cuts[0])
        for begin, end in pairwise(cuts) if lengths else ():
            edges += (begin, end)
        if place is not None:
            edges.append(cuts[-1])
        left, lengths = place, []
    return zip(edges[::2], edges[1::2], strict=True)


def _cuts(
    left: _Place | None, lengths: Sequence[float], right: _Place | None, seconds: float
) -> list[float]:
    """Where `left` ends, the words of these `lengths` that have no place end, and `right` begins.

    Beyond the clip's first or last word that has a place, a word is no longer than usual.
    """
    begin, after = (left.last, left.after) if left else (0.0, 0.0)
    end, before = (right.first, right.before) if right else (seconds, 0.0)
    room, usual, total = end - begin, after + sum(lengths) + before, sum(lengths)
    most = STRETCH * usual if left and right else usual
    scale = room / usual if usual > 0 and room < most else 1.0
    begin, end = begin + scale * after, end - scale * before
    if right is None and left is not None:
        end = min(end, begin + scale * total)
    if left is None and right is not None:
        begin = max(begin, end - scale * total)
    parts = accumulate(lengths[:-1])
    return [begin, *(begin + (end - begin) * part / total for part in parts), end]
