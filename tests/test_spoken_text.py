"""A text with its recording: where it comes from, and how it finds its source."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from listener import ALIGNER, Here, command_line, listening, tone, written

from qwen_audio_cli import Qwa
from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.exits import Exit
from qwen_audio_cli.readback import read_text


def aligning(**how: Any) -> Qwa:
    return listening(ALIGNER, **how)


@pytest.fixture
def tones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a, b and c: tones of 1, 2 and 3 s."""
    monkeypatch.chdir(tmp_path)
    for name, number, seconds in (("a", 4, 1), ("b", 7, 2), ("c", 4, 3)):
        tone(Path(f"{name}.wav"), number, seconds)


@pytest.fixture
def here(
    tones: None, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Here]:
    with command_line(capfdbinary, monkeypatch) as call:
        yield call


@pytest.mark.usefixtures("tones")
def test_a_text_is_aligned_with_its_source() -> None:
    (record,) = written(aligning().timestamp("c.wav", text="one two three"))
    assert (record["task"], record["file"]) == ("alignment", "c.wav")
    words = record["segments"][0]["words"]
    assert [(w["word"], w["start"], w["end"]) for w in words] == [
        ("one", 0, 1), ("two", 1, 2), ("three", 2, 3),
    ]  # fmt: skip
    (other,) = written(aligning().timestamp("c.wav", text="one two four"))
    assert other["id"] != record["id"] and other["options"] == record["options"]


@pytest.mark.usefixtures("tones")
def test_texts_are_found_by_name_and_a_source_without_one_fails() -> None:
    texts = {"a.wav": "hello", "b.wav": "", "gone.wav": "?"}
    found = written(aligning(order="input").timestamp(["a.wav", "b.wav", "c.wav"], text=texts))
    assert found[0]["text"] == "4|1|hello"
    for record in found[1:]:
        assert record["error"] == {
            "code": "incomplete", "message": f"{record['file']}: there is no text for it",
        }  # fmt: skip


@pytest.mark.usefixtures("tones")
def test_one_text_is_for_one_source() -> None:
    with pytest.raises(UsageError, match="one source"):
        list(aligning().timestamp(["a.wav", "b.wav"], text="hello"))
    assert len(list(aligning().timestamp(["a.wav", "a.wav"], text="hello"))) == 1


@pytest.mark.usefixtures("tones")
def test_a_text_that_is_aligned_is_not_cut_to_the_window() -> None:
    tone(Path("long.wav"), 5, 12)
    (record,) = written(aligning().timestamp("long.wav", text="hello"))
    assert record["error"]["code"] == "length"


def test_a_text_from_standard_input(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.txt").write_text("one two")
    with Path("a.txt").open() as piped:
        monkeypatch.setattr(sys, "stdin", piped)
        line = ("timestamp", "--text", "-", "a.wav")
        code, (record,), _ = here(*line, family=ALIGNER)
    assert (code, record["text"]) == (0, "4|1|one two")


def test_texts_from_a_file(here: Here) -> None:
    Path("a.txt").write_text("one two\n", encoding="utf-8-sig")
    code, (record,), _ = here("timestamp", "--text", "a.txt", "a.wav", family=ALIGNER)
    assert code == 0
    assert [w["word"] for w in record["segments"][0]["words"]] == ["one", "two"]
    assert here("ask", "What?", "a.wav", "b.wav", "gone.wav", "-o", "said.jsonl")[0] == 1
    line = ("timestamp", "--text", "said.jsonl", "a.wav", "gone.wav", "c.wav", "--order", "input")
    code, found, told = here(*line, family=ALIGNER)
    assert code == Exit.SOME_FAILED
    assert found[0]["text"] == "4|1|4|1"
    assert [r["error"]["code"] for r in found[1:]] == ["incomplete", "incomplete"]
    assert told[0] == "qwa: gone.wav: there is no text for it"
    code, _, told = here("timestamp", "--text", "a.txt", "a.wav", "b.wav", family=ALIGNER)
    assert code == Exit.USAGE and "one source" in told[0]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("timestamp --text a.txt --words a.wav", "'word-times' takes no --text"),
        ("timestamp --text a.txt --task word-times a.wav", "'word-times' takes no --text"),
        ("timestamp --task alignment a.wav", "--text"),
        ("timestamp --text gone.txt a.wav", "--text: gone.txt cannot be read: No such file"),
        ("timestamp --text . a.wav", "--text: . cannot be read: Is a directory"),
        ("timestamp --text - -", "cannot be the text and a source"),
        ("timestamp --text - --files-from -", "cannot be the text and a source"),
        ("timestamp --text a.txt a.wav -o a.txt", "a.txt: is both input and output"),
        ("timestamp --text a.wav a.wav", "--text: a.wav: not UTF-8"),
        ("timestamp --text a.txt --seed 3 a.wav", "--seed"),
        ("timestamp --text a.txt --no-vad a.wav", "--no-vad"),
        ("timestamp --text a.txt --context Qwen a.wav", "--context"),
        ("run -t timestamp:alignment a.wav", "--text"),
    ],
)
def test_wrong_usage(line: str, told: str, here: Here) -> None:
    Path("a.txt").write_text("hello\n")
    code, found, (message,) = here(*line.split(" "))
    assert (code, found) == (Exit.USAGE, [])
    assert told in message
    assert Path("a.txt").read_text() == "hello\n"


# --- what a file says ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("one two\nthree\n", "one two\nthree"),
        ("\ufeffeins zwei", "eins zwei"),
        ('{"text": "no file"}', '{"text": "no file"}'),
        ('{"file": torn', '{"file": torn'),
        ("12\n", "12"),
        ('{"file": "a.wav", "text": " hello "}\n\n', {"a.wav": "hello"}),
        (
            '\n{"file": "a", "text": "x"}\r\n{"file": "b", "status": "error"}\n'
            '{"file": "a", "text": "x", "task": "word-times"}\n{"file": "c", "text": ""}',
            {"a": "x", "c": ""},
        ),
        ('{"file": "b", "status": "error"}', {}),
    ],
)
def test_a_text_is_plain_or_by_file(content: str, expected: str | dict[str, str]) -> None:
    assert read_text(content.encode(), "text") == expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "text: holds no text"),
        (b" \n\t\n", "text: holds no text"),
        (b"caf\xe9", "text: not UTF-8"),
        (b'{"file": "a", "text": "x"}\nhello', "text, line 2: not a record"),
        (b'{"file": "a", "text": "x"}\n{"text": "y"}', "text, line 2: has no file"),
        (b'{"file": "a", "text": "x"}\n\n{"file": "b"}', "text, line 3: has no text"),
        (b'{"file": "a", "text": "x"}\n{"file": "a", "text": "y"}', "line 2: another text for a"),
        (b'{"file": "a", "text": ["x"]}', "text, line 1: has no text"),
    ],
)
def test_what_is_no_text_is_told(content: bytes, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_text(content, "text")


def test_a_text_by_a_name_outside_utf8() -> None:
    record = {"file": "caf\ufffd", "file_b64": base64.b64encode(b"caf\xe9").decode(), "text": "x"}
    assert read_text(json.dumps(record).encode(), "text") == {os.fsdecode(b"caf\xe9"): "x"}
