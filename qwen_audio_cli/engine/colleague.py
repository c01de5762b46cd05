"""What an engine has from another, over another model: the outcomes of dialogues it consults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from .request import AudioInput, Consult
from .work import Done, Work


class Consulted(Protocol):
    """What is needed of the other engine."""

    @property
    def idle(self) -> bool:
        """Nothing is in work."""

    def add(self, work: Work[int, object]) -> None:
        """Take on a work; `turn` will give its outcome."""

    def turn(self) -> list[Done[int, object]]:
        """Do a step; gives the works that are done."""

    def cancel(self, chosen: Callable[[int], bool]) -> None:
        """End the works whose key is chosen."""


class Colleague:
    """The other engine, if there is one, as a work of this one sees it, by its number."""

    def __init__(self, engine: Consulted | None) -> None:
        self._engine = engine

    def take(self, number: int, request: Consult, audios: Sequence[AudioInput]) -> None:
        """Let it hold a dialogue over the same features. Raises LookupError where there is none."""
        if self._engine is None:
            raise LookupError("there is no colleague to consult")
        heard = tuple(AudioInput(audio.features) for audio in audios)
        self._engine.add(Work(number, heard, request.dialogue))

    def turn(self) -> list[Done[int, object]]:
        """Let it do a step of its own, if it has anything to do; gives the dialogues that ended."""
        return [] if self._engine is None or self._engine.idle else self._engine.turn()

    def cancel(self, number: int) -> None:
        """End the dialogue of a work that is no more."""
        if self._engine is not None:
            self._engine.cancel(lambda key: key == number)
