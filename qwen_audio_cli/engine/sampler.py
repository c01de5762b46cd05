"""From scores to the next token: greedy, or Gumbel noise that depends on (seed, position) only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .request import Generate

LONGEST_PERIOD = 32
REPEATS = 8


def pick(scores: Tensor, request: Generate, position: int) -> tuple[int, float]:
    """The next token and its log-probability, from [vocabulary] scores at `position`.

    The log-probability is that of the scores with the request's bias, at temperature 1, as
    openai/whisper counts it. Raises ArithmeticError for scores that are no finite numbers.
    """
    bias = request.first_bias if position == 0 and request.first_bias is not None else request.bias
    if bias is not None:
        scores = scores + bias
    if request.temperature > 0:
        generator = torch.Generator().manual_seed(request.seed * 1_000_003 + position)
        uniform = torch.rand(scores.shape[-1], generator=generator).to(scores.device)
        noise = -torch.log(-torch.log(uniform.clamp(1e-10, 1 - 1e-7)))
        token = int((scores / request.temperature + noise).argmax())
    else:
        token = int(scores.argmax())
    logprob = float(scores[token] - scores.logsumexp(-1))
    if not math.isfinite(logprob):
        raise ArithmeticError("the model's scores are not finite")
    return token, logprob


def loops(tokens: list[int]) -> bool:
    """Whether `tokens` end in one pattern of up to `LONGEST_PERIOD` said `REPEATS` times on end.

    A single token must be said 4 times as often: counting aloud or a long number repeats one.
    """
    for period in range(1, LONGEST_PERIOD + 1):
        span = period * (4 * REPEATS if period == 1 else REPEATS)
        tail = tokens[-span:]
        varied = period == 1 or len(set(tail)) > 1
        if len(tail) == span and varied and tail[period:] == tail[:-period]:
            return True
    return False
