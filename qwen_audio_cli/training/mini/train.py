"""From directories of data to a training of mini that can run."""

from __future__ import annotations

import os
import random
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...devices import find_device, find_dtype
from ...errors import OutputWriteError, UsageError
from ...families.mini import Mini
from ...families.mini_model import ASPECTS
from ...families.packed import trainable
from ...families.qwen_audio import LANGUAGE_TASK
from ...layout import CONFIG, SMALL_SUFFIXES, read_object
from ...tags import UNKNOWN
from ..data.corpus import MANIFEST
from ..files import write_json
from ..loop import Tell, Training
from ..manifest import Item, read
from .build import EMBEDDING_FILE, LAYERS_FILE
from .calibrate import PART as CALIBRATION
from .hearing import said_in
from .learner import MiniLearner, States
from .recipe import MiniRecipe

DEV_ITEMS = 40
"""Items of the dev split that are heard of each task."""


def load(
    base: Path,
    recipe: MiniRecipe,
    *,
    device: str,
    dtype: str,
    family_type: type[Mini] = Mini,
    states: States | None = None,
) -> MiniLearner:
    """Load the mini in `base` to be trained.

    `family_type` is how it is asked; what the encoder made of clips is kept in `states`. Raises
    UsageError for what does not go together, ModelError and ConfigError for a model that is not
    there or damaged.
    """
    place = find_device(device)
    kind = find_dtype(dtype, place)
    family = family_type(base, "mini", merged=False)
    with trainable():
        family.load(kind, place)
    return MiniLearner(family, recipe, kind, base, {} if states is None else states)


def prepare(
    learner: MiniLearner, data: Sequence[Path], output: Path, *, workers: int, tell: Tell
) -> Training[MiniLearner]:
    """Read the manifests under `data`, and lay the files that stay as they are out in `output`.

    Raises UsageError for manifests that are wrong or not there, OutputWriteError where nothing can
    be written.
    """
    items = tuple(chosen(corpora(data), learner.recipe))
    taught = learner.begin(items)
    if learner.recipe.hearing:
        items = tuple(item for item in items if said_in(item) is not None)
    lay_out(learner.begun, output)
    config = read_object(output / CONFIG)
    config.pop(CALIBRATION, None)  # of other weights
    if taught:
        config["learned"] = learned(taught)
    write_json(config, output / CONFIG)
    tell(f"{len(items):,} items; {learner.count:,} weights of {learner.label} are trained")
    return Training(learner, items, output, learner.device, workers, tell)


def corpora(directories: Iterable[Path]) -> Iterator[Item]:
    """The items of all corpora in some directories. Raises UsageError where there are none."""
    for directory in directories:
        manifests = sorted(directory.glob(f"*/{MANIFEST}"))
        if not manifests:
            raise UsageError(f"{directory}: no corpora (*/{MANIFEST})")
        for manifest in manifests:
            yield from read(manifest)


def chosen(items: Iterable[Item], recipe: MiniRecipe) -> Iterator[Item]:
    """What is learned from, and of each task as many dev items as are heard."""
    dev: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.split == "test" or not recipe.portions.get(item.task, 1.0):
            continue
        if recipe.hearing and item.task not in ASPECTS and not said_in(item):
            continue
        if item.split == "dev":
            dev[item.task].append(item)
        else:
            yield item
    for task, candidates in sorted(dev.items()):
        yield from random.Random(task).sample(candidates, min(DEV_ITEMS, len(candidates)))


def learned(labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The labels that a summary was taught, as `config.json` has them: languages apart."""
    languages = [code for code in labels.get(LANGUAGE_TASK, ()) if code != UNKNOWN]
    others = {task: own for task, own in labels.items() if task != LANGUAGE_TASK}
    return {"languages": languages, "labels": others}


def lay_out(base: Path, output: Path) -> None:
    """Put the files that training leaves as they are into `output`. Raises OutputWriteError."""
    kept = {EMBEDDING_FILE, LAYERS_FILE}
    try:
        output.mkdir(parents=True, exist_ok=True)
        for path in base.iterdir():
            if path.name not in kept and path.suffix not in SMALL_SUFFIXES:
                continue
            if not (new := output / path.name).exists():
                try:
                    os.link(path.resolve(), new)
                except OSError:  # another disk
                    shutil.copyfile(path, new)
    except OSError as error:
        raise OutputWriteError(f"{output}: cannot be written: {error.strerror}") from error
