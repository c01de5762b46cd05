"""Real recordings to test with, never to learn from: prompts in five languages, sounds, notes."""

from __future__ import annotations

import functools
import gzip
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ...audio import SAMPLE_RATE
from ...errors import ConfigError, ModelError
from ..manifest import Item
from .corpus import build, save
from .package_table import ASTERISK_LANGUAGES
from .packages import PACKAGES, fetch
from .sounds import decoded, gcompris

_BATCH = 32  # files for one run of ffmpeg
_LEAST_WORDS = 3  # of what is translated: a word alone has many translations
_LONGEST = 30.0  # seconds, what the models hear at once
_GENDERS = {"f": "female", "m": "male"}
# Lines about tones, and notes for whoever records, are no transcripts.
_NOT_SAID = re.compile(r"[\[\]()<>{}_*/=]|\bsilence\b", re.IGNORECASE)

# Label -> what the names of its recordings match.
_EVENTS: Mapping[str, str] = MappingProxyType(
    {
        "dog": r"animals/dog|LRBark|Dog\d",
        "cat": r"animals/cat|Animal/(Cat|Meow|Kitten)",
        "cow": "animals/cow",
        "pig": "animals/pig",
        "sheep": "animals/sheep",
        "hen": "animals/chickens",
        "horse": r"animals/horse|Animal/Horse\.",
        "duck": "animals/duck|Animal/Duck",
        "owl": "animals/owl|Animal/Owl",
        "rooster": "Animal/Rooster",
        "crickets": "Animal/Cricket",
        "chirping birds": "Animal/Bird",
        "goose": "Animal/Goose",
        "frog": "LRFrogs",
        "rain": "LRRain",
        "train": "LRTrain|railroad/.*/train",
        "engine": "LRStartAndStopCarEngine|Effects/CarPassing",
        "clapping": "LRApplauses",
        "crying baby": "Human/BabyCry",
        "footsteps": "Human/Footsteps",
        "finger snap": "Human/FingerSnap",
        "hand clap": "Percussion/HandClap",
        "cymbal": "Percussion/CymbalCrash",
        "water drops": "Effects/WaterDrop",
        "keyboard typing": "Effects/Typing",
        "church bells": "Effects/BellToll",
        "door wood creaks": "Effects/DoorCreak",
    }
)
_VOCAL_SOUNDS = {
    "laughter": "Human/Laugh",
    "cough": "Human/Cough",
    "sneeze": "Human/Sneeze",
}
_INSTRUMENTS = {
    "brass": "instruments/.*/(horn|trombone|trumpet|tuba)|Instruments/Trumpet",
    "flute": "instruments/.*/flute",
    "guitar": "instruments/.*/(electric_)?guitar|Instruments/GuitarStrum",
    "keyboard": "instruments/.*/piano",
    "organ": "instruments/.*/organ",
    "reed": "instruments/.*/(clarinet|saxophone)",
    "string": "instruments/.*/(cello|violin|harp)",
}
_LABELLED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"sound-event": _EVENTS, "vocal-sound": _VOCAL_SOUNDS, "instrument": _INSTRUMENTS}
)


def generate(out: Path, *, seed: int, workers: int, cache: Path) -> Path:
    """Make the test sets under `out`/recordings; returns the manifest. All items are of "test"."""
    make = functools.partial(make_shard, cache)
    shards = len(ASTERISK_LANGUAGES) + 1
    return build(out / "recordings", make, shards, seed=seed, workers=workers)


def make_shard(cache: Path, folder: Path, _: np.random.Generator) -> list[Item]:
    """The prompts of one language, or the sounds."""
    number = int(folder.name)
    if number < len(ASTERISK_LANGUAGES):
        return _prompts(ASTERISK_LANGUAGES[number], cache, folder)
    return _sounds(cache, folder)


# --- prompts -------------------------------------------------------------------------------------


def transcripts(language: str, cache: Path) -> dict[str, str]:
    """What the prompts of a language say, by their keys, which all languages share."""
    package = PACKAGES[f"asterisk-core-sounds-{language}"]
    document = fetch(package, cache) / "usr" / "share" / "doc" / package.name
    text = gzip.decompress((document / f"core-sounds-{language}.txt.gz").read_bytes())
    said: dict[str, str] = {}
    for line in text.decode("utf-8-sig").splitlines():
        key, colon, words = line.partition(":")
        words = " ".join(words.replace("...", " ").split())
        if colon and not line.startswith(";") and words and not _NOT_SAID.search(words):
            said[key.strip()] = words
    return said


def _prompts(language: str, cache: Path, folder: Path) -> list[Item]:
    """Transcription of every prompt, its translation into English, its language and speaker."""
    package = PACKAGES[f"asterisk-core-sounds-{language}-g722"]
    (voice,) = (fetch(package, cache) / "usr" / "share" / "asterisk" / "sounds").iterdir()
    said, english = transcripts(language, cache), transcripts("en", cache)
    keys = [
        key
        for key in sorted(said)
        if (file := voice / f"{key}.g722").is_file() and 0 < _seconds(file) <= _LONGEST
    ]
    audio = {key: folder / f"{key.replace('/', '-')}.flac" for key in keys}
    _decode({voice / f"{key}.g722": path for key, path in audio.items()})
    items: list[Item] = []
    for key in keys:
        item = functools.partial(
            Item,
            audio=audio[key],
            split="test",
            speaker=voice.name,
            source=f"{package.name}: {key}",
            licence=package.licence,
            seconds=_seconds(voice / f"{key}.g722"),
        )
        items.append(item(task="asr", target=said[key], language=language))
        if min(map(_words, (said[key], english.get(key, "")))) < _LEAST_WORDS:
            continue
        items.append(item(task="language", target=language))
        items.append(item(task="gender", target=_GENDERS[voice.name.split("_")[2]]))
        if language != "en":
            items.append(item(task="translation", target=english[key], language=language, to="en"))
    return items


def _words(text: str) -> int:
    """How many words a text has; letters that are spelled out are none."""
    return len(re.findall(r"\w\w+", text))


def _seconds(g722: Path) -> float:
    """The length of a file of G.722 at 64 kbit/s: each byte holds two samples at 16 kHz."""
    return g722.stat().st_size * 2 / SAMPLE_RATE


def _decode(files: Mapping[Path, Path]) -> None:
    """Decode files of G.722, which libsndfile cannot read. Raises ModelError, ConfigError."""
    if shutil.which("ffmpeg") is None:
        raise ModelError("real speech needs the program ffmpeg")
    waiting = list(files.items())
    for begin in range(0, len(waiting), _BATCH):
        batch = waiting[begin : begin + _BATCH]
        command = ["ffmpeg", "-nostdin", "-v", "error", "-y"]
        for source, _ in batch:
            command += ["-f", "g722", "-i", str(source)]
        for number, (_, target) in enumerate(batch):
            command += ["-map", f"{number}:a", "-ac", "1", "-ar", str(SAMPLE_RATE)]
            command += ["-sample_fmt", "s16", "-bitexact", str(target)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise ConfigError(f"{batch[0][0].parent}: ffmpeg: {run.stderr.strip()}")


# --- sounds --------------------------------------------------------------------------------------


def _sounds(cache: Path, folder: Path) -> list[Item]:
    """Recordings whose names say what is heard."""
    items: list[Item] = []
    for package, name, licence, data in _named(cache):
        for task, labels in _LABELLED.items():
            for label, names in labels.items():
                if re.search(names, name):
                    samples = decoded(data)[: round(_LONGEST * SAMPLE_RATE)]
                    path = folder / f"{len(items):03d}.flac"
                    items.append(
                        Item(
                            audio=path,
                            task=task,
                            target=label,
                            split="test",
                            source=f"{package}: {name}",
                            licence=licence,
                            seconds=save(samples, path),
                        )
                    )
    return items


def _named(cache: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """Package, name, licence and content of recordings that are not learned from."""
    for file in gcompris(cache):
        yield "gcompris-qt-data", file.name, file.licence, file.data
    package = PACKAGES["scratch"]
    media = fetch(package, cache) / "usr" / "share" / "scratch" / "Media" / "Sounds"
    for path in sorted(media.rglob("*.*")):
        yield package.name, path.relative_to(media).as_posix(), package.licence, path.read_bytes()
