"""Asks a model's spelling head about a clip that is encoded."""

from __future__ import annotations

from collections.abc import Sequence

from .request import AudioInput, Model, Spell, Spelled, Speller


def spell(model: Model, audios: Sequence[AudioInput], request: Spell) -> Spelled:
    """What the head says. One clip at a time, so that none depends on its neighbours.

    Raises LookupError where the model has no such head, ValueError for several clips or none, and
    ArithmeticError for scores that are no finite numbers.
    """
    if not isinstance(model, Speller):
        raise LookupError("the model has no head that spells")
    if len(audios) != 1:
        raise ValueError(f"one clip is spelled, not {len(audios)}")
    spelled = model.spelled(audios[0].memory, request.tokens)
    if not spelled.logprobs.isfinite().all():
        raise ArithmeticError("the model's scores are not finite")
    return spelled
