"""The labelled sounds that scenes are made of, each with its licence and the split it belongs to.

Splits part recordings: of a label with several, one is kept for tests and one for tuning. What the
sound font plays of a drum is another kit's in tests; effects and lone recordings only train.
"""

from __future__ import annotations

import functools
import io
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import soundfile
import soxr

from ...audio import SAMPLE_RATE
from ...errors import ConfigError
from ..manifest import Split
from .corpus import Samples, split_of
from .instruments import DRUMS, EFFECTS, INSTRUMENTS
from .midi import DRUMS as DRUM_CHANNEL
from .midi import Note, render
from .notes import FONT_PACKAGE, sound_font
from .packages import PACKAGES, fetch, may_train
from .rcc import read_resources
from .stated import Stated

LONGEST = 3.5
"""Seconds; longer sounds are faded out."""
_FADE = 0.05
_FLOOR = 0.03  # of the peak: what is softer before and after a sound is cut
_KITS: tuple[tuple[Split, int], ...] = (("train", 0), ("train", 32), ("dev", 25), ("test", 24))
_SILENT = 0.005
_ENOUGH = 4  # recordings of a label, of which one is to test and one to tune with
_OWN_KITS = range(35, 54)  # keys for which kits may have recordings of their own

# A line: label, what happens, and the recordings, `*` standing for anything.
_SONIC_PI = """
crow | a crow caws | misc_crow
burp | someone burps | misc_burp
bell | a bell rings | perc_bell elec_bell
finger snap | someone snaps their fingers | perc_snap perc_snap2
whoosh | something whooshes past | ambi_swoosh ambi_dark_woosh perc_swash
bass drum | a bass drum is struck | bd_* drum_bass_hard drum_bass_soft drum_heavy_kick
snare drum | a snare drum is struck | sn_* drum_snare_* elec_snare elec_hi_snare elec_mid_snare
tom | a tom is struck | drum_tom_* elec_fuzz_tom
cymbal | a cymbal is struck | drum_cymbal_* drum_splash_* elec_cymbal
cowbell | a cowbell is struck | drum_cowbell
drum roll | a drum roll is played | drum_roll
tabla | a tabla is struck | tabla_*
guitar | a guitar is played | guit_*
choir | a choir sings | ambi_choir
piano | a piano is played | ambi_piano
rubbed glass | a glass is rubbed | ambi_glass_rub ambi_glass_hum
record scratching | a record is scratched | vinyl_scratch vinyl_backspin vinyl_rewind
record crackle | a record crackles | vinyl_hiss
synthesizer bass | a synthesizer plays a bass note | bass_*
electronic beep | an electronic beep sounds | elec_beep elec_blip* elec_ping elec_plip
triangle | a triangle is struck | elec_triangle
drum loop | a drum loop plays | loop_amen loop_breakbeat loop_mika loop_tabla
deep boom | a deep boom sounds | misc_cineboom
drone | a drone hums | ambi_drone ambi_haunted_hum ambi_soft_buzz
"""
_GCOMPRIS = """
door | a door is moved | canal_lock/resource/door_*.wav
coins | coins clink | money/resource/money*.wav
helicopter | a helicopter flies | guessnumber/resource/helicopter.wav
car | a car drives by | traffic/resource/car.wav
running water | water runs | canal_lock/resource/water_fill.wav
footsteps | someone walks | reversecount/resource/icy_walk.wav
struck metal | metal is struck | scalesboard/resource/metal_hit.wav
card flip | a card is flipped | memory/resource/card_flip.wav
"""
_INSTRUMENTS = {
    0: "piano",
    11: "vibraphone",
    24: "guitar",
    40: "violin",
    46: "harp",
    56: "trumpet",
    65: "saxophone",
    71: "clarinet",
    73: "flute",
}
_HAPPENS = {
    "hand clap": "someone claps once",
    "bongo": "a bongo is struck",
    "shaker": "a shaker is shaken",
    "tambourine": "a tambourine is shaken",
    "maracas": "maracas are shaken",
    "whistle": "a whistle is blown",
    "guiro": "a guiro is scraped",
    "claves": "claves are struck",
    "sea waves": "sea waves roll in",
    "chirping birds": "birds chirp",
    "telephone": "a telephone rings",
    "helicopter": "a helicopter flies",
    "clapping": "people clap",
    "gunshot": "a gun is fired",
}


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A sound from its first to its last sample, peak at 1, and what is known of it.

    `label` names it, `happens` is a clause that tells of it.
    """

    label: str
    happens: str
    source: str
    licence: str
    split: Split
    samples: Samples = field(repr=False)


@functools.lru_cache(maxsize=1)  # a process makes many scenes of the same sounds
def bank(cache: Path) -> tuple[Sound, ...]:
    """All sounds, their packages fetched if need be. Raises as `fetch` and `render` do."""
    return (*_recorded(cache), *_played(cache))


def trimmed(samples: Samples, longest: float = LONGEST) -> Samples:
    """A sound [n] without the silence around it, at most `longest` seconds, its peak at 1."""
    loud = np.flatnonzero(np.abs(samples) >= _FLOOR * np.abs(samples).max(initial=1e-9))
    if not len(loud):
        raise ConfigError("a sound without a sample")
    begin = int(loud[0])
    sound = samples[begin : min(int(loud[-1]) + 1, begin + round(longest * SAMPLE_RATE))].copy()
    fade = min(round(_FADE * SAMPLE_RATE), len(sound))
    sound[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return np.asarray(sound / np.abs(sound).max(), dtype=np.float32)


def decoded(data: bytes) -> Samples:
    """Samples [n] at 16 kHz of a file that libsndfile reads."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(samples.mean(1), rate, SAMPLE_RATE), dtype=np.float32)


def _rows(table: str) -> Iterator[tuple[str, str, re.Pattern[str]]]:
    for line in table.strip().splitlines():
        label, happens, names = (part.strip() for part in line.split("|"))
        choices = "|".join(re.escape(name).replace(r"\*", ".*") for name in names.split())
        yield label, happens, re.compile(f"(?:.*/)?(?:{choices})")


def _recorded(cache: Path) -> Iterator[Sound]:
    """Recordings, sorted into splits label by label."""
    found: dict[str, list[tuple[File, str, str]]] = defaultdict(list)
    for package, table, files in (
        ("sonic-pi-samples", _SONIC_PI, _sonic_pi(cache)),
        ("gcompris-qt-data", _GCOMPRIS, gcompris(cache)),
    ):
        rows = list(_rows(table))
        for file in files:
            for label, happens, names in rows:
                if names.fullmatch(file.name.removesuffix(".flac")) and may_train(file.licence):
                    source = f"{package}: {file.name} by {file.holders}"
                    found[label].append((file, happens, source))
    for label in sorted(found):
        several = sorted(found[label], key=lambda entry: crc32(entry[0].name.encode()))
        splits: list[Split] = ["train"] * len(several)
        if len(several) >= _ENOUGH:
            splits[:2] = ["dev", "test"]
        for split, (file, happens, source) in zip(splits, several, strict=True):
            samples = trimmed(decoded(file.data))
            yield Sound(label, happens, source, file.licence, split, samples)


class File(NamedTuple):
    """A sound in a package: its name, licence, whose work it is, and its content."""

    name: str
    licence: str
    holders: str
    data: bytes


def _sonic_pi(cache: Path) -> Iterator[File]:
    """The samples that the copyright file names one by one."""
    share = fetch(PACKAGES["sonic-pi-samples"], cache) / "usr" / "share"
    stated = Stated.read(share / "doc" / "sonic-pi-samples" / "copyright")
    for path in sorted((share / "sonic-pi" / "samples").glob("*.flac")):
        licence, holders = stated.of(f"etc/samples/{path.name}")
        if licence:
            yield File(path.name, licence, holders, path.read_bytes())


def gcompris(cache: Path) -> Iterator[File]:
    """The sounds of gcompris; those that no stanza names are under the licence of the whole."""
    package = PACKAGES["gcompris-qt-data"]
    share = fetch(package, cache) / "usr" / "share"
    stated = Stated.read(share / "doc" / package.name / "copyright")
    for path in sorted((share / "gcompris-qt" / "rcc").glob("*.rcc")):
        for name, data in read_resources(path):
            if name.endswith((".wav", ".ogg")):
                licence, holders = stated.of(name.removeprefix("gcompris/"))
                short = name.removeprefix("gcompris/src/activities/")
                yield File(short, licence or package.licence, holders, data)


def _played(cache: Path) -> Iterator[Sound]:
    """Drums, effects and notes of the sound font; what several kits share only trains."""
    wanted = [*_drums(), *_effects(), *_notes()]
    played = render([([note], LONGEST) for _, _, note, _ in wanted], sound_font(cache))
    heard: set[bytes] = set()
    for (label, split, note, what), samples in zip(wanted, played, strict=True):
        if np.abs(samples).max() <= _SILENT:
            continue
        sound = trimmed(samples)
        print_of = np.round(sound[:2000], 2).tobytes()
        if print_of in heard:
            continue
        heard.add(print_of)
        happens = _HAPPENS.get(label) or (
            f"a {label} is struck" if note.channel == DRUM_CHANNEL else f"a {label} plays a note"
        )
        source = f"{FONT_PACKAGE.name}: {what}"
        yield Sound(label, happens, source, FONT_PACKAGE.licence, split, sound)


_Wanted = tuple[str, Split, Note, str]


def _drums() -> Iterator[_Wanted]:
    for split, kit in _KITS:  # training first: what it shares with others stays there
        for key, label in DRUMS.items():
            if key in _OWN_KITS or kit == 0:
                drum = Note(kit, key, 110, 0.0, 1.0, DRUM_CHANNEL)
                yield label, split, drum, f"kit {kit}, key {key}"


def _effects() -> Iterator[_Wanted]:
    for program, label in EFFECTS.items():
        yield label, "train", Note(program, 60, 110, 0.0, 2.5), f"program {program}"


def _notes() -> Iterator[_Wanted]:
    """Notes of a few instruments, in the splits that notes are in."""
    for program, label in _INSTRUMENTS.items():
        instrument = INSTRUMENTS[program]
        left = {"train": 6, "dev": 1, "test": 1}
        for key in range(instrument.lowest, instrument.highest + 1, 2):
            split = split_of("note", program, key)
            if left[split]:
                left[split] -= 1
                note = Note(program, key, 100, 0.0, 1.2)
                yield label, split, note, f"program {program}, key {key}"
