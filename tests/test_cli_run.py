"""The command line on real recordings: records, exit codes, streams, signals, resuming."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile

from qwen_audio_cli.cli.app import run
from qwen_audio_cli.cli.console import LOG
from qwen_audio_cli.exits import Exit
from qwen_audio_cli.schema import SCHEMA

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
ONE, UN = EXAMPLES / "en-one-participant.wav", EXAMPLES / "fr-one-participant.wav"
QWA = (sys.executable, "-m", "qwen_audio_cli")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name[:4] != "QWA_"}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SAID = "There is currently one other participant in the conference."

Records = list[dict[str, Any]]
Here = Callable[..., tuple[int, Records, list[str]]]


def records(output: bytes) -> Records:
    """The records in an output of whole lines, each valid."""
    assert output == b"" or output.endswith(b"\n")
    found = [json.loads(line) for line in output.splitlines()]
    for record in found:
        VALIDATOR.validate(record)
    return found


def qwa(
    *arguments: str | bytes | Path, given: bytes = b"", cwd: Path = ROOT
) -> tuple[int, Records, list[str]]:
    """Run to the end: exit code, records on standard output, lines on standard error."""
    done = subprocess.run(
        [*QWA, *arguments], input=given, capture_output=True, env=ENVIRONMENT, cwd=cwd
    )
    return done.returncode, records(done.stdout), done.stderr.decode().splitlines()


@pytest.fixture
def here(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Here]:
    """The same within this process, where torch is loaded once: exit code, records, messages."""
    for name in ("QWA_MODEL", "QWA_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    handlers, level = LOG.handlers[:], LOG.level

    def call(*arguments: str | Path) -> tuple[int, Records, list[str]]:
        code = run([os.fspath(argument) for argument in arguments])
        shown, told = capfdbinary.readouterr()
        return code, records(shown), told.decode().splitlines()

    yield call
    LOG.handlers[:] = handlers
    LOG.setLevel(level)


def test_good_and_bad_files_of_any_name(tmp_path: Path) -> None:
    names = [b"-weird.wav", b"two\nlines.wav", b"caf\xe9.wav", b"text.wav"]
    for name, source in zip(names, (ONE, UN, ONE, Path(__file__)), strict=True):
        shutil.copy(source, tmp_path / os.fsdecode(name))
    arguments = ("transcribe", "--files-from", "-", "-0", "--", "-weird.wav", "gone.wav")
    code, found, told = qwa(*arguments, given=b"\0".join(names), cwd=tmp_path)
    assert code == Exit.SOME_FAILED
    by_name = {record["file"]: record for record in found}
    assert len(found) == 5
    assert by_name["-weird.wav"]["text"] == by_name["caf\ufffd.wav"]["text"] == SAID
    assert by_name["caf\ufffd.wav"]["file_b64"] == "Y2Fm6S53YXY="
    assert "participant" in by_name["two\nlines.wav"]["text"]
    assert (by_name["two\nlines.wav"]["language"], by_name["-weird.wav"]["language"]) == (
        "fr",
        "en",
    )
    assert by_name["gone.wav"]["error"]["code"] == "missing"
    assert by_name["text.wav"]["error"]["code"] == "unsupported"
    assert sorted(told[:-1]) == [
        "qwa: " + by_name[name]["error"]["message"] for name in ("gone.wav", "text.wav")
    ]
    seconds = sum(record.get("duration", 0) for record in found)
    assert told[-1].startswith(f"qwa: 5 files, 2 failed, {seconds:.1f} s of audio in ")
    assert told[-1].endswith("x real time")


def test_when_all_fail_and_quiet_says_what_failed(tmp_path: Path, here: Here) -> None:
    (tmp_path / "empty.wav").touch()
    code, found, told = here("transcribe", "-q", tmp_path, "gone.wav")
    assert code == Exit.ALL_FAILED
    assert Counter(record["error"]["code"] for record in found) == {"empty": 1, "missing": 1}
    assert sorted(told) == sorted("qwa: " + record["error"]["message"] for record in found)


def test_standard_input_and_a_flag_that_fails_the_run(tmp_path: Path) -> None:
    silence = tmp_path / "silence"
    soundfile.write(silence, np.zeros(32_000), 16_000, format="FLAC")
    code, found, told = qwa(
        "transcribe", "-", "--fail-on-flag", "truncated,no_speech", given=silence.read_bytes()
    )
    assert code == Exit.FLAGGED
    assert [(r["file"], r["text"], r["flags"]) for r in found] == [("-", "", ["no_speech"])]
    assert len(told) == 1


def test_words_and_their_times(here: Here) -> None:
    code, (record,), _ = here("transcribe", "--timestamps", ONE)
    assert code == 0
    _, (timed,), _ = here("timestamp", "--words", ONE)
    assert timed["task"] == "word-times"
    assert record["segments"][0]["words"] == timed["segments"][0]["words"]
    words = timed["segments"][0]["words"]
    assert [word["word"] for word in words] == SAID.split()
    # sox finds sound from 0.11 to 2.79 s (silence 1 0.02 1%).
    assert words[0]["start"] < 0.3
    assert 2.6 < words[-1]["end"] < 3.25


def test_translate(tmp_path: Path, here: Here) -> None:
    output = tmp_path / "out.jsonl"
    pattern = str(EXAMPLES / "fr-one*.wav")
    code, found, _ = here("translate", "--to", "en", pattern, "-o", output)
    assert (code, found) == (0, [])
    (record,) = records(output.read_bytes())
    assert record["language"] == "fr"
    assert "participant in this conference" in record["text"]


def test_classify_a_directory(tmp_path: Path, here: Here) -> None:
    for name in ("en.wav", "fr.wav", "below/it.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(next(EXAMPLES.glob(f"{Path(name).stem}-*.wav")))
    code, found, _ = here("classify", "--task", "language", "--top-k", "1", tmp_path)
    assert code == 0
    assert {Path(record["file"]).name for record in found} == {"en.wav", "fr.wav"}
    _, deeper, _ = here("classify", "--task", "language", "--top-k", "1", tmp_path, "-r")
    assert len(deeper) == 3
    for record in (*found, *deeper):
        (label,) = record["labels"]
        assert label["label"] == Path(record["file"]).stem
        assert label["probability"] > 0.9


def test_several_tasks_about_each_file(tmp_path: Path, here: Here) -> None:
    """A file counts once in the summary, and what is wrong with it is said once."""
    (tmp_path / "bad.wav").write_text("no audio")
    output = tmp_path / "out.jsonl"
    line = ("--tasks", "transcribe,classify:language", "--order", "input", "-o", output)
    code, _, told = here("run", *line, UN, tmp_path / "bad.wav", ONE)
    found = records(output.read_bytes())
    assert code == Exit.SOME_FAILED
    assert [(Path(r["file"]).name, r["task"], r["status"]) for r in found] == [
        (UN.name, "asr", "ok"),
        (UN.name, "language", "ok"),
        ("bad.wav", "asr", "error"),
        ("bad.wav", "language", "error"),
        (ONE.name, "asr", "ok"),
        (ONE.name, "language", "ok"),
    ]
    seconds = found[0]["duration"] + found[4]["duration"]
    assert told[0] == "qwa: " + found[2]["error"]["message"]
    assert told[1].startswith(f"qwa: 3 files, 1 failed, {seconds:.1f} s of audio in ")
    assert len(told) == 2
    assert here("run", *line, tmp_path / "bad.wav", "-q")[0] == Exit.ALL_FAILED


def test_what_single_runs_have_done_a_run_of_several_tasks_leaves_out(
    tmp_path: Path, here: Here
) -> None:
    output = tmp_path / "out.jsonl"
    for command in (("transcribe", ONE), ("translate", ONE, UN)):
        assert here(*command, "-o", output)[0] == 0
    line = ("run", "-t", "transcribe", "-t", "translate", "-o", output, "--resume", ONE, UN)
    code, _, told = here(*line)
    assert code == 0
    assert told[0].startswith("qwa: 1 file, 0 failed, 3 records done before, ")
    found = Counter((record["task"], record["file"]) for record in records(output.read_bytes()))
    assert found == {(task, str(path)): 1 for task in ("asr", "translation") for path in (ONE, UN)}
    assert here(*line) == (0, [], ["qwa: 0 files, 0 failed, 4 records done before"])


def test_several_devices_write_one_output_in_order(tmp_path: Path) -> None:
    """Two processes; the first file is the longest by far, one is bad, and nothing is lost."""
    long = EXAMPLES / "en-no-connection.wav"
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF no audio")
    output = tmp_path / "out.jsonl"
    options = ("--devices", "cpu,cpu", "--order", "input", "-o", output)
    code, _, lines = qwa("transcribe", long, bad, UN, ONE, *options)
    assert code == Exit.SOME_FAILED
    found = records(output.read_bytes())
    assert [record["file"] for record in found] == [str(f) for f in (long, bad, UN, ONE)]
    assert found[3]["text"] == SAID and found[1]["error"]["code"] == "unsupported"
    assert lines[-1].startswith("qwa: 4 files, 1 failed")
    code, _, lines = qwa("transcribe", long, UN, ONE, *options, "--resume")
    assert code == Exit.OK and lines == ["qwa: 0 files, 0 failed, 3 done before"]


def test_a_device_that_is_not_there_is_told_once() -> None:
    for options in (("--device", "cuda:7"), ("--devices", "6,7")):
        code, found, lines = qwa("transcribe", ONE, *options)
        assert code == Exit.UNAVAILABLE and found == []
        assert len(lines) == 1 and "is not available" in lines[0]


def test_a_reader_that_goes_away_ends_the_run_quietly() -> None:
    command = [*QWA, "transcribe", "--batch", "1", "examples"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(records(process.stdout.readline())) == 1
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == Exit.BROKEN_PIPE


def interrupt(number: signal.Signals, command: list[str], output: Path) -> tuple[int, str]:
    """Send a signal to a run as soon as it has written a record: exit code and messages."""
    before = output.read_bytes().count(b"\n")
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        while process.poll() is None and output.read_bytes().count(b"\n") == before:
            time.sleep(0.01)  # nothing tells of a write to a file
        process.send_signal(number)
        assert process.stderr is not None
        told = process.stderr.read().decode()
    return process.returncode, told


def test_a_run_that_is_stopped_resumes(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_bytes(b'{"schema":1,"id":"00')  # torn by a crash
    files = [str(path) for path in sorted(EXAMPLES.glob("*-*-*.wav"))[1:6]]
    run_again = ["transcribe", "--batch", "1", *files, "-o", str(output), "--resume"]
    done = 0
    for number, code in (
        (signal.SIGINT, Exit.INTERRUPTED),
        (signal.SIGTERM, Exit.TERMINATED),
    ):
        returned, told = interrupt(number, [*QWA, *run_again], output)
        assert returned == code
        assert told.startswith("qwa: stopped: ")
        assert told.count("\n") == 1
        assert done < len(records(output.read_bytes())) < len(files)
        done = len(records(output.read_bytes()))
    code, found, told = qwa(*run_again)
    assert (code, found) == (0, [])
    assert told[-1].startswith(f"qwa: {len(files) - done} file")
    assert f", 0 failed, {done} done before, " in told[-1]
    assert sorted(record["file"] for record in records(output.read_bytes())) == files
    summary = f"qwa: 0 files, 0 failed, {len(files)} done before"
    assert qwa(*run_again) == (0, [], [summary])


def test_waiting_for_standard_input_can_be_stopped() -> None:
    with subprocess.Popen(
        [*QWA, "transcribe", "-", "-v"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        assert process.stderr is not None
        assert b"loaded in" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert b"Fatal" not in process.stderr.read()
    assert process.returncode == Exit.INTERRUPTED
