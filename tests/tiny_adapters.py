"""Adapters in peft's files, written by hand, and changes to such files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."

MATRICES = (
    "transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_proj", "transformer.h.1.mlp.w1",
    "transformer.h.0.mlp.c_proj", "transformer.audio.blocks.1.attn.query",
    "transformer.audio.blocks.0.mlp.2", "lm_head",
)  # fmt: skip


def all_weights(directory: Path) -> dict[str, Tensor]:
    shards = map(load_file, sorted(directory.glob("model*.safetensors")))
    return {name: tensor for shard in shards for name, tensor in shard.items()}


def by_hand(base: Path, directory: Path, name: Callable[[str], str] = lambda name: name) -> Path:
    """An adapter of a Qwen-Audio of 2023: some matrices, and the projector as a whole."""
    directory.mkdir()
    generator = torch.Generator().manual_seed(2)
    weights: dict[str, Tensor] = {}
    for module in MATRICES:
        rows, columns = all_weights(base)[f"{module}.weight"].shape
        a = torch.randn(4, columns, generator=generator)
        b = torch.randn(rows, 4, generator=generator)
        weights[f"{PREFIX}{name(module)}.lora_A.weight"] = a * columns**-0.5
        weights[f"{PREFIX}{name(module)}.lora_B.weight"] = b / 2
    for part in ("weight", "bias"):
        old = all_weights(base)[f"transformer.audio.proj.{part}"]
        drawn = torch.randn(old.shape, generator=generator)
        weights[f"{PREFIX}{name('transformer.audio.proj')}.{part}"] = old + drawn / 8
    save_file(weights, directory / WEIGHTS)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 4, "lora_alpha": 8}
    (directory / CONFIG).write_text(json.dumps(config | {"modules_to_save": ["proj"]}))
    return directory


def ours(name: str) -> str:
    """A name of the published checkpoints as our own network has it, which `qwa train` may save."""
    name = name.removeprefix("transformer.")
    return name if name.startswith("audio.") else f"decoder.{name}"


def edit(directory: Path, **changes: Any) -> Path:
    path = directory / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    save_file(change(load_file(directory / WEIGHTS)), directory / WEIGHTS)
    return directory


def rename(directory: Path, *pairs: tuple[str, str]) -> Path:
    """Give the tensors names in which patterns are replaced, one after the other."""

    def renamed(name: str) -> str:
        for pattern, instead in pairs:
            name = re.sub(pattern, instead, name)
        return name

    return rewrite(directory, lambda weights: {renamed(n): w for n, w in weights.items()})
