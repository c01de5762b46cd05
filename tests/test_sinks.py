import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen_audio_cli.errors import (
    BusyError,
    ConfigError,
    OutputError,
    OutputWriteError,
    UsageError,
)
from qwen_audio_cli.exits import Exit
from qwen_audio_cli.records import ErrorRecord, Record, record_id, to_json
from qwen_audio_cli.sinks.journal import Journal
from qwen_audio_cli.sinks.jsonl import JsonlSink

ROOT = Path(__file__).parent.parent


def record(number: int, text: str = "hello") -> Record:
    return Record(
        id=record_id(str(number), "asr", "m@1", "0" * 12),
        task="asr",
        file=f"{number}.wav",
        text=text,
        model="m@1",
        options="0" * 12,
    )


def failure(number: int) -> ErrorRecord:
    return ErrorRecord(
        id=record(number).id, task="asr", file=f"{number}.wav", code="decode", message="broken"
    )


def append(path: Path, *records: Record | ErrorRecord) -> None:
    with JsonlSink.to_file(path) as sink:
        for each in records:
            sink.write(each)


def done_of(path: Path) -> list[str]:
    """Read the ids of finished records by the standard library alone."""
    lines = map(json.loads, path.read_bytes().splitlines())
    return [line["id"] for line in lines if line["status"] == "ok"]


# Writing


def test_a_file_is_created_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    append(path, record(1), failure(2))
    append(path, record(3))
    expected = (to_json(record(1)), to_json(failure(2)), to_json(record(3)))
    assert path.read_bytes() == b"".join(line + b"\n" for line in expected)


def test_each_record_is_one_write_of_one_line_at_once() -> None:
    # Of a socket of this kind every read gives what one write put in.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    records: list[Record | ErrorRecord] = [record(1), failure(2), record(3, "x" * 100_000)]
    with ours, theirs, contextlib.closing(JsonlSink(os.dup(theirs.fileno()), "socket")) as sink:
        for each in records:
            sink.write(each)
            assert ours.recv(1 << 20) == to_json(each) + b"\n"


def test_standard_output_gets_records_and_nothing_else() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); from test_sinks import *\n"
        "print('{\"first\":1}')\n"
        "with JsonlSink.to_stdout() as sink: sink.write(record(1)); sink.close()\n"
        "print('{\"last\":1}')"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
    assert run.stdout == b'{"first":1}\n' + to_json(record(1)) + b'\n{"last":1}\n'


def test_a_closed_standard_output_is_an_output_error() -> None:
    code = "from qwen_audio_cli.sinks.jsonl import JsonlSink; JsonlSink.to_stdout()"
    run = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" >&-', sys.executable, code],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert "OutputError: standard output is closed" in run.stderr


def test_a_reader_that_went_away_is_a_broken_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with JsonlSink(writer, "pipe") as sink, pytest.raises(BrokenPipeError):
        sink.write(record(1))


def test_a_pipe_that_does_not_block_still_gets_every_byte() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    long = record(1, "x" * 1_000_000)
    received: list[bytes] = []
    with open(reader, "rb") as file:  # noqa: PTH123
        thread = threading.Thread(target=lambda: received.append(file.read()))
        thread.start()
        with JsonlSink(writer, "pipe") as sink:
            sink.write(long)
        thread.join()
    assert received == [to_json(long) + b"\n"]


# Places that cannot be written


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (".", "Is a directory"),
        ("no/such/out.jsonl", "No such file or directory"),
        ("file/out.jsonl", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_an_impossible_place_is_refused_at_once(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=reason) as caught:
        JsonlSink.to_file(tmp_path / place)
    assert caught.value.exit is Exit.CANNOT_CREATE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        JsonlSink.to_file(tmp_path / "out.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_an_error_of_its_own() -> None:
    full = r"/dev/full: .*No space left"
    sink = JsonlSink.to_file(Path("/dev/full"))
    with sink, pytest.raises(OutputWriteError, match=full) as caught:
        sink.write(record(1))
    assert caught.value.exit is Exit.IO_ERROR


def test_a_disk_that_fills_up_within_a_record_keeps_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    line = len(to_json(record(1))) + 1
    with JsonlSink.to_file(path) as sink:
        sink.write(record(1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (line + line // 2, hard))
        try:
            with pytest.raises(OutputWriteError, match="File too large"):
                sink.write(record(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == to_json(record(1)) + b"\n"
        sink.write(record(3))
    assert done_of(path) == [record(1).id, record(3).id]


# One run at a time


def test_an_output_another_process_writes_to_is_busy(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    code = (
        "import sys; from pathlib import Path; from qwen_audio_cli.sinks.jsonl import JsonlSink\n"
        "sink = JsonlSink.to_file(Path(sys.argv[1])); print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match="another run is writing") as caught:
            JsonlSink.to_file(path)
        assert caught.value.exit is Exit.TRY_LATER
        other.stdin.close()
    append(path, record(1))
    assert done_of(path) == [record(1).id]


def test_the_lock_goes_with_the_sink_and_with_a_failed_start(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"not ours")
    for _ in range(2):
        with pytest.raises(ConfigError):
            JsonlSink.to_file(path)
    path.unlink()
    first = JsonlSink.to_file(path)
    with pytest.raises(BusyError):
        JsonlSink.to_file(path)
    first.close()
    JsonlSink.to_file(path).close()


# Resuming


def test_an_output_cut_at_any_byte_resumes_right(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    records: list[Record | ErrorRecord] = [record(1, "é\u2028 \U0001f3b5 {}"), failure(2)]
    records += [record(3), record(3), record(4)]
    lines = [to_json(each) for each in records]
    whole = b"".join(line + b"\n" for line in lines)
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with JsonlSink.to_file(path) as sink:
            journal = Journal.read(path)
            # A record is there as soon as its last byte is, with or without the newline.
            ends = [sum(map(len, lines[: n + 1])) + n for n in range(len(lines))]
            kept = [each for each, end in zip(records, ends, strict=True) if end <= cut]
            assert path.read_bytes() == b"".join(to_json(each) + b"\n" for each in kept), cut
            assert len(journal) == sum(isinstance(each, Record) for each in kept), cut
            for number in (1, 2, 3, 3, 4):
                if not journal.take(record(number).id, record(number).file):
                    sink.write(record(number))
        assert sorted(done_of(path)) == sorted(record(n).id for n in (1, 2, 3, 3, 4)), cut


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(), min_size=1, max_size=4), data=st.data())
def test_no_text_confuses_the_end_of_a_record(
    tmp_path: Path, texts: list[str], data: st.DataObject
) -> None:
    path = tmp_path / "out.jsonl"
    lines = [to_json(record(number, text)) for number, text in enumerate(texts)]
    last = len(lines[-1])
    path.write_bytes(b"\n".join(lines)[: -data.draw(st.integers(1, last - 1))])
    with JsonlSink.to_file(path):
        assert len(Journal.read(path)) == len(texts) - 1
    assert path.read_bytes() == b"".join(line + b"\n" for line in lines[:-1])


def test_a_long_torn_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    torn = to_json(record(2, "x" * 300_000))[:-100]
    for before in (b"", to_json(record(1)) + b"\n"):
        path.write_bytes(before + torn)
        JsonlSink.to_file(path).close()
        assert path.read_bytes() == before


@pytest.mark.parametrize("whole", [0, 1, 3])
def test_a_run_killed_within_a_record_is_resumed_without_loss_or_repetition(
    tmp_path: Path, whole: int
) -> None:
    path = tmp_path / "out.jsonl"
    code = (
        "import sys; sys.path.insert(0, 'tests'); from test_sinks import *\n"
        "with JsonlSink.to_file(Path(sys.argv[1])) as sink:\n"
        "    for number in range(9):\n"
        "        sink.write(record(number, 'x' * 20_000_000))"
    )
    line = len(to_json(record(0, "x" * 20_000_000))) + 1
    path.touch()
    with subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT) as run:
        while path.stat().st_size <= whole * line:
            assert run.poll() is None
        run.kill()
    assert run.returncode == -signal.SIGKILL
    finished = path.stat().st_size // line
    assert whole <= finished < 9
    redone = []
    with JsonlSink.to_file(path) as sink:
        assert path.stat().st_size == finished * line
        journal = Journal.read(path)
        for number in range(9):
            if not journal.take(record(number).id, record(number).file):
                sink.write(record(number))
                redone.append(number)
    assert redone == list(range(finished, 9))
    assert done_of(path) == [record(number).id for number in range(9)]


def test_equal_content_needs_a_record_for_each_source(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    append(path, record(1), replace(record(1), file="copy.wav"), failure(2))
    journal = Journal.read(path)
    assert len(journal) == 2
    assert [journal.take(record(1).id, "moved.wav") for _ in range(3)] == [True, True, False]
    assert not journal.take(record(2).id, record(2).file)
    assert len(journal) == 0


def test_of_equal_files_the_one_that_has_a_record_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of several copies is done first, nobody knows."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "b.wav", "c.wav"):
        (tmp_path / name).touch()
    append(tmp_path / "out.jsonl", *(replace(record(1), file=name) for name in ("b.wav", "gone")))
    journal = Journal.read(tmp_path / "out.jsonl")
    identifier = record(1).id
    assert journal.take(identifier, os.fspath(tmp_path / "b.wav"))  # by another name
    assert journal.take(identifier, "a.wav")  # as what is there no more was called
    assert not journal.take(identifier, "c.wav")
    append(tmp_path / "out.jsonl", replace(record(1), file="c.wav"))
    again = Journal.read(tmp_path / "out.jsonl")
    done = [again.take(identifier, name) for name in ("a.wav", "b.wav", "c.wav", "c.wav")]
    assert done == [True, True, True, False]


def test_an_output_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    assert len(Journal.read(tmp_path / "out.jsonl")) == 0


FOREIGN = [
    b"hello",
    b"",
    b"[]",
    b"7",
    b'{"text":"hello"}',
    to_json(record(1)).replace(b'"schema":1', b'"schema":2'),
    to_json(record(1)).replace(b'"ok"', b'"done"'),
    to_json(record(1)).replace(b'"ok"', b"[]"),
    to_json(record(1)).replace(record(1).id.encode(), b"0123"),
    to_json(record(1)).replace(b'"' + record(1).id.encode() + b'"', b"7"),
    to_json(record(1))[:-9],
    b"\xff\xfe",
]


@pytest.mark.parametrize("line", FOREIGN)
def test_a_foreign_line_is_named_by_its_number_and_left_alone(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "out.jsonl"
    good = to_json(record(1)) + b"\n"
    path.write_bytes(good * 2 + line + b"\n" + good)
    with JsonlSink.to_file(path), pytest.raises(ConfigError, match=r"out\.jsonl, line 3: "):
        Journal.read(path)
    assert path.read_bytes() == good * 2 + line + b"\n" + good


@pytest.mark.parametrize("line", [line for line in FOREIGN[:10] if line])
def test_a_foreign_last_line_without_newline_is_never_cut(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "out.jsonl"
    before = to_json(record(1)) + b"\n" + line
    path.write_bytes(before)
    with pytest.raises(ConfigError, match=r"out\.jsonl, line 2: "):
        JsonlSink.to_file(path)
    assert path.read_bytes() == before


def test_only_a_regular_file_can_be_resumed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(UsageError, match="--resume needs a regular file"):
            Journal.read(path)


def test_memory_grows_with_the_ids_only(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with path.open("wb") as file:
        for number in range(20_000):
            file.write(to_json(record(number)) + b"\n")
        for number in range(20_000, 20_200):
            file.write(to_json(record(number, "x" * 100_000)) + b"\n")
    tracemalloc.start()
    try:
        journal = Journal.read(path)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(journal) == 20_200
    assert kept / len(journal) < 300
    assert peak < kept + 4_000_000 < path.stat().st_size / 2
