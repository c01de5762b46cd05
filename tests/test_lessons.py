"""What each family is given to learn: the prompts that it is asked by, and answers that end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from lessons import checkpoint, item, opened

from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.families.base import Lesson, Subject, TooLong
from qwen_audio_cli.training.manifest import Item

CLIP = "en-one-participant"
SUBJECT = Subject((3.25,))


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return opened(checkpoint("qwen_audio", tmp_path_factory.mktemp("base")))


def lesson(family: Any, given: Item) -> Lesson:
    found: Lesson = family.lesson(given.job(), SUBJECT, given.target)
    return found


@pytest.mark.parametrize(
    ("values", "target", "tags", "answer"),
    [
        ({}, "one <|0.00|>", 0, "one <|0.00|>"),  # in a transcript, it is what somebody says
        ({}, "<|sil|>", 1, "<|sil|>"),  # nothing is said
        ({"task": "gender"}, "female", 0, "female"),
        ({"timestamps": True}, "one<|0.44|><|sil|><|0.60|> two<|1.00|>", 4, None),
        ({"task": "note", "language": None}, "<|pitch|><|midi_pitch_60|>", 2, None),
        ({"task": "pitch", "language": None}, "60", 1, "<|midi_pitch_60|>"),
        ({"task": "language", "language": None}, "French", 1, "<|fr|>"),
        ({"task": "language", "language": None}, "unknown", 1, "<|unknown|>"),
    ],
)
def test_tags_are_tags_where_they_are_the_answer(
    tagged: Any, values: dict[str, Any], target: str, tags: int, answer: str | None
) -> None:
    found = lesson(tagged, item(CLIP, target, **values))
    tokenizer = tagged.tokenizer
    stop = tokenizer.special["<|endoftext|>"]
    said = [token for token in found.answer if token != stop]
    assert tokenizer.decode(said, tags=True) == (target if answer is None else answer)
    assert sum(not tokenizer.is_text(token) for token in said) == tags
    # A part of a note's answer, and a language tag, go on where the whole answer would.
    ends = values.get("task") not in ("pitch", "language")
    assert found.answer == ([*said, stop] if ends else said)


def test_tags_that_no_answer_holds_are_refused(tagged: Any) -> None:
    for target in ("one<|0.4|>", "one<|endoftext|>", "one<|made_up|>"):
        with pytest.raises(UsageError, match=r"no answer holds the tag <\|"):
            lesson(tagged, item(CLIP, target, timestamps=True))
    with pytest.raises(UsageError, match="no tag for the language 'ru'"):
        lesson(tagged, item(CLIP, "ru", task="language", language=None))
    with pytest.raises(UsageError, match="whose language is named"):
        lesson(tagged, item(CLIP, "one", language=None))
    with pytest.raises(TooLong, match="takes 2048 tokens at most"):
        lesson(tagged, item(CLIP, "one" * 2048))


def test_a_chat_ends_as_a_turn_and_tags_end_as_text(tmp_path: Path) -> None:
    family: Any = opened(tiny_checkpoints.qwen_audio(tmp_path, chat=True))
    special = family.tokenizer.special
    asked = item(CLIP, "one", task="audio-qa", question="Who?", language=None)
    assert lesson(family, asked).answer[-1] == special["<|im_end|>"]
    assert lesson(family, item(CLIP, "one")).answer[-1] == special["<|endoftext|>"]


@pytest.mark.parametrize("name", ["qwen_audio", "qwen2_audio", "qwen25_omni", "qwen3_omni"])
def test_the_prompt_is_the_one_that_asks(name: str, tmp_path: Path) -> None:
    family: Any = opened(checkpoint(name, tmp_path))
    job = item(CLIP, "one").job()
    found = family.lesson(job, SUBJECT, "one")
    asked = next(family.answer(job, SUBJECT))
    assert found.prompt == list(asked.prompt)
    assert found.answer[-1] in asked.stop
    assert family.tokenizer.decode(found.answer[:-1]) == "one"


def test_qwen3_asr_learns_the_language_that_it_hears(tmp_path: Path) -> None:
    family: Any = opened(checkpoint("qwen3_asr", tmp_path))
    found = family.lesson(item(CLIP, "one").job(), SUBJECT, "one")
    unasked = next(family.answer(item(CLIP, "one", language=None).job(), SUBJECT))
    asked = next(family.answer(item(CLIP, "one").job(), SUBJECT))
    assert found.prompt == list(unasked.prompt)
    said = [*list(asked.prompt)[len(found.prompt) :], *family.tokenizer.encode("one")]
    assert found.answer[:-1] == said
    assert found.answer[-1] in unasked.stop
    with pytest.raises(UsageError, match="whose language is named"):
        family.lesson(item(CLIP, "one", language=None).job(), SUBJECT, "one")
    with pytest.raises(UsageError, match="its aligner finds them"):
        family.lesson(item(CLIP, "one", timestamps=True).job(), SUBJECT, "one")
