"""The native network and its prompts against what the code published in 2023 computed.

Its numbers lie in `data/qwen_audio_original`, whose README says how they came about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import torch
from conftest import CPU, recording
from numpy.typing import NDArray
from packed import prompt_scores
from safetensors import safe_open
from torch import Tensor

from qwen_audio_cli.engine.engine import Engine
from qwen_audio_cli.engine.request import AudioInput, Dialogue, Generate, Generated
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.families.base import Turn
from qwen_audio_cli.families.qwen_audio import QwenAudio
from qwen_audio_cli.families.qwen_prompt import audio_span, chat_prompt, rows_in
from qwen_audio_cli.tags import TagSequence
from qwen_audio_cli.tasks import TASKS

NUMBERS = Path(__file__).parent / "data" / "qwen_audio_original" / "numbers.safetensors"


def facts() -> Any:
    with safe_open(NUMBERS, "pt") as file:
        return json.loads(file.metadata()["facts"])


FACTS = facts()
PROMPTS: dict[str, dict[str, Any]] = FACTS["prompts"]
ALONE = [prompt["clips"][0] for prompt in PROMPTS.values() if len(prompt["clips"]) == 1]
UNEQUAL = "unequal clips"


@pytest.fixture(scope="module")
def original() -> dict[str, Tensor]:
    with safe_open(NUMBERS, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module", autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, QwenAudio]:
    loaded = {}
    for seed, name in enumerate(("base", "chat")):
        directory = tmp_path_factory.mktemp(name)
        tiny_checkpoints.qwen_audio(directory, chat=name == "chat", seed=seed)
        loaded[name] = QwenAudio(directory, name)
        loaded[name].load(torch.float32, CPU)
    return loaded


def samples(clip: str) -> NDArray[np.float32]:
    name, count = clip.split()
    return np.resize(recording(name), int(count))


def heard(family: QwenAudio, clips: list[str]) -> list[Tensor]:
    """The rows of each clip, which is encoded alone."""
    features = [family.features(samples(clip)) for clip in clips]
    return [family.model.encode(mel[None], [mel.shape[-1]])[0] for mel in features]


def same(ours: Tensor, theirs: Tensor, within: float = 1e-4) -> None:
    torch.testing.assert_close(ours, theirs, atol=within, rtol=0)


def test_the_weights_are_those_that_the_original_had(families: dict[str, QwenAudio]) -> None:
    """Else the generator of this torch draws other numbers, and nothing below can hold."""
    for name, family in families.items():
        digest = hashlib.sha256()
        for weight, tensor in sorted(dict(family._checkpoint.tensors()).items()):
            digest.update(weight.encode() + tensor.numpy().tobytes())
        assert digest.hexdigest() == FACTS["weights"][name]


@pytest.mark.parametrize("clip", ALONE)
def test_features_and_rows_of_a_clip(
    families: dict[str, QwenAudio], original: dict[str, Tensor], clip: str
) -> None:
    """From one row's worth of samples to the whole window, odd numbers of frames among them."""
    family = families["base"]
    mel = family.features(samples(clip))
    assert mel.shape[1] == original[f"{clip}.frames"][-1] + 1
    same(mel[:, original[f"{clip}.frames"]], original[f"{clip}.mel"], 2e-5)
    (rows,) = heard(family, [clip])
    same(rows[original[f"{clip}.places"]], original[f"{clip}.vectors"])
    same(torch.stack([rows.mean(1), rows.std(1)], 1), original[f"{clip}.rows"])


@pytest.mark.parametrize("prompt", [prompt for prompt in PROMPTS if prompt != UNEQUAL])
def test_scores_at_every_position_of_a_prompt(
    families: dict[str, QwenAudio], original: dict[str, Tensor], prompt: str
) -> None:
    family = families[PROMPTS[prompt]["checkpoint"]]
    ids = original[f"{prompt}.ids"].tolist()
    (scores,) = prompt_scores(family.model, [ids], [heard(family, PROMPTS[prompt]["clips"])])
    assert scores.std() > 0.5
    same(scores[:, FACTS["columns"]], original[f"{prompt}.scores"])
    same(scores.logsumexp(-1), original[f"{prompt}.logsumexp"])
    same(scores.max(-1).values, original[f"{prompt}.highest"])
    best = original[f"{prompt}.best"].long()[:, None]
    same(scores.gather(1, best)[:, 0], original[f"{prompt}.highest"])


def test_greedy_tokens_of_all_prompts_in_one_batch(
    families: dict[str, QwenAudio], original: dict[str, Tensor]
) -> None:
    def asks(ids: list[int]) -> Dialogue[list[int]]:
        answer = yield Generate(ids, 24, frozenset())
        assert isinstance(answer, Generated)
        return answer.tokens

    for name, family in families.items():
        engine: Engine[str, list[int]] = Engine(family.model, CPU, Budget(seats=4))
        for prompt, about in PROMPTS.items():
            if about["checkpoint"] == name and prompt != UNEQUAL:
                clips = [AudioInput(family.features(samples(clip))) for clip in about["clips"]]
                ids = original[f"{prompt}.ids"].tolist()
                engine.add(Work(prompt, tuple(clips), asks(ids)))
        while not engine.idle:
            for done in engine.turn():
                assert done.error is None
                assert done.result == original[f"{done.key}.greedy"].tolist(), done.key


def test_clips_of_unequal_length_are_as_if_alone(
    families: dict[str, QwenAudio], original: dict[str, Tensor]
) -> None:
    """The one deviation: the original's shorter clips depend on the longest of their prompt."""
    family = families["base"]
    clips = PROMPTS[UNEQUAL]["clips"]
    longest, *shorter = heard(family, clips)
    same(longest, original[f"{clips[0]}.together"])
    for rows, clip in zip(shorter, clips[1:], strict=True):
        same(rows[original[f"{clip}.places"]], original[f"{clip}.vectors"])
        off = (original[f"{clip}.together"] - rows).norm(dim=1) / rows.norm(dim=1)
        assert 0.02 < off.max() < 0.08
    ids = original[f"{UNEQUAL}.ids"].tolist()
    (scores,) = prompt_scores(family.model, [ids], [[longest, *shorter]])
    off = (scores[:, FACTS["columns"]] - original[f"{UNEQUAL}.scores"]).abs().max(1).values
    after = len(longest)  # what stands before the shorter clips does not depend on them
    assert off[:after].max() < 1e-4 < 0.01 < off[after:].max() < 0.1


TAGS = {
    "scene": TASKS["scene"].tags(),
    "asr short": TASKS["asr"].tags(language="en"),
    "aqa": TASKS["audio-qa"].tags(question="Are there birds?"),
    "clotho": TASKS["audio-caption"].tags(),
    "translate": TASKS["translation"].tags(language="es", target="en"),
    "words": TASKS["word-times"].tags(language="en"),
    "asr window": TASKS["asr"].tags(language="en"),
}


@pytest.mark.parametrize("prompt", TAGS)
def test_prompts_of_tags_are_the_originals(
    families: dict[str, QwenAudio], original: dict[str, Tensor], prompt: str
) -> None:
    ids = base_ids(families["base"], PROMPTS[prompt]["clips"], TAGS[prompt])
    assert ids == original[f"{prompt}.ids"].tolist()


def base_ids(family: QwenAudio, clips: list[str], tags: TagSequence) -> list[int]:
    return [id for span in spans(family, clips) for id in span] + family.tokenizer.encode_tags(tags)


def spans(family: QwenAudio, clips: list[str]) -> list[list[int]]:
    seconds = [len(samples(clip)) / 16_000 for clip in clips]
    return [audio_span(family.tokenizer, rows_in(length, family.window)) for length in seconds]


THERE = Turn("is it the thing?", "the first is in and the other is on", 2)
CHATS: dict[str, tuple[str, tuple[Turn, ...]]] = {
    "one turn": ("is it the thing?", ()),
    "two turns": ("你 and this one?", (THERE,)),
    "a turn of text": ("and where?", (Turn("what is it?", "a thing", 1),)),
}


@pytest.mark.parametrize("prompt", CHATS)
def test_prompts_of_turns_are_the_originals(
    families: dict[str, QwenAudio], original: dict[str, Tensor], prompt: str
) -> None:
    family = families["chat"]
    question, history = CHATS[prompt]
    audios = spans(family, PROMPTS[prompt]["clips"])
    ids = chat_prompt(family.tokenizer, audios, question, history)
    assert ids == original[f"{prompt}.ids"].tolist()
