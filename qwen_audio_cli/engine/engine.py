"""The loop that answers many clips at once: schedule, run, postprocess.

Iteration-level batching: every turn of the loop computes one packed step in which each clip in
work has its next rows, a whole prompt or a single token; clips come and go between turns. The
answers of a clip do not depend on which others share its steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .cache import KVCache, Span
from .request import (
    Answer,
    AudioInput,
    Dialogue,
    FinishReason,
    Generate,
    Generated,
    Model,
    Score,
    Scored,
)
from .sampler import loops, pick
from .scheduler import Budget, Scheduler

K = TypeVar("K")
R = TypeVar("R")

ROWS = 4
"""Rows of a step are filled up to a multiple of this.

Matrix products of fewer rows add up in another order (seen with torch 2.13 on x86: float32 with up
to 11 rows that are no multiple of 4, bfloat16 with a single one), so that a clip's scores would
depend, in their last bits, on how many others share its steps.
"""

FORKS = 8
"""Continuations scored in one call: each holds a copy of its prefix's keys and values."""


@dataclass(frozen=True, slots=True, eq=False)
class Work(Generic[K, R]):
    """One clip (or several, for one request about all of them) and the dialogue to hold over it."""

    key: K
    audios: tuple[AudioInput, ...]
    dialogue: Dialogue[R]


@dataclass(frozen=True, slots=True)
class Done(Generic[K, R]):
    """The outcome of a work: its result, or the exception that ended it."""

    key: K
    result: R | None
    error: Exception | None


@dataclass(slots=True, eq=False)
class _Running(Generic[K, R]):
    """A clip in work: its dialogue, the request being answered, and the rows to compute next."""

    work: Work[K, R]
    request: Generate | Score | None = None
    cache: KVCache | None = None
    feed: Sequence[int] = ()
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Engine(Generic[K, R]):
    """Answers works with one model, within a budget."""

    def __init__(self, model: Model, device: torch.device, budget: Budget) -> None:
        self.model = model
        self.device = device
        self.scheduler = Scheduler(budget)
        self._running: dict[int, _Running[K, R]] = {}
        self._arriving: dict[int, Work[K, R]] = {}
        self._numbers = iter(range(2**63))
        self._finished: list[Done[K, R]] = []

    @property
    def idle(self) -> bool:
        """Nothing is in work."""
        return self.scheduler.idle

    @property
    def hungry(self) -> bool:
        """A further work would be taken up in the next turn."""
        return self.scheduler.hungry

    def add(self, work: Work[K, R]) -> None:
        """Take on a work; `turn` will give its outcome."""
        number = next(self._numbers)
        self._arriving[number] = work
        features = [audio.features for audio in work.audios]
        self.scheduler.add(number, sum(0 if f is None else f.shape[-1] for f in features))

    @torch.inference_mode()
    def turn(self) -> list[Done[K, R]]:
        """Admit and encode, compute one packed step, read it; gives the works that are done."""
        admitted = self.scheduler.admit()
        self._encode([(n, audio) for n in admitted for audio in self._arriving[n].audios])
        for number in admitted:
            if number in self._arriving:  # its audio was encoded without an error
                running = _Running(self._arriving.pop(number))
                self._running[number] = running
                self._proceed(number, running, None)
        self._step(list(self._running))
        finished, self._finished = self._finished, []
        return finished

    def _encode(self, audios: list[tuple[int, AudioInput]]) -> None:
        """Run the encoder; clips of one length share a call, each is as if it were alone."""
        groups: dict[torch.Size, list[tuple[int, AudioInput]]] = {}
        for number, audio in audios:
            if audio.features is not None:
                groups.setdefault(audio.features.shape, []).append((number, audio))
        for group in groups.values():
            features = torch.stack([a.features for _, a in group if a.features is not None])
            try:
                memories = self.model.encode(features.to(self.device))
            except Exception as error:
                if len(group) > 1:  # one of them may be at fault: each on its own
                    for member in group:
                        self._encode([member])
                    continue
                if work := self._arriving.pop(group[0][0], None):
                    self._close(group[0][0], work, Done(work.key, None, error))
                continue
            for (_, audio), memory in zip(group, memories, strict=True):
                audio.memory, audio.features = memory, None

    def _step(self, numbers: list[int]) -> None:
        """Compute the next rows of these clips in one packed call and read the scores."""
        if not numbers:
            return
        packed: list[int] = []
        positions: list[int] = []
        spans: list[Span] = []
        for number in numbers:
            running = self._running[number]
            cache = running.cache
            assert cache is not None
            spans.append(Span(len(packed), len(packed) + len(running.feed), cache))
            packed.extend(running.feed)
            positions.extend(range(cache.length, cache.length + len(running.feed)))
        try:
            scores = self._forward(packed, positions, spans, [span.stop - 1 for span in spans])
        except Exception as error:
            if len(numbers) > 1:  # caches have not advanced: each can be tried on its own
                for number in numbers:
                    self._step([number])
                return
            self._fail(numbers[0], error)
            return
        for number, row in zip(numbers, scores, strict=True):
            try:
                self._read(number, self._running[number], row)
            except Exception as error:
                self._fail(number, error)

    def _forward(
        self, tokens: list[int], positions: list[int], spans: list[Span], rows: list[int]
    ) -> Tensor:
        """Scores [len(rows), vocabulary] of a packed step, behind which the caches advance."""
        spare = [0] * (-len(tokens) % ROWS)
        scores = self.model.forward(
            torch.tensor(tokens + spare, device=self.device),
            torch.tensor(positions + spare, device=self.device),
            spans,
            torch.tensor(rows + rows[:1] * (-len(rows) % ROWS), device=self.device),
        )
        for span in spans:
            span.cache.advance(span.stop - span.start)
        return scores[: len(rows)]

    def _read(self, number: int, running: _Running[K, R], scores: Tensor) -> None:
        """Take the scores behind a clip's last row to its next token, or end its request."""
        request = running.request
        if isinstance(request, Score):
            self._proceed(number, running, self._score(running, request, scores))
            return
        assert request is not None
        token, logprob = pick(scores, request, len(running.tokens))
        running.logprobs.append(logprob)
        finish: FinishReason | None = None
        if token in request.stop:
            finish = "stop"
        else:
            running.tokens.append(token)
            running.feed = (token,)
            if loops(running.tokens):
                finish = "repeat"
            elif len(running.tokens) >= request.longest:
                finish = "length"
        if finish:
            cache = running.cache
            watched = cache.alignment() if request.watch and cache is not None else None
            answer = Generated(running.tokens, running.logprobs, finish, watched)
            self._proceed(number, running, answer)

    def _score(self, running: _Running[K, R], request: Score, scores: Tensor) -> Scored:
        """Log-probabilities of the continuations, the longer ones in packed calls."""
        assert running.cache is not None
        first = scores.log_softmax(-1)
        logprobs = [[float(first[tokens[0]])] for tokens in request.continuations]
        longer = [i for i, tokens in enumerate(request.continuations) if len(tokens) > 1]
        for begin in range(0, len(longer), FORKS):
            chunk = longer[begin : begin + FORKS]
            tails = self._continue(running.cache, [request.continuations[i] for i in chunk])
            for index, tail in zip(chunk, tails, strict=True):
                logprobs[index].extend(tail)
        if not all(map(math.isfinite, chain.from_iterable(logprobs))):
            raise ArithmeticError("the model's scores are not finite")
        return Scored(logprobs)

    def _continue(
        self, cache: KVCache, continuations: Sequence[Sequence[int]]
    ) -> Iterator[list[float]]:
        """Log-probabilities of all but the first token of each continuation behind `cache`."""
        spans: list[Span] = []
        packed: list[int] = []
        positions: list[int] = []
        for tokens in continuations:
            fork = cache.fork(len(tokens) - 1)
            spans.append(Span(len(packed), len(packed) + len(tokens) - 1, fork))
            packed.extend(tokens[:-1])
            positions.extend(range(fork.length, fork.length + len(tokens) - 1))
        rows = self._forward(packed, positions, spans, list(range(len(packed))))
        for tokens, span in zip(continuations, spans, strict=True):
            following = torch.tensor(tokens[1:], device=self.device)
            chosen = rows[span.start : span.stop].log_softmax(-1)
            yield chosen.gather(1, following[:, None])[:, 0].tolist()

    def _proceed(self, number: int, running: _Running[K, R], answer: Answer | None) -> None:
        """Hand an answer to the clip's dialogue and open its next request, or end it."""
        work = running.work
        try:
            request = work.dialogue.send(answer) if answer else next(work.dialogue)
        except StopIteration as stop:
            self._close(number, work, Done(work.key, stop.value, None))
            return
        except Exception as error:
            self._close(number, work, Done(work.key, None, error))
            return
        running.request = request
        running.tokens, running.logprobs = [], []
        running.feed = request.prompt
        longest = request.longest if isinstance(request, Generate) else 0
        running.cache = self.model.open(
            [audio.memory for audio in work.audios],
            len(request.prompt) + longest,
            isinstance(request, Generate) and request.watch,
        )

    def _fail(self, number: int, error: Exception) -> None:
        work = self._running[number].work
        work.dialogue.close()
        self._close(number, work, Done(work.key, None, error))

    def _close(self, number: int, work: Work[K, R], outcome: Done[K, R]) -> None:
        """Free all that a clip held and note its outcome."""
        self.scheduler.release(number)
        self._running.pop(number, None)
        for audio in work.audios:
            audio.features = audio.memory = None
        self._finished.append(outcome)
