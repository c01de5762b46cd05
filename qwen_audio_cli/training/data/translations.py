"""Translations into English of the speech that was synthesised: new answers about the same audio.

What a clip says follows from the plan of speech and the clip's number; its transcript proves it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ...errors import ConfigError, OutputError, UsageError
from ..manifest import Item, read, write
from . import packages, speech, texts
from .corpus import MANIFEST, verify


def generate(out: Path, *, seed: int, cache: Path) -> Path:
    """Write the manifest `out`/translations about the clips under `out`/speech; returns its path.

    Speech may be unfinished: clips of the shards that are there count. `seed` is that of the
    speech. Raises UsageError where there is none, ConfigError where it says something else,
    OutputError for the disk.
    """
    clips = {int(clip.audio.stem): clip for clip in _transcribed(out / "speech")}
    if not clips:
        raise UsageError(f"{out / 'speech'}: no speech to translate: make speech first")
    wordnet = packages.fetch(packages.PACKAGES["wordnet-base"], cache) / "usr/share/wordnet"
    plan = speech.utterances(texts.wordnet_sentences(wordnet), seed)
    said = [utterance.text for utterance in itertools.islice(plan, max(clips) + 1)]
    items = [_translation(clip, said[number]) for number, clip in clips.items()]
    manifest = out / "translations" / MANIFEST
    try:
        manifest.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{manifest.parent}: {error.strerror or error}") from error
    write(filter(None, items), manifest)
    return manifest


def _transcribed(folder: Path) -> Iterator[Item]:
    """The clips of the shards that are there, each by its verbatim transcript."""
    for part in sorted((folder / "parts").glob("*.jsonl")):
        yield from (item for item in read(part) if item.task == "asr" and item.words)


def _translation(clip: Item, text: texts.Text) -> Item | None:
    """What a clip says in English, unless it is English."""
    if clip.target != text.verbatim:
        raise ConfigError(f"{clip.audio}: says '{clip.target}', in the plan '{text.verbatim}'")
    if text.english is None:
        return None
    item = replace(clip, task="translation", target=text.english, to="en", words=None)
    verify(item)
    return item
