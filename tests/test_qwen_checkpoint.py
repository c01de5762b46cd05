"""Directories that are not, or not wholly, a Qwen-Audio checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
import torch
from conftest import CPU

from qwen_audio_cli.errors import ConfigError, ModelError
from qwen_audio_cli.families.qwen_audio import QwenAudio


def damaged(tmp_path: Path, change: Callable[[Path], object]) -> Path:
    directory = tiny_checkpoints.qwen_audio(tmp_path / "checkpoint")
    change(directory)
    return directory


def edit(name: str, **changes: Any) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        path = directory / name
        content = json.loads(path.read_text())
        content.update(changes)
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return change


def pickled(directory: Path) -> None:
    for shard in directory.glob("*.safetensors*"):
        shard.unlink()
    torch.save({}, directory / "pytorch_model.bin")


def cut_short(directory: Path) -> None:
    shard = directory / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (edit("config.json", architectures=["Qwen2ForCausalLM"]), "architecture"),
        (edit("config.json", architectures=None), "architecture"),
        (edit("config.json", audio=None), "architecture"),
        (edit("config.json", kv_channels=None), "no 'kv_channels'"),
        (edit("config.json", vocab_size=300), "the tokenizer has"),
        (edit("config.json", hidden_size=32), "has shape"),
        (edit("config.json", num_hidden_layers=3), r"no weights for decoder\.h\.2"),
        (edit("config.json", num_hidden_layers=1), r"unknown weights decoder\.h\.1"),
        (lambda d: (d / "generation_config.json").unlink(), "generation_config.json is missing"),
        (lambda d: (d / "qwen.tiktoken").unlink(), "qwen.tiktoken"),
        (lambda d: (d / "model-00002-of-00002.safetensors").unlink(), "missing model-00002"),
        (cut_short, "model-00002-of-00002"),
        (pickled, "pickled weights, which are never loaded"),
    ],
)
def test_what_is_no_such_checkpoint_is_a_configuration_error(
    tmp_path: Path, change: Callable[[Path], object], reason: str
) -> None:
    directory = damaged(tmp_path, change)
    with pytest.raises(ConfigError, match=reason):
        QwenAudio(directory, "tiny").load(torch.float32, CPU)


def test_a_directory_that_is_not_there_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model directory"):
        QwenAudio(tmp_path / "nowhere", "tiny")
