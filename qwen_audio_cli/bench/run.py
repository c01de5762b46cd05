"""How fast a model is on this machine: a run as any other, measured, and what it could reach.

Without sources the run hears synthetic clips, whose answers get drawn lengths, since what a model
says about noise tells nothing.
"""

from __future__ import annotations

import logging
import math
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from ..api import Qwa
from ..audio import SAMPLE_RATE
from ..audio.sources import Source
from ..devices import budget_for
from ..errors import UsageError
from ..families.base import Family
from ..models import default_for
from ..options import Options
from ..records import ErrorRecord
from ..tasks import DEFAULTS, TASKS
from .machine import Rates, measure, peak_memory, synchronise
from .meter import Counts, MeteredFamily, Scales, Stopwatch, weights

LOG = logging.getLogger(__name__)

COMMANDS = ("transcribe", "caption", "classify")
"""The first of these whose default task the model can do is what is measured."""

SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 30.0
TOKENS_A_SECOND = 3.3
"""Of the answer to a synthetic clip: about what a transcript takes."""

SPREAD = 0.3
"""Standard deviation of the logarithm of the factor by which an answer is longer than that."""

MOST_TOKENS = 160
WARM_CLIPS = 2


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured: times in seconds, memory in bytes, rates a second.

    `rtfx` is seconds of audio by seconds of work, the model being loaded; `ceiling` the same where
    the machine did nothing but the model's matrix products and reads at its own measured rates.
    `decode_seconds` are spent in threads beside the rest. `step_seconds` and `device_memory` are
    None where they are not known.
    """

    model: str
    command: str
    device: str
    dtype: str
    threads: int
    batch: int
    files: int
    failed: int
    clips: int
    audio_seconds: float
    seconds: float
    rtfx: float
    decode_seconds: float
    encode_seconds: float | None
    step_seconds: float | None
    tokens: int
    tokens_per_second: float
    mean_seats: float
    peak_memory: int
    device_memory: int | None
    flops: float
    bandwidth: float
    ceiling: float


@dataclass(slots=True)
class _Heard:
    """What the records of a run add up to."""

    files: int = 0
    failed: int = 0
    audio: float = 0.0
    decode: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Cost:
    """What a model's work takes: operations a frame and a row, bytes a step and a row of the past.

    Measured on `WARM_CLIPS`, attention over the past at their lengths.
    """

    frame: float
    row: float
    step_bytes: int
    row_bytes: int

    def seconds(self, frames: int, counts: Counts, seats: int, rates: Rates) -> float:
        """The least that a run of such counts takes, no seat ever being empty."""
        computing = (frames * self.frame + counts.rows * self.row) / rates.flops
        read = counts.tokens / seats * self.step_bytes + counts.keys * self.row_bytes
        return max(computing, read / rates.bandwidth)


def bench(qwa: Qwa, sources: Iterator[Source] | None, clips: int) -> Figures:
    """Measure a run over `sources`, or over that many synthetic clips.

    Raises UsageError for a model that can do none of `COMMANDS`, and what `Qwa.prepare` raises.
    """
    command, family = _load(qwa)
    device = family.model.cache.devices[0]
    seats = budget_for(family.model, device, qwa.batch).seats
    synthetic = sources is None
    cost = _weigh(qwa, command, family)
    watch = Stopwatch(device)
    metered = MeteredFamily(family, watch, _drawn_tokens if synthetic else None)
    with tempfile.TemporaryDirectory() as folder:
        if sources is None:
            sources = _synthetic(Path(folder), clips, family.window)
        heard = _run(qwa, command, metered, sources, discard=synthetic)
    memory, device_memory = peak_memory(device)
    dtype = _dtype(family)
    rates = measure(device, dtype)
    counts = metered.counts
    least = cost.seconds(metered.model.frames, counts, seats, rates)
    return Figures(
        model=family.label,
        command=command,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        batch=seats,
        files=heard.files,
        failed=heard.failed,
        clips=counts.clips,
        audio_seconds=heard.audio,
        seconds=heard.seconds,
        rtfx=heard.audio / heard.seconds,
        decode_seconds=heard.decode,
        encode_seconds=watch.seconds("encode"),
        step_seconds=watch.seconds("step"),
        tokens=counts.tokens,
        tokens_per_second=counts.tokens / heard.seconds,
        mean_seats=counts.seated / heard.seconds,
        peak_memory=memory,
        device_memory=device_memory,
        flops=rates.flops,
        bandwidth=rates.bandwidth,
        ceiling=heard.audio / least if least else 0.0,
    )


def _load(qwa: Qwa) -> tuple[str, Family]:
    """What is measured, and the model, loaded."""
    refused: UsageError | None = None
    for command in COMMANDS:
        try:
            answering = qwa.prepare(command, Options())
        except UsageError as error:
            refused = refused or error
            continue
        for _ in answering(iter(())):
            pass
        return command, qwa.families[_name(qwa, command)]
    assert refused is not None
    raise refused


def _name(qwa: Qwa, command: str) -> str:
    return qwa.model or default_for(TASKS[DEFAULTS[command]])


def _weigh(qwa: Qwa, command: str, family: Family) -> _Cost:
    """Hear a few clips, for what they cost and to warm up."""
    scales = Scales(family.model)
    metered = MeteredFamily(family, scales, _drawn_tokens)
    with tempfile.TemporaryDirectory() as folder:
        sources = _synthetic(Path(folder), WARM_CLIPS, family.window)
        _run(qwa, command, metered, sources, discard=True)
    return _Cost(
        frame=scales.flops["encode"] / max(1, metered.model.frames),
        row=scales.flops["step"] / max(1, metered.model.rows),
        step_bytes=scales.step_bytes,
        row_bytes=family.model.cache.row_bytes,
    )


def _run(
    qwa: Qwa, command: str, family: MeteredFamily, sources: Iterator[Source], *, discard: bool
) -> _Heard:
    """Answer for all sources with this family; `discard` removes those that are done."""
    name = _name(qwa, command)
    real = qwa.families[name]
    vad = not (discard and TASKS[DEFAULTS[command]].speech)  # nobody speaks in synthetic clips
    heard = _Heard()
    device = family.model.cache.devices[0]
    try:
        qwa.families[name] = family
        answering = qwa.prepare(command, Options(vad=vad))
        begun = time.perf_counter()
        for record in answering(sources):
            heard.files += 1
            if isinstance(record, ErrorRecord):
                heard.failed += 1
                LOG.error("%s", record.message)
            else:
                heard.audio += record.duration or 0.0
                heard.decode += (record.timing and record.timing.decode) or 0.0
            if discard:
                Path(record.file).unlink()
        synchronise(device)
        heard.seconds = time.perf_counter() - begun
    finally:
        qwa.families[name] = real
    return heard


def _dtype(family: Family) -> torch.dtype:
    """The type that the model's weights are in."""
    return next(weights(family.model)).dtype


def _synthetic(folder: Path, count: int, window: float) -> Iterator[Source]:
    """Noise of 1-30 s (uniform; no longer than a window), a file at a time."""
    chance = random.Random(0)
    for number in range(count):
        seconds = chance.uniform(SHORTEST_SECONDS, min(LONGEST_SECONDS, window))
        noise = np.random.default_rng(number).standard_normal(int(seconds * SAMPLE_RATE), "float32")
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.1 * noise, SAMPLE_RATE)
        yield Source(str(path), path)


def _drawn_tokens(seconds: float) -> int:
    """How many tokens the answer to a synthetic clip has: the same for clips of one length."""
    factor = math.exp(random.Random(f"{seconds:.3f}").gauss(0, SPREAD))
    return min(max(round(seconds * TOKENS_A_SECOND * factor), 1), MOST_TOKENS)
