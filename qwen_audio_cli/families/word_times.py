"""Word times: which frames of a clip each word of an answer was heard in.

When Whisper is about to write a token, some heads of its cross-attention look where that token
begins to sound. As in openai/whisper (`timing.py`) the best monotonic path through the attention is
sought, but of one head, a sharp one that looks early: the mean over heads, which is taken there,
mixes the begin of a word with its middle and its end. Pauses are found by the clip's level.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHARP = 0.85
"""Heads that tell this share of what the most telling head tells of the place may be read."""

RISE = 0.5
"""A token begins where its attention rises above this share of its peak."""

QUIET = 0.2
"""A frame is quiet below this share of the way from the clip's low levels to its high ones."""

PAUSE_FRAMES = 5
"""Shorter stretches of quiet within a clip belong to speech: the closure of a plosive."""

SLACK_FRAMES = 3
"""A word may reach into a pause, or over it, by this much."""

_FLOOR = 1e-4  # attention below this says nothing
_SPOKEN_MARKS = frozenset("&%#@")
_OPEN_OR_CLOSE = frozenset("\"'-")


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """The tokens `start:stop` of an answer that make one word; those from `spoken` on are marks."""

    word: str
    start: int
    spoken: int
    stop: int


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames `start:stop` of a clip."""

    start: int
    stop: int


def token_onsets(attention: Tensor, frames: int) -> NDArray[np.int64]:
    """The frame at which each token of an answer begins (the stop token too), then `frames`.

    `attention` [heads, tokens, audio frames] tells of each of these tokens where it was heard.
    `frames` is how many audio frames the clip really has. The result ascends.
    """
    weights = attention[:, :, :frames].float().cpu().numpy()
    weights = weights / np.maximum(weights.sum(-1, keepdims=True), _FLOOR)
    told = _information(weights)
    telling = np.flatnonzero(told >= SHARP * told.max())
    paths = [(monotonic_path(np.log(weights[head] + _FLOOR)), head) for head in telling]
    path, head = min(paths, key=lambda item: (float(item[0].mean()), -told[item[1]]))
    onsets = np.empty(len(path) + 1, dtype=np.int64)
    onsets[:-1] = _rises(weights[head], path)
    onsets[-1] = frames
    return onsets


def _information(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each head's place tells of the token: their mutual information in nats, [heads].

    `weights` [heads, tokens, frames] are distributions over frames. A head that always looks at one
    place, or anywhere, tells nothing.
    """
    mean = weights.mean(1, keepdims=True)
    ratio = np.log((weights + 1e-9) / (mean + 1e-9))
    information: NDArray[np.float32] = (weights * ratio).sum(-1).mean(-1)
    return information


def monotonic_path(score: NDArray[np.float32]) -> NDArray[np.int64]:
    """One frame for each row of `score` [rows, frames], never before the last row's, of best sum.

    Of equally good paths, the earliest frames count.
    """
    rows, frames = score.shape
    places = np.arange(frames)
    best = np.zeros((rows, frames), dtype=np.int64)  # the row's frame, if the next one's is at most
    total = np.zeros(frames)
    for row in range(rows):
        total = total + score[row]
        highest = np.maximum.accumulate(total)
        rising = np.concatenate([[True], highest[1:] > highest[:-1]])
        best[row] = np.maximum.accumulate(np.where(rising, places, 0))
        total = highest
    path = np.empty(rows, dtype=np.int64)
    frame = frames - 1
    for row in range(rows - 1, -1, -1):
        path[row] = frame = best[row, frame]
    return path


def _rises(weights: NDArray[np.float32], path: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each row rises to its peak on `path`; not before the last row's peak."""
    begins = np.empty_like(path)
    earliest = 0
    for row, peak in enumerate(path):
        low = np.flatnonzero(weights[row, earliest:peak] < RISE * weights[row, peak])
        begins[row] = earliest + low[-1] + 1 if len(low) else earliest
        earliest = peak
    return begins


def frame_levels(features: Tensor) -> Tensor:
    """The level of each encoder frame, [batch, frames], from log-mel [batch, mels, 2 * frames].

    The mean over the bands of the logarithm, so that a hiss counts as much as a vowel.
    """
    levels = features.float().mean(1)
    return torch.maximum(levels[:, ::2], levels[:, 1::2])


def find_pauses(level: NDArray[np.float32]) -> list[Frames]:
    """The pauses in a clip, by the level of each frame on a logarithmic scale, [frames]."""
    low, high = np.percentile(level, [5, 95])
    quiet = np.concatenate([[False], level < low + QUIET * (high - low), [False]])
    edges = np.flatnonzero(quiet[1:] != quiet[:-1]).tolist()
    return [
        Frames(start, stop)
        for start, stop in zip(edges[::2], edges[1::2], strict=True)
        if stop - start >= PAUSE_FRAMES or start == 0 or stop == len(level)
    ]


def word_frames(
    groups: Sequence[TokenGroup], onsets: NDArray[np.int64], pauses: Sequence[Frames]
) -> Iterator[Frames]:
    """The frames of each word; they ascend and do not overlap.

    A word ends where the next one begins, unless there is a pause before it or, where none is
    heard, a punctuation mark.
    """
    for index, group in enumerate(groups):
        start = int(onsets[group.start])
        last = index + 1 == len(groups)
        limit = int(onsets[-1] if last else onsets[group.stop])
        stop = int(onsets[group.spoken])
        for pause in pauses:
            if pause.start <= start + SLACK_FRAMES and start < pause.stop < limit:
                start = pause.stop
            elif start < pause.start < limit <= pause.stop + SLACK_FRAMES:
                stop = pause.start
                break
        yield Frames(start, max(start, stop))


def group_words(pieces: Sequence[str], *, spaced: bool) -> list[TokenGroup]:
    """Words of an answer whose tokens decode to `pieces` (an unfinished character to "").

    In a `spaced` script a word begins at a space, otherwise at every piece. Marks before a word
    (quotes, brackets) and behind it belong to it.
    """
    groups: list[TokenGroup] = []
    held, start = "", 0  # of tokens that show no character yet
    for index, piece in enumerate(pieces):
        held += piece
        if not held.strip():
            continue
        spoken = index + 1 if _is_spoken(held) else None
        last = groups[-1] if groups else None
        if last is None or _begins_word(held, last.word, spaced=spaced):
            groups.append(TokenGroup(held, start, spoken or index + 1, index + 1))
        else:
            groups[-1] = TokenGroup(last.word + held, last.start, spoken or last.spoken, index + 1)
        held, start = "", index + 1
    return [
        TokenGroup(group.word.strip(), group.start, group.spoken, group.stop) for group in groups
    ]


def _begins_word(text: str, before: str, *, spaced: bool) -> bool:
    """Whether `text`, behind the word `before`, is the next word (or an opening mark of it)."""
    if not _is_spoken(before):
        return False
    apart = text[0].isspace() or not spaced
    first = text.lstrip()[0]
    if unicodedata.category(first) in ("Ps", "Pi") or first in "¿¡":
        return apart
    if first in _OPEN_OR_CLOSE and text[0].isspace():
        return True
    return apart and _is_spoken(text) and unicodedata.category(first)[0] != "M"


def _is_spoken(text: str) -> bool:
    """Whether there is more in `text` than spaces and marks."""
    return any(char in _SPOKEN_MARKS or unicodedata.category(char)[0] not in "PZC" for char in text)
