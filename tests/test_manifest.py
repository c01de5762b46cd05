"""Manifests: what is written is read again, and what is wrong is named by file and line."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES
from hypothesis import given
from hypothesis import strategies as st

from qwen_audio_cli.errors import OutputError, UsageError
from qwen_audio_cli.training.manifest import Item, read, write

AUDIO = EXAMPLES / "en-one-participant.wav"
GOOD = {"audio": str(AUDIO), "target": "one", "task": "asr", "language": "en"}
texts = st.text(string.printable + "éß你", min_size=1).filter(str.strip)
seconds = st.floats(0, 1e6, allow_nan=False)


@given(
    targets=st.lists(texts, max_size=4),
    speaker=st.none() | texts,
    words=st.none() | st.lists(st.tuples(texts, st.just(0.0), seconds)).map(tuple),
    length=st.none() | seconds,
)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory,
    targets: list[str],
    speaker: str | None,
    words: Any,
    length: float | None,
) -> None:
    path = tmp_path_factory.mktemp("m") / "m.jsonl"
    items = [
        Item(
            audio=AUDIO,
            target=target,
            task="asr",
            language="en",
            timestamps=number % 2 == 1,
            split="dev",
            speaker=speaker,
            words=words,
            seconds=length,
        )
        for number, target in enumerate(targets)
    ]
    write(items, path)
    found = list(read(path))
    assert [item.audio.resolve() for item in found] == [AUDIO.resolve()] * len(items)
    for item, again in zip(items, found, strict=True):
        for name in ("target", "task", "timestamps", "split", "speaker", "words", "seconds"):
            assert getattr(again, name) == getattr(item, name)
    for line in path.read_text().splitlines():
        assert not Path(json.loads(line)["audio"]).is_absolute()
        assert None not in json.loads(line).values()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"audio": "nowhere.wav"}, r"nowhere\.wav: no such file"),
        ({"audio": None}, "no 'audio'"),
        ({"task": "asrr"}, "unknown task 'asrr': did you mean asr"),
        ({"task": "alignment"}, "needs the text"),
        ({"task": "speaker-verification"}, "several clips"),
        ({"target": " "}, "the target is empty"),
        ({"target": 7}, "'target' is a text"),
        ({"text": "one"}, "unknown key 'text'"),
        ({"langauge": "en"}, "did you mean 'language'"),
        ({"language": "klingon"}, "klingon"),
        ({"timestamps": "yes"}, "'timestamps' is true or false"),
        ({"split": "valid"}, "'split' is train or dev or test"),
        ({"to": "de"}, "translate"),
        ({"question": "What?"}, "takes no question"),
        ({"seconds": -1}, "'seconds' is a number of seconds"),
        ({"words": [["one", 1.0, 0.5]]}, r"'words' is a list of \[word, begin, end\]"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{json.dumps(GOOD | change)}\n")
    items = read(path)
    assert next(items).target == "one"
    with pytest.raises(UsageError, match=rf"m\.jsonl:3: .*{reason}"):
        next(items)


@pytest.mark.parametrize("line", ['{"seconds": NaN}', "[1]", "{", '{"seconds": 1e999}', "\xff"])
def test_what_is_no_json_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "m.jsonl"
    good = json.dumps(GOOD)
    if "seconds" in line:
        line = good[:-1] + ", " + line[1:]
    path.write_bytes(line.encode("latin-1"))
    with pytest.raises(UsageError, match=r"m\.jsonl:1: "):
        list(read(path))


def test_a_manifest_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.jsonl: cannot be read: no such file"):
        list(read(tmp_path / "none.jsonl"))
    path = tmp_path / "m.jsonl"
    path.write_text("as it was")
    item = Item(audio=AUDIO, target="\ud800", task="asr")
    with pytest.raises(OutputError, match="cannot stand in a manifest"):
        write([item], path)
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


def test_an_item_asks_what_the_command_line_asks() -> None:
    from qwen_audio_cli.options import Options

    item = Item(audio=AUDIO, target="x", task="translation", language="French", to="de")
    options = Options(task="translation", language="French", to="de")
    assert item.job().tags == options.tag_sequence("translate")
    chosen = Item(audio=AUDIO, target="male", task="gender").job()
    assert "male" in chosen.labels
    assert Item(audio=AUDIO, target="a robot", task="gender").job().labels == ()
