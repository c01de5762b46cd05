"""Low-rank adapters by peft: put beside a decoder's projections, and saved as peft's own files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import ModelError
from ..layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from .files import write_json, write_tensors
from .network import Anatomy
from .recipe import Recipe

PREFIX = "base_model.model."
"""What stands before the name of every weight in peft's files."""

EXTRA = "pip install 'qwen-audio-cli[train]'"


def require() -> None:
    """Raise ModelError where peft is not installed."""
    if find_spec("peft") is None:
        raise ModelError(f"training needs peft: {EXTRA}")


def inject(anatomy: Anatomy, recipe: Recipe) -> dict[str, nn.Parameter]:
    """Put adapters into a network, in place; they change nothing yet. Gives what is trained."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=anatomy.projections(),
    )
    # Into the layers alone: of a whole network that it knows peft would train fused experts, too.
    inject_adapter_in_model(config, anatomy.network.get_submodule(anatomy.layers))
    trained = {}
    for name, weight in anatomy.network.named_parameters():
        if name.startswith(anatomy.own):
            weight.requires_grad_()
        if weight.requires_grad:
            weight.data = weight.data.float()
            trained[name] = weight
    return trained


def save(
    anatomy: Anatomy,
    weights: Mapping[str, Tensor],
    recipe: Recipe,
    base: Mapping[str, str | None],
    directory: Path,
) -> None:
    """Write adapters as peft does, by the names that the base model was published with.

    `base` is the base model's name and revision, by peft's keys. Raises OutputError.
    """
    tensors = {_published(anatomy, name): weight for name, weight in weights.items()}
    write_tensors(tensors, directory / ADAPTER_WEIGHTS)
    write_json(_configuration(anatomy, recipe, base), directory / ADAPTER_CONFIG)


def _published(anatomy: Anatomy, name: str) -> str:
    """The name of a weight in peft's file, which says nothing of which adapter it is."""
    module, low_rank, part = name.rpartition(".lora_")
    if not low_rank:
        return PREFIX + anatomy.published(name)
    return f"{PREFIX}{anatomy.published(module)}.lora_{part.replace('default.', '')}"


def _configuration(
    anatomy: Anatomy, recipe: Recipe, base: Mapping[str, str | None]
) -> dict[str, Any]:
    from peft import LoraConfig

    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=anatomy.linear,
        inference_mode=True,
    )
    values: dict[str, Any] = json.loads(
        json.dumps(config.to_dict(), default=sorted)  # type: ignore[no-untyped-call]
    )
    return values | dict(base)
