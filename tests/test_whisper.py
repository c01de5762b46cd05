from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Any

import pytest
import torch
from conftest import CPU, recording
from packed import prompt_scores

from qwen_audio_cli.audio.features import log_mel
from qwen_audio_cli.engine.engine import Engine
from qwen_audio_cli.engine.request import AudioInput, Generate, Generated
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.families.base import ClipAnswer, Job, Subject
from qwen_audio_cli.families.whisper import Whisper
from qwen_audio_cli.models import WEIGHTS
from qwen_audio_cli.tasks import TASKS, find

NAMES = ("en-one-participant", "en-no-connection", "fr-one-participant", "ru-no-connection")


def job(command: str = "transcribe", name: str | None = None, **options: Any) -> Job:
    task = find(command, name)
    return Job(task, task.tags(**options), labels=task.labels)


def answers(family: Whisper, work: Job, names: Iterable[str], seats: int) -> dict[str, ClipAnswer]:
    engine: Engine[str, ClipAnswer] = Engine(family.model, CPU, Budget(seats=seats))
    for name in names:
        samples = recording(name)
        dialogue = family.answer(work, Subject((len(samples) / 16_000,)))
        engine.add(Work(name, (AudioInput(family.features(samples)),), dialogue))
    found: dict[str, ClipAnswer] = {}
    while not engine.idle:
        for done in engine.turn():
            assert done.error is None and done.result is not None
            found[done.key] = done.result
    return found


def test_log_mel_is_that_of_the_reference() -> None:
    from transformers import WhisperFeatureExtractor

    samples = recording("fr-no-connection")
    for mels in (80, 128):
        extractor = WhisperFeatureExtractor(feature_size=mels)
        expected = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features[0]
        assert torch.equal(log_mel(samples, mels, 480_000), expected)


def test_tokens_are_those_of_transformers_generate(exact_whisper: Whisper, reference: Any) -> None:
    """Greedy tokens of a packed batch of mixed prompts equal `generate` at batch 1 (fp32)."""
    expected: dict[str, list[int]] = {}
    engine: Engine[str, list[int]] = Engine(exact_whisper.model, CPU, Budget(seats=3))
    for name in NAMES:
        samples = recording(name)
        language = name[:2]
        features = exact_whisper.features(samples)
        tokens = reference.generate(
            features[None], language=language, task="transcribe", max_new_tokens=220
        )[0]
        prompt = reference.generation_config.lang_to_id[f"<|{language}|>"]
        expected[name] = [token for token in tokens.tolist() if token < 50_257]

        def dialogue(language_token: int = prompt) -> Any:
            answer = yield Generate(
                prompt=(50_258, language_token, 50_359, 50_363),
                longest=220,
                stop=frozenset({50_257}),
                bias=exact_whisper._bias,
                first_bias=exact_whisper._first_bias,
            )
            assert isinstance(answer, Generated) and answer.finish == "stop"
            return answer.tokens

        engine.add(Work(name, (AudioInput(features),), dialogue()))
    found: dict[str, list[int]] = {}
    while not engine.idle:
        for done in engine.turn():
            assert done.error is None and done.result is not None
            found[done.key] = done.result
    assert found == expected


def test_scores_are_those_of_the_reference(exact_whisper: Whisper, reference: Any) -> None:
    features = exact_whisper.features(recording("en-one-participant"))
    tokens = [50_258, 50_259, 50_359, 50_363, 821, 307]
    with torch.inference_mode():
        expected = reference(features[None], decoder_input_ids=torch.tensor([tokens])).logits[0]
        model = exact_whisper.model
        memories = model.encode(features[None], [features.shape[-1]])
    (found,) = prompt_scores(model, [tokens], [memories])
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_the_words_are_right(whisper: Whisper) -> None:
    found = answers(whisper, job(), NAMES, seats=4)
    assert found["en-one-participant"].text == (
        "There is currently one other participant in the conference."
    )
    assert found["fr-one-participant"].text == (
        "Il n'y a qu'un seul participant dans cette conférence."
    )
    assert "полезную информацию" in (found["ru-no-connection"].text or "")
    assert [found[name].language for name in NAMES] == ["en", "en", "fr", "ru"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_answer_does_not_depend_on_the_batch(dtype: torch.dtype) -> None:
    """To the last bit: words, times and probabilities, alone, together and in another order."""
    family = Whisper(WEIGHTS / "whisper-base", "whisper-base")
    family.load(dtype, CPU)
    work = job(timestamps=True)
    together = answers(family, work, NAMES, seats=4)
    assert together == answers(family, work, reversed(NAMES), seats=3)
    for name in NAMES:
        assert answers(family, work, [name], seats=1)[name] == together[name]


def test_silence_behind_a_clip_reads_as_its_own_window(
    whisper: Whisper, exact_whisper: Whisper
) -> None:
    """A clip encoded at its own length, with shared silence behind it, reads as in a window.

    Not to the letter, but nearly so; without the silence the text would loop.
    """
    short, exact = (answers(family, job(), NAMES, 4) for family in (whisper, exact_whisper))
    for name in NAMES:
        texts = short[name].text, exact[name].text
        assert SequenceMatcher(None, *map(str, texts)).ratio() > 0.98, texts


def test_translation_is_into_english(whisper: Whisper) -> None:
    found = answers(whisper, job("translate", target="en"), ["fr-no-connection"], 1)
    text = (found["fr-no-connection"].text or "").lower()
    assert "sorry" in text and "server" in text and "information" in text


def test_language_is_identified(whisper: Whisper) -> None:
    found = answers(whisper, job("classify", "language"), ["es-no-connection"], 1)
    labels = found["es-no-connection"].labels
    assert labels is not None and labels[0][0] == "es" and labels[0][1] > 0.9
    assert sum(probability for _, probability in labels) == pytest.approx(1, abs=1e-6)


def test_what_whisper_cannot_do_is_refused_by_name(whisper: Whisper) -> None:
    with pytest.raises(UsageError, match="translates into English only"):
        whisper.check(job("translate", target="de"))
    for task in TASKS.values():
        if "whisper" not in task.families and not task.scored:
            tags = task.tags(question="What?" if task.tag == "question" else None)
            with pytest.raises(UsageError, match=r"whisper cannot do .*families that can"):
                whisper.check(Job(task, tags))
