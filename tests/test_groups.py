"""Requests about several clips: pairs of them, or all together."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from listener import WINDOW, Here, Listener, command_line, listening, tone, written

from qwen_audio_cli import Qwa, api
from qwen_audio_cli.audio.decode import Audio
from qwen_audio_cli.audio.segment import uncut
from qwen_audio_cli.audio.sources import Source, fingerprint
from qwen_audio_cli.errors import InputError, UsageError
from qwen_audio_cli.exits import Exit
from qwen_audio_cli.families.base import Refused
from qwen_audio_cli.groups import MOST_TOGETHER, group
from qwen_audio_cli.options import Options
from qwen_audio_cli.queries import Query
from qwen_audio_cli.tasks import TASKS

PAIRS = {"task": "speaker-verification"}


def yes(record: dict[str, Any]) -> bool:
    return bool(record["labels"][0]["label"] == "yes")


@pytest.fixture
def tones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a (400 Hz, 1 s), b (700 Hz, 2 s), c (400 Hz, 3 s), d (900 Hz)."""
    monkeypatch.chdir(tmp_path)
    for name, number, seconds in (("a", 4, 1), ("b", 7, 2), ("c", 4, 3), ("d", 9, 1)):
        tone(Path(f"{name}.wav"), number, seconds)
    return tmp_path


# --- pairs --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tones")
def test_sources_are_taken_in_pairs() -> None:
    first, second = written(
        listening(order="input").classify(["a.wav", "b.wav", "a.wav", "c.wav"], **PAIRS)
    )
    assert (first["file"], first["files"]) == ("a.wav", ["a.wav", "b.wav"])
    assert (second["file"], second["files"]) == ("a.wav", ["a.wav", "c.wav"])
    assert (yes(first), yes(second)) == (False, True)
    assert (first["duration"], second["duration"]) == (3, 4)
    assert first["id"] != second["id"]


@pytest.mark.usefixtures("tones")
def test_each_mention_counts_in_pairs_and_not_elsewhere() -> None:
    """The same file in one pair, too: of one inode by two names, from a directory and a glob."""
    Path("link.wav").symlink_to("a.wav")
    assert [r["files"] for r in written(listening().classify(["a.wav", "a.wav"], **PAIRS))] == [
        ["a.wav", "a.wav"]
    ]
    found = written(listening(order="input").classify([".", "a*.wav", "b.wav", "b.wav"], **PAIRS))
    assert [name for record in found for name in record["files"]] == [
        "./a.wav", "./b.wav", "./c.wav", "./d.wav", "./link.wav", "a.wav", "b.wav", "b.wav",
    ]  # fmt: skip
    asked = written(listening().ask("What?", ["a.wav", "a.wav", "link.wav"]))
    assert [record["file"] for record in asked] == ["a.wav"]


@pytest.mark.usefixtures("tones")
def test_an_odd_source_has_no_second_clip() -> None:
    pair, odd = written(listening(order="input").classify(["a.wav", "c.wav", "d.wav"], **PAIRS))
    assert yes(pair)
    assert odd["error"]["code"] == "incomplete"
    assert odd["error"]["message"].startswith("d.wav: has no second clip")
    assert (odd["file"], odd["files"]) == ("d.wav", ["d.wav"])


@pytest.mark.usefixtures("tones")
def test_a_bad_member_fails_its_own_pair_and_is_named() -> None:
    Path("text.wav").write_text("this is no audio\n")
    Path("cut.wav").write_bytes(Path("c.wav").read_bytes()[:-20_000])
    pairs = [("a", "gone"), ("a", "none"), ("a", "text"), ("cut", "b"), ("c", "a")]
    sources = [f"{name}.wav" for pair in pairs for name in pair]
    *bad, good = written(listening(order="input").classify(sources, **PAIRS))
    assert [(r["file"], r["files"][1], r["error"]["code"]) for r in bad] == [
        ("a.wav", "gone.wav", "missing"),
        ("a.wav", "none.wav", "missing"),
        ("a.wav", "text.wav", "unsupported"),
        ("cut.wav", "b.wav", "decode"),
    ]
    for record, name in zip(bad, ("gone", "none", "text", "cut"), strict=True):
        assert record["error"]["message"].startswith(f"{name}.wav: ")
    assert len({record["id"] for record in bad}) == 4
    assert yes(good)


@pytest.mark.usefixtures("tones")
def test_the_member_at_which_a_bug_shows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Listener.features

    def failing(self: Listener, samples: Any) -> Any:
        found = features(self, samples)
        assert found.item() != 9
        return found

    monkeypatch.setattr(Listener, "features", failing)
    (record,) = written(listening().classify(["a.wav", "d.wav"], **PAIRS))
    assert record["error"]["code"] == "internal"
    assert record["error"]["message"].startswith("d.wav: ")


@pytest.mark.usefixtures("tones")
def test_pairs_that_are_done_are_left_out() -> None:
    """By content: whatever the files are called, but not in another order."""
    qwa = listening()
    (done,) = written(qwa.classify(["a.wav", "b.wav"], **PAIRS))
    shutil.copy("b.wav", "copy.wav")
    answering = qwa.prepare("classify", Options(**PAIRS))
    names = ["a.wav", "copy.wav", "b.wav", "a.wav", "c.wav", "d.wav"]
    sources = (Source(name, Path(name)) for name in names)
    found = written(answering(sources, lambda identifier, name: identifier == done["id"]))
    assert sorted(record["files"] for record in found) == [["b.wav", "a.wav"], ["c.wav", "d.wav"]]


@pytest.mark.usefixtures("tones")
def test_a_pair_is_answered_before_the_next_is_named() -> None:
    taken: list[str] = []
    answered = threading.Event()

    def slowly() -> Iterator[Source]:
        for name in ("a.wav", "c.wav", "b.wav", "d.wav"):
            taken.append(name)
            yield Source(name, Path(name))
            if name == "c.wav":
                assert answered.wait(60)

    records = listening(workers=1).prepare("classify", Options(**PAIRS))(slowly())
    assert next(records).files == ("a.wav", "c.wav")
    assert taken == ["a.wav", "c.wav"]
    answered.set()
    assert [record.files for record in records] == [("b.wav", "d.wav")]


@given(st.lists(st.sampled_from("abc")), st.integers(2, 5))
def test_groups_lose_nothing_and_keep_the_order(names: Sequence[str], clips: int) -> None:
    task = replace(TASKS["speaker-verification"], clips=clips)
    groups = list(group((Source(name, None) for name in names), task))
    assert [name for each in groups for name in each.names] == [*names]
    assert all(len(each.names) == clips for each in groups[:-1])
    together = list(group((Source(name, None) for name in names), replace(task, clips=None)))
    assert [each.names for each in together] == ([tuple(names)] if names else [])


# --- what stands for the content ----------------------------------------------------------------


def test_the_fingerprint_is_of_all_members_their_order_and_the_text(tones: Path) -> None:
    a, b, c = (Source(f"{name}.wav", tones / f"{name}.wav") for name in "abc")
    shutil.copy(tones / "b.wav", tones / "copy.wav")
    sources = [
        a,
        Source("a", a.path, (b,)),
        Source("a", a.path, (c,)),
        Source("a", a.path, (b, c)),
        Source("a", a.path, (c, b)),
        Source("a", a.path, (b, b)),
        Source("b", b.path, (a,)),
        Source("a", a.path, text=""),
        Source("a", a.path, text="one"),
        Source("a", a.path, (b,), text="one"),
    ]
    assert len({fingerprint(source) for source in sources}) == len(sources)
    renamed = Source("x", a.path, (Source("y", tones / "copy.wav"),))
    assert fingerprint(renamed) == fingerprint(sources[1])
    with pytest.raises(InputError, match="gone"):
        fingerprint(Source("a", a.path, (Source("gone", Path("gone")),)))


# --- heard whole --------------------------------------------------------------------------------


def test_nothing_is_cut_and_silence_is_heard(tmp_path: Path) -> None:
    """Where somebody speaks is not looked for; every file is one clip of its own length."""
    pause = np.zeros(64_000)
    high = 0.5 * np.sin(np.arange(22_050) * 2 * np.pi * 600 / 44_100)
    soundfile.write(tmp_path / "pause.wav", pause, 16_000)
    soundfile.write(tmp_path / "high.flac", np.stack([high, high], axis=1), 44_100)
    low = tone(tmp_path / "low.wav", 3, WINDOW)
    (record,) = written(
        listening().ask("?", [tmp_path / "pause.wav", tmp_path / "high.flac", low], together=True)
    )
    assert record["text"].split("|")[1] == "4 0.5 10"
    assert record["duration"] == 14.5
    (segment,) = record["segments"]
    assert (segment["start"], segment["end"]) == (0, 14.5)


@pytest.mark.parametrize("samples", [159_999, 160_000, 160_001, 400_000])
def test_a_clip_is_as_long_as_the_window_at_most(tmp_path: Path, samples: int) -> None:
    """Its length is told as another program tells it."""
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, samples), 16_000)
    audio = Audio(Source("tone.wav", path))
    if samples <= WINDOW * 16_000:
        clip = uncut(audio, WINDOW)
        expected, _ = soundfile.read(path, dtype="float32")
        assert clip.start == 0
        assert np.array_equal(clip.samples, expected)
        return
    with pytest.raises(InputError) as caught:
        uncut(audio, WINDOW)
    assert caught.value.code == "length"
    if shutil.which("soxi") is None:
        pytest.skip("sox is not installed")
    told = subprocess.run(["soxi", "-D", path], capture_output=True, text=True, check=True)
    assert str(caught.value) == (
        f"tone.wav: has {float(told.stdout):.2f} s, of which the model hears 10 s at once"
    )


@pytest.mark.usefixtures("tones")
def test_a_member_that_is_too_long_is_an_error_record() -> None:
    tone(Path("long.wav"), 5, 12)
    found = written(
        listening(order="input").classify(["a.wav", "long.wav", "a.wav", "c.wav"], **PAIRS)
    )
    assert found[0]["error"]["code"] == "length"
    assert found[0]["error"]["message"].startswith("long.wav: has 12.00 s")
    assert "10 s" in found[0]["error"]["message"] and found[0]["file"] == "a.wav"
    assert yes(found[1])


@pytest.mark.parametrize("together", [False, True])
def test_what_has_no_room_in_the_model_is_told_without_a_trace(
    together: bool, tones: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("listener.ROOM", 2.5)
    with caplog.at_level(logging.DEBUG):
        qwa = listening(order="input")
        record = written(qwa.ask("?", ["c.wav", "a.wav"], together=together))[0]
    named = "c.wav and 1 more" if together else "c.wav"
    seconds = 4 if together else 3
    assert record["error"] == {
        "code": "length", "message": f"{named}: {seconds} s are more than 2.5",
    }  # fmt: skip
    assert not [each for each in caplog.records if each.exc_info]


class Refusing(Listener):
    """Hears only then that it cannot do what is asked."""

    def answer(self, job: Any, subject: Any) -> Any:
        yield from super().answer(job, subject)
        raise Refused("the words of Swedish are not aligned")


@pytest.mark.usefixtures("tones")
def test_what_a_model_cannot_do_with_a_clip_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """It costs the one record alone, and no trace is logged."""
    qwa = listening(order="input")
    qwa.families["listener"] = Refusing()
    records = written(qwa.ask("?", ["b.wav", "a.wav"]))
    assert [record["error"] for record in records] == [
        {"code": "beyond", "message": f"{name}: the words of Swedish are not aligned"}
        for name in ("b.wav", "a.wav")
    ]
    assert not [each for each in caplog.records if each.exc_info]


# --- together -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("tones")
def test_all_sources_are_asked_about_at_once() -> None:
    (record,) = written(listening().ask("Which?", ["b.wav", "a.wav", "b.wav"], together=True))
    assert (record["task"], record["question"]) == ("conversation", "Which?")
    assert (record["file"], record["files"]) == ("b.wav", ["b.wav", "a.wav", "b.wav"])
    assert record["text"] == "7 4 7|2 1 2" and record["duration"] == 5
    same = written(listening().ask("Which?", ["b.wav", "a.wav", "b.wav"], task="conversation"))
    assert same[0]["id"] == record["id"] and same[0]["text"] == record["text"]
    alone = written(listening(order="input").ask("Which?", ["b.wav", "a.wav", "b.wav"]))
    assert [r["text"] for r in alone] == ["7|2", "4|1"]
    assert not any("files" in r for r in alone)
    assert list(listening().ask("Which?", [], together=True)) == []


@pytest.mark.usefixtures("tones")
def test_several_questions_about_the_same_group_hear_it_once() -> None:
    qwa = listening()
    family: Any = qwa.families["listener"]
    first, second = written(
        qwa.run("ask:conversation", ["a.wav", "b.wav"], questions=["One?", "Two?"])
    )
    assert (first["question"], second["question"]) == ("One?", "Two?")
    assert first["files"] == second["files"] == ["a.wav", "b.wav"]
    assert family.model.encoded == 2


def test_a_conversation_has_a_bound_on_its_clips() -> None:
    task = TASKS["conversation"]
    most = (Source(f"{n}", None) for n in range(MOST_TOGETHER))
    assert [len(each.names) for each in group(most, task)] == [MOST_TOGETHER]
    endless = (Source(f"{n}", None) for n in itertools.count())
    with pytest.raises(UsageError, match=f"{MOST_TOGETHER} clips at most"):
        next(group(endless, task))


# --- several devices ----------------------------------------------------------------------------


def in_worker(qwa: Qwa, queries: Sequence[Query], device: str) -> Any:
    """What a worker prepares, with a listener for its model."""
    api.open_model = lambda *wanted, **how: Listener()  # type: ignore[assignment]
    return api._on_device(qwa, queries, device)


def test_workers_are_given_whole_groups(tones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.wav", "b.wav", "a.wav", "gone.wav", "a.wav", "none.wav", "c.wav", "a.wav", "d.wav"]
    alone = written(listening(order="input").classify(names, **PAIRS))
    monkeypatch.setattr(api, "_on_device", in_worker)
    fleet = Qwa(model="listener", devices=("cpu", "cpu"), dtype="float32", order="input")
    fleet.families["listener"] = Listener()
    found = written(fleet.classify(names, **PAIRS))
    for record in (*alone, *found):
        record.pop("timing", None)
    assert found == alone
    assert [name for record in found for name in record["files"]] == names
    (asked,) = written(fleet.ask("Which?", ["b.wav", "a.wav"], together=True))
    assert asked["text"] == "7 4|2 1"


class Mortal(Listener):
    """Dies of the highest tone."""

    def features(self, samples: Any) -> Any:
        found = super().features(samples)
        if found.item() == 31:
            os.kill(os.getpid(), signal.SIGKILL)
        return found


def in_mortal_worker(qwa: Qwa, queries: Sequence[Query], device: str) -> Any:
    api.open_model = lambda *wanted, **how: Mortal()  # type: ignore[assignment]
    return api._on_device(qwa, queries, device)


def test_a_group_that_a_worker_took_to_its_death_has_one_record(
    tones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_on_device", in_mortal_worker)
    tone(Path("die.wav"), 31)
    names = ["a.wav", "b.wav", "a.wav", "die.wav", "a.wav", "c.wav", "d.wav", "c.wav"]
    fleet = Qwa(model="listener", devices=("cpu", "cpu"), dtype="float32", order="input", workers=1)
    fleet.families["listener"] = Listener()
    found = written(fleet.classify(names, **PAIRS))
    assert [name for record in found for name in record["files"]] == names
    assert found[1]["error"]["code"] == "internal"
    assert found[1]["error"]["message"].startswith("a.wav and 1 more: the worker on cpu was killed")
    alone = written(listening(order="input").classify(names, **PAIRS))
    assert [record["id"] for record in found] == [record["id"] for record in alone]
    assert any(record["status"] == "ok" for record in found)


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def here(
    tones: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Here]:
    with command_line(capfdbinary, monkeypatch) as call:
        yield call


def test_pairs_from_a_list_resume(here: Here) -> None:
    """A list of trials: its first file is in all of them."""
    Path("trials").write_text("a.wav\nb.wav\na.wav\nc.wav\n")
    line = ("classify", "--task", "speaker-verification", "--files-from", "trials", "-o", "out")
    code, _, told = here(*line)
    assert code == 0
    assert told[-1].startswith("qwa: 4 files, 0 failed, 7.0 s of audio in ")
    with Path("trials").open("a") as trials:
        trials.write("a.wav\ngone.wav\n")
    code, _, told = here(*line, "--resume")
    assert code == Exit.SOME_FAILED
    assert told == [
        "qwa: gone.wav: no such file or directory", "qwa: 2 files, 1 failed, 2 done before",
    ]  # fmt: skip
    found = [json.loads(line) for line in Path("out").read_text().splitlines()]
    assert sorted(record["files"][1] for record in found) == ["b.wav", "c.wav", "gone.wav"]


def test_names_of_several_clips_outside_utf8(here: Here) -> None:
    strange = os.fsdecode(b"caf\xe9.wav")
    shutil.copy("a.wav", strange)
    code, (record,), _ = here("ask", "--together", "Which?", "b.wav", strange)
    assert code == 0
    assert (record["file"], record["files"]) == ("b.wav", ["b.wav", "caf\ufffd.wav"])
    assert [base64.b64decode(name) for name in record["files_b64"]] == [b"b.wav", b"caf\xe9.wav"]
    assert "file_b64" not in record


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ask --together --task audio-qa What? a.wav", "'audio-qa' takes no --together"),
        ("ask --together What?", "--files-from"),
        ("ask What? --together - -", "standard input (-) is one recording"),
        ("ask What? --context Qwen a.wav", "'audio-qa' does not write down"),
        ("classify --task speaker-verification --no-vad a.wav b.wav", "--no-vad"),
        ("transcribe --context @gone.txt a.wav", "--context: gone.txt cannot be read"),
        ("run -t transcribe,classify:speaker-verification a.wav b.wav", "hear the same clips"),
    ],
)
def test_wrong_usage(line: str, told: str, here: Here) -> None:
    code, found, (message,) = here(*line.split(" "))
    assert (code, found) == (Exit.USAGE, [])
    assert told in message


def test_context_is_given_to_the_model_and_makes_another_id(here: Here) -> None:
    Path("terms").write_text("Qwen\nDigium\n")
    found = {}
    for context in ("", "Qwen", "@terms"):
        line = ("transcribe", "--no-vad", "--context", context, "a.wav")
        code, (record,), _ = here(*line)
        assert code == 0
        found[context] = record
    assert [record["text"] for record in found.values()] == [
        "4|1", "4|1|Qwen", "4|1|Qwen\nDigium",
    ]  # fmt: skip
    assert len({record["id"] for record in found.values()}) == 3
    assert len({record["options"] for record in found.values()}) == 3
