"""Mini as a model of the package: what it is chosen for, what is told of it, and without it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_mini
import torch
from conftest import CPU
from test_models import WAV, Command, qwa

from qwen_audio_cli import Qwa
from qwen_audio_cli.errors import ModelError, UsageError
from qwen_audio_cli.exits import Exit
from qwen_audio_cli.families.registry import open_checkpoint
from qwen_audio_cli.models import CARDS, MODELS, Wanted, default_for, locate
from qwen_audio_cli.task_table import EXPERIMENTAL
from qwen_audio_cli.tasks import TASKS

__all__ = ["qwa"]  # a fixture

LEARNED = {
    "asr", "word-times", "language", "gender", "audio-caption", "music-caption", "sound-event",
    "instrument", "pitch", "velocity", "audio-qa", "music-qa", "translation", "custom",
}  # fmt: skip
SURE = LEARNED - EXPERIMENTAL["mini"]
OLDER = ("asr", "translation", "language", "word-times")
"""What Whisper-base was chosen for before there was another."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mini.tiny(tmp_path_factory.mktemp("mini")).directory


@pytest.fixture
def lies_at() -> Iterator[Callable[[Path], None]]:
    """Say where the package's mini lies."""
    card = CARDS["mini"]
    before = card.directory
    yield lambda directory: object.__setattr__(card, "directory", directory)
    object.__setattr__(card, "directory", before)


@pytest.fixture
def mini(checkpoint: Path, lies_at: Callable[[Path], None]) -> Path:
    """A package with a tiny mini in it."""
    lies_at(checkpoint)
    return checkpoint


@pytest.fixture
def gone(tmp_path: Path, lies_at: Callable[[Path], None]) -> Path:
    """A package without its mini."""
    lies_at(tmp_path / "gone")
    return tmp_path / "gone"


# --- what it is for -----------------------------------------------------------------------------


def test_it_does_what_it_learned_and_is_experimental_at_some_of_it() -> None:
    assert {name for name, task in TASKS.items() if "mini" in task.families} == LEARNED
    for family, names in EXPERIMENTAL.items():
        assert names == {name for name, task in TASKS.items() if family in task.experimental}
        assert all(family in TASKS[name].families for name in names)


def test_the_checkpoint_refuses_all_else_by_name(checkpoint: Path) -> None:
    family = open_checkpoint(checkpoint, "any")
    for name in set(TASKS) - LEARNED:
        with pytest.raises(UsageError, match=f"^mini cannot do {name} "):
            TASKS[name].require(family.name)
    with pytest.raises(UsageError, match=r"mini translates into English .* write de: qwen-"):
        Qwa(model=str(checkpoint)).translate(WAV, to="de")
    with pytest.raises(UsageError, match=r"mini answers in English only; .* zh: qwen-audio"):
        Qwa(model=str(checkpoint)).caption(WAV, to="zh")


@pytest.mark.skipif(not CARDS["mini"].is_embedded, reason="this checkout has no weights of mini")
def test_its_card_tells_what_its_files_hold() -> None:
    card = CARDS["mini"]
    assert card.directory is not None
    family = open_checkpoint(card.directory, card.alias)
    assert (family.name, family.window) == (card.family, card.window)
    assert family.parameters == pytest.approx(card.parameters * 1e6, rel=0.01)


# --- what is chosen where the user names no model -----------------------------------------------


def test_it_is_chosen_for_what_it_is_sure_of(mini: Path) -> None:
    assert {name for name in OLDER if default_for(TASKS[name]) == "whisper-base"} == set(OLDER)
    assert {name for name in SURE.difference(OLDER) if default_for(TASKS[name]) == "mini"} == (
        SURE.difference(OLDER)
    )
    for name in LEARNED.difference(SURE, OLDER):
        with pytest.raises(UsageError) as refused:
            default_for(TASKS[name])
        before, _, after = str(refused.value).partition(", but experimentally mini (--model mini)")
        assert before == f"no embedded model can do '{name}' ({TASKS[name].title})"
        assert after.startswith("; models that can: qwen-audio") and "mini" not in after
    with pytest.raises(UsageError, match=r"all of 'asr' .*, but experimentally mini \(.*: qwen-"):
        default_for(TASKS["asr"], TASKS["gender"])
    with pytest.raises(UsageError) as refused:
        default_for(TASKS["emotion"])
    assert "mini" not in str(refused.value)


def test_a_package_without_it_is_as_one_before_it(gone: Path, qwa: Command) -> None:
    """Nobody is told to fetch what is nowhere to be fetched."""
    for name in sorted(LEARNED):
        if name in OLDER:
            assert default_for(TASKS[name]) == "whisper-base"
            continue
        with pytest.raises(UsageError) as refused:
            default_for(TASKS[name])
        assert "mini" not in str(refused.value)
    rows = {row["name"]: row for row in map(json.loads, qwa("models", "--json")[1].splitlines())}
    assert "mini" not in rows and len(rows) == len(MODELS) - 1
    assert qwa("tasks")[0] == 0
    missing = [f"qwa: mini is not part of this installation: no {gone}"]
    assert qwa("transcribe", WAV, "--model", "mini") == (Exit.UNAVAILABLE, "", missing)
    assert qwa("models", "pull", "mini") == (Exit.UNAVAILABLE, "", missing)
    with pytest.raises(ModelError, match="not part of this installation"):
        locate(Wanted("mini"))


# --- what is told of it -------------------------------------------------------------------------


def test_the_tasks_tell_where_it_is_experimental(mini: Path, qwa: Command) -> None:
    rows = {row["name"]: row for row in map(json.loads, qwa("tasks", "--json")[1].splitlines())}
    assert {name for name, row in rows.items() if "mini" in row["models"]} == LEARNED
    assert {n for n, row in rows.items() if row["experimental"] == ["mini"]} == EXPERIMENTAL["mini"]
    assert {n for n, row in rows.items() if not row["experimental"]} == (
        set(TASKS) - EXPERIMENTAL["mini"]
    )
    heading, *lines = qwa("tasks")[1].splitlines()
    cells = {line.split()[0]: line[heading.index("MODELS") :].split("  ")[0] for line in lines}
    for name, cell in cells.items():
        marked = "mini (experimental)" if name in EXPERIMENTAL["mini"] else "mini"
        mine = marked if name in LEARNED else "-"
        assert cell == (f"whisper-base,{mine}" if name in OLDER else mine)
        # Beside what other checkpoints may be fetched.
        assert (f"{marked},qwen-audio" in lines[list(cells).index(name)]) == (name in LEARNED)


def test_the_models_tell_that_it_is_on_no_hub(mini: Path, qwa: Command) -> None:
    rows = {row["name"]: row for row in map(json.loads, qwa("models", "--json")[1].splitlines())}
    assert list(rows)[:2] == ["whisper-base", "mini"] and len(rows) == len(MODELS)
    row = rows["mini"]
    assert (row["source"], row["present"], row["path"]) == (None, True, os.fspath(mini))
    assert set(row["experimental"]) == EXPERIMENTAL["mini"] <= set(row["tasks"])
    assert rows["whisper-base"]["experimental"] == []
    heading, _, line, *_ = qwa("models")[1].splitlines()
    assert line.split()[:6] == ["mini", "mini", "165", "M", "0.3", "GB"]
    assert line[heading.index("PRESENT") :].split() == ["yes", "-"]


def test_there_is_nothing_to_fetch(mini: Path, qwa: Command) -> None:
    told = "qwa: mini is part of this package: there is nothing to fetch"
    assert qwa("models", "pull", "mini") == (0, f"{mini}\n", [told])
    assert qwa("models", "pull", "mini", "--quiet") == (0, f"{mini}\n", [])
    code, _, lines = qwa("models", "pull", "mini", "--revision", "v1")
    assert (code, lines) == (Exit.USAGE, ["qwa: mini is embedded, and has no other revision"])


def test_what_it_is_not_sure_of_is_done_with_a_warning(mini: Path, qwa: Command) -> None:
    options = ("--model", "mini", "--max-tokens", "2", "--no-vad", "-q", "--language", "en")
    code, shown, lines = qwa("transcribe", WAV, *options)
    label = open_checkpoint(mini, "mini").label
    assert (code, json.loads(shown)["model"]) == (0, label)
    assert lines == [f"qwa: {label} is experimental at asr: expect wrong answers"]
    code, shown, lines = qwa("classify", "--task", "gender", "--model", "mini", "-q", WAV)
    by_name = json.loads(shown)
    assert (code, by_name["model"], len(lines)) == (0, label, 1)
    assert {row["label"] for row in by_name["labels"]} == {"male", "female"}
    code, shown, lines = qwa("classify", "--task", "pitch", "--model", "mini", "-q", WAV)
    assert (code, json.loads(shown)["model"], lines) == (0, label, [])  # it is sure enough of that


def test_it_warns_once_of_each_task(
    checkpoint: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is called by."""
    monkeypatch.setattr(logging.getLogger("qwen_audio_cli"), "propagate", True)
    model = Qwa(model=os.fspath(checkpoint), device="cpu")
    family = open_checkpoint(checkpoint, "tiny")
    family.load(torch.float32, CPU)
    model.families[os.fspath(checkpoint)] = family
    for tasks in (
        "transcribe",
        "transcribe,classify:instrument",
        "transcribe,timestamp",
        "timestamp",
    ):
        list(model.run(tasks, WAV, language="en", max_tokens=1))
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"{family.label} is experimental at {name}: expect wrong answers"
        for name in ("asr", "instrument", "word-times")
    ]
