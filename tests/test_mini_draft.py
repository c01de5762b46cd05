"""The draft: what mini's CTC head hears stands in the prompt, asked and taught alike."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
import torch
from conftest import CPU, recording
from lessons import checkpoint, item, opened

from qwen_audio_cli.engine.engine import Engine
from qwen_audio_cli.engine.request import AudioInput, Generate, Score, Spell
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.families.base import Subject
from qwen_audio_cli.families.mini import Mini
from qwen_audio_cli.families.mini_model import Heard
from qwen_audio_cli.families.spelling import LETTERS, SYMBOLS, symbols
from qwen_audio_cli.training.batches import Example, heard
from qwen_audio_cli.training.manifest import Item

pytest.importorskip("gguf", reason="gguf, of the extra 'train', is not installed")
import tiny_mini
from scripted import finish
from tiny_mini import Built

CLIP = "en-one-participant"
SECONDS = len(recording(CLIP)) / 16_000
UNASKED = {"language": None}
ITEMS = {
    "asr": item(CLIP, "one other"),
    "translation": item(CLIP, "one other", task="translation", language="fr", to="en"),
    "gender": item(CLIP, "female", task="gender", **UNASKED),
    "pitch": item(CLIP, "60", task="pitch", **UNASKED),
    "language": item(CLIP, "en", task="language", **UNASKED),
    "audio-qa": item(CLIP, "yes", task="audio-qa", question="Is it?", **UNASKED),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return tiny_mini.tiny(tmp_path_factory.mktemp("tiny"))


def noted(dialogue: Any, asked: list[Any]) -> Any:
    """The dialogue, whose requests are kept."""
    request = next(dialogue)
    try:
        while True:
            asked.append(request)
            request = dialogue.send((yield request))
    except StopIteration as stop:
        return stop.value


def prompts(family: Mini, given: Item) -> list[list[int]]:
    """The prompts of all that is asked about an item's recording."""
    asked: list[Any] = []
    engine: Engine[int, Any] = Engine(family.model, CPU, Budget())
    audio = AudioInput(family.features(recording(CLIP)))
    job = replace(given.job(), longest=1)
    engine.add(Work(0, (audio,), noted(family.answer(job, Subject((SECONDS,))), asked)))
    assert finish(engine)[0].error is None
    assert isinstance(asked[0], Spell) and not asked[0].tokens
    return [list(one.prompt) for one in asked if isinstance(one, Generate | Score)]


def memory_of(family: Mini) -> Heard:
    mel = family.features(recording(CLIP))
    with torch.inference_mode():
        (memory,) = family.model.encode(mel[None], [mel.shape[1]])
    return memory


def text_of(memory: Heard) -> str:
    """The best path of the head, read by hand."""
    alphabet = [*LETTERS, *(f" {letter}" for letter in LETTERS), ""]
    path = memory.spelled.argmax(-1).tolist()
    return "".join(alphabet[symbol] for symbol, _ in groupby(path))


@pytest.mark.parametrize("task", ITEMS)
def test_what_is_taught_is_what_is_asked(tiny: Built, task: str) -> None:
    """The prompt has the draft behind the audio, whatever is asked."""
    family, given, subject = tiny.family, ITEMS[task], Subject((SECONDS,))
    memory = memory_of(family)
    draft = text_of(memory)
    assert len(draft) > 10
    undrafted = family.lesson(given.job(), subject, given.target)
    example = Example(given, torch.empty(0), subject, undrafted)
    taught = heard(family, example, memory)
    (asked,) = prompts(family, given)
    assert taught.prompt == asked
    assert taught.answer == undrafted.answer
    plain, drafted = (tiny_mini.audio_ids(family, recording(CLIP), text) for text in ("", draft))
    assert undrafted.prompt[: len(plain)] == plain
    assert asked == [*drafted, *undrafted.prompt[len(plain) :]]


def test_to_find_the_language_out_the_draft_is_read_too(tiny: Built) -> None:
    family = tiny.family
    drafted = tiny_mini.audio_ids(family, recording(CLIP), text_of(memory_of(family)))
    finding, writing = prompts(family, item(CLIP, "one", language=None))
    assert finding == [*drafted, family.tokenizer.special["<|startoftranscript|>"]]
    assert writing[: len(finding)] == finding


def test_a_draft_has_the_tokens_of_its_text(tiny: Built) -> None:
    family = tiny.family
    path = [SYMBOLS, *symbols("the cat"), SYMBOLS, *symbols("tt"), SYMBOLS, SYMBOLS]
    spelled = torch.eye(SYMBOLS + 1)[path]
    for scores, text in ((spelled, " the cat tt"), (spelled[:1], ""), (spelled[:0], "")):
        told: Any = family.heard(Subject((0.5,)), Heard(torch.empty(0), scores))
        assert told.seconds == (0.5,)
        assert list(told.draft) == family.tokenizer.encode(text)


def test_where_nothing_more_is_known_the_lesson_stays(tmp_path: Any) -> None:
    family: Any = opened(checkpoint("qwen_audio", tmp_path))
    subject = Subject((SECONDS,))
    lesson = family.lesson(ITEMS["asr"].job(), subject, "one")
    example = Example(ITEMS["asr"], torch.empty(0), subject, lesson)
    mel = family.features(recording(CLIP))
    (memory,) = family.model.encode(mel[None], [mel.shape[1]])
    assert heard(family, example, memory) is lesson
