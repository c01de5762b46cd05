"""The benchmark of mini, on real recordings, with a model whose answers are known to be right.

Whisper takes the part of mini, so that its column equals that of its peer.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from conftest import EXAMPLES

from qwen_audio_cli.layout import WEIGHTS
from qwen_audio_cli.records import Label, Record
from qwen_audio_cli.training.manifest import Item, write

pytest.importorskip("jiwer", reason="jiwer, of the extra 'bench', is not installed")

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "mini.py"
TIMED = Path(__file__).parent / "data" / "word_times"
SAID = "There is currently one other participant in the conference."


def recorded(name: str, **values: Any) -> Item:
    return Item(audio=EXAMPLES / f"{name}.wav", split="test", **values)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    spoken = recorded("en-one-participant", task="asr", language="en", target=SAID, speaker="A")
    wrong = replace(spoken, target="There is one.", speaker="B")  # six of nine words are added
    items = {
        "recordings": [
            *(spoken, wrong),
            replace(spoken, target="never asked for", split="train"),
            recorded("fr-one-participant", task="language", target="fr"),
            recorded("ru-no-connection", task="language", target="fr"),
            recorded("en-one-participant", task="gender", target="female"),
        ],
        "speech": [_timed(entry) for entry in json.loads((TIMED / "times.json").read_text())],
    }
    for corpus, members in items.items():
        (folder / corpus).mkdir()
        write(members, folder / corpus / "manifest.jsonl")
    return folder


def _timed(entry: dict[str, Any]) -> Item:
    words = tuple((w["word"], w["start"], w["end"]) for w in entry["words"])
    target = " ".join(word for word, _, _ in words)
    return Item(
        audio=TIMED / entry["file"],
        task="asr",
        language=entry["language"],
        target=target,
        split="test",
        words=words,
    )


def test_lines_are_measured_on_the_test_items(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "mini.json"
    lines = ("english-real", "word-times", "language", "gender")
    words = [str(WEIGHTS / "whisper-base"), "--data", str(data), "--out", str(out), "--only"]
    ran = run(
        [sys.executable, str(SCRIPT), *words, *lines],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(out.read_text())
    rows = {row["what"]: row for row in report["rows"]}
    one, two = (f"English, real recordings, {speaker}: word error rate" for speaker in "AB")
    assert rows[one]["value"] == rows[one]["peer"] == 0 and rows[one]["outcome"] == "met"
    assert rows[two]["value"] == rows[two]["peer"] == 2 and rows[two]["outcome"] == "missed"
    language = rows["language, real recordings"]
    assert (language["value"], language["peer"], language["count"]) == (0.5, 0.5, 2)
    times = rows["words within 100 ms"]
    assert times["count"] == 2 and times["value"] == times["peer"] > 0.5
    assert rows["gender, real"]["outcome"] == "not measured"
    assert "families that can" in ran.stderr  # why
    table = ran.stdout.splitlines()
    assert len(table) == 2 + len(rows)
    assert f"| {two} | at most 15.0 % | 200.0 % | 200.0 % | 1 | missed |" in table


def test_labels_count_alike_however_few_items_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says `female` of everybody is right of most clips, and half right."""
    monkeypatch.syspath_prepend(os.fspath(SCRIPT.parent))
    from mini_lines import shares_by_label

    items = [
        recorded("en-one-participant", task="gender", target=target)
        for target in ("female", "female", "male", "female")
    ]
    woman = Record(
        id="0" * 32,
        task="gender",
        file="a",
        model="m@1",
        options="0" * 12,
        labels=(Label("female", 1.0),),
    )
    assert shares_by_label(items, [woman] * 4) == {"female": 1.0, "male": 0.0}
