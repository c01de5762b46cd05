"""Low-rank adapters by peft: put beside a decoder's projections, and saved as peft's own files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import ModelError, UsageError
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
    # Into the layers alone: of a whole network that it knows peft would train fused experts, too.
    put_beside(anatomy.projections(), anatomy.network.get_submodule(anatomy.layers), recipe)
    return unfrozen(anatomy.network, anatomy.own)


def put_beside(projections: Sequence[str], module: nn.Module, recipe: Recipe) -> None:
    """Put adapters beside some linear layers of a module, by their names in it."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(projections),
    )
    inject_adapter_in_model(config, module)


def unfrozen(network: nn.Module, own: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """What of a network learns, in float32: adapters, and what has a name that begins so."""
    trained = {}
    for name, weight in network.named_parameters():
        if name.startswith(own):
            weight.requires_grad_()
        if weight.requires_grad:
            weight.data = weight.data.float()
            trained[name] = weight
    return trained


def go_on(anatomy: Anatomy, weights: Mapping[str, nn.Parameter], directory: Path) -> None:
    """Give adapters the values they were saved with; those that are new begin anew.

    Raises UsageError where others were saved.
    """
    path = directory / ADAPTER_WEIGHTS
    saved = load_file(path)
    for name, weight in weights.items():
        tensor = saved.pop(_published(anatomy, name), None) if ".lora_" in name else None
        if tensor is not None and tensor.shape != weight.shape:
            raise UsageError(f"{path}: {name} is {list(tensor.shape)}, not {list(weight.shape)}")
        if tensor is not None:
            weight.data.copy_(tensor)
    if saved:
        raise UsageError(f"{path}: {next(iter(saved))} is nothing that is trained now")


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
