"""The order of records, how far readers go ahead, and what a failing clip takes with it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import CPU, EXAMPLES, recording
from hypothesis import given
from hypothesis import strategies as st

from qwen_audio_cli import Qwa
from qwen_audio_cli.answering import WINDOW
from qwen_audio_cli.audio.sources import Source
from qwen_audio_cli.engine.engine import Engine, Manner
from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.families.whisper import Whisper
from qwen_audio_cli.options import Options
from qwen_audio_cli.pipeline import in_order
from qwen_audio_cli.records import ErrorRecord, Record

TALK = EXAMPLES / "en-no-connection.wav"  # 10 s: complete long after a source without speech
ONE = EXAMPLES / "en-one-participant.wav"


def loaded(family: Whisper, **how: Any) -> Qwa:
    """A face whose embedded model is `family`, loaded already."""
    qwa = Qwa(device="cpu", dtype="float32", **how)
    qwa.families["whisper-base"] = family
    return qwa


def silences(directory: Path, count: int) -> list[Path]:
    """Sources of 50 ms, each of another content."""
    paths = [directory / f"{number:04d}.wav" for number in range(count)]
    for number, path in enumerate(paths):
        soundfile.write(path, np.full(800, number * 1e-4), 16_000)
    return paths


@given(st.permutations(range(12)))
def test_items_wait_for_those_before_them_and_for_no_others(numbers: list[int]) -> None:
    arrived: list[int] = []

    def arriving() -> Iterator[tuple[int, int]]:
        for number in numbers:
            arrived.append(number)
            yield number, number

    for due, item in enumerate(in_order(arriving())):
        assert item == due
        # It came in the very moment in which all up to it were there.
        assert {*range(due + 1)} <= {*arrived}
        assert not {*range(due + 1)} <= {*arrived[:-1]} or arrived[-1] < due
    assert due == 11


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(UsageError, match="completion or input"):
        Qwa(order="alphabet")


def test_records_come_in_the_order_of_the_sources(whisper: Whisper, tmp_path: Path) -> None:
    quick = silences(tmp_path, 3)
    (tmp_path / "bad.wav").write_text("no audio")
    sources = [TALK, quick[0], tmp_path / "bad.wav", ONE, *quick[1:], tmp_path / "gone.wav"]
    found = {
        order: list(loaded(whisper, order=order).transcribe(sources))
        for order in ("input", "completion")
    }
    assert [record.file for record in found["input"]] == [str(source) for source in sources]
    assert [record.file for record in found["completion"]][-1] == str(TALK)
    texts = [{r.file: r.id for r in records} for records in found.values()]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("order", ["completion", "input"])
def test_what_is_done_already_holds_nobody_up(whisper: Whisper, tmp_path: Path, order: str) -> None:
    sources = [TALK, *silences(tmp_path, 2 * WINDOW), ONE]
    answering = loaded(whisper, order=order).prepare("transcribe", Options())
    asked: list[str] = []

    def is_done(identifier: str, name: str) -> bool:
        asked.append(identifier)
        return True

    named = iter([Source(str(path), path) for path in sources])
    assert list(answering(named, is_done)) == []
    assert len(asked) == len({*asked}) == len(sources)


class Feed:
    """Sources, counting how many were taken."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = iter(paths)
        self.taken = 0

    def __iter__(self) -> Iterator[Source]:
        return self

    def __next__(self) -> Source:
        path = next(self._paths)
        self.taken += 1
        return Source(str(path), path)


def test_no_more_than_a_window_of_sources_is_taken_ahead(whisper: Whisper, tmp_path: Path) -> None:
    """While the first is not complete, the others' records wait, and so do the readers."""
    feed = Feed([TALK, *silences(tmp_path, WINDOW + 60)])
    records = loaded(whisper, order="input").prepare("transcribe", Options())(feed)
    for count, record in enumerate(records):
        if count == 0:
            assert record.file == str(TALK)
        assert count < feed.taken <= count + WINDOW + 1  # this one was not taken note of yet
    assert count == WINDOW + 60


@pytest.mark.parametrize("order", ["completion", "input"])
def test_a_record_comes_while_later_sources_are_not_even_named(
    whisper: Whisper, order: str
) -> None:
    """As from a list that somebody is still writing."""
    named = threading.Event()

    def sources() -> Iterator[Source]:
        yield Source(str(ONE), ONE)
        assert named.wait(60)
        yield Source("gone.wav", Path("gone.wav"))

    answering = loaded(whisper, order=order, workers=4).prepare("transcribe", Options())
    records = answering(sources())
    assert next(records).file == str(ONE)
    named.set()
    assert [record.file for record in records] == ["gone.wav"]


def test_leaving_a_run_whose_readers_wait_for_room_ends_them(
    whisper: Whisper, tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    sources = [*silences(tmp_path, WINDOW + 10), TALK]
    records = loaded(whisper, workers=3).transcribe(sources)
    next(records)
    records.close()  # type: ignore[attr-defined]
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_the_first_failing_clip_ends_the_work_for_its_source_alone(
    whisper: Whisper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight clips of one source, of which the first to be answered fails."""
    long = tmp_path / "long.wav"
    soundfile.write(long, np.concatenate([recording("en-no-connection")] * 8), 16_000)
    begun: list[float] = []
    answer = whisper.answer

    def failing(job: Any, seconds: float) -> Any:
        begun.append(seconds)
        if len(begun) == 1:
            raise ZeroDivisionError("in the middle of it")
        return answer(job, seconds)

    monkeypatch.setattr(whisper, "answer", failing)
    found = list(loaded(whisper, batch=1, workers=1).transcribe([long, ONE]))
    assert [type(record) for record in found] == [ErrorRecord, Record]
    assert isinstance(found[0], ErrorRecord) and found[0].code == "internal"
    assert found[0].message == f"{long}: ZeroDivisionError: in the middle of it"
    assert len(begun) == 2  # the clip that failed, and the other source's
    assert isinstance(found[1], Record) and found[1].text


def test_a_source_that_breaks_off_ends_the_work_for_its_clips(
    whisper: Whisper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    cut = tmp_path / "cut.wav"
    soundfile.write(cut, np.concatenate([recording("en-no-connection")] * 8), 16_000)
    cut.write_bytes(cut.read_bytes()[:-200_000])
    begun: list[float] = []
    answer = whisper.answer
    monkeypatch.setattr(
        whisper, "answer", lambda job, seconds: (begun.append(seconds), answer(job, seconds))[1]
    )
    with caplog.at_level(logging.ERROR):
        found = list(loaded(whisper, batch=1).transcribe([cut, ONE]))
    by_name = {Path(record.file).name: record for record in found}
    broken = by_name["cut.wav"]
    assert isinstance(broken, ErrorRecord) and broken.code == "decode"
    assert isinstance(by_name[ONE.name], Record)
    assert not caplog.records


def test_deterministic_reaches_the_engine(
    whisper: Whisper, monkeypatch: pytest.MonkeyPatch
) -> None:
    manners: list[Manner] = []
    begin = Engine.__init__

    def noted(self: Any, *others: Any) -> None:
        manners.extend(other for other in others if isinstance(other, Manner))
        begin(self, *others)

    monkeypatch.setattr(Engine, "__init__", noted)
    records = [
        next(iter(loaded(whisper, deterministic=wish).transcribe(ONE))) for wish in (True, False)
    ]
    assert manners == [Manner.of(CPU, deterministic=True), Manner.of(CPU)]
    assert manners[0].deterministic and not manners[1].deterministic
    first, second = (record.as_dict() | {"timing": None} for record in records)
    assert first == second
