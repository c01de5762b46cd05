"""Forced alignment: the likeliest of all paths, as brute force and torch's CTC loss find it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn.functional import ctc_loss

from qwen_audio_cli.families.ctc_alignment import (
    FIGURE_LETTERS,
    LETTER_SECONDS,
    ROW_SECONDS,
    STRETCH,
    SpelledWord,
    Spike,
    align,
    timed_words,
)

BLANK = -1
Lattice = NDArray[np.float32]


def lattice(rows: int, kinds: int, seed: int) -> Lattice:
    """Log-probabilities [rows, kinds + 1] of as many tokens and the blank."""
    draw = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(rows, kinds + 1, generator=draw)
    found: Lattice = scores.log_softmax(-1).numpy()
    return found


def asked(full: Lattice, tokens: Sequence[int]) -> Lattice:
    """The columns of a sequence, as a model is asked for them: the blank's is the last."""
    return full[:, [*tokens, full.shape[1] - 1]]


def chance(full: Lattice, path: Sequence[int]) -> float:
    """Log-probability of a path of tokens and blanks."""
    return math.fsum(float(full[row, token]) for row, token in enumerate(path))


def spelling_paths(rows: int, kinds: int, tokens: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All paths that are a sequence once runs are one and blanks are none."""
    for path in product((*range(kinds), BLANK), repeat=rows):
        if [token for token, _ in groupby(path) if token != BLANK] == list(tokens):
            yield path


def path_of(spikes: Sequence[Spike], tokens: Sequence[int], rows: int) -> list[int]:
    path = [BLANK] * rows
    for spike, token in zip(spikes, tokens, strict=True):
        assert path[spike.first : spike.last + 1] == [BLANK] * (spike.last + 1 - spike.first)
        path[spike.first : spike.last + 1] = [token] * (spike.last + 1 - spike.first)
    return path


def total(full: Lattice, tokens: Sequence[int]) -> float:
    """Log-probability of all paths together, by torch."""
    loss = ctc_loss(
        torch.from_numpy(full)[:, None].double(),
        torch.tensor([list(tokens)]),
        [len(full)],
        [len(tokens)],
        blank=full.shape[1] - 1,
        reduction="sum",
    )
    return -float(loss)


@given(
    rows=st.integers(1, 6),
    tokens=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=80, deadline=None)
def test_the_path_is_the_likeliest_of_all(rows: int, tokens: list[int], seed: int) -> None:
    full = lattice(rows, 3, seed)
    paths = list(spelling_paths(rows, 3, tokens))
    spikes = align(asked(full, tokens), tokens)
    if not paths:
        assert spikes is None
        return
    assert spikes is not None
    path = path_of(spikes, tokens, rows)
    assert tuple(path) in paths
    chances = [chance(full, other) for other in paths]
    assert chance(full, path) == pytest.approx(max(chances), abs=1e-5)
    assert total(full, tokens) == pytest.approx(np.logaddexp.reduce(chances), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_path_is_what_torchs_sum_over_paths_tends_to(seed: int) -> None:
    """With scores made sharper and sharper one path is left of all: log N at most apart."""
    rows, sharp = 300, 500.0
    full = lattice(rows, 12, seed)
    tokens = torch.randint(12, (60,), generator=torch.Generator().manual_seed(seed)).tolist()
    spikes = align(asked(full, tokens), tokens)
    assert spikes is not None
    best = chance(full, path_of(spikes, tokens, rows))
    limit = total(full.astype(np.float64) * sharp, tokens) / sharp
    assert best <= limit + 1e-6
    assert best == pytest.approx(limit, abs=rows * math.log(3) / sharp)
    assert best < total(full, tokens)


def test_a_token_has_the_mean_probability_of_its_rows() -> None:
    chances = np.array(
        [[0.1, 0.9], [0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9]], dtype=np.float32
    )
    (spike,) = align(np.log(chances), [5]) or ()
    assert (spike.first, spike.last) == (1, 2)
    assert spike.probability == pytest.approx(0.8, abs=1e-6)


def test_a_token_twice_has_a_blank_between() -> None:
    """Four rows hear nothing but the token, and one must be given to the blank."""
    spikes = align(np.log(np.full((4, 3), [0.49, 0.49, 0.02], dtype=np.float32)), [5, 5])
    assert spikes is not None
    assert spikes[0].last + 1 < spikes[1].first
    assert align(np.zeros((2, 3), dtype=np.float32), [5, 5]) is None
    assert align(np.zeros((2, 3), dtype=np.float32), [5, 6]) == [Spike(0, 0, 1.0), Spike(1, 1, 1.0)]
    assert align(np.zeros((0, 2), dtype=np.float32), [5]) is None
    assert align(np.zeros((3, 1), dtype=np.float32), []) == []


def at(row: int, probability: float = 1.0) -> Spike:
    return Spike(row, row, probability)


def middle(row: int) -> float:
    return (row + 0.5) * ROW_SECONDS


def word(text: str, letters: int = 1) -> SpelledWord:
    return SpelledWord(text, tuple(range(letters)))


def test_words_that_meet_part_the_time_between_their_letters() -> None:
    one, other = timed_words([word("a"), word("b")], [at(10, 0.5), at(12, 0.7)], 2.0, 0.1)
    assert one.end == other.start
    assert one.end == pytest.approx((middle(10) + middle(12)) / 2)
    assert (one.probability, other.probability) == (0.5, 0.7)
    assert one.start == pytest.approx(middle(10) - LETTER_SECONDS / 2)
    assert other.end == pytest.approx(middle(12) + LETTER_SECONDS / 2)


def test_between_words_far_apart_is_a_pause() -> None:
    half = LETTER_SECONDS / 2
    for near, far in ((10, 40), (10, 11 + int(STRETCH * LETTER_SECONDS / ROW_SECONDS))):
        one, other = timed_words([word("a"), word("b")], [at(near), at(far)], 2.0, 0.1)
        assert (one.end, other.start) == pytest.approx((middle(near) + half, middle(far) - half))


def test_a_word_lasts_from_its_first_letter_to_its_last() -> None:
    (only,) = timed_words([word("cat", 3)], [at(10), at(13), at(20, 0.4)], 2.0, 0.1)
    assert only.start == pytest.approx(middle(10) - LETTER_SECONDS / 2)
    assert only.end == pytest.approx(middle(20) + LETTER_SECONDS / 2)
    assert only.probability == pytest.approx(0.8)


def test_words_at_the_edges_end_with_the_clip() -> None:
    (only,) = timed_words([word("a")], [at(0)], 0.04, 0.1)
    assert (only.start, only.end) == (0.0, 0.04)


def test_a_figure_lies_between_its_neighbours() -> None:
    words = [word("press"), SpelledWord("1", ()), word("now")]
    press, figure, now = timed_words(words, [at(10), at(60)], 4.0, 0.25)
    assert press.end == figure.start == pytest.approx(middle(10) + LETTER_SECONDS / 2)
    assert now.start == figure.end == pytest.approx(middle(60) - LETTER_SECONDS / 2)
    assert figure.probability == 0.25


def test_a_figure_at_an_edge_is_as_long_as_usual() -> None:
    figure = SpelledWord("12", ())
    usual = 2 * FIGURE_LETTERS * LETTER_SECONDS
    first, press, last = timed_words([figure, word("press"), figure], [at(60)], 9.0, 0.25)
    assert first.end == press.start and press.end == last.start
    assert (first.end - first.start, last.end - last.start) == pytest.approx((usual, usual))
    (all_there_is,) = timed_words([figure], [], 0.7, 0.25)
    assert (all_there_is.start, all_there_is.end) == (0.0, 0.7)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_words_ascend_and_stay_within_the_clip(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, 4), max_size=12))
    words = [word("w" * max(1, length), length) for length in lengths]
    count = sum(lengths)
    gaps = data.draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
    rows = np.cumsum([0, *gaps])
    seconds = ROW_SECONDS * (int(rows[-1]) + data.draw(st.integers(0, 50))) + 0.01
    spikes = [Spike(int(first), int(stop) - 1, 0.5) for first, stop in pairwise(rows)]
    for known in (spikes, None):
        times = timed_words(words, known, seconds, 0.25)
        assert [each.word for each in times] == [each.written for each in words]
        edges = [0.0, *(edge for each in times for edge in (each.start, each.end)), seconds]
        assert all(one <= other + 1e-9 for one, other in pairwise(edges))
