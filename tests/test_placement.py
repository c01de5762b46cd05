"""A model whose parts lie apart: accelerate moves what passes between them, and nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, recording
from tiny_checkpoints import qwen_audio

from qwen_audio_cli.engine.engine import Engine
from qwen_audio_cli.engine.request import AudioInput
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.families.base import ClipAnswer, Job, Subject
from qwen_audio_cli.families.placement import Plan, device_of
from qwen_audio_cli.families.qwen_audio import QwenAudio
from qwen_audio_cli.families.whisper import Whisper
from qwen_audio_cli.models import WEIGHTS
from qwen_audio_cli.options import Options


def answer(family: QwenAudio) -> ClipAnswer | None:
    options = Options(language="en")
    job = Job(options.find_task("transcribe"), options.tag_sequence("transcribe"), longest=20)
    samples = recording("en-one-participant")
    engine: Engine[int, Any] = Engine(family.model, CPU, Budget())
    dialogue = family.answer(job, Subject((len(samples) / 16_000,)))
    engine.add(Work(0, (AudioInput(family.features(samples)),), dialogue))
    while not engine.idle:
        for done in engine.turn():
            assert done.error is None
            return done.result
    raise AssertionError("no answer")


def test_a_spread_model_answers_as_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = qwen_audio(tmp_path / "tiny")
    whole, spread = QwenAudio(directory, "tiny"), QwenAudio(directory, "tiny")
    whole.load(torch.float32, CPU)
    within = ("wte", "h.0", "h.1", "ln_f", "lm_head")
    parts = ["audio", *(f"decoder.{name}" for name in within)]
    made: list[Plan] = []

    def plan(model: Any, how: str, dtype: torch.dtype, whole: Any) -> Plan:
        assert how == "auto" and dtype == torch.float32
        made.append(Plan(dict.fromkeys(parts, CPU)))
        return made[0]

    monkeypatch.setattr(Plan, "spread", plan)
    spread.load(torch.float32, CPU, "auto")
    assert made and all(hasattr(block, "_hf_hook") for block in spread.model.decoder.h)
    assert device_of(spread.model.decoder.h[1]) == CPU
    assert answer(spread) == answer(whole)


def test_parameters_go_where_their_part_goes() -> None:
    plan = Plan({"audio": CPU, "decoder.h.1": torch.device("cuda:1")})
    assert plan.device("audio.blocks.0.attn.key.weight") == CPU
    assert plan.device("decoder.h.1.ln_1.weight") == torch.device("cuda:1")
    assert Plan({"": CPU}).device("anything.at.all") == CPU


def test_accelerate_finds_a_plan_for_this_machine(tmp_path: Path) -> None:
    family = QwenAudio(qwen_audio(tmp_path / "tiny"), "tiny")
    family.load(torch.float32, CPU, "sequential")
    assert answer(family) is not None


def test_whisper_is_not_spread() -> None:
    with pytest.raises(UsageError, match="one device"):
        Whisper(WEIGHTS / "whisper-base", "whisper-base").load(torch.float32, CPU, "auto")
