"""Word times against espeak-ng's own, and the parts of the method against brute force."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import CPU, recording
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer

from qwen_audio_cli.audio import SAMPLE_RATE
from qwen_audio_cli.audio.features import log_mel
from qwen_audio_cli.engine.engine import Engine
from qwen_audio_cli.engine.request import AudioInput
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.families.base import ClipAnswer, Job, Subject, TimedWord
from qwen_audio_cli.families.whisper import FRAME_SECONDS, Whisper
from qwen_audio_cli.families.word_times import (
    Frames,
    TokenGroup,
    find_pauses,
    frame_levels,
    group_words,
    monotonic_path,
    token_onsets,
    word_frames,
)
from qwen_audio_cli.models import WEIGHTS
from qwen_audio_cli.tasks import find

ENCODER = Tokenizer.from_file(str(WEIGHTS / "whisper-base" / "tokenizer.json"))

SPOKEN = Path(__file__).parent / "data" / "word_times"
"""Synthetic speech with its true times: `python benchmarks/word_times.py --save DIRECTORY`."""

TRUTH = json.loads((SPOKEN / "times.json").read_text(encoding="utf-8"))


def timed(family: Whisper, samples: NDArray[np.float32], language: str) -> Sequence[TimedWord]:
    task = find("transcribe", None)
    job = Job(task, task.tags(language=language, timestamps=True))
    engine: Engine[str, ClipAnswer] = Engine(family.model, CPU, Budget(seats=1))
    dialogue = family.answer(job, Subject((len(samples) / SAMPLE_RATE,)))
    engine.add(Work("clip", (AudioInput(family.features(samples)),), dialogue))
    while not engine.idle:
        for done in engine.turn():
            assert done.error is None and done.result is not None
            assert done.result.words is not None
            return done.result.words
    raise AssertionError("no answer")


def plain(words: Sequence[str]) -> list[str]:
    return [re.sub(r"[^\w']", "", word.casefold()) for word in words]


def test_words_are_heard_where_they_are_spoken(whisper: Whisper) -> None:
    """At least 80 % of the words begin and end within 100 ms of what the synthesiser says."""
    errors: list[float] = []
    spoken = 0
    for sentence in TRUTH:
        samples, rate = soundfile.read(SPOKEN / sentence["file"], dtype="float32")
        assert rate == SAMPLE_RATE
        heard = timed(whisper, samples, sentence["language"])
        edges = [edge for word in heard for edge in (word.start, word.end)]
        assert edges == sorted(edges)
        assert edges[0] >= 0 and edges[-1] <= len(samples) / SAMPLE_RATE
        words = sentence["words"]
        spoken += len(words)
        matcher = SequenceMatcher(
            None, plain([word["word"] for word in words]), plain([word.word for word in heard])
        )
        for true, ours, size in matcher.get_matching_blocks():
            for word, timed_word in zip(words[true:][:size], heard[ours:][:size], strict=True):
                start, end = timed_word.start - word["start"], timed_word.end - word["end"]
                errors.append(max(abs(start), abs(end)))
    assert len(errors) >= 0.9 * spoken  # nearly every word was recognised
    assert np.mean(np.array(errors) <= 0.1) >= 0.8


@pytest.mark.parametrize("name", ["en-no-connection", "it-no-connection"])
def test_no_word_reaches_into_a_pause(whisper: Whisper, name: str) -> None:
    """Real recordings: their silences, by the samples' power, are in no word; their speech is."""
    samples = recording(name)
    step = SAMPLE_RATE // 100
    steps = samples[: len(samples) // step * step].reshape(-1, step)
    power = 10 * np.log10(np.mean(steps**2, axis=1) + 1e-12)
    quiet = power < np.percentile(power, 95) - 35
    edges = np.flatnonzero(np.diff(quiet, prepend=False, append=False)).reshape(-1, 2)
    paused, heard = np.zeros_like(quiet), np.zeros_like(quiet)
    for start, stop in edges:
        paused[start:stop] = stop - start >= 15
    for word in timed(whisper, samples, name[:2]):
        heard[round(word.start * 100) : round(word.end * 100)] = True
    assert paused.sum() > 20
    assert np.mean(heard[paused]) < 0.1
    assert np.mean(heard[~paused]) > 0.95


scores = st.integers(1, 4).flatmap(
    lambda rows: st.integers(1, 6).flatmap(
        lambda frames: st.lists(
            st.lists(st.integers(-3, 3), min_size=frames, max_size=frames),
            min_size=rows,
            max_size=rows,
        )
    )
)


@given(scores)
def test_the_path_is_the_best_of_all(score: list[list[int]]) -> None:
    frames = range(len(score[0]))
    everything = itertools.combinations_with_replacement(frames, len(score))
    best = min(
        everything,
        key=lambda path: (-sum(row[at] for row, at in zip(score, path, strict=True)), path),
    )
    assert monotonic_path(np.array(score, dtype=np.float32)).tolist() == list(best)


def bumps(places: Sequence[int], frames: int, width: float) -> NDArray[np.float32]:
    """Attention rows around `places`, [rows, frames]."""
    distance = np.arange(frames)[None] - np.array(places)[:, None]
    rows = np.exp(-((distance / width) ** 2)) + 1e-6
    rows /= rows.sum(1, keepdims=True)
    return np.asarray(rows, dtype=np.float32)


def test_the_head_that_looks_at_the_begin_is_read() -> None:
    places, frames = [5, 20, 26, 40, 60, 75], 90
    late = bumps([place + 6 for place in places], frames, 0.6)
    begin = bumps(places, frames, 0.6)
    blurred_early = bumps([place - 4 for place in places], frames, 15)
    stuck = bumps([0] * len(places), frames, 0.5)
    anywhere = np.full_like(begin, 1 / frames)
    attention = torch.from_numpy(np.stack([late, stuck, begin, anywhere, blurred_early]))
    assert token_onsets(attention, frames).tolist() == [*places, frames]


def test_a_token_begins_where_its_attention_rises() -> None:
    row = [0.0, 0.1, 0.3, 0.4, 0.2, 0.0, 0.0]
    following = [0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.25]
    attention = torch.tensor([[row, following]])
    assert token_onsets(attention, 7).tolist() == [2, 4, 7]


@settings(max_examples=50)
@given(
    st.integers(1, 6), st.integers(1, 12), st.integers(1, 30), st.integers(0, 2**32), st.booleans()
)
def test_times_ascend_whatever_is_attended_to(
    heads: int, tokens: int, frames: int, seed: int, cut_off: bool
) -> None:
    """Also where tokens outnumber frames, an answer was cut off, or all is silence."""
    random = np.random.default_rng(seed)
    fed = tokens - 1 if cut_off else tokens
    attention = random.dirichlet(np.full(frames + 5, 0.1), size=(heads, 1 + fed))
    onsets = token_onsets(torch.from_numpy(attention), frames)
    assert len(onsets) == fed + 2
    levels = np.repeat(random.choice([0.0, 1.0], size=frames), 6)[:frames]
    pieces = random.choice([" one", "two", ".", "", " ("], size=tokens).tolist()
    groups = group_words(pieces, spaced=True)
    heard = list(word_frames(groups, onsets, find_pauses(levels.astype(np.float32))))
    edges = [0, *(edge for word in heard for edge in (word.start, word.stop)), frames]
    assert edges == sorted(edges)


def test_pauses_are_where_nothing_sounds() -> None:
    """Bursts of noise and of tone with gaps that are known, over a quieter hum."""
    random = np.random.default_rng(1)
    seconds = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    samples = 0.3 * np.sin(2 * np.pi * 220 * seconds) + 0.1 * random.standard_normal(len(seconds))
    gaps = [(0.0, 0.3), (0.8, 1.2), (1.9, 2.08), (2.5, 3.0)]
    for start, stop in [*gaps, (1.5, 1.56)]:  # the last is too short for a pause
        samples[(seconds >= start) & (seconds < stop)] = 0
    samples += 0.003 * np.sin(2 * np.pi * 50 * seconds)
    features = log_mel(samples.astype(np.float32), 80, len(samples))
    pauses = find_pauses(frame_levels(features[None])[0].numpy())
    found = [(pause.start * FRAME_SECONDS, pause.stop * FRAME_SECONDS) for pause in pauses]
    assert np.array(found) == pytest.approx(np.array(gaps), abs=0.03)


def test_sound_of_one_level_has_no_pause() -> None:
    assert find_pauses(np.full(50, 0.3, dtype=np.float32)) == []


@pytest.mark.parametrize(
    ("onsets", "pauses", "expected"),
    [
        ([10, 30, 50, 70, 90], [], [(10, 30), (30, 50)]),
        ([10, 30, 50, 70, 90], [(0, 9), (80, 90)], [(10, 30), (30, 80)]),
        ([10, 30, 50, 70, 90], [(20, 30), (80, 90)], [(10, 20), (30, 80)]),
        ([10, 31, 50, 70, 90], [(20, 30), (60, 90)], [(10, 20), (31, 60)]),
        ([10, 20, 50, 70, 90], [(21, 40), (80, 90)], [(10, 20), (40, 80)]),
        ([0, 30, 50, 70, 90], [(0, 12)], [(12, 30), (30, 50)]),
    ],
    ids=["none", "edges", "between", "late", "early", "lead"],
)
def test_a_word_does_not_reach_into_a_pause(
    onsets: list[int], pauses: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    groups = group_words([" one", " two", "."], spaced=True)
    frames = word_frames(groups, np.array(onsets), [Frames(*pause) for pause in pauses])
    assert list(frames) == [Frames(*word) for word in expected]


@pytest.mark.parametrize(
    ("spaced", "pieces", "words"),
    [
        (True, [" Hel", "lo", ",", " wor", "ld", "!"], ["Hello,", "world!"]),
        (True, [" I", "'m", " a", "fra", "id", "..."], ["I'm", "afraid..."]),
        (True, [" l", "'", "hom", "me", " «", " qui", " »", "."], ["l'homme", "« qui »."]),
        (True, [' "', "Yes", '"', " ¿", "Qu", "é", "?"], ['"Yes"', "¿Qué?"]),
        (
            True,
            [" it", " costs", " $", "50", " (", "or", " less", ")"],
            ["it", "costs", "$50", "(or", "less)"],
        ),
        (True, [" rock", " &", " roll", " -", " now"], ["rock", "&", "roll", "- now"]),
        (True, [" ", "caf", "", "é", "  ", "bar"], ["café", "bar"]),
        (True, ["", "", "", "😀", " ok", ""], ["😀", "ok"]),
        (
            False,
            ["我", "是", "", "", "謝", "、", "「", "你好", "」", "。"],
            ["我", "是", "謝、", "「你好」。"],
        ),
        (False, ["ส", "ว", "ั", "ส"], ["ส", "วั", "ส"]),
        (True, ["...", " well"], ["... well"]),
        (True, [], []),
    ],
)
def test_tokens_are_grouped_into_words(spaced: bool, pieces: list[str], words: list[str]) -> None:
    assert [group.word for group in group_words(pieces, spaced=spaced)] == words


def test_marks_are_known_apart() -> None:
    assert group_words([" so", "me", "thing", ".", '"', " (", "or", ")"], spaced=True) == [
        TokenGroup('something."', 0, 3, 5),
        TokenGroup("(or)", 5, 7, 8),
    ]


@settings(max_examples=100)
@given(
    st.text(st.sampled_from(" abé'\"-.,!?¿([)]«»$&我你、。「」ñд😀ั\u0301"), max_size=30),
    st.booleans(),
)
def test_every_token_is_in_one_word(whisper: Whisper, text: str, spaced: bool) -> None:
    """Words have all characters of the text, in order; characters split over tokens stay whole."""
    tokens: list[int] = ENCODER.encode(text, add_special_tokens=False).ids
    pieces = whisper._pieces(tokens)
    assert "".join(pieces) == text
    groups = group_words(pieces, spaced=spaced)
    shown = "".join("".join(group.word.split()) for group in groups)
    assert shown == "".join(text.split())
    edges = [0, *itertools.chain(*((group.start, group.stop) for group in groups))]
    assert edges[:-1:2] == edges[1::2]
    assert all(group.start < group.spoken <= group.stop for group in groups)


@pytest.mark.parametrize(
    "text",
    [
        "I'm afraid (really) that \"nobody\" said: don't go, it costs $50 or 20%!",
        "Il n'y a qu'un seul participant, n'est-ce pas?",
        "¿Puede encontrar información útil? ¡Sí, señor!",
        "Подключение к серверу не осуществилось. Вы можете найти информацию.",
        "Der Bär läuft; die Straße ist groß...",
        "मैं घर जा रहा हूँ।",
        "나는 집에 갑니다.",
    ],
)
def test_words_are_what_stands_between_spaces(whisper: Whisper, text: str) -> None:
    tokens = ENCODER.encode(f" {text}", add_special_tokens=False).ids
    groups = group_words(whisper._pieces(tokens), spaced=True)
    assert [group.word for group in groups] == text.split()
