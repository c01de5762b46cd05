"""Which clips come in, and which share an encoder call. Pure bookkeeping: no torch here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be in work at once.

    `seats` bounds the clips whose audio is held and whose answers grow; `encoder_frames` the mel
    frames of one encoder call (a single clip is always let through).
    """

    seats: int = 8
    encoder_frames: int = 6_000


class Scheduler:
    """Admits waiting clips, in order, while there are seats.

    A clip is known by its number and the `frames` of each of its audios.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._waiting: deque[tuple[int, tuple[int, ...]]] = deque()
        self._seated: set[int] = set()

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in work."""
        return not self._waiting and not self._seated

    @property
    def hungry(self) -> bool:
        """A further clip would find a seat at once."""
        return len(self._waiting) + len(self._seated) < self.budget.seats

    def add(self, number: int, frames: tuple[int, ...]) -> None:
        """Let a clip wait for a seat."""
        self._waiting.append((number, frames))

    def admit(self) -> list[int]:
        """Seat what fits and give the numbers; the frames of one round stay within the budget."""
        admitted: list[int] = []
        frames = 0
        while self._waiting and len(self._seated) < self.budget.seats:
            number, lengths = self._waiting[0]
            frames += sum(lengths)
            if admitted and frames > self.budget.encoder_frames:
                break
            self._waiting.popleft()
            self._seated.add(number)
            admitted.append(number)
        return admitted

    def release(self, number: int) -> None:
        """Free the seat of a clip that is done."""
        self._seated.remove(number)
