"""Notes and phrases hold what is said of them, by an ear of their own."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from fetched import fetched, heard
from numpy.typing import NDArray

from qwen_audio_cli.audio import SAMPLE_RATE
from qwen_audio_cli.labels import INSTRUMENTS, PITCHES, VELOCITIES
from qwen_audio_cli.training.data import __main__ as command
from qwen_audio_cli.training.data import notes
from qwen_audio_cli.training.data.package_table import may_train
from qwen_audio_cli.training.manifest import Item, read

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="session")
def cache() -> Path:
    """What music is made of."""
    return fetched("fluid-soundfont-gm", program="fluidsynth")


@pytest.fixture(scope="session")
def noted(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """A few minutes of notes and phrases."""
    out = tmp_path_factory.mktemp("notes")
    return list(read(notes.generate(out, hours=0.2, seed=3, workers=1, cache=cache)))


def pitch(samples: NDArray[np.float32]) -> float:
    """The MIDI pitch of a tone by autocorrelation: the shortest period that fits nearly best."""
    centred = samples - samples.mean()
    spectrum = np.abs(np.fft.rfft(centred * np.hanning(len(centred)), 1 << 15)) ** 2
    likeness = np.fft.irfft(spectrum)[: 1 << 14]
    lags = np.arange(SAMPLE_RATE // 4000, SAMPLE_RATE // 24)
    inner, before, after = likeness[lags], likeness[lags - 1], likeness[lags + 1]
    peaks = lags[(inner > before) & (inner >= after)]
    lag = peaks[likeness[peaks] > 0.85 * likeness[peaks].max()][0]
    a, b, c = likeness[lag - 1 : lag + 2]
    return float(69 + 12 * np.log2(SAMPLE_RATE / (lag + (a - c) / (2 * (a - 2 * b + c))) / 440))


def test_notes_sound_at_the_pitch_that_is_written(noted: list[Item]) -> None:
    errors = []
    for item in noted:
        program = int(re.search(r"program (\d+)", item.source)[1])
        organ_stops = 16 <= program <= 19  # these sound octaves below their keys as well
        if item.task == "pitch" and not organ_stops:
            begin = round(0.15 * SAMPLE_RATE)
            errors.append(pitch(heard(item)[begin : begin + 8192]) - int(item.target))
    assert len(errors) > 60
    off = np.abs(errors)
    assert np.mean(off < 0.5) > 0.9
    chroma = np.abs((np.array(errors) + 6) % 12 - 6)  # by this estimate an octave is soon missed
    assert np.mean(chroma < 0.5) > 0.96


def test_the_parts_of_a_note_make_up_the_whole_answer(noted: list[Item]) -> None:
    of_audio: dict[Path, dict[str, Item]] = defaultdict(dict)
    for item in noted:
        of_audio[item.audio][item.task] = item
    whole = [parts for parts in of_audio.values() if "note" in parts]
    assert len(whole) > 50
    for parts in whole:
        pattern = (
            r"<\|pitch\|><\|midi_pitch_(\d+)\|><\|velocity\|><\|midi_velocity_(\d+)\|>"
            r"<\|instrument\|>([a-z_]+)"
        )
        values = re.fullmatch(pattern, parts["note"].target).groups()
        assert values == tuple(parts[task].target for task in ("pitch", "velocity", "instrument"))
        assert values[0] in PITCHES and values[1] in VELOCITIES and values[2] in INSTRUMENTS
        assert f"key {values[0]}, velocity {values[1]}" in parts["note"].source


def test_harder_notes_are_louder(noted: list[Item]) -> None:
    levels: dict[str, list[float]] = defaultdict(list)
    for item in noted:
        if item.task == "velocity":
            levels[item.target].append(float(np.abs(heard(item)).max()))
    medians = [np.median(levels[velocity]) for velocity in VELOCITIES]
    assert medians == sorted(medians)


def test_no_note_and_no_phrase_is_in_two_splits(noted: list[Item]) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for item in noted:
        what = item.source.partition(", velocity")[0]
        if "minute" in what:
            what = re.match(r".*program \d+, .* (?:major|minor)", what)[0]
        splits[what].add(item.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == set(SPLITS)


def test_phrases_are_in_the_mode_that_is_told(noted: list[Item]) -> None:
    """The first note is the tonic, the second the third: three or four half tones above."""
    told = Counter()
    for item in noted:
        alone = item.task == "music-caption" and item.source.endswith("alone")
        if not alone:
            continue
        beat = 60 / int(re.search(r"(\d+) beats", item.source)[1])
        samples = heard(item)
        pitches = []
        for number in (0, 1):
            begin, end = (number + 0.15) * beat, (number + 0.85) * beat
            pitches.append(pitch(samples[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)]))
        third = {"major": 4, "minor": 3}["major" if " major" in item.target else "minor"]
        told[abs((pitches[1] - pitches[0] - third + 6) % 12 - 6) < 0.5] += 1
    assert told.total() >= 10
    assert told[True] >= 0.8 * told.total()


def test_every_item_may_be_learned_from_and_asked_for(noted: list[Item]) -> None:
    for item in noted:
        assert item.source and may_train(item.licence)
        assert item.job()
        assert item.seconds <= 30


def test_what_is_made_depends_on_the_seed_alone(cache: Path, tmp_path: Path) -> None:
    def content(name: str, seed: int, workers: int) -> dict[str, bytes]:
        folder = tmp_path / name
        made = notes.generate(folder, hours=0.1, seed=seed, workers=workers, cache=cache)
        files = [*folder.rglob("*.flac"), made]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    first = content("a", 1, 1)
    assert len(first) > 60
    assert content("b", 1, 2) == first
    assert content("c", 2, 1)["notes/manifest.jsonl"] != first["notes/manifest.jsonl"]


def test_the_command_sums_up(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["notes", "--out", str(tmp_path), "--hours", "0.05", "--cache", str(cache)]
    assert command.main(given) == 0
    printed = capsys.readouterr()
    assert "MIT" in printed.out and "1 of 1 shards" in printed.err
    assert '"fluid-soundfont-gm"' in (tmp_path / "licences.json").read_text()
    assert command.main([*given, "--seed", "1"]) == 2
    assert "made with seed 0, not 1" in capsys.readouterr().err
    for wrong in (["notes", "--out", "x", "--hours", "0"], ["fetch", "--hours", "1"], ["notes"]):
        assert command.main(wrong) == 2
