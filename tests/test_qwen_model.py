"""The native network against transformers' own modules, on real recordings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import tiny_checkpoints
import torch
from conftest import CPU, recording
from numpy.typing import NDArray
from torch import Tensor

from qwen_audio_cli.engine.engine import Engine
from qwen_audio_cli.engine.request import AudioInput, Dialogue, Generate, Generated
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.families.base import ClipAnswer, Job, Subject
from qwen_audio_cli.families.qwen_audio import QwenAudio
from qwen_audio_cli.families.qwen_model import audio_rows, mel_frames
from qwen_audio_cli.families.qwen_prompt import audio_span, base_prompt, chat_prompt, rows_in
from qwen_audio_cli.tasks import TASKS

pytest.importorskip("transformers", reason="transformers, the reference, is not installed")
from packed import prompt_scores
from qwen_audio_reference import Reference

Samples = NDArray[np.float32]
R = TypeVar("R")


@pytest.fixture(scope="module", autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def load(directory: Path) -> QwenAudio:
    family = QwenAudio(directory, "tiny")
    family.load(torch.float32, CPU)
    return family


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> QwenAudio:
    return load(tiny_checkpoints.qwen_audio(tmp_path_factory.mktemp("qwen-audio")))


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> QwenAudio:
    directory = tmp_path_factory.mktemp("grouped")
    return load(tiny_checkpoints.qwen_audio(directory, key_heads=2, tied=True, seed=1))


def reference(family: QwenAudio) -> Reference:
    special = family.tokenizer.special
    directory = family._checkpoint.directory
    return Reference(directory, special["<audio>"], special["[[[AUDIO:modality]]]"])


def prompt(family: QwenAudio, samples: Samples, task: str = "asr") -> list[int]:
    span = audio_span(family.tokenizer, rows_in(len(samples) / 16_000, family.window))
    tags = TASKS[task].tags(language="en" if task == "asr" else None)
    return base_prompt(family.tokenizer, span, tags, TASKS[task])


def encode(family: QwenAudio, samples: Samples) -> Tensor:
    features = family.features(samples)
    return family.model.encode(features[None], [features.shape[-1]])[0]


# One frame, an odd and an even number of frames, some that pooling drops a frame of, the window.
LENGTHS = [1, 479, 480, 639, 640, 1_600, 7_839, 16_000, 16_160, 93_680, 168_196, 480_000, 500_000]


@pytest.mark.parametrize("length", LENGTHS)
def test_audio_rows_equal_transformers(family: QwenAudio, length: int) -> None:
    samples = np.resize(recording("en-no-connection"), length)
    ours, theirs = encode(family, samples), reference(family).rows(samples)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("samples", "rows"),
    [(480_000, 750), (900_000, 750), (93_680, 146), (480, 1), (10, 1), (640, 1)],
)
def test_row_counts_are_the_originals(samples: int, rows: int) -> None:
    assert audio_rows(mel_frames(samples, 480_000)) == rows


def test_the_mel_behind_the_clip_is_cut(family: QwenAudio) -> None:
    """Without the cut, the last frame's convolution sees silence, and the rows differ."""
    samples = recording("en-one-participant")
    rows = encode(family, samples)
    longer = encode(family, np.pad(samples, (0, 3200)))[: len(rows) - 1]
    assert (rows[:-1] - longer).abs().max() > 0.01


@pytest.mark.parametrize("variant", ["family", "grouped"])
@pytest.mark.parametrize("name", ["en-no-connection", "fr-one-participant"])
def test_prompt_scores_equal_transformers(
    request: pytest.FixtureRequest, variant: str, name: str
) -> None:
    family: QwenAudio = request.getfixturevalue(variant)
    samples = recording(name)
    ids = prompt(family, samples)
    (ours,) = prompt_scores(family.model, [ids], [[encode(family, samples)]])
    theirs = reference(family).scores(ids, [samples])
    assert theirs.std() > 0.5
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", ["family", "grouped"])
def test_greedy_tokens_equal_transformers(request: pytest.FixtureRequest, variant: str) -> None:
    family: QwenAudio = request.getfixturevalue(variant)
    samples = recording("fr-one-participant")
    ids = prompt(family, samples)
    stop = family.tokenizer.special["<|endoftext|>"]
    bias = torch.zeros(family.model.vocabulary)
    bias[stop] = -torch.inf
    wanted = Generate(ids, 24, frozenset({stop}), first_bias=bias)
    (answer,) = hold(family, [(samples, asks(wanted))], seats=1)
    theirs = reference(family).greedy(ids, [samples], 24, stop)
    assert answer.tokens == theirs
    assert len(set(theirs)) > 4


def answers(family: QwenAudio, jobs: list[tuple[Samples, Job]], seats: int) -> list[ClipAnswer]:
    """What the family says of clips, `seats` of them in one batch."""
    dialogues = [(clip, family.answer(job, Subject((len(clip) / 16_000,)))) for clip, job in jobs]
    return hold(family, dialogues, seats)


def share(family: QwenAudio, ids: list[int], clip: Samples, endings: list[list[int]]) -> Tensor:
    """Softmax over the likelihoods of `endings` behind `ids`, each computed from scratch."""
    sums = []
    for ending in endings:
        scores = reference(family).scores([*ids, *ending], [clip]).log_softmax(-1)
        sums.append(sum(scores[len(ids) - 1 + n, token] for n, token in enumerate(ending)))
    return torch.stack(sums).softmax(0)


def test_labels_are_as_likely_as_the_reference_has_them(family: QwenAudio) -> None:
    clip = recording("fr-one-participant")
    task = TASKS["scene"]
    labels = ("park", "bus", "busy", "a the thing")
    (answer,) = answers(family, [(clip, Job(task, task.tags(), labels))], seats=1)
    stop = family.tokenizer.special["<|endoftext|>"]
    endings = [[*family.tokenizer.encode(label), stop] for label in labels]
    shares = share(family, prompt(family, clip, "scene"), clip, endings)
    assert answer.labels is not None
    assert [p for _, p in answer.labels] == sorted((p for _, p in answer.labels), reverse=True)
    assert dict(answer.labels) == pytest.approx(
        dict(zip(labels, shares.tolist(), strict=True)), abs=1e-5
    )
    assert sum(p for _, p in answer.labels) == pytest.approx(1)


def test_a_note_is_scored_by_its_tags(family: QwenAudio) -> None:
    clip = recording("fr-one-participant")
    task, special = TASKS["pitch"], family.tokenizer.special
    labels = ("0", "60", "127")
    (answer,) = answers(family, [(clip, Job(task, task.tags(), labels))], seats=1)
    ids = [*prompt(family, clip, "note"), special["<|pitch|>"]]
    endings = [[special[f"<|midi_pitch_{label}|>"]] for label in labels]
    shares = share(family, ids, clip, endings)
    assert answer.labels is not None
    assert dict(answer.labels) == pytest.approx(
        dict(zip(labels, shares.tolist(), strict=True)), abs=1e-5
    )


def test_the_language_is_found_out_by_its_tag(family: QwenAudio) -> None:
    clip = recording("fr-one-participant")
    special = family.tokenizer.special
    codes = ["en", "zh", "de", "es", "ko", "fr", "ja", "it", "unknown"]
    ids = [*prompt(family, clip)[:-6], special["<|startoftranscript|>"]]
    shares = share(family, ids, clip, [[special[f"<|{code}|>"]] for code in codes])
    best = codes[int(shares[:8].argmax())]

    task = TASKS["language"]
    (found,) = answers(family, [(clip, Job(task, task.tags(), task.labels))], seats=1)
    assert found.labels is not None and found.labels[0][0] == found.language == best
    expected = {
        code: float(p / shares[:8].sum()) for code, p in zip(codes[:8], shares, strict=False)
    }
    assert dict(found.labels) == pytest.approx(expected, abs=1e-5)
    assert found.no_speech_prob == pytest.approx(float(shares[8]), abs=1e-5)
    assert ("no_speech" in found.flags) == bool(shares[8] > shares[:8].max())

    asr = TASKS["asr"]
    unknown, known = answers(
        family,
        [(clip, Job(asr, asr.tags())), (clip, Job(asr, asr.tags(language=best)))],
        seats=2,
    )
    assert unknown.language == known.language == best
    assert unknown.text == known.text
    assert unknown.no_speech_prob == pytest.approx(found.no_speech_prob, abs=1e-5)
    assert known.no_speech_prob is None


def asks(wanted: Generate) -> Dialogue[Generated]:
    answer = yield wanted
    assert isinstance(answer, Generated)
    return answer


def hold(family: QwenAudio, dialogues: list[tuple[Samples, Dialogue[R]]], seats: int) -> list[R]:
    """Results of dialogues about clips, `seats` of them in one batch."""
    engine: Engine[int, R] = Engine(family.model, CPU, Budget(seats=seats))
    for number, (samples, dialogue) in enumerate(dialogues):
        engine.add(Work(number, (AudioInput(family.features(samples)),), dialogue))
    outcomes = {}
    while not engine.idle:
        for done in engine.turn():
            assert done.error is None
            outcomes[done.key] = done.result
    return [outcomes[number] for number in range(len(dialogues))]


def test_a_batch_of_mixed_lengths_answers_as_each_alone(family: QwenAudio) -> None:
    clips = [recording(name) for name in ("en-no-connection", "fr-one-participant")]
    clips.append(clips[0][:700])
    wanted = [
        (clip, Generate(prompt(family, clip, task), longest, frozenset()))
        for clip, task, longest in zip(clips, ("asr", "scene", "asr"), (20, 9, 14), strict=True)
    ]
    together = hold(family, [(clip, asks(request)) for clip, request in wanted], seats=3)
    for (clip, request), batched in zip(wanted, together, strict=True):
        (alone,) = hold(family, [(clip, asks(request))], seats=1)
        assert batched.tokens == alone.tokens
        assert batched.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    memories = [[encode(family, clip)] for clip, _ in wanted]
    packed = prompt_scores(family.model, [request.prompt for _, request in wanted], memories)
    for (_, request), memory, scores in zip(wanted, memories, packed, strict=True):
        (single,) = prompt_scores(family.model, [request.prompt], [memory])
        torch.testing.assert_close(scores, single, atol=1e-4, rtol=0)


def test_several_clips_in_one_prompt_stand_in_their_order(family: QwenAudio) -> None:
    clips = [recording("en-one-participant"), recording("fr-one-participant")]
    rows = [rows_in(len(clip) / 16_000, family.window) for clip in clips]
    spans = [audio_span(family.tokenizer, count) for count in rows]
    ids = chat_prompt(family.tokenizer, spans, "is it the thing?")
    heard = [encode(family, clip) for clip in clips]
    (ours,) = prompt_scores(family.model, [ids], [heard])
    theirs = reference(family).scores(ids, clips)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_audio_tokens_take_their_vectors_from_the_audio_alone(tmp_path: Path) -> None:
    family = load(tiny_checkpoints.qwen_audio(tmp_path))
    samples = recording("fr-one-participant")
    ids = prompt(family, samples)
    (before,) = prompt_scores(family.model, [ids], [[encode(family, samples)]])
    special = family.tokenizer.special
    tags = [special[tag] for tag in ("<audio>", "[[[AUDIO:modality]]]", "</audio>")]
    family.model.decoder.wte.weight[tags] = 100.0
    (after,) = prompt_scores(family.model, [ids], [[encode(family, samples)]])
    assert torch.equal(before, after)
    for vector in (0, 1):
        kept = family.model.audio.audio_bos_eos_token.weight[vector].clone()
        family.model.audio.audio_bos_eos_token.weight[vector] = 0.0
        (changed,) = prompt_scores(family.model, [ids], [[encode(family, samples)]])
        assert (changed[-1] - before[-1]).abs().max() > 0.01
        family.model.audio.audio_bos_eos_token.weight[vector] = kept


def test_a_prompt_for_other_audio_is_refused(family: QwenAudio) -> None:
    samples = recording("fr-one-participant")
    heard = encode(family, samples)
    with pytest.raises(ValueError, match=r"74 audio tokens in a prompt for 73 rows"):
        prompt_scores(family.model, [prompt(family, samples)], [[heard[:-1]]])


def test_half_precision_scores_are_float32_and_near(tmp_path: Path, family: QwenAudio) -> None:
    half = QwenAudio(tiny_checkpoints.qwen_audio(tmp_path), "tiny")
    half.load(torch.bfloat16, CPU)
    samples = recording("fr-one-participant")
    ids = prompt(family, samples)
    (rough,) = prompt_scores(half.model, [ids], [[encode(half, samples)]])
    (exact,) = prompt_scores(family.model, [ids], [[encode(family, samples)]])
    assert rough.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(rough[-1], exact[-1], dim=0) > 0.98
