"""The encoder stage: clips that share a call, padded to the longest, are as if they were alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, recording
from tiny_checkpoints import qwen_audio
from torch.nn.functional import pad

from qwen_audio_cli.engine.encoder import EncoderStage
from qwen_audio_cli.engine.request import AudioInput
from qwen_audio_cli.families.qwen_audio import QwenAudio
from qwen_audio_cli.families.whisper import Whisper
from qwen_audio_cli.families.whisper_decoder import AudioKeys

LENGTHS = (7_840, 16_000, 16_160, 31_999, 52_000)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> QwenAudio:
    directory: Path = qwen_audio(tmp_path_factory.mktemp("tiny"))
    family = QwenAudio(directory, "tiny")
    family.load(torch.float32, CPU)
    return family


def clips(family: Any) -> list[torch.Tensor]:
    return [family.features(np.resize(recording("en-no-connection"), n)) for n in LENGTHS]


@torch.inference_mode()
def test_padded_audio_is_as_if_it_were_alone(tiny: QwenAudio, whisper: Whisper) -> None:
    for family in (tiny, whisper):
        features = clips(family)
        lengths = [clip.shape[-1] for clip in features]
        batch = torch.stack([pad(clip, (0, max(lengths) - clip.shape[-1])) for clip in features])
        together = family.model.encode(batch, lengths)
        for clip, found in zip(features, together, strict=True):
            (alone,) = family.model.encode(clip[None], [clip.shape[-1]])
            if isinstance(found, AudioKeys):
                assert isinstance(alone, AudioKeys) and found.frames == alone.frames
                pairs = [
                    pair
                    for ours, theirs in zip(found.layers, alone.layers, strict=True)
                    for pair in zip(ours, theirs, strict=True)
                ]
                torch.testing.assert_close(found.level, alone.level)
            else:
                assert isinstance(found, torch.Tensor) and isinstance(alone, torch.Tensor)
                pairs = [(found, alone)]
            for one, other in pairs:
                torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


class NotingModel:
    """Encodes a clip as its sum; notes the size of each call, and fails for some."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def encode(self, features: torch.Tensor, lengths: list[int]) -> list[float]:
        self.calls.append((features.shape[0], features.shape[2]))
        if bool((features == 13).any()):
            raise ValueError("thirteen")
        return [float(clip[:, :n].sum()) for clip, n in zip(features, lengths, strict=True)]


@torch.inference_mode()
def test_clips_of_like_length_share_a_call_within_the_limit() -> None:
    model: Any = NotingModel()
    stage = EncoderStage(model, CPU, lambda: None, exact=True)
    stage.bucket = 4
    audios = [AudioInput(torch.full((1, n), float(n))) for n in (3, 4, 2, 1, 8, 7, 13, 5)]
    stage.submit([(number, [audio]) for number, audio in enumerate(audios)], limit=12)
    done = stage.collect(wait=True)
    assert [encoded.number for encoded in done] == list(range(8))
    assert {encoded.number: str(encoded.error) for encoded in done if encoded.error} == {
        6: "thirteen"
    }
    assert model.calls == [(3, 4), (1, 1), (1, 8), (1, 7), (1, 5), (1, 13)]
    memories = [audio.memory for audio in audios]
    assert memories == [9.0, 16.0, 4.0, 1.0, 64.0, 49.0, None, 25.0]
    assert stage.collect(wait=True) == []
