import base64
import copy
import hashlib
import json
import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from qwen_audio_cli.errors import INPUT_CODES
from qwen_audio_cli.records import (
    FINISH_REASONS,
    FLAGS,
    ErrorRecord,
    Label,
    Record,
    Segment,
    Timing,
    Word,
    options_hash,
    record_id,
    to_json,
)
from qwen_audio_cli.schema import SCHEMA

VALIDATOR = Draft202012Validator(SCHEMA)

# Text of any kind, with the lone surrogates by which Python carries bytes outside UTF-8.
ANY_TEXT = st.text(st.characters(exclude_categories=[]))
SECONDS = st.floats(0, 1e6)
PROBABILITIES = st.floats(0, 1)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9)
FILES = st.binary(min_size=1).filter(lambda name: b"\0" not in name).map(os.fsdecode)
SOURCES = {
    "id": st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    "task": st.sampled_from(["asr", "word-times", "sound-event"]),
    "file": FILES,
    "files": st.one_of(st.none(), st.lists(FILES, max_size=3).map(tuple)),
    "question": st.one_of(st.none(), ANY_TEXT),
}


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


def few(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=3).map(tuple)


SPANS = st.tuples(SECONDS, SECONDS).map(lambda times: {"start": min(times), "end": max(times)})
WORDS = st.builds(
    lambda span, **rest: Word(**span, **rest),
    SPANS,
    word=ANY_TEXT,
    probability=maybe(PROBABILITIES),
)
SEGMENTS = st.builds(
    lambda span, **rest: Segment(**span, **rest),
    SPANS,
    text=ANY_TEXT,
    words=maybe(few(WORDS)),
    avg_logprob=maybe(NUMBERS),
    compression_ratio=maybe(SECONDS),
    no_speech_prob=maybe(PROBABILITIES),
    finish_reason=maybe(st.sampled_from(FINISH_REASONS)),
)
TIMINGS = st.builds(Timing, decode=maybe(SECONDS), encode=maybe(SECONDS), generate=maybe(SECONDS))


def with_an_answer(**fields: Any) -> Record:
    if fields["text"] is fields["segments"] is fields["labels"] is None:
        fields["text"] = ""
    return Record(**fields)


RECORDS = st.builds(
    with_an_answer,
    **SOURCES,
    model=ANY_TEXT.filter(bool),
    options=st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
    text=maybe(ANY_TEXT),
    language=maybe(st.sampled_from(["en", "yue", "zh_tr"])),
    duration=maybe(SECONDS),
    segments=maybe(few(SEGMENTS)),
    labels=maybe(few(st.builds(Label, label=ANY_TEXT, probability=PROBABILITIES))),
    confidence=maybe(PROBABILITIES),
    flags=st.frozensets(st.sampled_from(sorted(FLAGS))),
    timing=maybe(TIMINGS),
)
ERROR_RECORDS = st.builds(
    ErrorRecord, **SOURCES, code=st.sampled_from(INPUT_CODES), message=ANY_TEXT
)

RECORD = Record(
    id="0123456789abcdef" * 2,
    task="asr",
    file="a/b.wav",
    text="one two",
    language="en",
    duration=12.3456,
    segments=(
        Segment(
            start=0.0,
            end=4.1,
            text="one two",
            words=(Word("one", 0.0, 0.2004, 0.97111), Word("two", 0.2004, 0.5)),
            avg_logprob=-0.123456,
            compression_ratio=1.1,
            no_speech_prob=0.01,
            finish_reason="stop",
        ),
    ),
    labels=(Label("dog", 0.83),),
    flags=frozenset({"clipping", "no_speech"}),
    model="whisper-base@abc",
    options="0123456789ab",
    timing=Timing(decode=0.1, generate=0.25),
)
ERROR = ErrorRecord(
    id=RECORD.id, task="asr", file="bad.wav", code="decode", message="bad.wav: breaks off"
)


def test_the_schema_is_itself_valid() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_a_record_is_written_as_designed() -> None:
    assert to_json(RECORD).decode() == (
        '{"schema":1,"id":"0123456789abcdef0123456789abcdef","task":"asr","file":"a/b.wav",'
        '"status":"ok","text":"one two","language":"en","duration":12.346,'
        '"segments":[{"start":0.0,"end":4.1,"text":"one two",'
        '"words":[{"word":"one","start":0.0,"end":0.2,"probability":0.9711},'
        '{"word":"two","start":0.2,"end":0.5}],"avg_logprob":-0.1235,"compression_ratio":1.1,'
        '"no_speech_prob":0.01,"finish_reason":"stop"}],'
        '"labels":[{"label":"dog","probability":0.83}],"flags":["no_speech","clipping"],'
        '"model":"whisper-base@abc","options":"0123456789ab",'
        '"timing":{"decode":0.1,"generate":0.25}}'
    )
    assert to_json(ERROR).decode() == (
        '{"schema":1,"id":"0123456789abcdef0123456789abcdef","task":"asr","file":"bad.wav",'
        '"status":"error","error":{"code":"decode","message":"bad.wav: breaks off"}}'
    )


def test_a_confidence_stands_behind_what_was_answered() -> None:
    """And without one a record is as it always was."""
    written = to_json(replace(RECORD, confidence=0.87654)).decode()
    assert written == to_json(RECORD).decode().replace('"flags":', '"confidence":0.8765,"flags":')
    assert json.loads(to_json(replace(RECORD, confidence=0.0)))["confidence"] == 0.0
    with pytest.raises(ValueError, match="confidence is above 1"):
        replace(RECORD, confidence=1.01)


@pytest.mark.parametrize("record", [RECORD, ERROR])
def test_a_question_stands_with_what_names_the_work(record: Record | ErrorRecord) -> None:
    asked = json.loads(to_json(replace(record, question="Who? \ud800")))
    assert asked.pop("question") == "Who? \ufffd"
    assert asked == json.loads(to_json(record))


@given(st.one_of(RECORDS, ERROR_RECORDS))
def test_every_record_that_can_be_built_validates(record: Record | ErrorRecord) -> None:
    line = to_json(record)
    assert b"\n" not in line
    written = json.loads(line)
    VALIDATOR.validate(written)
    name = base64.b64decode(written.get("file_b64", "")) or written["file"].encode()
    assert name == os.fsencode(record.file)
    names = [base64.b64decode(each) for each in written.get("files_b64", ())]
    names = names or [each.encode() for each in written.get("files", ())]
    assert names == [os.fsencode(each) for each in record.files or ()]
    assert ("files" in written) == (record.files is not None)


@pytest.mark.parametrize("record", [RECORD, ERROR])
def test_the_names_of_several_clips_follow_that_of_the_first(record: Record | ErrorRecord) -> None:
    several = json.loads(to_json(replace(record, files=("a/b.wav", "c.wav"))))
    assert [*several][3:5] == ["file", "files"]
    assert several.pop("files") == ["a/b.wav", "c.wav"]
    assert several == json.loads(to_json(record))
    assert json.loads(to_json(replace(record, files=())))["files"] == []
    with pytest.raises(ValueError, match="empty"):
        replace(record, files=("a/b.wav", ""))


def test_a_name_that_is_not_utf8_is_lossy_and_exact() -> None:
    written = json.loads(to_json(replace(RECORD, file=os.fsdecode(b"caf\xe9.wav"))))
    assert written["file"] == "caf\ufffd.wav"
    assert base64.b64decode(written["file_b64"]) == b"caf\xe9.wav"
    assert "file_b64" not in json.loads(to_json(replace(RECORD, file="caf\u00e9.wav")))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -0.001])
def test_a_number_no_record_may_hold_is_refused_where_it_is_made(value: float) -> None:
    for build in (
        lambda: Word("a", value, 1.0),
        lambda: Word("a", 0.0, value),
        lambda: Word("a", 0.0, 1.0, value),
        lambda: Segment(0.0, 1.0, "a", no_speech_prob=value),
        lambda: Segment(0.0, 1.0, "a", compression_ratio=value),
        lambda: Label("a", value),
        lambda: Timing(encode=value),
        lambda: replace(RECORD, duration=value),
        lambda: replace(RECORD, confidence=value),
    ):
        with pytest.raises(
            ValueError, match=r"(start|end|prob|ratio|encode|duration|confidence)\w* is "
        ):
            build()
    if value != -0.001:
        with pytest.raises(ValueError, match="avg_logprob is not a finite number"):
            Segment(0.0, 1.0, "a", avg_logprob=value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flags": frozenset({"loud"})}, "unknown flags: loud"),
        ({"text": None, "segments": None, "labels": None}, "needs text, segments or labels"),
        ({"id": "0123"}, "id is malformed"),
        ({"id": "0" * 32 + "\n"}, "id is malformed"),
        ({"task": "Speech Recognition"}, "task is malformed"),
        ({"options": "z"}, "options is malformed"),
        ({"language": "english"}, "language is malformed"),
        ({"file": ""}, "file is empty"),
        ({"file": "\ud800"}, "surrogates not allowed"),
        ({"model": ""}, "model is empty"),
    ],
)
def test_a_record_outside_the_schema_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECORD, **changes)


def test_other_values_outside_the_schema_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown error code 'odd'"):
        replace(ERROR, code="odd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown finish reason 'tired'"):
        Segment(0.0, 1.0, "a", finish_reason="tired")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"ends before it starts: 2\.0 to 1\.0"):
        Word("a", 2.0, 1.0)
    with pytest.raises(ValueError, match="probability is above 1"):
        Label("a", 1.01)


def test_rounding_noise_is_no_error() -> None:
    word = Word("a", 1.0, 1.0 - 1e-9, 1.0 + 1e-7)
    assert word.as_dict() == {"word": "a", "start": 1.0, "end": 1.0, "probability": 1.0}
    assert json.dumps(Word("a", -1e-9, 0.0).as_dict()["start"]) == "0.0"


WRONG: list[tuple[str, Any]] = [
    ("flags", ["loud"]),
    ("flags", ["clipping", "clipping"]),
    ("flags", None),
    ("schema", 2),
    ("status", "error"),
    ("status", "done"),
    ("question", None),
    ("id", "xyz"),
    ("duration", None),
    ("duration", -1),
    ("duration", "12"),
    ("labels", [{"label": "dog", "probability": 1.5}]),
    ("labels", [{"label": "dog"}]),
    ("confidence", None),
    ("confidence", 1.5),
    ("segments", [{"start": 0, "end": 1}]),
    ("segments", [{"start": 0, "end": 1, "text": "", "finish_reason": "tired"}]),
    ("segments", [{"start": 0, "end": 1, "text": "", "words": [{"word": "a"}]}]),
    ("error", {"code": "decode", "message": ""}),
    ("timing", {"total": 1}),
    ("extra", 1),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_changed_record_does_not_validate(key: str, value: Any) -> None:
    written = json.loads(to_json(RECORD))
    VALIDATOR.validate(written)
    assert not VALIDATOR.is_valid({**written, key: value})


@pytest.mark.parametrize(
    "wrong", [{"error": {"code": "odd", "message": ""}}, {"error": {}}, {"text": "a"}]
)
def test_a_changed_error_record_does_not_validate(wrong: dict[str, Any]) -> None:
    written = json.loads(to_json(ERROR))
    VALIDATOR.validate(written)
    assert not VALIDATOR.is_valid({**written, **wrong})


@pytest.mark.parametrize("record", [RECORD, ERROR])
def test_every_required_key_is_required(record: Record | ErrorRecord) -> None:
    written = json.loads(to_json(record))
    optional = {"text", "language", "duration", "segments", "labels", "timing"}
    for key in written:
        rest = copy.copy(written)
        del rest[key]
        assert VALIDATOR.is_valid(rest) == (key in optional), key
    bare = {key: value for key, value in written.items() if key not in optional}
    assert VALIDATOR.is_valid(bare) == (record is ERROR)


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), NUMBERS, st.text()),
            lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
            max_leaves=5,
        ),
    ),
    st.randoms(),
)
def test_the_order_of_options_does_not_change_their_hash(options: Any, random: Any) -> None:
    keys = list(options)
    random.shuffle(keys)
    assert options_hash({key: options[key] for key in keys}) == options_hash(options)
    assert options_hash({**options, "one more": 1}) != options_hash({**options, "one more": 2})


def test_hashes_stay_the_same_over_releases() -> None:
    text = '{"beam":5,"language":null,"prompt":"\\u00e9","temperature":0.0}'
    options = {"temperature": 0.0, "prompt": "é", "language": None, "beam": 5}
    assert options_hash(options) == hashlib.sha256(text.encode()).hexdigest()[:12]
    text = '["f00d","asr","whisper-base@1","0123456789ab"]'
    expected = hashlib.sha256(text.encode()).hexdigest()[:32]
    assert record_id("f00d", "asr", "whisper-base@1", "0123456789ab") == expected
    assert record_id("f00d", "as", "rwhisper-base@1", "0123456789ab") != expected


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_options_that_json_cannot_hold_have_no_hash(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        options_hash({"a": value})
