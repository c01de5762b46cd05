"""The family: its prompts, how answers are read, what it refuses; the model's part is scripted."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import tiny_checkpoints
import torch
from conftest import CPU
from real_vocabulary import PATH, needs_real

from qwen_audio_cli.engine.request import Dialogue, FinishReason, Generate, Generated, Score, Scored
from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.families.base import ClipAnswer, Job, Subject, TooLong, Turn
from qwen_audio_cli.families.qwen_audio import QwenAudio
from qwen_audio_cli.families.qwen_prompt import audio_span, base_prompt, chat_prompt, rows_in
from qwen_audio_cli.families.qwen_tokenizer import QwenTokenizer
from qwen_audio_cli.tags import AUDIO_LANGUAGES, TagSequence
from qwen_audio_cli.tasks import TASKS


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> QwenAudio:
    family = QwenAudio(tiny_checkpoints.qwen_audio(tmp_path_factory.mktemp("base")), "tiny")
    family.load(torch.float32, CPU)
    return family


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> QwenAudio:
    directory = tiny_checkpoints.qwen_audio(tmp_path_factory.mktemp("chat"), chat=True)
    family = QwenAudio(directory, "tiny")
    family.load(torch.float32, CPU)
    return family


def job(task: str, labels: tuple[str, ...] = (), **options: Any) -> Job:
    return Job(TASKS[task], TASKS[task].tags(**options), labels)


def ids_of(family: QwenAudio, text: str) -> list[int]:
    """Ids of a text in which tags are live."""
    ids: list[int] = []
    rest = text
    while rest:
        end = rest.find("|>") + 2 if rest.startswith("<|") else rest.find("<|")
        piece, rest = (rest, "") if end < 0 else (rest[:end], rest[end:])
        tag = family.tokenizer.special.get(piece)
        ids += family.tokenizer.encode(piece) if tag is None else [tag]
    return ids


def written(
    family: QwenAudio, wanted: Job, text: str, finish: FinishReason = "stop", seconds: float = 3.0
) -> ClipAnswer:
    """The answer of a family whose model writes `text`, every token with probability one half."""
    dialogue = family.answer(wanted, Subject((seconds,)))
    request = next(dialogue)
    assert isinstance(request, Generate)
    tokens = ids_of(family, text)
    logprobs = [math.log(0.5)] * (len(tokens) + (finish == "stop"))
    return result(dialogue, Generated(tokens, logprobs, finish))


def result(dialogue: Dialogue[ClipAnswer], answer: Generated | Scored) -> ClipAnswer:
    with pytest.raises(StopIteration) as stop:
        dialogue.send(answer)
    value = stop.value.value
    assert isinstance(value, ClipAnswer)
    return value


def shown(family: QwenAudio, ids: Sequence[int]) -> str:
    """A prompt with its pads counted."""
    pad = "[[[AUDIO:modality]]]"
    text = family.tokenizer.decode(ids, tags=True)
    runs = re.compile(f"(?:{re.escape(pad)})+")
    return runs.sub(lambda run: f"({run[0].count(pad)})", text)


ASR = "<audio>(25)</audio><|startoftranscript|><|en|><|transcribe|><|en|><|notimestamps|><|wo_itn|>"


@pytest.mark.parametrize(
    ("wanted", "prompt", "longest"),
    [
        (job("asr", language="en"), ASR, 256),
        (
            job("translation", language="fr", target="zh"),
            "<audio>(25)</audio><|startoftranscript|><|fr|><|translate|><|zh|><|notimestamps|>"
            "<|itn|>",
            256,
        ),
        (
            job("word-times", language="zh"),
            "<audio>(25)</audio><|startoftranscript|><|zh|><|transcribe|><|zh|><|timestamps|>"
            "<|0.00|>",
            256,
        ),
        (
            job("audio-caption", instruction="caption_plain"),
            "<audio>(25)</audio><|startofanalysis|><|unknown|><|caption|><|en|><|notimestamps|>"
            "<|caption_plain|>",
            30,
        ),
        (
            job("scene"),
            "<audio>(25)</audio><|startofanalysis|><|unknown|><|keyword|><|en|><|notimestamps|>"
            "<|scene|>",
            10,
        ),
        (
            job("emotion"),
            "<audio>(25)</audio><|startofanalysis|><|en|><|keyword|><|en|><|notimestamps|>"
            "<|emotion_recognition|>",
            4,
        ),
        (
            job("instrument"),
            "<audio>(25)</audio><|startofanalysis|><|unknown|><|keyword|><|en|><|notimestamps|>"
            "<|note_analysis|><|instrument|>",
            30,
        ),
        (
            job("audio-qa", question="Is it <|en|> or </audio>?"),
            "<audio>(25)</audio><|startofanalysis|><|en|><|question|>Is it < |en|> or < /audio>?"
            "<|answer|>",
            30,
        ),
    ],
    ids=lambda value: value.task.name if isinstance(value, Job) else "",
)
def test_prompts_are_the_originals(
    base: QwenAudio, chat: QwenAudio, wanted: Job, prompt: str, longest: int
) -> None:
    for family in (base,) if wanted.task.command == "ask" else (base, chat):
        asked = next(family.answer(wanted, Subject((1.0,))))
        assert isinstance(asked, Generate)
        assert shown(family, asked.prompt) == prompt
        assert asked.longest == longest
        assert asked.temperature == 0
        # One token at least, as in the evaluation scripts.
        assert asked.first_bias is not None
        assert asked.first_bias.isinf().nonzero()[:, 0].tolist() == sorted(asked.stop)
        assert family.tokenizer.special["<|endoftext|>"] in asked.stop


def test_a_chat_checkpoint_answers_questions_in_chatml(chat: QwenAudio) -> None:
    asked = next(chat.answer(job("audio-qa", question="What is it?\n<|im_end|>"), Subject((1.0,))))
    assert isinstance(asked, Generate)
    assert shown(chat, asked.prompt) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nAudio 1:<audio>(25)</audio>\nWhat is it?\n< |im_end|><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert asked.prompt.count(chat.tokenizer.special["<|im_end|>"]) == 2
    special = chat.tokenizer.special
    assert asked.stop == {special[f"<|{tag}|>"] for tag in ("endoftext", "im_start", "im_end")}
    assert asked.longest == 24  # its generation_config says so
    assert asked.first_bias is None


def test_the_base_checkpoint_stops_at_end_of_text_only(base: QwenAudio) -> None:
    asked = next(base.answer(job("asr", language="en"), Subject((1.0,))))
    assert isinstance(asked, Generate)
    assert asked.stop == {base.tokenizer.special["<|endoftext|>"]}
    assert (base.name, base.label.split("@")[0], base.window) == ("qwen-audio", "tiny", 30.0)


def test_decoding_options_reach_the_model(base: QwenAudio) -> None:
    task = TASKS["asr"]
    wanted = Job(task, task.tags(language="en"), temperature=0.7, seed=3, longest=17)
    asked = next(base.answer(wanted, Subject((1.0,))))
    assert isinstance(asked, Generate)
    assert (asked.temperature, asked.seed, asked.longest) == (0.7, 3, 17)


def test_a_transcript_is_the_models_text(base: QwenAudio) -> None:
    answer = written(base, job("asr", language="en"), " the  audio, and.")
    assert answer.text == "the  audio, and."
    assert answer.language == "en"
    assert answer.avg_logprob == pytest.approx(math.log(0.5))
    assert answer.compression_ratio == pytest.approx(16 / 24, abs=0.05)
    assert answer.finish_reason == "stop"
    assert (answer.words, answer.labels, answer.flags) == (None, None, frozenset())


@pytest.mark.parametrize(("finish", "flag"), [("length", "truncated"), ("repeat", "repetition")])
def test_the_end_of_an_answer_is_flagged(base: QwenAudio, finish: FinishReason, flag: str) -> None:
    answer = written(base, job("asr", language="en"), "the the", finish)
    assert (answer.text, answer.finish_reason, answer.flags) == ("the the", finish, {flag})


@pytest.mark.parametrize(
    ("language", "said", "text"),
    [
        ("en", "the<|delim|> thing<|sil|>", "the thing"),
        ("zh", "你<|delim|>好", "你好"),
        ("en", "<|sil|>", ""),
    ],
)
def test_tags_are_no_text(base: QwenAudio, language: str, said: str, text: str) -> None:
    assert written(base, job("asr", language=language), said).text == text


@pytest.mark.parametrize(
    "wanted", [job("note"), job("entities", language="en"), job("audio-qa", question="When?")]
)
def test_tags_that_carry_the_answer_stay(base: QwenAudio, wanted: Job) -> None:
    said = "<|pitch|><|midi_pitch_60|><|instrument|>guitar"
    assert written(base, wanted, said).text == said


def times(answer: ClipAnswer) -> list[tuple[str, float, float]]:
    assert answer.words is not None
    return [(word.word, word.start, word.end) for word in answer.words]


def test_words_lie_between_their_times(base: QwenAudio) -> None:
    # The example of the original's evaluation; its first time is the prompt's.
    said = "<|sil|><|0.54|>面<|0.86|>条<|1.17|>机<|1.46|><|sil|><|2.01|>"
    answer = written(base, job("word-times", language="zh"), said)
    assert times(answer) == [("面", 0.54, 0.86), ("条", 0.86, 1.17), ("机", 1.17, 1.46)]
    assert (answer.text, answer.flags) == ("面条机", frozenset())
    assert answer.words is not None
    assert all(word.probability == pytest.approx(0.5) for word in answer.words)


@pytest.mark.parametrize(
    ("said", "words", "flags"),
    [
        # A word's own begin and end.
        ("<|0.10|>the<|0.40|><|0.50|> thing<|0.90|>", [("the", 0.1, 0.4), ("thing", 0.5, 0.9)], ()),
        # A last time is missing: the clip's end.
        ("the<|0.40|> thing", [("the", 0.0, 0.4), ("thing", 0.4, 3.0)], ("unparsed",)),
        # No times at all.
        ("the thing", [("the thing", 0.0, 3.0)], ("unparsed",)),
        # Backwards.
        ("<|2.00|>a<|1.00|>the<|2.50|>", [("a", 2.0, 2.0), ("the", 2.0, 2.5)], ("unparsed",)),
        # Behind the clip's end: by less than a row of audio, and by more.
        ("the<|3.02|>", [("the", 0.0, 3.0)], ()),
        ("the<|9.00|>", [("the", 0.0, 3.0)], ("unparsed",)),
        ("<|sil|><|3.00|>", [], ()),
        ("", [], ()),
    ],
)
def test_times_that_do_not_pair_are_filled_in(
    base: QwenAudio, said: str, words: list[tuple[str, float, float]], flags: tuple[str, ...]
) -> None:
    answer = written(base, job("word-times", language="en"), said)
    assert times(answer) == words
    assert answer.text == " ".join(word for word, _, _ in words)
    assert answer.flags == set(flags)


def test_events_have_times_too(base: QwenAudio) -> None:
    said = "<|0.20|>dog<|1.00|><|1.50|>a car<|2.00|>"
    answer = written(base, job("sound-event-times"), said)
    assert times(answer) == [("dog", 0.2, 1.0), ("a car", 1.5, 2.0)]
    assert answer.language is None


def test_a_language_yet_unknown_is_asked_for_first(base: QwenAudio) -> None:
    dialogue = base.answer(job("translation", target="de"), Subject((1.0,)))
    asked = next(dialogue)
    assert isinstance(asked, Score)
    assert shown(base, asked.prompt) == "<audio>(25)</audio><|startoftranscript|>"
    tags = [base.tokenizer.decode(ids, tags=True) for ids in asked.continuations]
    assert tags == [f"<|{code}|>" for code in (*AUDIO_LANGUAGES, "unknown")]
    likely = {"<|unknown|>": 0.5, "<|es|>": 0.3}
    wanted = dialogue.send(Scored([[math.log(likely.get(tag, 0.2 / 7))] for tag in tags]))
    assert isinstance(wanted, Generate)
    assert shown(base, wanted.prompt).endswith(
        "<|startoftranscript|><|es|><|translate|><|de|><|notimestamps|><|itn|>"
    )
    answer = result(dialogue, Generated(base.tokenizer.encode("the"), [-0.1, -0.1], "stop"))
    assert (answer.text, answer.language) == ("the", "es")
    assert answer.no_speech_prob == pytest.approx(0.5)
    assert answer.flags == {"no_speech"}


def test_labels_are_scored_with_the_end_behind_them(base: QwenAudio) -> None:
    dialogue = base.answer(job("scene", ("bus", "busy")), Subject((1.0,)))
    asked = next(dialogue)
    assert isinstance(asked, Score)
    written_out = [base.tokenizer.decode(ids, tags=True) for ids in asked.continuations]
    assert written_out == ["bus<|endoftext|>", "busy<|endoftext|>"]
    answer = result(dialogue, Scored([[-1.0, -3.0], [-1.0, -1.0, -1.0]]))
    assert answer.labels is not None
    assert [label for label, _ in answer.labels] == ["busy", "bus"]
    assert dict(answer.labels)["busy"] == pytest.approx(math.e / (1 + math.e))
    assert (answer.text, answer.language) == (None, None)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (job("lyrics", language="en"), "cannot do lyrics"),
        (job("asr", language="ru"), r"<\|ru\|>"),
        (job("translation", target="ru"), r"<\|ru\|>"),
        (job("pitch", ("60", "high")), "no tag for the label 'high'"),
        (job("scene", ("bus", "")), "empty label"),
        (job("language", ("en", "ru")), "does not know the languages ru"),
        (Job(TASKS["asr"], TASKS["asr"].tags(), longest=1300), "2048 tokens at most"),
        (job("audio-qa", question="and the thing " * 300), "2048 tokens at most"),
        (job("scene", ("bus", "x" * 1400)), "no room for an answer of 1401"),
    ],
)
def test_what_a_checkpoint_cannot_do_is_refused(base: QwenAudio, wanted: Job, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        base.check(wanted)


def test_several_clips_and_turns(chat: QwenAudio) -> None:
    """As `from_list_format` numbers them, in each turn anew; audio of all turns is heard again."""
    wanted = replace(
        job("conversation", question="And now?"),
        history=(Turn("Which is louder?", "The first.", 2), Turn("Sure?", "Yes <|en|>.", 0)),
    )
    chat.check(wanted)
    asked = next(chat.answer(wanted, Subject((1.0, 2.0, 0.4))))
    assert isinstance(asked, Generate)
    assert shown(chat, asked.prompt) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nAudio 1:<audio>(25)</audio>\nAudio 2:<audio>(50)</audio>\n"
        "Which is louder?<|im_end|>\n<|im_start|>assistant\nThe first.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes <|en|>.<|im_end|>\n"
        "<|im_start|>user\nAudio 1:<audio>(10)</audio>\nAnd now?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert chat.tokenizer.special["<|en|>"] not in asked.prompt


def test_clips_together_may_be_too_long(chat: QwenAudio) -> None:
    """Past 2,048 tokens the original counts otherwise: three clips of 30 s are too many."""
    wanted = job("conversation", question="What is it?")
    chat.check(wanted)
    with pytest.raises(TooLong, match="2048 tokens at most: a prompt of 23"):
        next(chat.answer(wanted, Subject((30.0, 30.0, 30.0))))


def test_two_clips_are_compared_in_chat(chat: QwenAudio) -> None:
    wanted = job("speaker-verification", ("yes", "no"))
    chat.check(wanted)
    asked = next(chat.answer(wanted, Subject((1.0, 2.0))))
    assert isinstance(asked, Score)
    assert "Audio 2:<audio>(50)</audio>\nDo both clips" in shown(chat, asked.prompt)
    assert {tokens[-1] for tokens in asked.continuations} == {chat.tokenizer.special["<|im_end|>"]}


def test_every_task_of_the_table_is_done(base: QwenAudio, chat: QwenAudio) -> None:
    for family in (base, chat):
        able = [task for task in TASKS.values() if family.name in task.families]
        assert len(able) > 20
        for task in able:
            tags = task.tags(question="What is it?" if task.command == "ask" else None)
            wanted = Job(task, tags, task.labels)
            family.check(wanted)
            assert next(family.answer(wanted, Subject((30.0,) * (task.clips or 1)))).prompt


def test_a_sequence_of_the_users_own_is_used(chat: QwenAudio) -> None:
    tags = TagSequence.parse(
        "<|startofanalysis|><|en|><|caption|><|zh|><|notimestamps|><|caption_plain|>"
    )
    asked = next(chat.answer(Job(TASKS["audio-qa"], tags), Subject((1.0,))))
    assert shown(chat, asked.prompt) == f"<audio>(25)</audio>{tags}"


@pytest.fixture(scope="module")
def real() -> QwenTokenizer:
    assert PATH
    return QwenTokenizer.read(PATH)


# Ids of the original for `assets/audio/1272-128104-0000.flac`, 93,680 samples.
@needs_real
def test_the_chat_prompt_has_the_originals_ids(real: QwenTokenizer) -> None:
    span = audio_span(real, rows_in(93_680 / 16_000, 30.0))
    assert span == [155163, *[151851] * 146, 155164]
    assert chat_prompt(real, [span], "what does the person say?") == [
        *(151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198, 151644, 872, 198),
        *(14755, 220, 16, 25, 155163, *[151851] * 146, 155164, 198, 12555, 1558, 279, 1697),
        *(1977, 30, 151645, 198, 151644, 77091, 198),
    ]


@needs_real
def test_the_base_prompt_has_the_originals_ids(real: QwenTokenizer) -> None:
    span = audio_span(real, rows_in(93_680 / 16_000, 30.0))
    ids = base_prompt(real, span, TASKS["asr"].tags(language="en"), TASKS["asr"])
    assert len(ids) == 154
    assert ids[148:] == [151852, 151859, 151855, 151859, 151868, 154877]
