"""What several test modules share: real recordings, the embedded model, an independent Whisper."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# One thread each: test machines are small and shared, and idle threads that spin cost the most.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What models are on this machine is no matter of the tests, nor is what the hub has.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"}

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from qwen_audio_cli.families.checkpoint import Checkpoint
from qwen_audio_cli.families.whisper import Whisper
from qwen_audio_cli.models import WEIGHTS

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CPU = torch.device("cpu")


def recording(name: str) -> NDArray[np.float32]:
    """The samples of a recording under examples/, mono at 16 kHz."""
    samples, rate = soundfile.read(EXAMPLES / f"{name}.wav", dtype="float32")
    assert rate == 16_000
    return samples


@pytest.fixture(scope="session")
def whisper() -> Whisper:
    """The embedded model in float32."""
    family = Whisper(WEIGHTS / "whisper-base", "whisper-base")
    family.load(torch.float32, CPU)
    return family


@pytest.fixture(scope="session")
def exact_whisper(whisper: Whisper) -> Whisper:
    """The same, encoding whole windows as the reference does."""
    family = Whisper(WEIGHTS / "whisper-base", "whisper-base", full_window=True)
    family.load(torch.float32, CPU)
    return family


@pytest.fixture(scope="session")
def reference() -> Any:
    """transformers' own Whisper with the embedded weights."""
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    directory = WEIGHTS / "whisper-base"
    config = WhisperConfig.from_pretrained(directory)
    model = WhisperForConditionalGeneration(config)
    state = dict(Checkpoint(directory).tensors())
    state = {name: tensor.float() for name, tensor in state.items()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state)
    model.generation_config = GenerationConfig.from_pretrained(directory)
    return model.eval()
