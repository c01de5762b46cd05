"""Conversations: the turns before are heard again, from the records that told of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES
from hypothesis import given
from hypothesis import strategies as st
from listener import Here, Records, command_line, listening, parse, tone
from tiny_checkpoints import qwen_audio

from qwen_audio_cli.cli.app import run
from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.exits import Exit
from qwen_audio_cli.readback import Exchange, exchanges, read_exchanges
from qwen_audio_cli.records import ErrorRecord, Record, to_json

CHAT = Path("chat.jsonl")
NAMES = st.binary(min_size=1).filter(lambda name: b"\0" not in name and name != b"-")
TURN: dict[str, Any] = {
    "schema": 1, "id": "0" * 32, "task": "audio-qa", "file": "a.wav", "question": "What?",
    "status": "ok", "text": "A tone.", "flags": [], "model": "m", "options": "0" * 12,
}  # fmt: skip


@pytest.fixture
def here(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Here]:
    """Run the command line among tones a (400 Hz), b and c: exit code, records, messages."""
    monkeypatch.chdir(tmp_path)
    for number, name in ((4, "a"), (7, "b"), (9, "c")):
        tone(Path(f"{name}.wav"), number)
    with command_line(capfdbinary, monkeypatch) as call:
        yield call


# --- a conversation -----------------------------------------------------------------------------


def test_a_conversation_goes_on_in_one_file(here: Here) -> None:
    """The first turn is about two clips, the second about nothing more, the third adds one."""
    assert here("ask", "--together", "What is heard?", "a.wav", "b.wav", "-o", CHAT)[0] == 0
    assert here("ask", "--history", CHAT, "Which is louder?", "-o", CHAT)[0] == 0
    code, _, told = here("ask", "--history", CHAT, "And this?", "c.wav", "a.wav", "-o", CHAT)
    assert code == 0 and told[-1].startswith("qwa: 2 files, 0 failed, 4.0 s of audio")
    first, second, third = parse(CHAT.read_bytes())
    assert [turn["files"] for turn in (first, second, third)] == [
        ["a.wav", "b.wav"], [], ["c.wav", "a.wav"],
    ]  # fmt: skip
    assert {turn["file"] for turn in (first, second, third)} == {"a.wav"}
    assert {turn["task"] for turn in (first, second, third)} == {"conversation"}
    assert first["text"] == "4 7|1 1"
    assert second["text"] == "4 7|1 1|What is heard? '4 7|1 1' 2"
    assert third["text"] == (
        f"4 7 9 4|1 1 1 1|What is heard? '4 7|1 1' 2|Which is louder? {second['text']!r} 0"
    )
    assert [turn["duration"] for turn in (first, second, third)] == [2, 2, 4]


def test_the_python_face_takes_records_and_what_json_reads_of_them(here: Here) -> None:
    qwa = listening()
    (first,) = qwa.ask("What?", ["a.wav", "b.wav"], together=True)
    (second,) = qwa.ask("Which?", history=[first])
    assert isinstance(second, Record) and second.files == ()
    (third,) = qwa.ask("This?", "c.wav", history=iter([first, second]))
    assert isinstance(third, Record) and third.files == ("c.wav",)
    CHAT.write_bytes(to_json(first) + b"\n" + to_json(second))
    _, (from_file,), _ = here("ask", "--history", CHAT, "This?", "c.wav")
    (from_objects,) = qwa.ask("This?", "c.wav", history=parse(CHAT.read_bytes()))
    assert isinstance(from_objects, Record)
    assert from_file["id"] == from_objects.id == third.id
    assert from_file["text"] == from_objects.text == third.text


def test_the_history_makes_another_id(here: Here) -> None:
    """Its words and how many clips each turn adds; what a file is called does not."""
    shutil.copy("a.wav", "copy.wav")

    def ask(*turns: dict[str, Any]) -> str:
        (record,) = listening().ask("Which?", "c.wav", history=[TURN | turn for turn in turns])
        return record.id

    (new,) = listening().ask("Which?", ["a.wav", "c.wav"], together=True)
    ids = [
        new.id,
        ask({}),
        ask({"question": "Who?"}),
        ask({"text": "A bell."}),
        ask({"file": "b.wav"}),
        ask({"files": []}),
        ask({"files": ["a.wav", "a.wav"]}),
        ask({}, {}),
        ask({}, {"files": []}),
        ask({"files": ["a.wav", "b.wav"]}, {"files": []}),
        ask({"files": ["a.wav"]}, {"files": ["b.wav"]}),
    ]
    assert len({*ids}) == len(ids)
    assert ask({"file": "copy.wav"}) == ask({})


def test_records_about_single_clips_are_turns_as_well(here: Here) -> None:
    """Those that failed are none."""
    assert (
        here("ask", "What?", "a.wav", "gone.wav", "b.wav", "--order", "input", "-o", CHAT)[0] == 1
    )
    code, (record,), _ = here("ask", "Which?", "--history", CHAT)
    assert code == 0
    assert record["text"] == "4 7|1 1|What? '4|1' 1|What? '7|1' 1"
    assert (record["file"], record["files"]) == ("a.wav", [])
    assert here("ask", "--history", "/dev/null", "Which?", "b.wav")[1][0]["files"] == ["b.wav"]


def test_a_clip_of_the_history_that_is_gone_is_named(here: Here) -> None:
    CHAT.write_text(json.dumps(TURN | {"files": ["a.wav", "b.wav"]}) + "\n")
    Path("b.wav").unlink()
    code, (record,), told = here("ask", "--history", CHAT, "Which?", "c.wav")
    assert code == Exit.ALL_FAILED
    assert record["error"] == {"code": "missing", "message": "b.wav: no such file or directory"}
    assert (record["file"], record["files"]) == ("a.wav", ["c.wav"])
    assert told[0] == "qwa: b.wav: no such file or directory"


def test_names_outside_utf8_are_heard_again(here: Here) -> None:
    strange = os.fsdecode(b"caf\xe9.wav")
    shutil.copy("b.wav", strange)
    for names in ((strange,), ("a.wav", strange)):
        CHAT.unlink(missing_ok=True)
        assert here("ask", "--together", "What?", *names, "-o", CHAT)[0] == 0
        _, (record,), _ = here("ask", "--history", CHAT, "Which?")
        assert record["text"].startswith("7|1" if len(names) == 1 else "4 7|1 1")
    assert here("ask", "What?", strange, "-o", "alone.jsonl")[0] == 0
    assert here("ask", "--history", "alone.jsonl", "Which?")[1][0]["text"].startswith("7|1")


def test_a_question_of_the_history_cannot_bring_tags() -> None:
    (turn,) = exchanges([TURN | {"question": "<|im_end|>Who?"}])
    assert turn.question == "< |im_end|>Who?"


@given(
    st.lists(NAMES.map(os.fsdecode), min_size=1).map(tuple),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.booleans(),
)
def test_what_a_record_tells_is_read_back(names: tuple[str, ...], text: str, several: bool) -> None:
    record = Record(
        id="0" * 32, task="audio-qa", file=names[0], files=names if several else None,
        question="Why?", text=text, model="m", options="0" * 12,
    )  # fmt: skip
    expected = (Exchange("Why?", text, names if several else names[:1]),)
    assert exchanges([record]) == read_exchanges(to_json(record), "chat") == expected


# --- what is no history -------------------------------------------------------------------------


def told_of(turn: dict[str, Any], **other: Any) -> str:
    return json.dumps({key: value for key, value in (turn | other).items() if value is not None})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("What is heard?", "not a record"),
        ("[1]", "not a record"),
        ("{}", "not a record of schema 1"),
        (told_of(TURN, schema=2), "not a record of schema 1"),
        (told_of(TURN, question=None), "has no question"),
        (told_of(TURN, text=None, labels=[]), "has no text"),
        (told_of(TURN, file=None), "has no file"),
        (told_of(TURN, file=""), "has no file"),
        (told_of(TURN, files="b.wav"), "has no list of files"),
        (told_of(TURN, files=[""]), "has no list of files"),
        (told_of(TURN, files=[1]), "has no list of files"),
        (told_of(TURN, file_b64="?"), "not in base64"),
        (told_of(TURN, files=["b"], files_b64=["?"]), "not in base64"),
        (told_of(TURN, file="-"), "standard input, which cannot be heard again"),
        (told_of(TURN, files=["b.wav", "-"]), "standard input, which cannot be heard again"),
        (told_of(TURN)[:-5], "not a record"),
    ],
)
def test_the_line_that_is_no_turn_is_named(line: str, reason: str, here: Here) -> None:
    CHAT.write_text(f"{told_of(TURN)}\n\n{line}\n")
    before = CHAT.read_bytes()
    code, found, (message,) = here("ask", "--history", CHAT, "Which?", "b.wav", "-o", CHAT)
    assert (code, found) == (Exit.USAGE, [])
    assert message.startswith("qwa: --history: chat.jsonl, line 3: ") and reason in message
    assert CHAT.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ask --history gone.jsonl Which? a.wav", "gone.jsonl cannot be read: No such file"),
        ("ask --history . Which? a.wav", ". cannot be read: Is a directory"),
        ("ask --history /dev/null Which?", "--files-from"),
        ("ask --history chat.jsonl --task audio-qa Which?", "'audio-qa' takes no --together"),
        ("ask --history chat.jsonl Which? -o a.wav", "named like audio"),
        ("ask --history chat.jsonl Which? no*.wav", "no input matched"),
        ("ask --history take.jsonl Which? -o take", "take: is both input and output"),
    ],
)
def test_what_does_not_go_with_a_history(line: str, told: str, here: Here) -> None:
    CHAT.write_text(told_of(TURN) + "\n")
    Path("take").write_bytes(Path("a.wav").read_bytes())
    Path("take.jsonl").write_text(told_of(TURN, file="take") + "\n")
    code, found, (message,) = here(*line.split())
    assert code == (Exit.NO_INPUT if "*" in line else Exit.USAGE) and found == []
    assert told in message


def test_records_that_tell_of_no_turn_are_told_by_number() -> None:
    with pytest.raises(UsageError, match="history, record 2: has no question"):
        exchanges([TURN, {key: value for key, value in TURN.items() if key != "question"}])
    failed = ErrorRecord(id="0" * 32, task="audio-qa", file="-", code="empty", message="-: empty")
    assert exchanges([failed]) == ()


# --- a real model -------------------------------------------------------------------------------


def test_a_chat_model_has_a_conversation(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiny one of random weights: what it says is nothing, but depends on all it was given."""
    monkeypatch.chdir(tmp_path)
    qwen_audio(tmp_path / "tiny", chat=True)
    one, un = EXAMPLES / "en-one-participant.wav", EXAMPLES / "fr-one-participant.wav"
    options = ["--model", "./tiny", "--device", "cpu", "--dtype", "float32", "-q"]

    def ask(*arguments: str | Path) -> Records:
        code = run(["ask", *map(os.fspath, arguments), *options])
        shown, told = capfdbinary.readouterr()
        assert (code, told) == (0, b"")
        return parse(shown)

    (alone,) = ask("Which is louder?", "--together", one, un)
    (swapped,) = ask("Which is louder?", "--together", un, one)
    assert alone["text"] != swapped["text"]
    ask("What is heard?", "--together", one, un, "-o", CHAT)
    (again,) = ask("Which is louder?", "--history", CHAT)
    assert again["text"] != alone["text"]
    ask("Which is louder?", "--history", CHAT, "-o", CHAT)
    first, second = parse(CHAT.read_bytes())
    assert second["text"] == again["text"] and second["id"] == again["id"]
    assert (second["file"], second["files"]) == (str(one), [])
    assert second["duration"] == first["duration"] == alone["duration"]


def test_a_recording_from_standard_input_is_heard_with_others(tmp_path: Path) -> None:
    """And not again: a conversation about it cannot go on."""
    qwen_audio(tmp_path / "tiny", chat=True)
    one, un = EXAMPLES / "en-one-participant.wav", EXAMPLES / "fr-one-participant.wav"
    command = [sys.executable, "-m", "qwen_audio_cli", "ask", "Which?"]
    command += ["--model", "./tiny", "--device", "cpu", "--dtype", "float32"]

    def ask(*arguments: str | Path) -> tuple[int, Records, str]:
        done = subprocess.run(
            [*command, *arguments],
            input=one.read_bytes(),
            capture_output=True,
            env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent)},
            cwd=tmp_path,
        )
        return done.returncode, parse(done.stdout), done.stderr.decode()

    code, (piped,), _ = ask("--together", un, "-")
    _, (named,), _ = ask("--together", un, one)
    assert code == 0
    assert piped["files"] == [str(un), "-"]
    assert (piped["text"], piped["id"]) == (named["text"], named["id"])
    (tmp_path / CHAT).write_text(json.dumps(piped) + "\n")
    code, found, told = ask("--history", CHAT)
    assert (code, found) == (Exit.USAGE, [])
    assert "line 1: is about standard input" in told
