"""The forced aligner: words, times and their repair, judged by the library's own processor.

Checkpoints are tiny and random, in both published layouts.
"""

# ruff: noqa: RUF001  marks and letters of other languages are what these tests are about

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unicodedata import category

import numpy as np
import pytest
import tiny_tokenizers
import tiny_transformers
import torch
import transformers
from conftest import CPU, EXAMPLES, recording
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3ASRFeatureExtractor, Qwen3ASRProcessor
from transformers.models.qwen3_asr import processing_qwen3_asr

from qwen_audio_cli import Qwa
from qwen_audio_cli.engine.engine import Engine, Manner
from qwen_audio_cli.engine.request import AudioInput, Classified, Classify, Dialogue
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.errors import ConfigError, UsageError
from qwen_audio_cli.families.ascending import ascending, longest_ascent
from qwen_audio_cli.families.base import ClipAnswer, Job, Refused, Subject, TimedWord, TooLong
from qwen_audio_cli.families.qwen3_aligner import Qwen3Aligner
from qwen_audio_cli.families.spoken_words import spoken_words
from qwen_audio_cli.records import Record
from qwen_audio_cli.tasks import TASKS

# A turn of the audio and the words in order, as the checkpoint's own template says it.
TEMPLATE = (
    "{% for part in messages[0].content %}{% if part.type == 'text' %}{{ part.text }}"
    "<timestamp><timestamp>{% else %}<|audio_start|><|audio_pad|><|audio_end|>{% endif %}"
    "{% endfor %}"
)

# --- repair ---------------------------------------------------------------------------------------

times = st.lists(st.integers(0, 30).map(lambda n: 80.0 * n), max_size=40)


@given(times | st.lists(st.integers(0, 3).map(float), max_size=30))
@settings(max_examples=500, deadline=None)
def test_times_are_repaired_as_the_library_does(times: list[float]) -> None:
    if not times:  # which the library cannot
        assert ascending(times) == []
        return
    ours = ascending(times)
    assert [int(time) for time in ours] == processing_qwen3_asr._fix_timestamps(np.array(times))
    assert all(one <= other for one, other in pairwise(ours))


def test_a_whole_hour_of_times_is_repaired() -> None:
    """Tens of thousands, of which half are noise: what grows with the square would not end."""
    drawn = random.Random(0)
    times = [float(n if n % 2 else drawn.randrange(60_000)) for n in range(60_000)]
    right = longest_ascent(times)
    assert len(right) >= 30_000
    assert all(times[one] <= times[other] for one, other in pairwise(right))
    assert sorted(ascending(times)) == ascending(times)


# --- words ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processor() -> Qwen3ASRProcessor:
    tokenizer = tiny_tokenizers.library(tiny_tokenizers.ADDED_3)
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.audio_token = "<|audio_pad|>"
    tokenizer.audio_bos_token, tokenizer.audio_eos_token = "<|audio_start|>", "<|audio_end|>"
    return Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, chat_template=TEMPLATE)


CHARACTERS = " \t\n\u3000aZé1½'’-–.,;!?()«»“”„¿¡&%_がカ中文㐀𠀀豈한글Яж٣\u0301ª™"


@given(text=st.text(st.sampled_from(CHARACTERS), max_size=40) | st.text(max_size=30))
@settings(max_examples=400, deadline=None)
def test_words_are_the_librarys(processor: Qwen3ASRProcessor, text: str) -> None:
    """What the model is given is the library's; what is shown is the whole text, and in order."""
    words = spoken_words(text, None)
    assert [word.spoken for word in words] == processor.split_words_for_alignment(text)
    if words:
        shown = "".join(word.written for word in words)
        assert "".join(shown.split()) == "".join(text.split())
        assert all(word.written == word.written.strip() for word in words)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("You are about to enter, say, an echo-test.",
         ["You", "are", "about", "to", "enter,", "say,", "an", "echo-test."]),
        ("¿Qué tal? – Bien.", ["¿Qué", "tal? –", "Bien."]),
        ("Il dit « bonjour » !", ["Il", "dit", "« bonjour » !"]),
        ("„Hallo“ sagte er (leise).", ["„Hallo“", "sagte", "er", "(leise)."]),
        ("他说：“你好！”3 GB。", ["他", "说：", "“你", "好！”", "3", "GB。"]),
        ("... it's 5 o'clock", ["... it's", "5", "o'clock"]),
        ("안녕하세요, 저는 학교에서.", ["안녕하세요,", "저는", "학교에서."]),
        (" … – !", []),
        ("", []),
    ],
)  # fmt: skip
def test_words_are_shown_as_they_were_written(text: str, written: list[str]) -> None:
    assert [word.written for word in spoken_words(text, "ko" if "안" in text else None)] == written


@pytest.mark.parametrize(
    ("text", "cut", "written"),
    [
        ("「今日は、いい天気」 ですね。", ["「", "今日", "は", "、", "いい", "天気", "」", "\u3000",
         "です", "ね", "。"], ["「今日", "は、", "いい", "天気」", "です", "ね。"]),
        ("ＡＢ は", ["AB", "\u3000", "は"], ["AB", "は"]),  # other characters than were written
        ("。", ["。"], []),
    ],
)  # fmt: skip
def test_japanese_words_are_found_again_in_the_text(
    monkeypatch: pytest.MonkeyPatch, text: str, cut: list[str], written: list[str]
) -> None:
    """Whatever nagisa, of which a trace stands here, makes of white space and marks."""
    trace = SimpleNamespace(tagging=lambda given: SimpleNamespace(words=cut))
    monkeypatch.setitem(sys.modules, "nagisa", trace)
    assert [word.written for word in spoken_words(text, "ja")] == written


def test_japanese_words_are_the_librarys(processor: Qwen3ASRProcessor) -> None:
    pytest.importorskip("nagisa", reason="nagisa is not installed")
    for text in ("「今日は、いい天気」 ですね。", "ＡＢＣ を 123回 言った", "", " 。"):
        words = [word.spoken for word in spoken_words(text, "ja")]
        assert words == processor.split_words_for_alignment(text, "Japanese")


def test_korean_words_are_the_librarys(processor: Qwen3ASRProcessor) -> None:
    """As soynlp cuts them without scores, which the library gives it none of."""
    pytest.importorskip("soynlp", reason="soynlp is not installed")
    text = "안녕하세요, 저는 학교에서 공부를 합니다. 대한민국의 수도는 서울이다."
    words = [word.spoken for word in spoken_words(text, "ko")]
    assert words == processor.split_words_for_alignment(text, "Korean")


# --- alignment ------------------------------------------------------------------------------------

TEXTS = {
    "en-no-connection": "I am afraid I was unable to create a connection to the Digium "
    "demonstration Asterisk server. Please ensure that you have a working network connection.",
    "es-no-connection": "Lo siento, pero no fue posible crear la conexión al servidor de "
    "demostración en Digium.",
    "fr-one-participant": "Il n'y a qu'un seul participant dans cette conférence.",
    "ru-no-connection": "Подключение к демонстрационному серверу «Астериск», расположенному в "
    "Дигиум, не осуществилось.",
    "en-one-participant": "你好 there is 一个 other <timestamp> participant <|audio_pad|>!",
}
LANGUAGES = {"en": "English", "es": "Spanish", "fr": "French", "ru": "Russian"}


class Case:
    """The aligner as a user opens it, and the library's own network and processor."""

    def __init__(self, directory: Path, processor: Qwen3ASRProcessor, *, original: bool) -> None:
        library = tiny_transformers.qwen3_aligner(directory / "library")
        self.network = transformers.Qwen3ASRForTokenClassification.from_pretrained(library).eval()
        self.processor = processor
        self.directory = library
        if original:
            self.directory = tiny_transformers.qwen3_aligner_original(directory / "authors")
        tiny_tokenizers.write(self.directory, tiny_tokenizers.ADDED_3, whole=not original)
        self.family = Qwen3Aligner(self.directory, "aligner")
        self.family.load(torch.float32, CPU)

    @torch.inference_mode()
    def library(
        self, name: str, text: str | None = None
    ) -> tuple[list[dict[str, Any]], list[int], list[float]]:
        """Words with their times by the library, and per mark its class and its share."""
        inputs, words = self.processor.prepare_forced_aligner_inputs(
            recording(name), text or TEXTS[name], LANGUAGES[name[:2]]
        )
        logits = self.network(**inputs).logits
        config = self.network.config
        token = config.timestamp_token_id
        (found,) = self.processor.decode_forced_alignment(
            logits, inputs["input_ids"], words, token, config.timestamp_segment_time
        )
        shares, classes = logits[0, inputs["input_ids"][0] == token].softmax(-1).max(-1)
        return found, classes.tolist(), shares.tolist()


@pytest.fixture(scope="module", params=["library", "authors"])
def case(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    processor: Qwen3ASRProcessor,
) -> Case:
    original = request.param == "authors"
    return Case(tmp_path_factory.mktemp(request.param), processor, original=original)


def job(language: str | None = None) -> Job:
    task = TASKS["alignment"]
    return Job(task, task.tags(language=language))


def work(case: Case, name: str) -> Work[str, ClipAnswer]:
    samples = recording(name)
    subject = Subject((len(samples) / 16_000,), TEXTS[name])
    audio = AudioInput(case.family.features(samples))
    return Work(name, (audio,), case.family.answer(job(name[:2]), subject))


def aligned(
    case: Case, names: Sequence[str], manner: Manner | None = None
) -> dict[str, ClipAnswer]:
    engine: Engine[str, ClipAnswer] = Engine(
        case.family.model, CPU, Budget(seats=4, rows=1_500, prompt_tokens=500), manner
    )
    found: dict[str, ClipAnswer] = {}
    for name in names:
        engine.add(work(case, name))
    while not engine.idle:
        for done in engine.turn():
            assert done.result is not None, done.error
            found[done.key] = done.result
    return found


def test_times_are_the_librarys(case: Case) -> None:
    """Words, times and probabilities of real recordings, all in one batch; no time is outside."""
    answers = aligned(case, list(TEXTS))
    repaired = 0
    for name, answer in answers.items():
        theirs, classes, shares = case.library(name)
        seconds = len(recording(name)) / 16_000
        assert answer.text == TEXTS[name] and answer.language == name[:2]
        assert answer.words is not None and len(answer.words) == len(theirs) > 5
        for number, (word, other) in enumerate(zip(answer.words, theirs, strict=True)):
            assert _letters(word.word) == other["text"]
            assert word.start == min(other["start_time"], seconds)
            assert word.end == min(other["end_time"], seconds)
            share = (shares[2 * number] + shares[2 * number + 1]) / 2
            assert word.probability == pytest.approx(share, abs=1e-5)
        assert len(set(classes)) > 5  # which could not be told apart, were they all the same
        repaired += sorted(classes) != classes
    assert repaired


def _letters(word: str) -> str:
    return "".join(char for char in word if category(char)[0] in "LN" or char == "'")


def test_a_clip_alone_is_a_clip_in_a_crowd(case: Case) -> None:
    names = list(TEXTS)
    for manner in (Manner(deterministic=True), Manner(deterministic=True, lookahead=True)):
        crowd = aligned(case, names, manner)
        for name in names:
            assert aligned(case, [name], manner)[name] == crowd[name]


def test_what_a_user_types_is_no_mark(case: Case) -> None:
    """Tags in the text are words like others, or none: their number is that of the library."""
    prompt = _first(case.family.align("a <timestamp> b <|audio_pad|>", "en", 1.0)).prompt
    assert list(prompt).count(tiny_transformers.TIMESTAMP_TOKEN) == 2 * 4
    rows = case.family.model.audio_rows(case.family.model.frames(16_000))
    assert list(prompt).count(case.family.model.audio_token) == rows


def test_both_layouts_are_one_model(tmp_path: Path, processor: Qwen3ASRProcessor) -> None:
    one, other = (
        Case(tmp_path / str(original), processor, original=original) for original in (False, True)
    )
    assert one.family.model.vocabulary == other.family.model.vocabulary == tiny_transformers.CLASSES
    assert one.family.parameters == other.family.parameters
    assert aligned(one, list(TEXTS)) == aligned(other, list(TEXTS))


# --- as a user asks for it ------------------------------------------------------------------------


def test_a_text_is_aligned_by_name(case: Case) -> None:
    """From a file and its text to a record, whose words are those of the library."""
    qwa = Qwa(model=str(case.directory), device="cpu", dtype="float32")
    texts = {str(EXAMPLES / f"{name}.wav"): text for name, text in TEXTS.items()}
    records = list(qwa.timestamp(list(texts), task="alignment", text=texts))
    assert {record.file for record in records} == set(texts)
    for record in records:
        assert isinstance(record, Record)
        theirs, _, _ = case.library(Path(record.file).stem)
        assert record.text == texts[record.file]
        assert _words(record) == [
            (word["text"], *(min(word[end], record.duration) for end in ("start_time", "end_time")))
            for word in theirs
        ]


def test_what_qwen3_asr_writes_is_aligned(case: Case, tmp_path: Path) -> None:
    """Of many clips at once: each is written down by one model and aligned by the other."""
    asr = tiny_transformers.qwen3_asr(tmp_path / "asr")
    tiny_tokenizers.write(asr, tiny_tokenizers.ADDED_3, whole=True)
    qwa = Qwa(model=str(asr), aligner=str(case.directory), device="cpu", dtype="float32", batch=3)
    files = [EXAMPLES / f"{name}.wav" for name in TEXTS]
    options = {"language": "en", "max_tokens": 150, "temperature": 1.0, "vad": False}
    records = list(qwa.transcribe(files, timestamps=True, **options))
    assert len(records) == len(files)
    found = 0
    for record in records:
        assert isinstance(record, Record)
        theirs, _, _ = case.library(Path(record.file).stem, record.text)
        found += len(theirs)
        assert _words(record) == [
            (word["text"], *(min(word[end], record.duration) for end in ("start_time", "end_time")))
            for word in theirs
        ]
    assert found > 20


def _words(record: Record) -> list[tuple[str, float, float]]:
    (segment,) = record.segments
    assert segment.words is not None
    return [(_letters(word.word), word.start, word.end) for word in segment.words]


# --- what is refused ------------------------------------------------------------------------------


def _first(dialogue: Dialogue[Any]) -> Classify:
    request = next(dialogue)
    assert isinstance(request, Classify)
    return request


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, processor: Qwen3ASRProcessor) -> Qwen3Aligner:
    return Case(tmp_path_factory.mktemp("aligner"), processor, original=False).family


def test_languages_are_refused_by_name(family: Qwen3Aligner) -> None:
    for code in ("zh", "en", "yue", "fr", "de", "it", "ko", "pt", "ru", "es", None):
        family.check(job(code))
    known = "Chinese, English, Cantonese, French, German, Italian, Japanese, Korean, Portuguese, "
    with pytest.raises(UsageError, match=f"Swedish; it knows {known}Russian, Spanish"):
        family.check(job("sv"))
    with pytest.raises(Refused, match="Swedish"):
        next(family.align("hej", "sv", 1.0))


@pytest.mark.skipif(find_spec("nagisa") is not None, reason="nagisa is installed")
def test_japanese_asks_for_what_finds_its_words(family: Qwen3Aligner) -> None:
    with pytest.raises(UsageError, match="install the package nagisa"):
        family.check(job("ja"))
    with pytest.raises(Refused, match="install the package nagisa"):
        next(family.align("今日は", "ja", 1.0))


def test_another_task_is_refused(family: Qwen3Aligner) -> None:
    asr = TASKS["asr"]
    with pytest.raises(UsageError, match="qwen3-forced-aligner cannot do asr"):
        family.check(Job(asr, asr.tags()))


def test_a_text_without_words_has_none(family: Qwen3Aligner) -> None:
    """It is the user's, and nothing is wrong with the answer."""
    for text in ("", " … "):
        with pytest.raises(StopIteration) as stop:
            next(family.answer(job("en"), Subject((1.0,), text)))
        assert stop.value.value == ClipAnswer(text=text, language="en", words=())


def test_what_has_no_room_is_too_long(family: Qwen3Aligner) -> None:
    _first(family.align("a", None, family.window))
    with pytest.raises(TooLong, match=r"180 s at most, and the clip has 180\.1 s"):
        next(family.align("a", None, 180.1))
    room = family.model.positions - len(_first(family.align("a", None, 1.0)).prompt)
    _first(family.align("a " * (room // 3), None, 1.0))
    with pytest.raises(TooLong, match=f"takes {family.model.positions} tokens at most: "):
        next(family.align("a " * (room // 3 + 2), None, 1.0))


def test_no_time_is_behind_the_end(family: Qwen3Aligner) -> None:
    dialogue = family.align("one two", "en", 1.0)
    next(dialogue)
    with pytest.raises(StopIteration) as stop:
        dialogue.send(Classified([3, 5, 9, 60], [0.0, -1.0, -1.0, -1.0]))
    sure, less = (1 + np.exp(-1.0)) / 2, np.exp(-1.0)
    one, two = stop.value.value
    assert one == TimedWord("one", 0.24, 0.4, pytest.approx(sure))
    assert two == TimedWord("two", 0.72, 1.0, pytest.approx(less))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: config.update(timestamp_segment_time="80"), "timestamp_segment_time"),
        (lambda config: config.update(audio_token_id=499), "audio is token 500 of the tokenizer"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, change: Any, reason: str) -> None:
    directory = tiny_transformers.qwen3_aligner(tmp_path / "model")
    tiny_tokenizers.write(directory, tiny_tokenizers.ADDED_3, whole=True)
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=reason):
        Qwen3Aligner(directory, "aligner").load(torch.float32, CPU)


def test_a_tokenizer_without_marks_is_refused(tmp_path: Path) -> None:
    directory = tiny_transformers.qwen3_aligner(tmp_path / "model")
    added = tuple(t if t != "<timestamp>" else "<|box_1|>" for t in tiny_tokenizers.ADDED_3)
    tiny_tokenizers.write(directory, added, whole=True)
    with pytest.raises(ConfigError, match=f"{directory}: .*<timestamp>"):
        Qwen3Aligner(directory, "aligner")
