"""Which clips come in, and which requests share a step. Pure bookkeeping: no torch here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class Budget:
    """What may be in work at once; a single clip is always let through.

    `seats` bounds the clips in work; `rows` the tokens whose keys and values are kept;
    `held_frames` the mel frames (10 ms) of the clips whose audio is held; `encoder_frames` those
    that are encoded between two steps, which is how long the other clips wait; `prompt_tokens` the
    tokens of new prompts in one step. A prompt waits up to `patience` steps for others: where
    launching a step costs most, many at once cost hardly more than one.

    Encoder and prompt budgets are halved where memory ran out, and never grow back within a run.
    """

    seats: int = 16
    rows: int = 1 << 62
    held_frames: int = 15_000
    encoder_frames: int = 6_000
    prompt_tokens: int = 2_048
    patience: int = 0


@dataclass(frozen=True, slots=True)
class _Clip:
    number: int
    frames: int


@dataclass(slots=True)
class _Prompt:
    """A request that waits for its first step: `held` of its `rows` are reserved already, or none.

    `once`: the step is all it needs; otherwise a token follows in every step.
    """

    number: int
    tokens: int
    rows: int
    held: bool
    once: bool
    waited: int = 0


class Scheduler:
    """Admits waiting clips and composes steps, within a budget.

    A clip is known by its number and the mel `frames` of its audio. Once seated it opens one
    request after the other; a request whose rows are not free waits for those before it.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._waiting: deque[_Clip] = deque()
        self._passed = 0  # how often the first that waits was passed over
        self._seated: dict[int, int] = {}
        self._prompts: deque[_Prompt] = deque()
        self._running: dict[int, None] = {}
        self._rows: dict[int, int] = {}

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in work."""
        return not self._waiting and not self._seated

    @property
    def hungry(self) -> bool:
        """There is room to wait, so that the longest of several can be taken first."""
        frames = sum(clip.frames for clip in self._waiting)
        return len(self._waiting) < self.budget.seats and frames < self.budget.held_frames

    @property
    def free_rows(self) -> int:
        """Rows that no request has."""
        return self.budget.rows - sum(self._rows.values())

    def add(self, number: int, frames: int) -> None:
        """Let a clip wait for a seat."""
        self._waiting.append(_Clip(number, frames))

    def admit(self) -> list[int]:
        """Seat what fits, the longest first, and give the numbers.

        A long answer that begins last would leave the seats around it empty. Who has been passed
        over as often as there are seats comes next all the same.
        """
        admitted: list[int] = []
        taken = 0
        while self._waiting:
            first = self._waiting[0]
            longest = max(self._waiting, key=lambda clip: clip.frames)
            clip = first if self._passed >= self.budget.seats else longest
            if not self._fits(clip.frames, taken):
                break
            taken += clip.frames
            self._passed = 0 if clip is first else self._passed + 1
            self._waiting.remove(clip)
            self._seated[clip.number] = clip.frames
            admitted.append(clip.number)
        return admitted

    def open(self, number: int, tokens: int, rows: int, *, once: bool) -> None:
        """Queue a request of a seated clip: `tokens` to feed first, `rows` to keep in all.

        Rows that the clip holds must be as many, or have been returned.
        """
        held = number in self._rows
        assert not held or self._rows[number] == rows
        self._running.pop(number, None)
        self._prompts.append(_Prompt(number, tokens, rows, held, once))

    def hold(self, number: int, rows: int) -> None:
        """Let a clip hold `rows`, 0 for none, in place of what it held."""
        self._rows.pop(number, None)
        if rows:
            self._rows[number] = rows

    def pause(self, number: int) -> None:
        """Let a seated clip have no request for a while, and no rows."""
        self._running.pop(number, None)
        self._rows.pop(number, None)

    def schedule(self) -> list[int]:
        """The clips of the next step: all that are being answered, and new prompts that fit."""
        prompts = self._company()
        for prompt in prompts:
            self._prompts.remove(prompt)
            self._rows[prompt.number] = prompt.rows
        step = [*self._running, *(prompt.number for prompt in prompts)]
        self._running.update((prompt.number, None) for prompt in prompts if not prompt.once)
        return step

    def release(self, number: int) -> None:
        """Forget a clip, wherever it is."""
        self._waiting = deque(clip for clip in self._waiting if clip.number != number)
        self._prompts = deque(prompt for prompt in self._prompts if prompt.number != number)
        for known in (self._seated, self._running, self._rows):
            known.pop(number, None)

    def _company(self) -> list[_Prompt]:
        """The prompts for the next step: within the budget, in order, none if it pays to wait."""
        chosen: list[_Prompt] = []
        tokens, free, blocked = 0, self.free_rows, False
        for prompt in self._prompts:
            if chosen and tokens + prompt.tokens > self.budget.prompt_tokens:
                break
            blocked |= not prompt.held and prompt.rows > free  # whoever needs rows keeps in line
            if prompt.held or not blocked:
                chosen.append(prompt)
                tokens += prompt.tokens
                free -= 0 if prompt.held else prompt.rows
        few = 2 * tokens < self.budget.prompt_tokens
        if chosen and self._running and few and chosen[0].waited < self.budget.patience:
            chosen[0].waited += 1
            return []
        return chosen

    def _fits(self, frames: int, taken: int) -> bool:
        """Whether a clip may come in, in a round that has taken up `taken` frames so far."""
        budget = self.budget
        return not self._seated or (
            len(self._seated) < budget.seats
            and sum(self._seated.values()) + frames <= budget.held_frames
            and (not taken or taken + frames <= budget.encoder_frames)
        )
