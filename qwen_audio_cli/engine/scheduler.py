"""Which clips come in, and which share an encoder call. Pure bookkeeping: no torch here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be in work at once; a single clip is always let through.

    `seats` bounds the clips whose answers grow, `held_frames` the mel frames (10 ms) of the clips
    whose audio is held for them, which is what memory goes to, and `encoder_frames` those that one
    round of encoding takes up, which is how long the other clips wait.
    """

    seats: int = 16
    held_frames: int = 15_000
    encoder_frames: int = 6_000


class Scheduler:
    """Admits waiting clips, in order, while the budget allows.

    A clip is known by its number and the mel `frames` of its audio.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._waiting: deque[tuple[int, int]] = deque()
        self._seated: dict[int, int] = {}

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in work."""
        return not self._waiting and not self._seated

    @property
    def hungry(self) -> bool:
        """A further clip might soon find a seat."""
        frames = sum(frames for _, frames in self._waiting) + sum(self._seated.values())
        clips = len(self._waiting) + len(self._seated)
        return clips < self.budget.seats and frames < self.budget.held_frames

    def add(self, number: int, frames: int) -> None:
        """Let a clip wait for a seat."""
        self._waiting.append((number, frames))

    def admit(self) -> list[int]:
        """Seat what fits and give the numbers."""
        admitted: list[int] = []
        taken = 0
        while self._waiting and self._fits(self._waiting[0][1], taken):
            number, frames = self._waiting.popleft()
            self._seated[number] = frames
            admitted.append(number)
            taken += frames
        return admitted

    def release(self, number: int) -> None:
        """Free the seat of a clip that is done."""
        del self._seated[number]

    def _fits(self, frames: int, taken: int) -> bool:
        """Whether a clip may come in, in a round that has taken up `taken` frames so far."""
        budget = self.budget
        return not self._seated or (
            len(self._seated) < budget.seats
            and sum(self._seated.values()) + frames <= budget.held_frames
            and (not taken or taken + frames <= budget.encoder_frames)
        )
