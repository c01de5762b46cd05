"""Music whose every fact is known: single notes and short phrases, played by fluidsynth.

Notes are split by program and key, phrases by program, tonic and mode: what is tested was never
heard in training, though the sound font's recordings were.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...labels import VELOCITIES
from ..manifest import Item, Split
from .corpus import Samples, build, save, split_of
from .instruments import INSTRUMENTS, Instrument
from .midi import DRUMS, Note, render
from .packages import PACKAGES, fetch

FONT_PACKAGE = PACKAGES["fluid-soundfont-gm"]
_NOTES, _PHRASES = 40, 20  # of a shard: about two minutes each
_SHARDS_AN_HOUR = 15
_LEAST_PEAK = 0.005  # softer, a key is outside of what the sound font holds

_STEPS = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_TEMPI = {"slow": (54, 72), "moderate": (92, 116), "fast": (144, 184)}
_TONICS = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
_CHORDS = (0, 24, 48)  # piano, guitar, strings
_ALONE, _CHORDED, _DRUMMED = "alone", "with chords", "with drums"


def generate(out: Path, *, hours: float, seed: int, workers: int, cache: Path) -> Path:
    """Make about `hours` of notes and phrases under `out`/notes; returns the manifest."""
    font = sound_font(cache)
    make = functools.partial(make_shard, font)
    shards = max(1, math.ceil(hours * _SHARDS_AN_HOUR))
    return build(out / "notes", make, shards, seed=seed, workers=workers)


def sound_font(cache: Path) -> Path:
    """The sound font, fetched if need be."""
    return fetch(FONT_PACKAGE, cache) / "usr" / "share" / "sounds" / "sf2" / "FluidR3_GM.sf2"


def make_shard(font: Path, folder: Path, random: np.random.Generator) -> list[Item]:
    """One shard of notes and phrases, all played in one run of fluidsynth."""
    tones = [_draw_tone(random) for _ in range(_NOTES)]
    phrases = [_draw_phrase(random) for _ in range(_PHRASES)]
    pieces: list[Tone | Phrase] = [*tones, *phrases]
    played = render([(piece.notes, piece.seconds) for piece in pieces], font)
    items: list[Item] = []
    for number, (piece, samples) in enumerate(zip(pieces, played, strict=True)):
        if np.abs(samples).max() >= _LEAST_PEAK:
            items += _items(piece, samples, folder / f"{number:02d}.flac", random)
    return items


@dataclass(frozen=True, slots=True)
class Tone:
    """One key of an instrument, held all but the last of its seconds."""

    instrument: Instrument
    key: int
    velocity: int
    seconds: float

    @property
    def notes(self) -> list[Note]:
        """What is played."""
        return [Note(self.instrument.program, self.key, self.velocity, 0.0, self.seconds - 1)]

    @property
    def split(self) -> Split:
        """By program and key."""
        return split_of("note", self.instrument.program, self.key)

    @property
    def source(self) -> str:
        """Where it is from."""
        program = self.instrument.program
        return f"{FONT_PACKAGE.name}: program {program}, key {self.key}, velocity {self.velocity}"

    def answers(self) -> list[tuple[str, str]]:
        """Tasks with what is to be written: the parts of the answer, and all of it as tags."""
        pitch, velocity, family = str(self.key), str(self.velocity), self.instrument.family
        parts = [("pitch", pitch), ("velocity", velocity)]
        if family is None:
            return parts
        whole = (
            f"<|pitch|><|midi_pitch_{pitch}|><|velocity|><|midi_velocity_{velocity}|>"
            f"<|instrument|>{family}"
        )
        return [*parts, ("instrument", family), ("note", whole)]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A melody of one instrument, perhaps accompanied, in a key and at a tempo."""

    instrument: Instrument
    tonic: int
    mode: str
    tempo: str
    beats_a_minute: int
    texture: str
    notes: tuple[Note, ...]
    seconds: float

    @property
    def split(self) -> Split:
        """By program, tonic and mode."""
        return split_of("phrase", self.instrument.program, self.tonic, self.mode)

    @property
    def source(self) -> str:
        """Where it is from."""
        return (
            f"{FONT_PACKAGE.name}: program {self.instrument.program}, {_TONICS[self.tonic]} "
            f"{self.mode}, {self.beats_a_minute} beats a minute, {self.texture}"
        )

    @property
    def register(self) -> str:
        """How high the melody lies."""
        keys = [note.key for note in self.notes if note.channel == 0]
        middle = sum(keys) / len(keys)
        return "low" if middle < 54 else "high" if middle > 74 else "middle"

    def caption(self, form: int) -> str:
        """A sentence with all facts, in one of the three forms (0, 1, 2)."""
        name = f"{_article(self.instrument.name)} {self.instrument.name}"
        with_what = "" if self.texture == _ALONE else f" {self.texture}"
        register, mode = f"{self.register} register", f"{self.mode} key"
        return (
            f"A {self.tempo} melody in a {mode} is played in the {register} by {name}{with_what}.",
            f"{name[0].upper()}{name[1:]} plays a {self.tempo} {self.mode} melody{with_what} in "
            f"the {register}, at about {self.beats_a_minute} beats per minute.",
            f"This is {self.tempo} music in a {mode}: {name} in the {register}{with_what}.",
        )[form]

    def questions(self) -> list[tuple[str, str]]:
        """What may be asked about it, with the answers."""
        drums = "yes" if self.texture == _DRUMMED else "no"
        chords = "yes" if self.texture == _CHORDED else "no"
        return [
            ("Which instrument plays the melody?", self.instrument.name),
            ("Is the music in a major or a minor key?", self.mode),
            ("Is the music slow, moderate or fast?", self.tempo),
            ("Are there drums in the music?", drums),
            ("Is the melody accompanied by chords?", chords),
        ]


def _items(
    piece: Tone | Phrase, samples: Samples, path: Path, random: np.random.Generator
) -> list[Item]:
    seconds = save(samples, path)
    item = functools.partial(
        Item,
        audio=path,
        split=piece.split,
        source=piece.source,
        licence=FONT_PACKAGE.licence,
        seconds=seconds,
    )
    if isinstance(piece, Tone):
        return [item(task=task, target=target) for task, target in piece.answers()]
    questions = piece.questions()
    question, answer = questions[random.integers(len(questions))]
    return [
        item(task="music-caption", target=piece.caption(int(random.integers(3)))),
        item(task="music-qa", question=question, target=answer),
    ]


def _draw_tone(random: np.random.Generator) -> Tone:
    pitched = [instrument for instrument in INSTRUMENTS.values() if instrument.pitched]
    instrument = pitched[random.integers(len(pitched))]
    key = int(random.integers(instrument.lowest, instrument.highest + 1))
    velocity = int(VELOCITIES[random.integers(len(VELOCITIES))])
    return Tone(instrument, key, velocity, float(random.integers(2, 5)))


def _draw_phrase(random: np.random.Generator) -> Phrase:
    melodic = [instrument for instrument in INSTRUMENTS.values() if instrument.pitched]
    instrument = melodic[random.integers(len(melodic))]
    mode = ("major", "minor")[random.integers(2)]
    tempo = tuple(_TEMPI)[random.integers(3)]
    beats_a_minute = int(random.integers(*_TEMPI[tempo]))
    texture = (_ALONE, _CHORDED, _DRUMMED)[random.integers(3)]
    beat = 60 / beats_a_minute
    beats = max(4, round(random.uniform(4.0, 7.0) / beat))
    octave = instrument.highest - instrument.lowest - 12
    tonic = int(instrument.lowest + random.integers(max(1, octave)))
    notes = _melody(instrument.program, tonic, mode, beats, random)
    if texture == _CHORDED:
        notes += _chords(tonic, mode, beats, random)
    elif texture == _DRUMMED:
        notes += _drums(beats)
    timed = tuple(
        Note(n.program, n.key, n.velocity, n.start * beat, n.end * beat, n.channel) for n in notes
    )
    seconds = beats * beat + 0.5
    return Phrase(
        instrument, tonic % 12, mode, tempo, beats_a_minute, texture, timed, round(seconds, 3)
    )


def _melody(
    program: int, tonic: int, mode: str, beats: int, random: np.random.Generator
) -> list[Note]:
    """A walk on the scale over one octave, times in beats.

    It begins and ends on the tonic, and touches the third, by which the mode is heard.
    """
    scale = (*_STEPS[mode], 12)
    degree = 0
    notes: list[Note] = []
    for beat in range(beats):
        halves = int(random.integers(1, 3)) if 1 < beat < beats - 1 else 1
        for half in range(halves):
            if beat in (0, beats - 1):
                degree = 0
            elif beat == 1 or (beat % 4 == 2 and half == 0):
                degree = 2
            else:
                degree = int(np.clip(degree + random.integers(-2, 3), 0, 7))
            start = beat + half / halves
            velocity = int(random.integers(80, 112))
            notes.append(
                Note(program, tonic + scale[degree], velocity, start, start + 0.9 / halves)
            )
    return notes


def _chords(tonic: int, mode: str, beats: int, random: np.random.Generator) -> list[Note]:
    """The tonic's triad around middle C, every two beats."""
    program = _CHORDS[random.integers(len(_CHORDS))]
    root = 48 + tonic % 12
    triad = [root + _STEPS[mode][degree] for degree in (0, 2, 4)]
    return [
        Note(program, key, 64, float(beat), min(beat + 1.8, beats), channel=1)
        for beat in range(0, beats, 2)
        for key in triad
    ]


def _drums(beats: int) -> list[Note]:
    """Bass drum and snare drum in turns, the hi-hat on every half beat."""
    struck = [(beat, 38 if beat % 2 else 36, 100) for beat in range(beats)]
    hats = [(half / 2, 42, 70) for half in range(2 * beats)]
    return [Note(0, key, hard, at, at + 0.3, DRUMS) for at, key, hard in [*struck, *hats]]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiouE" or word.startswith("FM") else "a"
