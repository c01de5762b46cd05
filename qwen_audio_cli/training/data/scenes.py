"""Scenes: labelled sounds, notes and speech one after the other or at once, at known times.

A scene takes sounds of its own split only, so that what is tested was never heard in training.
Scenes without speech, noise and silence also teach that there is nothing to transcribe.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...audio import SAMPLE_RATE
from ...tags import UNKNOWN
from ..manifest import Item, Split, read
from .corpus import Samples, build, licences, save
from .described import SILENCE, SPEECH, Event, caption, labels, questions, timeline
from .packages import digest
from .sounds import Sound, bank, decoded, trimmed

_SCENES = 30  # of a shard: about three minutes
_SHARDS_AN_HOUR = 20
_LONGEST_SPEECH = 8.0
_MOST = 4  # sounds in turn, beside speech: a scene stays below half a minute
_SHORT = 1.5  # seconds: a sound that is heard again and again
_LEAST_OVERLAPPING = 0.8  # seconds: a shorter sound is over before another begins
_SPLITS: tuple[Split, ...] = ("train", "dev", "test")
_SPLIT_SHARES = (0.9, 0.05, 0.05)
_QUIET = 0.12  # share of clips with noise or silence only
_WITH_SPEECH = 0.35  # share of scenes, where there is speech to be had
_ALONE = 0.25  # share of those in which nothing else is heard, where sounds take turns
_OVERLAPPING = 0.3  # share of scenes in which two sounds overlap
_UNSPOKEN = 0.3  # share of scenes without speech that are also to be transcribed
_LANGUAGES = ("en", "en", "en", "es", "fr", "it")
_MADE = "synthetic noise"
_NOISE_LICENCE = "CC0-1.0"


def generate(
    out: Path, *, hours: float, seed: int, workers: int, cache: Path, speech: Path | None = None
) -> Path:
    """Make about `hours` of scenes under `out`/scenes; returns the manifest.

    `speech` is a manifest of recordings with what is said in them, to be mixed in.
    """
    bank(cache)  # fetched once, not by every process
    make = functools.partial(make_shard, cache, speech)
    shards = max(1, math.ceil(hours * _SHARDS_AN_HOUR))
    spoken = None if speech is None else digest(speech)
    return build(out / "scenes", make, shards, seed=seed, workers=workers, speech=spoken)


def make_shard(
    cache: Path, speech: Path | None, folder: Path, random: np.random.Generator
) -> list[Item]:
    """One shard of scenes."""
    items: list[Item] = []
    for number in range(_SCENES):
        path = folder / f"{number:02d}.flac"
        split = _SPLITS[random.choice(len(_SPLITS), p=_SPLIT_SHARES)]
        if random.random() < _QUIET:
            items += _quiet(path, split, random)
        else:
            items += _scene(path, split, cache, speech, random)
    return items


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A sound at its place; for speech, the item that says what is said."""

    sound: Sound
    start: float
    spoken: Item | None = None

    @property
    def event(self) -> Event:
        end = self.start + len(self.sound.samples) / SAMPLE_RATE
        return Event(self.sound.label, self.sound.happens, self.start, end)


def _scene(
    path: Path, split: Split, cache: Path, speech: Path | None, random: np.random.Generator
) -> list[Item]:
    sounds = [sound for sound in bank(cache) if sound.split == split]
    utterances = _utterances(speech, split) if speech else ()
    spoken: _Chosen = []
    if utterances and random.random() < _WITH_SPEECH:
        utterance = utterances[random.integers(len(utterances))]
        spoken = [(_voice(utterance), utterance)]
    if random.random() < _OVERLAPPING:
        chosen = [*spoken, *_lasting(sounds, 2 - len(spoken), random)]
        order = random.permutation(len(chosen))
        parts = _overlapped([chosen[n] for n in order], random)
    else:
        chosen = [] if spoken and random.random() < _ALONE else _repeated(sounds, random)
        at = int(random.integers(len(chosen) + 1))
        parts = _in_turn([*chosen[:at], *spoken, *chosen[at:]], random)
    events = [part.event for part in parts]
    seconds = math.ceil((max(e.end for e in events) + random.uniform(0.1, 0.8)) * 100) / 100
    save(_mix(parts, seconds, random), path)
    item = functools.partial(
        Item,
        audio=path,
        split=split,
        source="; ".join(dict.fromkeys(part.sound.source for part in parts)),
        licence=licences(part.sound.licence for part in parts),
        seconds=seconds,
    )
    asked = questions(events, sorted({sound.label for sound in bank(cache)}), random)
    picked = [asked[n] for n in random.choice(len(asked), 2, replace=False)]
    return [
        item(task="audio-caption", target=caption(events)),
        item(task="sound-event", target=", ".join(labels(events))),
        item(task="sound-event-times", target=timeline(events, seconds), timestamps=True),
        *(item(task="audio-qa", question=question, target=answer) for question, answer in picked),
        *_transcribed(item, parts, seconds, random),
    ]


def _transcribed(
    item: functools.partial[Item],
    parts: Sequence[_Part],
    seconds: float,
    random: np.random.Generator,
) -> list[Item]:
    """What is said in a scene; of some without speech, that nothing is."""
    spoken = [part.spoken for part in parts if part.spoken]
    if spoken:
        said = spoken[0]
        options = {"language": said.language, "tags": said.tags}
        return [item(task="asr", target=said.target, speaker=said.speaker, **options)]
    return _unspoken(item, seconds, random) if random.random() < _UNSPOKEN else []


def _unspoken(
    item: functools.partial[Item], seconds: float, random: np.random.Generator
) -> list[Item]:
    language = _LANGUAGES[random.integers(len(_LANGUAGES))]
    timed = f"{SILENCE}<|{seconds:.2f}|>"  # behind the prompt's own 0.00
    return [
        item(task="asr", target=SILENCE, language=language),
        item(task="word-times", target=timed, language=language, timestamps=True),
        item(task="language", target=UNKNOWN),
    ]


def _quiet(path: Path, split: Split, random: np.random.Generator) -> list[Item]:
    """Noise, or silence but for what a recorder hisses."""
    seconds = round(float(random.uniform(1.0, 8.0)), 2)
    loud = bool(random.integers(2))
    level = random.uniform(0.02, 0.2) if loud else random.uniform(0.0, 0.0003)
    save(level * noise(round(seconds * SAMPLE_RATE), random), path)
    item = functools.partial(
        Item, audio=path, split=split, source=_MADE, licence=_NOISE_LICENCE, seconds=seconds
    )
    return [
        item(task="audio-caption", target="There is steady noise." if loud else "It is silent."),
        item(task="audio-qa", question="Is speech heard?", target="no"),
        *_unspoken(item, seconds, random),
    ]


def noise(count: int, random: np.random.Generator) -> Samples:
    """Noise [count] of a root mean square of 1 at most, its power falling with the frequency.

    It falls as 1/f to the power of 0 (white) to 2 (brown).
    """
    spectrum = np.fft.rfft(random.standard_normal(count))
    frequencies = np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), 20.0)
    samples = np.fft.irfft(spectrum / frequencies ** (random.uniform(0, 2) / 2), count)
    scaled = samples / max(float(np.sqrt(np.mean(samples**2))), float(np.abs(samples).max()) / 4)
    return scaled.astype(np.float32)


# --- what is heard, and when ---------------------------------------------------------------------

_Chosen = list[tuple[Sound, Item | None]]


def _repeated(sounds: Sequence[Sound], random: np.random.Generator) -> _Chosen:
    """One to three sounds of different labels, short ones up to three times: four in all."""
    chosen: _Chosen = []
    for sound in _distinct(sounds, int(random.integers(1, 4)), random):
        times = int(random.choice(3, p=(0.6, 0.2, 0.2)) + 1)
        short = len(sound.samples) < _SHORT * SAMPLE_RATE
        chosen += [(sound, None)] * (times if short else 1)
    return chosen[:_MOST]


def _lasting(sounds: Sequence[Sound], count: int, random: np.random.Generator) -> _Chosen:
    """Sounds of `count` different labels, each long enough to overlap with another."""
    lasting = [s for s in sounds if len(s.samples) >= _LEAST_OVERLAPPING * SAMPLE_RATE]
    return [(sound, None) for sound in _distinct(lasting, count, random)]


def _distinct(sounds: Sequence[Sound], count: int, random: np.random.Generator) -> list[Sound]:
    """Sounds of `count` different labels, every label as likely."""
    known = sorted({sound.label for sound in sounds})
    chosen = random.choice(len(known), count, replace=False)
    of_label = [[sound for sound in sounds if sound.label == known[n]] for n in chosen]
    return [several[random.integers(len(several))] for several in of_label]


def _in_turn(chosen: _Chosen, random: np.random.Generator) -> list[_Part]:
    now = random.uniform(0.1, 0.8)
    parts: list[_Part] = []
    for sound, spoken in chosen:
        parts.append(_Part(sound, now, spoken))
        now += len(sound.samples) / SAMPLE_RATE + random.uniform(0.25, 1.2)
    return parts


def _overlapped(chosen: _Chosen, random: np.random.Generator) -> list[_Part]:
    now = random.uniform(0.1, 0.8)
    parts: list[_Part] = []
    for sound, spoken in chosen:
        parts.append(_Part(sound, now, spoken))
        now += len(sound.samples) / SAMPLE_RATE * random.uniform(0.3, 0.7)
    return parts


def _mix(parts: Sequence[_Part], seconds: float, random: np.random.Generator) -> Samples:
    """The parts at their times, 6 to 14 dB below full scale, over faint noise."""
    mixed = noise(round(seconds * SAMPLE_RATE), random) * 10 ** random.uniform(-3.5, -2.7)
    for part in parts:
        at = round(part.start * SAMPLE_RATE)
        sound = part.sound.samples * 10 ** (random.uniform(-14, -6) / 20)
        mixed[at : at + len(sound)] += sound
    return np.asarray(mixed, dtype=np.float32)


@functools.lru_cache(maxsize=8)
def _utterances(speech: Path, split: Split) -> tuple[Item, ...]:
    """The transcribed recordings of a split that are short enough."""
    return tuple(
        item
        for item in read(speech)
        if item.task == "asr"
        and item.split == split
        and not item.timestamps
        and (item.seconds or math.inf) <= _LONGEST_SPEECH
    )


def _voice(item: Item) -> Sound:
    samples = trimmed(decoded(item.audio.read_bytes()), _LONGEST_SPEECH)
    source, licence = item.source or "", item.licence or ""
    return Sound(SPEECH, "someone speaks", source, licence, item.split, samples)
