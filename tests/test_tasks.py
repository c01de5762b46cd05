import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_audio_cli import labels
from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.languages import LANGUAGES
from qwen_audio_cli.tags import INSTRUCTIONS, SPECIAL_TOKENS, TagSequence
from qwen_audio_cli.tasks import COMMANDS, DEFAULTS, FAMILIES, TASKS, Parser, Task, find

# The prompts of the original's evaluation scripts (QWEN_AUDIO.md 7.1).
SCRIPTS = [
    (
        "asr",
        {"language": "en"},
        "<|startoftranscript|><|en|><|transcribe|><|en|><|notimestamps|><|wo_itn|>",
    ),
    (
        "translation",
        {"language": "en", "target": "zh"},
        "<|startoftranscript|><|en|><|translate|><|zh|><|notimestamps|><|itn|>",
    ),
    (
        "word-times",
        {"language": "zh"},
        "<|startoftranscript|><|zh|><|transcribe|><|zh|><|timestamps|><|0.00|>",
    ),
    (
        "audio-caption",
        {},
        "<|startofanalysis|><|unknown|><|caption|><|en|><|notimestamps|><|caption_clotho|>",
    ),
    ("scene", {}, "<|startofanalysis|><|unknown|><|keyword|><|en|><|notimestamps|><|scene|>"),
    (
        "emotion",
        {},
        "<|startofanalysis|><|en|><|keyword|><|en|><|notimestamps|><|emotion_recognition|>",
    ),
    (
        "audio-qa",
        {"question": "Are there birds?"},
        "<|startofanalysis|><|en|><|question|>Are there birds?<|answer|>",
    ),
    (
        "vocal-sound",
        {},
        "<|startofanalysis|><|en|><|keyword|><|en|><|notimestamps|><|vocal_classification|>",
    ),
    (
        "note",
        {},
        "<|startofanalysis|><|unknown|><|keyword|><|en|><|notimestamps|><|note_analysis|>",
    ),
]

# The task families of the paper (QWEN_AUDIO.md 8.3) and where they are found here.
PAPER = {
    "ASR": "asr",
    "S2TT": "translation",
    "OSR": "overlapped",
    "dialect ASR": "dialect",
    "SRWT": "word-times",
    "DID": "dialect-id",
    "LID": "language",
    "SGC": "gender",
    "ER": "emotion",
    "SV": "speaker-verification",
    "SD": "speaker-turns",
    "SER": "entities",
    "KS": "keyword-spotting",
    "IC": "intent",
    "SF": "slots",
    "SAP": "age",
    "VSC": "vocal-sound",
    "AAC": "audio-caption",
    "SEC": "sound-event",
    "ASC": "scene",
    "SED": "sound-event-times",
    "AQA": "audio-qa",
    "SID": "singer",
    "SMER": "music-emotion",
    "MC": "music-caption",
    "MIC": "instrument",
    "MNA": "note",
    "MGR": "genre",
    "MR": "song",
    "MQA": "music-qa",
}


@pytest.mark.parametrize(("name", "options", "prompt"), SCRIPTS)
def test_the_prompts_are_those_of_the_original_scripts(
    name: str, options: dict[str, Any], prompt: str
) -> None:
    assert str(TASKS[name].tags(**options)) == prompt
    assert not TASKS[name].inferred


def test_every_task_family_of_the_paper_has_a_row() -> None:
    assert set(PAPER.values()) <= set(TASKS)
    assert len(TASKS) >= 30
    assert {task.command for task in TASKS.values()} == set(COMMANDS)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_row_holds_together(task: Task) -> None:
    assert task.families and task.families <= set(FAMILIES)
    assert set(task.instructions) <= set(INSTRUCTIONS[task.tag])
    assert len(set(task.labels)) == len(task.labels) and all(task.labels)
    assert task.scored or not task.labels
    assert task.clips is None or task.clips > 0
    question = "why?" if task.tag == "question" else None
    tags = task.tags(language="en", question=question)
    assert TagSequence.parse(str(tags)) == tags
    assert set(tags.pieces()) - {question} <= set(SPECIAL_TOKENS)
    if task.parser in (Parser.WORDS, Parser.SPANS):
        assert tags.timestamps


def test_the_families_are_told_apart_honestly() -> None:
    def tasks_of(family: str) -> set[str]:
        return {task.name for task in TASKS.values() if family in task.families}

    assert tasks_of("whisper") == {"asr", "translation", "word-times", "language"}
    assert "word-times" not in tasks_of("qwen2-audio-instruct")
    assert tasks_of("qwen3-asr").isdisjoint({"emotion", "audio-caption", "audio-qa"})
    several = {task.name for task in TASKS.values() if task.clips != 1}
    assert several == {"speaker-verification", "conversation"}
    assert tasks_of("qwen-audio").isdisjoint(several)


def test_a_task_a_family_cannot_do_is_refused_with_those_that_can() -> None:
    TASKS["emotion"].require("qwen-audio")
    TASKS["translation"].require("whisper", "en")
    TASKS["translation"].require("qwen-audio", "de")
    with pytest.raises(UsageError, match=r"whisper cannot do emotion .*: qwen-audio, "):
        TASKS["emotion"].require("whisper")
    with pytest.raises(UsageError, match="English only; families that can write de: qwen"):
        TASKS["translation"].require("whisper", "de")


def test_find_gives_the_default_or_the_named_task() -> None:
    assert {command: find(command).name for command in COMMANDS} == dict(DEFAULTS)
    assert find("classify", "Emotion").name == "emotion"
    with pytest.raises(UsageError, match="did you mean emotion"):
        find("classify", "emotoin")
    with pytest.raises(UsageError, match="is a task of 'qwa classify'"):
        find("ask", "emotion")
    with pytest.raises(UsageError, match="did you mean classify"):
        find("clasify")
    with pytest.raises(UsageError, match=r"known are asr, .*conversation$"):
        find("ask", "zzzzzzzz")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("audio-qa", {}, "give a question"),
        ("audio-qa", {"question": "a?", "target": "de"}, "takes no target"),
        ("audio-qa", {"question": "a?", "instruction": "itn"}, "takes no instruction"),
        ("asr", {"question": "a?"}, "takes no question"),
        ("asr", {"instruction": "scene"}, "unknown instruction 'scene', expected one of wo_itn"),
        ("asr", {"timestamps": True, "instruction": "itn"}, "takes no instruction"),
        ("asr", {"language": "en", "target": "de"}, "use 'qwa translate'"),
        ("asr", {"language": "en", "target": "zh_tr"}, "use 'qwa translate'"),
        ("emotion", {"timestamps": True}, "has no timestamps"),
        ("word-times", {"timestamps": False}, "needs timestamps"),
        ("emotion", {"language": "xx"}, "expected an audio language"),
    ],
)
def test_options_a_task_does_not_have_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        TASKS[name].tags(**options)


def test_options_choose_among_what_the_task_has() -> None:
    assert TASKS["asr"].tags(timestamps=True) == TASKS["word-times"].tags()
    assert TASKS["asr"].tags(language="zh", target="zh_tr").text_language == "zh_tr"
    assert TASKS["audio-caption"].tags(instruction="caption_plain").instruction == "caption_plain"
    assert TASKS["audio-caption"].tags(target="zh").text_language == "zh"
    assert TASKS["emotion"].tags(language="zh").audio_language == "zh"
    assert TASKS["translation"].tags().text_language == "en"
    assert TASKS["custom"].tags().question is not None


@given(
    task=st.sampled_from(sorted(TASKS)),
    language=st.one_of(st.none(), st.sampled_from(sorted(LANGUAGES))),
    target=st.one_of(st.none(), st.sampled_from([*sorted(LANGUAGES), "zh_tr"])),
    timestamps=st.one_of(st.none(), st.booleans()),
    question=st.one_of(st.none(), st.text(), st.just("<|answer|><|<|en|>en|> <audio>x</audio>?")),
)
def test_any_options_give_a_sequence_of_the_grammar_or_a_usage_error(
    task: str,
    language: str | None,
    target: str | None,
    timestamps: bool | None,
    question: str | None,
) -> None:
    try:
        tags = TASKS[task].tags(
            language=language, target=target, timestamps=timestamps, question=question
        )
    except UsageError as error:
        # Said in words of the task's options, or about the question's text.
        assert task in str(error) or "question" in str(error)
    else:
        assert TagSequence.parse(str(tags)) == tags
        if tags.question is not None:
            assert not [token for token in SPECIAL_TOKENS if token in tags.question]


def test_the_label_sets_have_the_size_of_their_data_sets() -> None:
    sizes = {name: len(value) for name, value in vars(labels).items() if name.isupper()}
    sizes.pop("_ACTIONS")
    assert sizes == {
        "YES_NO": 2,
        "EMOTIONS": 7,
        "GENDERS": 2,
        "AGES": 9,
        "DIALECTS": 9,
        "VOCAL_SOUNDS": 6,
        "COMMAND_WORDS": 35,
        "INTENTS": 60,
        "SOUND_EVENTS": 50,
        "TUT_SCENES": 15,
        "COCHL_SCENES": 13,
        "INSTRUMENTS": 11,
        "QUALITIES": 10,
        "VELOCITIES": 5,
        "PITCHES": 128,
        "GENRES": 10,
        "MUSIC_EMOTIONS": 4,
    }
    used = {task.labels for task in TASKS.values()}
    assert all(value in used for name, value in vars(labels).items() if name in sizes)


def test_none_of_these_modules_imports_torch_or_numpy() -> None:
    code = (
        "import sys; from qwen_audio_cli import schema, tasks; from qwen_audio_cli.sinks import"
        " jsonl; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
