"""What the tests of training share: tiny models with their tokenizers, manifests of recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tiny_checkpoints
import tiny_mini
import tiny_tokenizers
import tiny_transformers
import torch
from conftest import CPU, EXAMPLES

from qwen_audio_cli.families.base import Teachable
from qwen_audio_cli.families.packed import trainable
from qwen_audio_cli.models import Wanted, open_model
from qwen_audio_cli.training.loop import Training
from qwen_audio_cli.training.manifest import Item, write
from qwen_audio_cli.training.recipe import Recipe
from qwen_audio_cli.training.run import prepare
from qwen_audio_cli.training.trainee import Trainee

FAMILIES = ("qwen_audio", "qwen2_audio", "qwen25_omni", "qwen3_omni", "qwen3_asr", "mini")
TRANSFORMERS = ("qwen2_audio", "qwen25_omni", "qwen3_omni", "qwen3_asr")
SPOKEN = {"en-one-participant": "one other", "fr-one-participant": "un seul"}


def checkpoint(name: str, directory: Path) -> Path:
    """A tiny random checkpoint of a family."""
    if name == "mini":
        directory.mkdir(exist_ok=True)
        return tiny_mini.tiny(directory).directory
    if name == "qwen_audio":
        return tiny_checkpoints.qwen_audio(directory)
    older = name in ("qwen2_audio", "qwen25_omni")
    added = tiny_tokenizers.ADDED_2 if older else tiny_tokenizers.ADDED_3
    tiny_transformers.WRITERS[name](directory)
    return tiny_tokenizers.write(directory, added, whole=True)


def opened(directory: Path) -> Teachable:
    """A family loaded to be trained, in float32."""
    family: Any = open_model(Wanted(str(directory)))
    with trainable():
        family.load(torch.float32, CPU)
    teachable: Teachable = family
    return teachable


def item(name: str, target: str, **values: Any) -> Item:
    """A recording of examples/ that is to be written down."""
    values = {"task": "asr", "language": name[:2], **values}
    return Item(audio=EXAMPLES / f"{name}.wav", target=target, **values)


def items() -> list[Item]:
    """Two recordings to learn from, one of which is heard in between, too."""
    spoken = [item(name, text) for name, text in SPOKEN.items()]
    return [*spoken, item("en-one-participant", "one other", split="dev")]


def training(
    directory: Path,
    output: Path,
    given: Iterable[Item],
    recipe: Recipe,
    *,
    workers: int = 2,
    tell: Callable[[str], None] = lambda line: None,
) -> Training[Trainee]:
    """A run of `qwa train` in this process; `output` is created."""
    output.mkdir()
    manifest = output.parent / f"{output.name}.jsonl"
    write(given, manifest)
    return prepare(
        Wanted(str(directory)),
        manifest,
        recipe,
        output,
        device="cpu",
        dtype="float32",
        workers=workers,
        tell=tell,
    )
