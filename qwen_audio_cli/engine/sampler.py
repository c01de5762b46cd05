"""From scores to the next tokens: greedy, or with noise that depends on (seed, position) only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .request import Generate
from .runner import ROWS
from .transfer import to_device

LONGEST_PERIOD = 32
REPEATS = 8

_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """What was sampled in a step, on its way to the host."""

    tokens: Tensor
    logprobs: Tensor
    event: torch.cuda.Event | None

    @classmethod
    def begin(cls, tokens: Tensor, logprobs: Tensor) -> Sampled:
        """Begin to copy two [n] from the device; the steps behind need not wait for it."""
        if tokens.device.type != "cuda":
            return cls(tokens.cpu(), logprobs.cpu(), None)
        host_tokens, host_logprobs = (
            torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
            for tensor in (tokens, logprobs)
        )
        return cls(host_tokens, host_logprobs, torch.cuda.current_stream().record_event())

    def read(self) -> list[tuple[int, float]]:
        """Tokens with their log-probabilities, once they are there."""
        if self.event is not None:
            self.event.synchronize()
        return list(zip(self.tokens.tolist(), self.logprobs.tolist(), strict=True))


def sample_rows(
    scores: Tensor, rows: list[int], requests: list[Generate], positions: list[int]
) -> tuple[Tensor, Tensor]:
    """What `sample` gives for some rows of scores, whatever others there are."""
    spare = -len(rows) % ROWS  # sums over one row alone add up in another order
    padded = [*rows, *rows[:1] * spare]
    whole = padded == list(range(len(scores)))
    tokens, logprobs = sample(
        scores if whole else scores[to_device(padded, scores.device)],
        requests + requests[:1] * spare,
        positions + positions[:1] * spare,
    )
    return tokens[: len(rows)], logprobs[: len(rows)]


def sample(
    scores: Tensor, requests: Sequence[Generate], positions: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Next tokens and their log-probabilities, two of [n], from float32 scores [n, vocabulary].

    `positions` count the tokens of each answer so far. A log-probability is that of the scores
    with the request's bias, at temperature 1, as openai/whisper counts it; where scores are no
    finite numbers, it is none either.
    """
    scores = _biased(scores, requests, positions)
    tokens = scores.argmax(-1)
    drawn = [row for row, request in enumerate(requests) if request.temperature > 0]
    if drawn:
        keys = [(requests[row].seed, positions[row]) for row in drawn]
        heat = to_device([requests[row].temperature for row in drawn], scores.device, torch.float32)
        noise = gumbel(keys, scores.shape[-1], scores.device)
        rows = to_device(drawn, scores.device)
        tokens.index_copy_(0, rows, (scores[rows] / heat[:, None] + noise).argmax(-1))
    logprobs = scores.gather(-1, tokens[:, None])[:, 0] - scores.logsumexp(-1)
    return tokens, logprobs


def _biased(scores: Tensor, requests: Sequence[Generate], positions: Sequence[int]) -> Tensor:
    """The scores with each request's bias; requests of one family share theirs."""
    rows: dict[int, tuple[Tensor, list[int]]] = {}
    for row, (request, position) in enumerate(zip(requests, positions, strict=True)):
        first = position == 0 and request.first_bias is not None
        bias = request.first_bias if first else request.bias
        if bias is not None:
            rows.setdefault(id(bias), (bias, []))[1].append(row)
    for bias, members in rows.values():
        if len(members) == len(scores):
            return scores + bias
        rows_of_bias = to_device(members, scores.device)
        scores = scores.index_add(0, rows_of_bias, bias.expand(len(members), -1))
    return scores


def gumbel(keys: Sequence[tuple[int, int]], width: int, device: torch.device) -> Tensor:
    """Gumbel noise [len(keys), width] that is a hash of (seed, position) and of the column.

    The same on every device and in any batch, unlike a random generator's.
    """
    hashed = to_device([(seed * 0x9E3779B1 + position) & _MASK for seed, position in keys], device)
    lanes = torch.arange(width, device=device) * 0x85EBCA77
    mixed = _mix(_mix(hashed)[:, None] + lanes)
    uniform = (mixed.double() + 0.5) / 2.0**32
    return -torch.log(-torch.log(uniform)).float()


def _mix(x: Tensor) -> Tensor:
    """Spread every bit over 32 (the finaliser of MurmurHash3, by A. Appleby)."""
    x = x & _MASK
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _MASK
    return x ^ (x >> 16)


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
