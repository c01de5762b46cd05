"""How a corpus is made: shard by shard, each there as a whole or not at all, by many processes.

A shard depends on the seed and its number alone, so that what is made does not depend on how many
processes make it, and an interrupted run goes on where it was.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import orjson
import soundfile
from numpy.typing import NDArray

from ...audio import SAMPLE_RATE
from ...errors import ConfigError, OutputError, UsageError
from ..manifest import Item, Split, read, write
from .packages import PACKAGES, may_train

Samples = NDArray[np.float32]
Make = Callable[[Path, np.random.Generator], list[Item]]
"""Makes the shard a folder is named after by its number: audio in it, and its items. A process can
be sent it."""

MANIFEST = "manifest.jsonl"


def build(
    folder: Path, make: Make, shards: int, *, seed: int, workers: int = 1, **settings: Any
) -> Path:
    """Make a corpus of `shards` shards in `folder` and return its manifest.

    Shards that are there are kept. Raises UsageError where the folder was made with another seed or
    other `settings`, ConfigError for an item that may not be learned from, OutputError for the
    disk.
    """
    parts = folder / "parts"
    try:
        parts.mkdir(parents=True, exist_ok=True)
        _settle(folder / "settings.json", {"seed": seed, **settings})
        missing = [n for n in range(shards) if not _part(folder, n).exists()]
        _progress(folder.name, shards - len(missing), shards)
        with ExitStack() as stack:
            for done in _made(stack, folder, make, missing, seed, workers):
                _progress(folder.name, shards - len(missing) + done, shards)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror or error}") from error
    manifest = folder / MANIFEST
    write((item for n in range(shards) for item in read(_part(folder, n))), manifest)
    return manifest


def _made(
    stack: ExitStack, folder: Path, make: Make, missing: list[int], seed: int, workers: int
) -> Iterator[int]:
    """How many of the missing shards are made, after each."""
    if workers <= 1 or len(missing) <= 1:
        for done, number in enumerate(missing, 1):
            _shard(folder, make, number, seed)
            yield done
        return
    context = multiprocessing.get_context("spawn")  # threads of this process do not survive a fork
    pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=context))
    stack.callback(pool.shutdown, cancel_futures=True)
    shards = [pool.submit(_shard, folder, make, number, seed) for number in missing]
    for done, shard in enumerate(as_completed(shards), 1):
        shard.result()
        yield done


def _shard(folder: Path, make: Make, number: int, seed: int) -> None:
    audio = folder / "audio" / f"{number:05d}"
    if audio.exists():  # of a run that was interrupted
        shutil.rmtree(audio)
    audio.mkdir(parents=True)
    random = np.random.default_rng([seed, crc32(folder.name.encode()), number])
    items = make(audio, random)
    for item in items:
        verify(item)
    write(items, _part(folder, number))


def verify(item: Item) -> None:
    """Raise ConfigError for an item that lacks source or licence, or may not be learned from."""
    if not (item.source and item.licence):
        raise ConfigError(f"{item.audio}: no source or no licence is recorded")
    if item.split == "test":
        return
    if not may_train(item.licence):
        raise ConfigError(f"{item.audio}: {item.licence} may be tested with, not learned from")
    for source in item.source.split("; "):
        package = PACKAGES.get(source.partition(":")[0])
        if package and package.use == "test":
            raise ConfigError(f"{item.audio}: {package.name} is for tests: {package.reason}")


def _part(folder: Path, number: int) -> Path:
    return folder / "parts" / f"{number:05d}.jsonl"


def _settle(path: Path, settings: Mapping[str, Any]) -> None:
    """Note with what a folder is made. Raises UsageError where that was something else."""
    if not path.exists():
        path.write_bytes(orjson.dumps(settings, option=orjson.OPT_INDENT_2))
        return
    before = orjson.loads(path.read_bytes())
    for key in sorted({*before, *settings}):
        if before.get(key) != settings.get(key):
            raise UsageError(
                f"{path.parent}: made with {key} {before.get(key)}, not {settings.get(key)}: "
                "name another folder or remove this one"
            )


def _progress(name: str, done: int, total: int) -> None:
    print(f"{name}: {done} of {total} shards", file=sys.stderr, flush=True)


def save(samples: Samples, path: Path) -> float:
    """Write samples [n] as FLAC of 16 bits; returns their length in seconds."""
    soundfile.write(path, np.clip(samples, -1, 1), SAMPLE_RATE, subtype="PCM_16")
    return len(samples) / SAMPLE_RATE


def split_of(*key: object) -> Split:
    """The split of what a key names: 18 of 20 train, one dev, one test; the same on any machine."""
    place = crc32(repr(key).encode()) % 20
    return "dev" if place == 18 else "test" if place == 19 else "train"


def licences(used: Iterable[str]) -> str:
    """The SPDX expression of what is under several licences at once."""
    return " AND ".join(sorted({name for licence in used for name in licence.split(" AND ")}))
