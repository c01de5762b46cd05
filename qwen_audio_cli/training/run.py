"""From what a user names to a training that can run: model, manifest, device."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch

from ..devices import find_device, find_dtype, require_memory
from ..errors import UsageError
from ..families.base import Family, Job, Teachable
from ..families.packed import trainable
from ..families.registry import open_checkpoint
from ..layout import is_adapter
from ..models import CARDS, Wanted, locate
from .loop import Tell, Training
from .lora import require
from .manifest import Item, read
from .recipe import Recipe
from .trainee import Base, Trainee


def prepare(
    wanted: Wanted,
    manifest: Path,
    recipe: Recipe,
    output: Path,
    *,
    device: str,
    dtype: str,
    workers: int,
    tell: Tell,
) -> Training[Trainee]:
    """Read the manifest, load the model, verify every item for it.

    Raises UsageError for what does not go together, ModelError and ConfigError for a model that is
    not there or damaged.
    """
    if not recipe.full:
        require()
    items = tuple(read(manifest))
    directory, label = locate(wanted)
    if is_adapter(directory):
        raise UsageError(f"{directory}: an adapter is trained no further: name its base model")
    family = _teachable(open_checkpoint(directory, label))
    _verify(family, items)
    place = find_device(device)
    kind = find_dtype(dtype, place)
    # What is trained is kept in float32, whatever is computed in.
    loaded = torch.float32 if recipe.full else kind
    require_memory(family.label, family.parameters, loaded, place, None)
    with trainable():
        family.load(loaded, place)
    trainee = Trainee(family, _base(wanted, directory), recipe, kind)
    tell(f"{len(items):,} items; {trainee.count:,} weights of {family.label} are trained")
    return Training(trainee, items, output, place, workers, tell)


def _teachable(family: Family) -> Teachable:
    if not hasattr(family, "lesson"):
        raise UsageError(f"{family.name} is not trained by qwa: name a model of another family")
    return cast(Teachable, family)


def _verify(family: Teachable, items: Iterable[Item]) -> None:
    """Raise UsageError naming the first item whose task the family cannot do."""
    verified: set[Job] = set()
    for item in items:
        if (job := item.job()) not in verified:
            try:
                family.check(job)
            except UsageError as error:
                raise UsageError(f"{item.audio}: {error}") from error
            verified.add(job)


def _base(wanted: Wanted, directory: Path) -> Base:
    """How a model is found again: by its name on the hub with the commit, or by its directory."""
    card = CARDS.get(wanted.name)
    if card is not None and card.directory is not None:
        return Base(directory=directory, name=card.alias)
    if directory.parent.name == "snapshots":
        name = wanted.name if card is None else card.source
        return Base(directory=directory, name=name, revision=directory.name)
    return Base(directory=directory, name=str(directory.resolve()))
