"""A clip's scores, alone and in crowds: equal to the last bit, in every step, on the CPU."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
import torch
from conftest import CPU, EXAMPLES, recording
from torch import Tensor

from qwen_audio_cli.engine.attention import Step
from qwen_audio_cli.engine.engine import Engine, Manner
from qwen_audio_cli.engine.request import AudioInput, Model
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.families.base import Family, Job, Subject
from qwen_audio_cli.families.qwen_audio import QwenAudio
from qwen_audio_cli.families.whisper import Whisper
from qwen_audio_cli.models import WEIGHTS
from qwen_audio_cli.options import Options

NAMES = sorted(
    (path.stem for path in EXAMPLES.glob("*.wav")), key=lambda name: len(recording(name))
)[:4]


class Recorder:
    """A model that notes the scores every clip gets, step by step."""

    def __init__(self, model: Model, audios: dict[str, AudioInput]) -> None:
        self._model = model
        self._audios = audios
        self._contexts: list[tuple[object, str]] = []
        self.scores: dict[str, list[Tensor]] = {name: [] for name in audios}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def open(self, memories: Sequence[object], watch: bool) -> object:
        context = self._model.open(memories, watch)
        (name,) = (n for n, audio in self._audios.items() if audio.memory is memories[0])
        self._contexts.append((context, name))
        return context

    def forward(self, tokens: Tensor, positions: Tensor, step: Step, rows: Tensor) -> Tensor:
        scores = self._model.forward(tokens, positions, step, rows)
        row = 0
        for span in step.spans:
            (name,) = (n for context, n in self._contexts if context is span.context)
            count = span.rows if span.branches else 1
            self.scores[name].append(scores[row : row + count].clone())
            row += count
        return scores


def scores_of(
    family: Family, command: str, names: Sequence[str], seats: int, manner: Manner
) -> dict[str, list[Tensor]]:
    """Every row of scores that the clips of these names get in one run."""
    options = Options(**({"task": "emotion"} if command == "classify" else {}))
    task = options.find_task(command)
    job = Job(task, options.tag_sequence(command), options.chosen_labels(task), longest=6)
    audios = {name: AudioInput(family.features(recording(name))) for name in names}
    recorder: Any = Recorder(family.model, audios)
    engine: Engine[str, Any] = Engine(recorder, CPU, Budget(seats), manner)
    for name in names:
        seconds = len(recording(name)) / 16_000
        engine.add(Work(name, (audios[name],), family.answer(job, Subject((seconds,)))))
    while not engine.idle:
        for done in engine.turn():
            assert done.error is None
    return recorder.scores


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def whisper_in(request: pytest.FixtureRequest) -> Iterator[Whisper]:
    family = Whisper(WEIGHTS / "whisper-base", "whisper-base")
    family.load(getattr(torch, request.param), CPU)
    yield family


@pytest.fixture(scope="module")
def qwen_audio(tmp_path_factory: pytest.TempPathFactory) -> QwenAudio:
    directory: Path = tiny_checkpoints.qwen_audio(tmp_path_factory.mktemp("qwen-audio"))
    family = QwenAudio(directory, "tiny")
    family.load(torch.float32, CPU)
    return family


def compare(family: Family, command: str, manner: Manner, crowds: int) -> None:
    alone: dict[str, list[Tensor]] = {}
    for name in NAMES:
        alone |= scores_of(family, command, [name], 1, manner)
    for seed in range(crowds):
        chance = random.Random(seed)
        names = chance.sample(NAMES, k=chance.randint(3, len(NAMES)))
        crowd = scores_of(family, command, names, chance.randint(2, 5), manner)
        for name in names:
            assert len(crowd[name]) == len(alone[name]) > 0
            for one, other in zip(crowd[name], alone[name], strict=True):
                assert torch.equal(one, other), f"{name} in crowd {seed}"


@pytest.mark.parametrize("deterministic", [False, True])
def test_whisper_hears_the_same_in_any_crowd(whisper_in: Whisper, deterministic: bool) -> None:
    compare(whisper_in, "transcribe", Manner(deterministic=deterministic), crowds=2)


@pytest.mark.parametrize("command", ["transcribe", "classify"])
def test_qwen_audio_hears_the_same_in_any_crowd(qwen_audio: QwenAudio, command: str) -> None:
    compare(qwen_audio, command, Manner(deterministic=True), crowds=5)
    compare(qwen_audio, command, Manner(), crowds=5)
