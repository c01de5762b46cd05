"""Real recordings with their transcripts, and the word error rate that the benchmarks share.

The recordings are the telephone prompts of Debian's asterisk-core-sounds-{en,fr,es,it,ru} (the
transcripts) and -g722 (the audio: wide band, 16 kHz, one speaker a language). A prompt counts if
its transcript has three words or more and tells only what is said: no stage directions in brackets,
no letters lost to a question mark. And it lasts 30 s at most, what Whisper hears in one go, so that
none is cut short for a system that hears no more.

Importing this is cheap on purpose: see `processes.run`.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ("en", "fr", "es", "it", "ru")
SOUNDS = Path("/usr/share/asterisk/sounds")
TRANSCRIPTS = "/usr/share/doc/asterisk-core-sounds-{0}/core-sounds-{0}.txt.gz"
BYTES_PER_SECOND = 8_000
"""Of G.722 at 64 kbit/s."""

LONGEST_SECONDS = 30.0
FEWEST_WORDS = 3
NOT_SAID = re.compile(r"[\[({<]|\?.*\w")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A recording (WAV, mono, 16 kHz), how long it is, and what is said in it."""

    path: Path
    language: str
    seconds: float
    text: str


def usable(language: str) -> Iterator[tuple[str, str]]:
    """Name and transcript of every prompt that counts, in the order of Asterisk's list."""
    listing = Path(TRANSCRIPTS.format(language))
    if not listing.exists() or not (SOUNDS / language).exists():
        package = f"asterisk-core-sounds-{language}"
        sys.exit(f"no prompts in '{language}': apt-get install {package} {package}-g722")
    with gzip.open(listing, "rt", encoding="utf-8-sig") as lines:
        for line in lines:
            name, colon, text = line.strip().partition(":")
            if name.startswith(";") or not colon or NOT_SAID.search(text):
                continue
            sound = SOUNDS / language / f"{name}.g722"
            if len(text.split()) < FEWEST_WORDS or not sound.exists():
                continue
            if sound.stat().st_size <= LONGEST_SECONDS * BYTES_PER_SECOND:
                yield name, text.strip()


def prompts(language: str, count: int, folder: Path, seed: int = 0) -> list[Prompt]:
    """A random choice of the prompts in a language, written to `folder` as WAV files."""
    every = list(usable(language))
    chosen = []
    for name, text in random.Random(seed).sample(every, min(count, len(every))):
        sound = SOUNDS / language / f"{name}.g722"
        path = folder / f"{language}-{name.replace('/', '-')}.wav"
        command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-f", "g722"]
        subprocess.run([*command, "-i", str(sound), "-ac", "1", str(path)], check=True)
        chosen.append(Prompt(path, language, sound.stat().st_size / BYTES_PER_SECOND, text))
    return chosen


def spelling_table() -> Path | None:
    """British to American spellings as published with Whisper: a file of openai-whisper's."""
    package = importlib.util.find_spec("whisper")  # found, not imported
    for folder in (package and package.submodule_search_locations) or ():
        if (path := Path(folder) / "normalizers" / "english.json").exists():
            return path
    return None


def normalise(language: str, texts: Iterable[str]) -> list[str]:
    """Texts made comparable by Whisper's own normalisers, in transformers' implementation.

    English is normalised fully (numbers, contractions and, with openai-whisper installed,
    spellings). In other languages case and punctuation go, and accents too: many of the transcripts
    are written without.
    """
    from transformers.models.whisper.english_normalizer import (
        BasicTextNormalizer,
        EnglishTextNormalizer,
    )

    if language == "en":
        table = spelling_table()
        spellings = json.loads(table.read_text(encoding="utf-8")) if table else {}
        plain: Callable[[str], str] = EnglishTextNormalizer(spellings)
    else:
        plain = BasicTextNormalizer(remove_diacritics=True)
    return [" ".join(plain(text).split()) for text in texts]


def word_error_rate(truth: Sequence[str], heard: Sequence[str]) -> float:
    """Wrong, missing and added words by the number of words said; both normalised."""
    import jiwer

    return float(jiwer.wer(list(truth), list(heard)))
