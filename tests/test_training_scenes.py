"""Scenes hold what is said of them, where it is said; recordings only test."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES
from fetched import fetched, heard
from numpy.typing import NDArray

from qwen_audio_cli.training.data import corpus, recordings, scenes
from qwen_audio_cli.training.data.package_table import ASTERISK_LANGUAGES, may_train
from qwen_audio_cli.training.manifest import SPLITS, Item, read, write


@pytest.fixture(scope="session")
def cache() -> Path:
    """What scenes are made of."""
    return fetched(
        "fluid-soundfont-gm", "sonic-pi-samples", "gcompris-qt-data", program="fluidsynth"
    )


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of real speech, as `speech` would make one."""
    path = tmp_path_factory.mktemp("speech") / "manifest.jsonl"
    spoken = sorted(EXAMPLES.glob("*.wav"))
    items = [
        Item(
            audio=wav,
            target=f"what {wav.stem} says",
            task="asr",
            language=None if number % 2 else "en",
            tags=ITN if number % 2 else None,
            split=split,
            source=f"an example: {wav.name}",
            licence="CC0-1.0",
            seconds=soundfile.info(wav).duration,
        )
        for number, wav in enumerate(spoken)
        for split in SPLITS
    ]
    write(items, path)
    return path


@pytest.fixture(scope="session")
def scened(cache: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """A few minutes of scenes."""
    out = tmp_path_factory.mktemp("scenes")
    made = scenes.generate(out, hours=0.2, seed=3, workers=1, cache=cache, speech=speech)
    return list(read(made))


ITN = "<|startoftranscript|><|en|><|transcribe|><|en|><|notimestamps|><|itn|>"
STRETCH = re.compile(r"<\|(\d+\.\d\d)\|>([^<]*|<\|sil\|>)(?=<\|(\d+\.\d\d)\|>)")


def stretches(item: Item) -> list[tuple[float, list[str], float]]:
    """Begin, labels and end of the stretches of a timeline."""
    found = [
        (float(begin), [] if text == "<|sil|>" else text.split(", "), float(end))
        for begin, text, end in STRETCH.findall(item.target)
    ]
    assert found[0][0] == 0.0 and found[-1][2] == item.seconds
    assert all(a[2] == b[0] for a, b in pairwise(found))
    return found


def timed(items: list[Item]) -> dict[Path, list[tuple[float, list[str], float]]]:
    return {item.audio: stretches(item) for item in items if item.task == "sound-event-times"}


def events(timeline: list[tuple[float, list[str], float]]) -> list[tuple[float, str, float]]:
    """Sounds with their times, in the order they begin."""
    found: list[tuple[float, str, float]] = []
    for begin, labels, end in timeline:
        for label in labels:
            before = next((e for e in found if e[1] == label and e[2] == begin), None)
            if before:
                found[found.index(before)] = (before[0], label, end)
            else:
                found.append((begin, label, end))
    return sorted(found)


def test_scenes_sound_where_their_times_say_so(scened: list[Item]) -> None:
    count = 0
    for item in scened:
        if item.task != "sound-event-times":
            continue
        samples = heard(item)

        def peak(begin: float, end: float, samples: NDArray[np.float32] = samples) -> float:
            inside = samples[round((begin + 0.006) * 16000) : round((end - 0.006) * 16000)]
            return float(np.abs(inside).max(initial=0))

        found = stretches(item)
        silent = [peak(begin, end) for begin, labels, end in found if not labels]
        assert max(silent) < 0.02
        for begin, _, end in events(found):
            assert peak(begin - 0.012, end + 0.012) > 0.15
        count += len(silent)
    assert count > 100


def test_answers_are_right_by_the_times(scened: list[Item]) -> None:
    timelines = timed(scened)
    numbers = ("zero", "one", "two", "three", "four", "five")
    asked = Counter()
    for item in scened:
        if item.task != "audio-qa":
            continue
        found = events(timelines.get(item.audio, []))
        labels = list(dict.fromkeys(label for _, label, _ in found))
        overlap = any(len(labels) > 1 for _, labels, _ in timelines.get(item.audio, []))
        kind, _, label = item.question.rstrip("?").partition(": ")
        right = {
            "What is heard": ", ".join(labels),
            "How many different sounds are heard": numbers[len(labels)],
            "How many times is this sound heard": numbers[sum(e[1] == label for e in found)],
            "Is speech heard": "yes" if "speech" in labels else "no",
            "Is this sound heard": "yes" if label in labels else "no",
            "Are two sounds heard at the same time": "yes" if overlap else "no",
            "Which sound begins first": found[0][1] if found else "",
            "Which sound begins last": found[-1][1] if found else "",
        }
        assert item.target == right[kind], (item, found)
        asked[kind, item.target in ("yes", "no") and item.target] += 1
    assert {("Is this sound heard", "yes"), ("Is this sound heard", "no")} < set(asked)
    assert {("Is speech heard", "yes"), ("Is speech heard", "no")} < set(asked)


def test_captions_and_labels_tell_of_the_same_sounds(scened: list[Item]) -> None:
    timelines = timed(scened)
    for item in scened:
        if item.audio not in timelines:
            continue
        found = events(timelines[item.audio])
        labels = list(dict.fromkeys(label for _, label, _ in found))
        if item.task == "sound-event":
            assert item.target == ", ".join(labels)
        elif item.task == "audio-caption":
            overlap = any(len(several) > 1 for _, several, _ in timelines[item.audio])
            assert (" while " in item.target) == overlap
            parts = re.split(r", then |, and finally | while ", item.target)
            runs = [a for a, b in zip(found, [None, *found], strict=False) if not b or a[1] != b[1]]
            assert len(parts) == len(runs)
            repeated = sum(len(re.findall(" (twice|three times|four times)", p)) for p in parts)
            assert bool(repeated) == (len(found) > len(runs))


def test_speech_is_written_down_and_its_absence_too(scened: list[Item]) -> None:
    timelines = timed(scened)
    spoken = Counter()
    for item in scened:
        if item.task in ("asr", "word-times", "language"):
            assert item.task == "language" or item.job().tags.determined
            labels = {label for _, label, _ in events(timelines.get(item.audio, []))}
            silent = {
                "asr": "<|sil|>",
                "word-times": f"<|sil|><|{item.seconds:.2f}|>",
                "language": "unknown",
            }[item.task]
            assert (item.target == silent) == ("speech" not in labels)
            assert item.target == silent or item.target.startswith("what ")
            spoken["speech" in labels] += 1
    assert spoken[True] >= 3 and spoken[False] >= 10


def test_no_sound_is_in_two_splits(scened: list[Item]) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for item in scened:
        for source in item.source.split("; "):
            if not source.startswith(("an example", "synthetic")):
                splits[source].add(item.split)
    assert len(splits) > 60
    assert all(len(found) == 1 for found in splits.values())


def test_every_item_may_be_learned_from_and_asked_for(scened: list[Item]) -> None:
    for item in scened:
        assert item.source and may_train(item.licence)
        assert item.job()
        assert item.seconds <= 30


def test_what_is_made_depends_on_the_seed_alone(cache: Path, speech: Path, tmp_path: Path) -> None:
    def content(name: str, seed: int, workers: int) -> dict[str, bytes]:
        folder = tmp_path / name
        common = {"seed": seed, "workers": workers, "cache": cache, "speech": speech}
        made = scenes.generate(folder, hours=0.1, **common)
        files = [*folder.rglob("*.flac"), made]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    first = content("a", 1, 1)
    assert len(first) > 50
    assert content("b", 1, 2) == first
    assert content("c", 2, 1)["scenes/manifest.jsonl"] != first["scenes/manifest.jsonl"]


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """The prompts of two languages, and the sounds."""
    directory = recorded_cache()
    items: list[Item] = []
    numbers = [*map(ASTERISK_LANGUAGES.index, ("en", "it")), len(ASTERISK_LANGUAGES)]
    for number in numbers:
        folder = tmp_path_factory.mktemp("recordings") / f"{number:05d}"
        folder.mkdir()
        items += recordings.make_shard(directory, folder, np.random.default_rng(0))
    return items


def recorded_cache() -> Path:
    """What recordings are made of, where it is on this machine."""
    prompts = [f"asterisk-core-sounds-{name}" for name in ("en", "en-g722", "it", "it-g722")]
    return fetched(*prompts, "scratch", "gcompris-qt-data", program="ffmpeg")


def test_recordings_only_test(recorded: list[Item]) -> None:
    english = recordings.transcripts("en", recorded_cache())
    tasks = Counter(item.task for item in recorded)
    assert tasks["asr"] > 1000 and tasks["translation"] > 200 and tasks["sound-event"] > 30
    for item in recorded:
        corpus.verify(item)
        assert item.split == "test"
        assert item.job()
        if item.task == "translation":
            assert item.target == english[item.source.partition(": ")[2]]
    for item in recorded[::40]:
        assert np.abs(heard(item)).max() > 0.01


def test_recordings_in_which_nobody_speaks_are_silence_to_transcribe(
    recorded: list[Item],
) -> None:
    unspoken = [item for item in recorded if item.target == "<|sil|>"]
    packages = Counter(item.source.partition(":")[0] for item in unspoken)
    assert min(packages.values()) > 10 and len(packages) == 3
    spoken = {item.audio for item in recorded if item.task in ("vocal-sound", "gender")}
    for item in unspoken:
        assert (item.task, item.language) == ("asr", "en") and item.job().tags.determined
        assert item.audio not in spoken
        assert not re.search("Vocals|Human/[^F]|[Bb]eat[Bb]ox|Voice", item.source)
        assert item.source.startswith("asterisk") or not may_train(item.licence)
    pauses = [item for item in unspoken if "silence/" in item.source]
    assert sorted(item.seconds for item in pauses) == [*range(1, 11)]  # as their names say
    assert max(np.abs(heard(item)).max() for item in pauses) < 0.001
    assert all(np.abs(heard(item)).max() > 0.01 for item in unspoken if item not in pauses)
