"""What a model answers to the items of manifests, as `qwa` would, one engine for all tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from ...audio.decode import Audio
from ...audio.segment import uncut
from ...audio.sources import Source
from ...engine.engine import Engine, Manner
from ...engine.request import AudioInput
from ...engine.work import Work
from ...engines import engine_for
from ...families.base import ClipAnswer, Family, Subject
from ..manifest import Item


def answers(
    family: Family, items: Iterable[Item], device: torch.device
) -> Iterator[tuple[Item, ClipAnswer]]:
    """Each item with its answer, as they come; the family is loaded on the device.

    Raises InputError for a recording that cannot be heard, and whatever an answer fails by.
    """
    engine: Engine[Item, ClipAnswer] = engine_for(family, device, None, Manner.of(device))
    waiting = iter(items)
    more = True
    while more or not engine.idle:
        while more and engine.hungry:
            item = next(waiting, None)
            if item is None:
                more = False
            else:
                engine.add(_work(family, item))
        for done in engine.turn():
            if done.error is not None:
                raise done.error
            assert done.result is not None
            yield done.key, done.result


def _work(family: Family, item: Item) -> Work[Item, ClipAnswer]:
    clip = uncut(Audio(Source(str(item.audio), item.audio)), family.window)
    dialogue = family.answer(item.job(), Subject((clip.duration,)))
    return Work(item, (AudioInput(family.features(clip.samples)),), dialogue)
