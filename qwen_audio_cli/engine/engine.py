"""The loop that answers many clips at once: schedule, run, postprocess.

Iteration-level batching: every turn of the loop computes one packed step in which each clip in
work has its next rows, a whole prompt or a single token; clips come and go between turns. The
answers of a clip do not depend on which others share its steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, cast

import torch
from torch import Tensor

from .arena import Arena
from .attention import Backend, backend_for, varlen
from .classifying import Classifying
from .colleague import Colleague, Consulted
from .encoder import EncoderStage
from .graphs import DecodeGraphs
from .memory import free_memory, give_back, is_out_of_memory, rows_that_fit
from .request import (
    Classify,
    Consult,
    FinishReason,
    Generate,
    Generated,
    Model,
    Request,
    Score,
    Spell,
)
from .runner import FIXED_ROWS, ROWS, Feed, Runner
from .sampler import Sampled, loops, sample_rows
from .scheduler import Budget, Scheduler
from .scoring import Scoring
from .spelling import spell
from .transfer import to_device
from .work import Cancelled, Done, K, Launched, Member, R, Running, Work, common

USUAL_ROWS = 2048
"""Rows that are reserved for each seat: what 30 s of audio, a prompt and an answer take and more. A
single request may have as many as the model has positions."""


GIVE_BACK_EVERY = 64
"""Works after which memory that is free is returned to the system."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How steps are run.

    `deterministic` gives every step row counts that make answers the same to the last bit.
    `lookahead` launches a step before the one before it has been read, so that a GPU never waits
    for the host; what an answer's end then computes in vain is one row. `graphs` replays decode
    steps as CUDA graphs. `backend` overrides the device's own attention.
    """

    deterministic: bool = False
    lookahead: bool = False
    graphs: bool = False
    backend: Backend | None = None

    @classmethod
    def of(cls, device: torch.device, *, deterministic: bool = False) -> Manner:
        """What suits a device."""
        cuda = device.type == "cuda"
        return cls(deterministic=deterministic, lookahead=cuda, graphs=cuda and not deterministic)


class Engine(Generic[K, R]):
    """Answers works with one model, within a budget.

    What a work asks to `Consult`, the `colleague` does in steps of its own, one a turn: an engine
    over another model that takes the same features.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        budget: Budget,
        manner: Manner | None = None,
        colleague: Consulted | None = None,
    ) -> None:
        manner = manner or Manner.of(device)
        shape = model.cache
        usual = budget.seats * min(model.positions, USUAL_ROWS)
        budget.rows = min(budget.rows, max(model.positions, usual), rows_that_fit(shape))
        self.scheduler = Scheduler(budget)
        self.arena = Arena(shape, budget.rows)
        self._model = model
        self._manner = manner
        shrink = self._shrink_encoder
        exact, keep = manner.deterministic, colleague is not None
        self._encoder = EncoderStage(model, device, shrink, exact=exact, keep=keep)
        self._colleague = Colleague(colleague)
        self._last = torch.zeros(budget.seats, dtype=torch.long, device=device)
        backend = manner.backend or backend_for(device, shape.dtype)
        graphs = None
        # A graph attends by the kernel of `varlen`, which knows 16 bits alone, and to one device.
        if manner.graphs and model.capturable and backend is varlen and len({*shape.devices}) == 1:
            graphs = DecodeGraphs(model, self.arena, self._last)
        multiple = FIXED_ROWS if manner.deterministic else ROWS
        self._runner = Runner(model, self.arena, backend, multiple, graphs)
        self._seats = list(range(budget.seats))
        self._running: dict[int, Running[K, R]] = {}
        self._arriving: dict[int, Work[K, R]] = {}
        self._numbers = iter(range(2**63))
        self._pending: Launched[K, R] | None = None
        self._finished: list[Done[K, R]] = []
        self._closed = 0

    @property
    def idle(self) -> bool:
        """Nothing is in work."""
        return self.scheduler.idle and not self._finished

    @property
    def hungry(self) -> bool:
        """A further work is welcome."""
        return self.scheduler.hungry

    def add(self, work: Work[K, R]) -> None:
        """Take on a work; `turn` will give its outcome."""
        number = next(self._numbers)
        self._arriving[number] = work
        features = [audio.features for audio in work.audios]
        self.scheduler.add(number, sum(0 if f is None else f.shape[-1] for f in features))

    def cancel(self, chosen: Callable[[K], bool]) -> None:
        """End the works whose key is chosen: their outcome is `Cancelled`."""
        for number, work in list(self._arriving.items()):
            if chosen(work.key):
                self._close(number, work, Done(work.key, None, Cancelled()))
        for number, running in list(self._running.items()):
            if chosen(running.work.key):
                running.work.dialogue.close()
                self._colleague.cancel(number)
                self._close(number, running.work, Done(running.work.key, None, Cancelled()))

    @torch.inference_mode()
    def turn(self) -> list[Done[K, R]]:
        """Schedule, run one packed step, postprocess; gives the works that are done."""
        step = self._schedule()
        launched = self._run(step)
        if self._manner.lookahead:
            self._pending, launched = launched, self._pending
        if launched:
            self._postprocess(launched)
        finished, self._finished = self._finished, []
        return finished

    # --- schedule -------------------------------------------------------------------------------

    def _schedule(self) -> list[int]:
        """Encode the clips that come in, open their first requests, and choose the step's."""
        admitted = self.scheduler.admit()
        if admitted:
            clips = [(number, self._arriving[number].audios) for number in admitted]
            self._encoder.submit(clips, self.scheduler.budget.encoder_frames)
        for encoded in self._encoder.collect(wait=not self._running and not self._pending):
            work = self._arriving.pop(encoded.number, None)
            if work is None:  # cancelled meanwhile
                continue
            if encoded.error is not None:
                work.dialogue.close()
                self._close(encoded.number, work, Done(work.key, None, encoded.error))
                continue
            running = Running(work, self._seats.pop())
            self._running[encoded.number] = running
            self._resume(encoded.number, running, partial(next, work.dialogue))
        for done in self._colleague.turn():
            if consulting := self._running.get(done.key):  # not cancelled meanwhile
                self._resume(done.key, consulting, done.go_on(consulting.work.dialogue))
        return self.scheduler.schedule()

    def _resume(self, number: int, running: Running[K, R], resume: Callable[[], Request]) -> None:
        """Let the clip's dialogue go on, and open the request it comes to, or end the clip."""
        while True:
            try:
                request = resume()
            except StopIteration as stop:
                self._close(number, running.work, Done(running.work.key, stop.value, None))
                return
            except Exception as error:
                self._close(number, running.work, Done(running.work.key, None, error))
                return
            try:
                if isinstance(request, Spell):  # no step is needed for it
                    spelled = spell(self._model, running.work.audios, request)
                    resume = partial(running.work.dialogue.send, spelled)
                    continue
                if isinstance(request, Consult):
                    self._consult(number, running, request)
                else:
                    self._open(number, running, request)
                return
            except Exception as error:
                resume = partial(running.work.dialogue.throw, error)

    def _consult(self, number: int, running: Running[K, R], request: Consult) -> None:
        """Let the clip wait in its seat, without rows, for what the colleague makes of it."""
        self._colleague.take(number, request, running.work.audios)
        self.scheduler.pause(number)
        if running.extent:
            self.arena.close(running.extent)
        running.extent, running.fed = None, []
        running.request, running.scoring = request, None

    def _open(
        self, number: int, running: Running[K, R], request: Generate | Score | Classify
    ) -> None:
        """Queue a request; what its prompt has in common with the last one's is kept."""
        scoring: Scoring | Classifying | None = None
        first, watch = len(request.prompt) - 1, False
        if isinstance(request, Generate):
            rows, watch = len(request.prompt) + request.longest, request.watch
        else:
            scoring = Scoring(request) if isinstance(request, Score) else Classifying(request)
            rows, first = len(request.prompt) + scoring.rows, scoring.first
        keep = min(common(running.fed, request.prompt), first)
        extent = running.extent
        if extent and extent.capacity < rows:
            if self.scheduler.free_rows >= rows:
                extent = self.arena.grow(extent, rows, keep)
            else:  # it keeps in line for its rows, and computes its prompt again
                self.arena.close(extent)
                extent, keep = None, 0
        if extent:
            extent.length, rows = keep, extent.capacity
        self.scheduler.hold(number, rows if extent else 0)
        running.extent = extent
        running.rows = rows
        if rows > self.scheduler.budget.rows:
            raise MemoryError(
                f"{rows} tokens of prompt and answer, and room for {self.scheduler.budget.rows}"
            )
        running.context = self._model.open([audio.memory for audio in running.work.audios], watch)
        running.request, running.scoring = request, scoring
        running.fed, running.feed = running.fed[:keep], request.prompt[keep:]
        running.launched = 0
        running.tokens, running.logprobs = [], []
        self.scheduler.open(number, len(running.feed), rows, once=scoring is not None)

    # --- run ------------------------------------------------------------------------------------

    def _run(self, numbers: Sequence[int]) -> Launched[K, R] | None:
        """Compute a step and sample from it; where it fails, in two, down to the one at fault."""
        members = [
            Member(number, self._running[number], self._running[number].request)
            for number in numbers
            if self._running[number].unfinished
        ]
        # Branches last: `varlen` has its kernel for the rows before them.
        members.sort(key=lambda member: member.running.branches != ())
        if not members:
            return None
        try:
            return self._launch(members)
        except Exception as error:
            short = is_out_of_memory(error)
            failure = error.with_traceback(None)  # its frames hold the tensors that were too many
        if short:
            self._shrink_prompts()
        if self._pending:  # what was launched before comes first
            self._postprocess(self._pending)
            self._pending = None
        if len(members) == 1:
            member = members[0]
            if self._current(member):
                self._fail(member.number, member.running, failure)
            return None
        half = len(members) // 2
        for part in (members[:half], members[half:]):
            launched = self._run([member.number for member in part if self._current(member)])
            if launched:
                self._postprocess(launched)
        return None

    def _launch(self, members: Sequence[Member[K, R]]) -> Launched[K, R]:
        """Compute the next rows of these clips in one packed step, and sample."""
        feeds = []
        for member in members:
            running = member.running
            if running.extent is None:
                running.extent = self.arena.open(running.rows)
            extent, context, tokens = running.extent, running.context, running.feed
            branches, wanted = running.branches, running.wanted
            feeds.append(Feed(extent, context, tokens, running.seat, branches, wanted))
        scores = self._runner.run(feeds, self._last)
        generating: list[Member[K, R]] = []
        sampled_rows: list[int] = []
        scoring: list[tuple[Member[K, R], Tensor]] = []
        row = 0
        for member, feed in zip(members, feeds, strict=True):
            stop = row + len(feed.wanted)
            if member.running.scoring is None:
                generating.append(member)
                sampled_rows.append(row)
            else:
                scoring.append((member, scores[row:stop]))
            row = stop
        sampled = self._sample(scores, generating, sampled_rows) if generating else None
        for member in members:
            running = member.running
            if not running.branches:
                running.fed += running.feed or ()
            running.feed = None
            running.launched += 1
        return Launched(generating, sampled, scoring)

    def _sample(self, scores: Tensor, members: Sequence[Member[K, R]], rows: list[int]) -> Sampled:
        """Sample for each member from its row, and keep the tokens on the device, by seat."""
        requests = [cast(Generate, member.request) for member in members]
        positions = [member.running.launched for member in members]
        tokens, logprobs = sample_rows(scores, rows, requests, positions)
        seats = to_device([member.running.seat for member in members], self._last.device)
        self._last.index_copy_(0, seats, tokens.to(self._last.device))
        return Sampled.begin(tokens, logprobs)

    # --- postprocess ----------------------------------------------------------------------------

    def _postprocess(self, launched: Launched[K, R]) -> None:
        """Read a step: extend answers by a token, end those that are complete."""
        read = launched.sampled.read() if launched.sampled else ()
        for member, (token, logprob) in zip(launched.generating, read, strict=True):
            if self._current(member):
                self._extend(member, token, logprob)
        for member, scores in launched.scoring:
            if self._current(member):
                self._score(member, scores)

    def _extend(self, member: Member[K, R], token: int, logprob: float) -> None:
        running, request = member.running, cast(Generate, member.request)
        if not math.isfinite(logprob):
            error = ArithmeticError("the model's scores are not finite")
            self._fail(member.number, running, error)
            return
        running.logprobs.append(logprob)
        finish: FinishReason | None = None
        if token in request.stop:
            finish = "stop"
        else:
            running.tokens.append(token)
            if loops(running.tokens):
                finish = "repeat"
            elif len(running.tokens) >= request.longest:
                finish = "length"
        if finish:
            watched = running.context if request.watch else None
            answer = Generated(running.tokens, running.logprobs, finish, watched)
            self._resume(member.number, running, partial(running.work.dialogue.send, answer))

    def _score(self, member: Member[K, R], scores: Tensor) -> None:
        running = member.running
        assert running.scoring is not None
        try:
            scored = running.scoring.take(scores)
        except Exception as error:
            self._fail(member.number, running, error)
            return
        if scored:
            self._resume(member.number, running, partial(running.work.dialogue.send, scored))
        else:
            running.feed = running.scoring.tokens
            running.launched = 0
            self.scheduler.open(member.number, len(running.feed), running.rows, once=True)

    def _current(self, member: Member[K, R]) -> bool:
        """Whether a member of a step still has the request it was in the step for."""
        running = self._running.get(member.number)
        return running is member.running and running.request is member.request

    def _fail(self, number: int, running: Running[K, R], error: Exception) -> None:
        """Let the clip's dialogue know of an error; it may have something else to ask."""
        self._resume(number, running, partial(running.work.dialogue.throw, error))

    def _close(self, number: int, work: Work[K, R], outcome: Done[K, R]) -> None:
        """Free all that a clip held and note its outcome."""
        self.scheduler.release(number)
        self._arriving.pop(number, None)
        if running := self._running.pop(number, None):
            self._seats.append(running.seat)
            if running.extent:
                self.arena.close(running.extent)
        for audio in work.audios:
            audio.features = audio.memory = None
        self._finished.append(outcome)
        self._closed += 1
        if self._closed % GIVE_BACK_EVERY == 0:
            give_back()

    def _shrink_encoder(self) -> None:
        budget = self.scheduler.budget
        budget.encoder_frames = max(1, budget.encoder_frames // 2)
        free_memory(f"clips are encoded {budget.encoder_frames / 100:g} s at a time")

    def _shrink_prompts(self) -> None:
        budget = self.scheduler.budget
        budget.prompt_tokens = max(1, budget.prompt_tokens // 2)
        free_memory(f"prompts are computed {budget.prompt_tokens} tokens at a time")
