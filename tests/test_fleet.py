"""Several workers for one run: the same records as one process, and no worker outlives its run.

Most run `Parrot` (`parrot.py`), which loads no model.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parrot import (
    EXAMPLES,
    LINUX,
    MODEL,
    ONE_TASK,
    OPTIONS,
    ROOT,
    TWO_TASKS,
    Parrot,
    Real,
    children,
    comparable,
    lost_asr,
    named,
    parrot_id,
    parrots,
    standard_input,
)

from qwen_audio_cli.audio.sources import Source
from qwen_audio_cli.errors import ConfigError, InputError, ModelError, UsageError
from qwen_audio_cli.fleet.fleet import Fleet, parse_devices
from qwen_audio_cli.fleet.run import GiveUp, Held, Line, Worker
from qwen_audio_cli.records import ErrorRecord, Record, record_id
from qwen_audio_cli.sinks.journal import Journal


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves a worker or a zombie, however its run ended."""
    before = children()
    yield
    assert children() <= before


# --- real runs ----------------------------------------------------------------------------------


def test_records_are_those_of_one_process(tmp_path: Path) -> None:
    """Recordings, three of one content of which one is done, bad files, standard input."""
    twin = EXAMPLES / "en-one-participant.wav"
    copies = [Path(shutil.copy(twin, tmp_path / f"copy-{number}.wav")) for number in (1, 2)]
    text = tmp_path / "text.wav"
    text.write_text("this is no audio\n")
    spoken = EXAMPLES / "fr-one-participant.wav"
    paths = [twin, spoken, *copies, text, tmp_path / "absent.wav"]

    run = Real()("cpu")
    piped = tmp_path / "piped.wav"
    shutil.copy(spoken, piped)
    alone = list(run(named(*map(str, paths), str(piped)), lambda identifier, name: False))
    twin_id = next(record.id for record in alone if record.file == str(twin))
    unknown = record_id("unknown", "asr", MODEL, OPTIONS)
    left = Journal()
    left.add(bytes.fromhex(twin_id), str(copies[1]))
    left.add(bytes.fromhex(unknown), "unknown.wav")
    with standard_input(spoken):
        sources = itertools.chain(named(*map(str, paths)), [Source("-", None)])
        found = list(Fleet(["cpu", "cpu"], Real(), ONE_TASK)(sources, left.take))

    assert not left.take(twin_id, str(copies[1])) and left.take(unknown, "unknown.wav")
    of_twin = [record for record in found if record.id == twin_id]
    assert {record.file for record in of_twin} == {str(twin), str(copies[0])}
    expected = {
        record.file.replace(str(piped), "-"): comparable(
            replace(record, file=record.file.replace(str(piped), "-"))
        )
        for record in alone
        if record.file != str(copies[1])
    }
    assert {record.file: comparable(record) for record in found} == expected
    assert len(found) == len(expected) == len(alone) - 1
    assert {record.code for record in found if isinstance(record, ErrorRecord)} == {
        "unsupported",
        "missing",
    }


@pytest.mark.parametrize("in_order", [False, True])
def test_a_killed_worker_fails_what_it_held_and_the_other_goes_on(
    in_order: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Work that is done already is nobody's failure. The two divide the cores between them."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    caplog.set_level(logging.INFO, "qwen_audio_cli")
    poison = tmp_path / "poison.wav"
    poison.touch()
    spoken = EXAMPLES / "en-one-participant.wav"
    copies = [shutil.copy(spoken, tmp_path / f"{number}.wav") for number in range(6)]
    names = [*map(str, copies[:4]), str(poison), *map(str, copies[4:])]
    done = iter([True, True])
    fleet = Fleet(["cpu", "cpu"], Real(), ONE_TASK, in_order)
    records = list(fleet(named(*names), lambda identifier, name: next(done, False)))
    found = {record.file: record for record in records}
    assert set(found) < set(names) and len(found) == len(records) == len(names) - 2
    assert not in_order or list(found) == [name for name in names if name in found]
    failed = {name: each for name, each in found.items() if isinstance(each, ErrorRecord)}
    assert str(poison) in failed and len(failed) < len(found)
    for name, record in failed.items():
        assert record.code == "internal" and record.message.startswith(f"{name}: ")
        assert "SIGKILL" in record.message
    assert all(record.text for record in found.values() if isinstance(record, Record))
    *shares, end = caplog.messages
    assert end == "the worker on cpu was killed (SIGKILL)"
    counts = [tuple(map(int, re.findall("[0-9]+", share))) for share in shares]
    assert len(counts) == 2
    assert all(share == max(1, whole // 2) for share, whole in counts)


def test_records_come_in_the_order_of_the_sources(tmp_path: Path) -> None:
    """The longest first; nothing waits for later sources, or while the list is waited for."""
    text = tmp_path / "text.wav"
    text.write_text("this is no audio\n")
    longest, done, short, last = (
        str(EXAMPLES / f"{name}.wav")
        for name in ("en-echo-test", "fr-one-participant", "en-one-participant", "it-no-connection")
    )
    names = [longest, done, str(text), short, str(tmp_path / "absent.wav"), done, last]
    real = Real(tasks="transcribe,classify:language")
    alone = list(real("cpu")(named(*names), lambda identifier, name: False))
    done_ids = {record.id for record in alone if record.file == done}
    rest = [name for name in names if name != done]
    expected = [comparable(record) for name in rest for record in alone if record.file == name]
    go_on = threading.Event()

    def slowly() -> Iterator[Source]:
        yield from named(*names[:-1])
        assert go_on.wait(300)
        yield from named(last)

    fleet = Fleet(["cpu", "cpu"], real, TWO_TASKS, in_order=True)
    found = []
    for record in fleet(slowly(), lambda identifier, name: identifier in done_ids):
        found.append(comparable(record))
        if len(found) == len(expected) - 2:
            go_on.set()
    assert found == expected
    assert len(expected) == 10 and len(done_ids) == 2


@pytest.mark.parametrize(("there", "error"), [(False, ModelError), (True, ConfigError)])
def test_a_model_that_is_not_there_is_one_error(
    tmp_path: Path,
    there: bool,
    error: type[Exception],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = tmp_path / "model"
    if there:
        model.mkdir()
    sources = named(str(EXAMPLES / "en-one-participant.wav"))
    with pytest.raises(error, match=str(model)):
        list(Fleet(["cpu", "cpu"], Real(str(model)), ONE_TASK)(sources))
    assert next(sources, None) is not None  # none was taken
    assert caplog.messages == [] and capfd.readouterr() == ("", "")


# --- processes ----------------------------------------------------------------------------------


@LINUX
def test_sources_are_shared_and_taken_as_they_are_wanted() -> None:
    taken = itertools.count()
    endless = (Source(f"{number}", Path(f"{number}")) for number in taken)
    skipped = 0

    def is_done(identifier: str, name: str) -> bool:
        nonlocal skipped
        done = identifier[0] in "01234567"
        skipped += done
        return done

    records = parrots("cpu", "cpu", "cpu")(endless, is_done)
    seen: set[str] = set()
    workers: set[int] = set()
    for record in records:
        assert isinstance(record, Record) and record.file not in seen
        seen.add(record.file)
        workers.add(int(record.text or 0))
        if len(seen) > 100 and workers == children():
            break
    assert len(workers) == 3
    # One more is with each worker at the most, and one on its way; none is kept.
    assert next(taken) <= len(seen) + skipped + 3 + 1
    assert sum(type(each) is Source for each in gc.get_objects()) < 20
    records.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("in_order", [False, True])
def test_a_record_comes_while_the_next_source_is_still_awaited(in_order: bool) -> None:
    go_on = threading.Event()

    def slowly() -> Iterator[Source]:
        yield from named("a")
        assert go_on.wait(60)
        yield from named("b")

    records = parrots("cpu", "cpu", in_order=in_order)(slowly())
    assert next(records).file == "a"
    go_on.set()
    assert [record.file for record in records] == ["b"]


@given(st.data())
def test_a_line_lets_go_what_is_over(data: st.DataObject) -> None:
    """At once, or after all before it; an id may have a record or, being done, need none."""
    counts = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))
    turns = data.draw(st.permutations([n for n, tasks in enumerate(counts) for _ in range(tasks)]))
    out = [Held(source, counts[n]) for n, source in enumerate(named(*"abcdef"[: len(counts)]))]
    lines = Line(in_order=False), Line(in_order=True)
    for line, held in itertools.product(lines, out):
        line.join(held)
    came: tuple[list[str], list[str]] = ([], [])
    made: list[list[str]] = [[] for _ in out]
    over: list[int] = []
    for turn, number in enumerate(turns):
        name = f"{out[number].source.name}{turn}"
        failure = None
        if data.draw(st.booleans()):
            error = InputError("internal", name, "failed")
            failure = lost_asr(name, Source(name, None), error)
            made[number].append(name)
        out[number].settle(parrot_id(name), failure)
        if number not in turns[turn + 1 :]:
            over.append(number)
            for line, names in zip(lines, came, strict=True):
                names += [record.file for record in line.leave(out[number])]
        first = min({*range(len(out))} - {*over}, default=len(out))
        for line, names, gone in zip(lines, came, (over, range(first)), strict=True):
            assert names == [name for number in gone for name in made[number]]
            assert len(line) == len(out) - len(gone)


@pytest.mark.parametrize("asked", [False, True])
def test_a_record_is_of_the_source_with_all_its_names(asked: bool) -> None:
    """Of several clips a record may leave out the first, which an earlier turn has named."""
    worker = Worker("cpu", cast("Any", None), cast("Any", None))
    a, b, c = named("a", "b", "c")
    sources = [a, Source("a", a.path, (b,)), Source("a", a.path, (c,)), Source("b", b.path, (c,))]
    worker.held = [Held(source, 1) for source in sources]
    lost = lost_asr("a", a, InputError("missing", "c", "gone"))
    for held in worker.held if asked else ():
        held.asked.add(lost.id)
    for files, held in zip((None, ("a", "b"), ("c",)), worker.held, strict=False):
        assert worker.find(replace(lost, files=files)) is held
    assert worker.find(replace(lost, files=("b", "a"))) is None
    assert worker.find(replace(lost, file="c")) is None


@LINUX
def test_no_more_sources_are_out_than_the_window_has_room_for(tmp_path: Path) -> None:
    """The first is held up until the last that has room is known to be out; half are done."""
    from qwen_audio_cli.answering import WINDOW

    names = [str(number) for number in range(1, WINDOW + 50)]
    done = {parrot_id(name) for name in names[::2]}
    taken = 0
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    descriptor = os.open(gate, os.O_RDWR)

    def sources() -> Iterator[Source]:
        nonlocal taken
        for source in [Source("gate", gate), *named(*names)]:
            taken += 1
            yield source

    def is_done(identifier: str, name: str) -> bool:
        if identifier == parrot_id(names[WINDOW - 2]):
            os.write(descriptor, b"open")
        return identifier in done

    records = parrots("cpu", "cpu", in_order=True)(sources(), is_done)
    try:
        assert next(records).file == "gate" and taken == WINDOW
        assert [record.file for record in records] == names[1::2]
    finally:
        os.close(descriptor)


def test_what_a_dead_worker_held_fails_at_its_place() -> None:
    parrot = Parrot(("asr", "language"))
    fleet = Fleet(["cpu", "cpu", "cpu"], parrot, TWO_TASKS, in_order=True)
    names = ("half", "a", "done", "b", "die", "c")
    done = {parrot_id("done"), parrot_id("done", "language"), parrot_id("b")}
    records = fleet(named(*names), lambda identifier, name: identifier in done)
    assert [(record.file, record.task, type(record)) for record in records] == [
        ("half", "asr", Record),
        ("half", "language", ErrorRecord),
        ("a", "asr", Record),
        ("a", "language", Record),
        ("b", "language", Record),
        ("die", "asr", ErrorRecord),
        ("die", "language", ErrorRecord),
        ("c", "asr", Record),
        ("c", "language", Record),
    ]


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize(
    ("tasks", "expected"), [(("asr",), TWO_TASKS), (("asr", "language"), ONE_TASK)]
)
def test_no_record_is_lost_where_their_number_is_not_as_expected(
    tasks: tuple[str, ...], expected: Sequence[GiveUp], in_order: bool
) -> None:
    """As for a file that is named twice and changes in between."""
    fleet = Fleet(["cpu", "cpu"], Parrot(tasks), expected, in_order)
    found = sorted((record.file, record.task) for record in fleet(named(*"abc")))
    assert found == [*itertools.product("abc", tasks)]


def test_an_iterator_that_breaks_off_ends_the_run() -> None:
    def broken() -> Iterator[Source]:
        yield from named("a")
        raise UsageError("list.txt: the list cannot be read")

    with pytest.raises(UsageError, match=r"list\.txt"):
        list(parrots("cpu", "cpu")(broken()))


def test_the_work_of_a_dead_worker_that_is_done_is_not_blamed() -> None:
    """One worker alone: it answers, skips, dies; then nobody is left for the rest."""
    done = Counter([parrot_id("skipped"), parrot_id("die")])
    done["unused"] = 1

    def take(identifier: str, name: str) -> bool:
        done[identifier] -= 1
        return done[identifier] >= 0

    records = parrots("cpu")(named("a", "skipped", "b", "skipped", "die", "raise", "rest"), take)
    found = [record.file for record in itertools.islice(records, 3)]
    assert found == ["a", "b", "skipped"]
    with pytest.raises(ModelError, match=r"the worker on cpu was killed \(SIGKILL\)"):
        next(records)
    assert done["unused"] == 1


def test_of_several_tasks_only_those_without_a_record_fail() -> None:
    records = Fleet(["cpu"], Parrot(("asr", "language")), TWO_TASKS)(named("half", "rest"))
    assert [record.task for record in itertools.islice(records, 2)] == ["asr", "language"]
    with pytest.raises(ModelError):
        next(records)


@pytest.mark.parametrize(
    ("name", "reason", "error"),
    [
        ("die", r"the worker on cpu was killed \(SIGKILL\)", ModelError),
        ("raise", "RuntimeError: out of crackers", RuntimeError),
    ],
)
def test_when_all_die_what_they_held_is_reported_first(
    name: str, reason: str, error: type[Exception]
) -> None:
    records = parrots("cpu", "cpu")(named(f"{name}-1", f"{name}-2", "never"))
    failed = [next(records), next(records)]
    assert {record.file for record in failed} == {f"{name}-1", f"{name}-2"}
    assert {record.code for record in failed if isinstance(record, ErrorRecord)} == {"internal"}
    with pytest.raises(error, match=reason):
        next(records)


def test_what_workers_say_goes_to_the_log_and_never_to_standard_output(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also that a device which is not there is told of, and the other does its work."""
    found = list(parrots("mps", "cpu")(named("log", "print")))
    assert [record.file for record in found] == ["log", "print"]
    assert caplog.messages == [
        "the device 'mps' is not available; the other devices go on",
        "log: two\nlines",
    ]
    assert caplog.records[1].levelno == logging.ERROR
    assert "ValueError: a cause" in caplog.text and "Traceback" in caplog.text
    assert capfd.readouterr().out == ""


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_fleet import named, parrots
for record in parrots("cpu", "cpu")(named("a", "b", "hang-1", "hang-2")):
    print(record.text, flush=True)
"""


@LINUX
@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGINT, True)],
)
def test_workers_end_with_their_parent(number: signal.Signals, group: bool, tmp_path: Path) -> None:
    """Whether it is killed, or interrupted with them; the script guards no main module."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests")))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, script]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        workers = {int(parent.stdout.readline()) for _ in range(2)}
        assert workers == children(parent.pid)
        with contextlib.ExitStack() as stack:
            watched = [os.pidfd_open(pid) for pid in workers]
            for descriptor in watched:
                stack.callback(os.close, descriptor)
            if group:
                os.killpg(parent.pid, number)
            else:
                parent.send_signal(number)
            for descriptor in watched:
                assert select.select([descriptor], [], [], 20)[0]
        told = parent.stderr.read().decode()
    assert parent.returncode == -number
    assert told.count("Traceback") == (1 if number == signal.SIGINT else 0)  # the script's own


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("0", ["cuda:0"]),
        ("0,1", ["cuda:0", "cuda:1"]),
        (" cuda:3 , 01", ["cuda:3", "cuda:1"]),
        ("cuda", ["cuda:0"]),
        ("cpu,cpu,cpu", ["cpu", "cpu", "cpu"]),
        ("mps,cpu", ["mps", "cpu"]),
    ],
)
def test_devices_are_listed(text: str, devices: list[str]) -> None:
    assert parse_devices(text) == devices


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is no device"),
        ("0,", "'' is no device"),
        ("cuda:0,gpu1", "'gpu1' is no device.*0,1"),
        ("-1", "'-1' is no device"),
        ("auto", "'auto' is no device"),
        ("0,cuda:0", "cuda:0 is there twice"),
        ("cuda,1,0", "cuda:0 is there twice"),
        ("mps,mps", "mps is there twice"),
    ],
)
def test_devices_that_are_none_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_devices(text)
