"""Real recordings to test with, never to learn from: prompts in five languages, sounds, notes.

Where nobody speaks, that nothing is to be transcribed is tested too.
"""

from __future__ import annotations

import functools
import gzip
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ...audio import SAMPLE_RATE
from ...errors import ConfigError, ModelError
from ..manifest import Item
from .corpus import build, save
from .described import SILENCE
from .package_table import ASTERISK_LANGUAGES
from .packages import PACKAGES, fetch
from .sounds import decoded, gcompris

_BATCH = 32  # files for one run of ffmpeg
_LEAST_WORDS = 3  # of what is translated: a word alone has many translations
_LONGEST = 30.0  # seconds, what the models hear at once
_GENDERS = {"f": "female", "m": "male"}
# Lines about tones, and notes for whoever records, are no transcripts.
_NOT_SAID = re.compile(r"[\[\]()<>{}_*/=]|\bsilence\b", re.IGNORECASE)
_WORDLESS = re.compile(r"\[.+\]|<.+>|\(.+\)")  # the whole line, a note: tones, silence

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
# Recordings in which nobody speaks or sings, by their names; doubtful ones are left out.
_UNSPOKEN = re.compile(
    "farm_animals/|instruments/|music/africa|memory-sound/.*/(LR(?!LaPause|Weird)|guitar)|melody/"
    "|railroad/|Animal/|Effects/|Electronic/(?!Whoop)|Instruments/|Percussion/"
    "|Human/(Footsteps|FingerSnap)|Music Loops/(?!Eggs|HipHop|HumanBeatbox)"
)
_UNSPOKEN_LANGUAGE = "en"  # asked for where there is none


def generate(out: Path, *, seed: int, workers: int, cache: Path) -> Path:
    """Make the test sets under `out`/recordings; returns the manifest. All items are of "test"."""
    make = functools.partial(make_shard, cache)
    shards = len(ASTERISK_LANGUAGES) + 1
    return build(out / "recordings", make, shards, seed=seed, workers=workers)


def make_shard(cache: Path, folder: Path, _: np.random.Generator) -> list[Item]:
    """The prompts of one language, or the sounds."""
    number = int(folder.name)
    if number == len(ASTERISK_LANGUAGES):
        return _sounds(cache, folder)
    language = ASTERISK_LANGUAGES[number]
    items = _prompts(language, cache, folder)
    return items + _wordless(cache, folder) if language == _UNSPOKEN_LANGUAGE else items


# --- prompts -------------------------------------------------------------------------------------


def transcripts(language: str, cache: Path) -> dict[str, str]:
    """What the prompts of a language say, by their keys, which all languages share."""
    lines = _script(language, cache).items()
    return {key: words for key, words in lines if not _NOT_SAID.search(words)}


def _script(language: str, cache: Path) -> dict[str, str]:
    """What is said in the prompts of a language, by their keys; notes of what is heard instead."""
    package = PACKAGES[f"asterisk-core-sounds-{language}"]
    document = fetch(package, cache) / "usr" / "share" / "doc" / package.name
    text = gzip.decompress((document / f"core-sounds-{language}.txt.gz").read_bytes())
    lines: dict[str, str] = {}
    for line in text.decode("utf-8-sig").splitlines():
        key, colon, words = line.partition(":")
        words = " ".join(words.replace("...", " ").split())
        if colon and not line.startswith(";") and words:
            lines[key.strip()] = words
    return lines


def _prompts(language: str, cache: Path, folder: Path) -> list[Item]:
    """Transcription of every prompt, its translation into English, its language and speaker."""
    said, english = transcripts(language, cache), transcripts("en", cache)
    items: list[Item] = []
    for key, item in _decoded(language, said, cache, folder).items():
        items.append(item(task="asr", target=said[key], language=language))
        if min(map(_words, (said[key], english.get(key, "")))) < _LEAST_WORDS:
            continue
        items.append(item(task="language", target=language))
        items.append(item(task="gender", target=_GENDERS[item.keywords["speaker"].split("_")[2]]))
        if language != "en":
            items.append(item(task="translation", target=english[key], language=language, to="en"))
    return items


def _wordless(cache: Path, folder: Path) -> list[Item]:
    """Tones and silence among the prompts: there is nothing to transcribe."""
    script = _script(_UNSPOKEN_LANGUAGE, cache).items()
    keys = [key for key, words in script if _WORDLESS.fullmatch(words)]
    found = _decoded(_UNSPOKEN_LANGUAGE, keys, cache, folder)
    return [
        item(task="asr", target=SILENCE, language=_UNSPOKEN_LANGUAGE, speaker=None)
        for item in found.values()
    ]


def _decoded(
    language: str, keys: Iterable[str], cache: Path, folder: Path
) -> dict[str, functools.partial[Item]]:
    """What is known of those prompts of a language that are recorded, and decoded, by their keys.

    Prompts longer than the models hear at once are left out.
    """
    package = PACKAGES[f"asterisk-core-sounds-{language}-g722"]
    (voice,) = (fetch(package, cache) / "usr" / "share" / "asterisk" / "sounds").iterdir()
    found: dict[str, functools.partial[Item]] = {}
    sources: dict[Path, Path] = {}
    for key in sorted(keys):
        file = voice / f"{key}.g722"
        if not (file.is_file() and 0 < _seconds(file) <= _LONGEST):
            continue
        path = folder / f"{key.replace('/', '-')}.flac"
        sources[file] = path
        found[key] = functools.partial(
            Item,
            audio=path,
            split="test",
            speaker=voice.name,
            source=f"{package.name}: {key}",
            licence=package.licence,
            seconds=_seconds(file),
        )
    _decode(sources)
    return found


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
    """Recordings whose names say what is heard, or that nobody speaks."""
    items: list[Item] = []
    for number, (package, name, licence, data) in enumerate(_named(cache)):
        answers: list[tuple[str, str, str | None]] = [
            (task, label, None)
            for task, labels in _LABELLED.items()
            for label, names in labels.items()
            if re.search(names, name)
        ]
        if _UNSPOKEN.search(name):
            answers.append(("asr", SILENCE, _UNSPOKEN_LANGUAGE))
        if answers:
            path = folder / f"{number:03d}.flac"
            seconds = save(decoded(data)[: round(_LONGEST * SAMPLE_RATE)], path)
            item = functools.partial(
                Item,
                audio=path,
                split="test",
                source=f"{package}: {name}",
                licence=licence,
                seconds=seconds,
            )
            items += [item(task=task, target=to, language=of) for task, to, of in answers]
    return items


def _named(cache: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """Package, name, licence and content of recordings that are not learned from."""
    for file in gcompris(cache):
        yield "gcompris-qt-data", file.name, file.licence, file.data
    package = PACKAGES["scratch"]
    media = fetch(package, cache) / "usr" / "share" / "scratch" / "Media" / "Sounds"
    for path in sorted(media.rglob("*.*")):
        yield package.name, path.relative_to(media).as_posix(), package.licence, path.read_bytes()
