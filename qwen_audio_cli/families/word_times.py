"""Word times from cross-attention: which frame each token of an answer was heard at.

The method of openai/whisper (`timing.py`): the attention of a few heads that follow the audio is
normalised, smoothed and averaged; the best monotonic path through it gives each token its frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MEDIAN_FRAMES = 7


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """The tokens `start:stop` of an answer that make one word."""

    word: str
    start: int
    stop: int


def token_frames(attention: Tensor, prompt: int, frames: int) -> NDArray[np.int64]:
    """First frame of each token of an answer and the end of the last, [tokens + 1], ascending.

    `attention` [heads, tokens fed, audio frames] is that of the `prompt` tokens and of the answer's
    behind them: a row tells where the token that follows it was heard. `frames` is how many audio
    frames the clip really has.
    """
    weights = attention[:, prompt - 1 :, :frames].float()
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)
    deviation, mean = torch.std_mean(weights, dim=1, keepdim=True, unbiased=False)
    weights = (weights - mean) / deviation.clamp(min=1e-9)
    pad = MEDIAN_FRAMES // 2
    padded = torch.nn.functional.pad(weights, (pad, pad), mode="replicate")
    smooth = padded.unfold(-1, MEDIAN_FRAMES, 1).median(-1).values
    return _first_frames(smooth.mean(0).cpu().numpy())


def _first_frames(score: NDArray[np.float32]) -> NDArray[np.int64]:
    """Where each row of the best monotonic path through `score` [rows, frames] begins.

    The path takes every frame once and every row for one frame at least; rows that outnumber the
    frames share the last one. The last row stands for the end of the answer.
    """
    rows, frames = score.shape
    if rows > frames:
        score = np.pad(score, ((0, 0), (0, rows - frames)))
    total = np.full(rows, -np.inf)
    total[0] = score[0, 0]
    stayed = np.ones(score.shape, dtype=bool)
    for frame in range(1, score.shape[1]):
        came = np.concatenate([[-np.inf], total[:-1]])
        stayed[:, frame] = total >= came
        total = np.maximum(total, came) + score[:, frame]
    first = np.zeros(rows, dtype=np.int64)
    row = rows - 1
    for frame in range(score.shape[1] - 1, 0, -1):
        if not stayed[row, frame]:
            first[row] = frame
            row -= 1
    return np.minimum(first, frames)


def group_words(pieces: Sequence[str], *, spaced: bool) -> list[TokenGroup]:
    """Words of an answer whose tokens decode to `pieces` (an unfinished character to "").

    In a `spaced` script a word begins at a space, otherwise at every character. Marks before a
    word (quotes, brackets) and behind it belong to it, as in openai/whisper.
    """
    groups: list[TokenGroup] = []
    for index, piece in enumerate(pieces):
        stripped = piece.strip()
        last = groups[-1] if groups else None
        joins = last is not None and (
            not stripped
            or last.word.strip() in _OPENING
            or (not any(char.isalnum() for char in stripped)
            and not (piece.startswith(" ") and stripped[0] in _OPENING))
            or (spaced and not piece.startswith(" "))
        )
        if joins and last is not None:
            groups[-1] = TokenGroup(last.word + piece, last.start, index + 1)
        else:
            groups.append(TokenGroup(piece, index, index + 1))
    return [TokenGroup(group.word.strip(), group.start, group.stop) for group in groups]


_OPENING = frozenset("\"'“¿([{-‘«„")
