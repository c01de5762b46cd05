"""`qwa bench`: the figures of a user's own model and machine, for people or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from typer import Option

from ..api import Qwa, prepare_torch
from ..audio.sources import Source, expand_sources
from ..errors import NoInputError
from ..exits import Exit
from .console import configure
from .options import Sources, as_in_runs

if TYPE_CHECKING:
    from ..bench.run import Figures


def bench(
    *,
    sources: Sources = None,
    clips: Annotated[
        int,
        Option(
            "--clips",
            metavar="COUNT",
            min=1,
            help="Synthetic clips of 1-30 s to hear where no SOURCE is named.",
        ),
    ] = 64,
    json: Annotated[bool, Option("--json", help="One JSON object.")] = False,
    model: Annotated[str | None, as_in_runs("model")] = None,
    device: Annotated[str, as_in_runs("device")] = "auto",
    dtype: Annotated[str, as_in_runs("dtype")] = "auto",
    batch: Annotated[int | None, as_in_runs("batch")] = Qwa.batch,
    workers: Annotated[int, as_in_runs("workers")] = Qwa.workers,
    recursive: Annotated[bool, as_in_runs("recursive")] = False,
    verbose: Annotated[bool, as_in_runs("verbose")] = False,
) -> None:
    """Measure how fast a model is on this machine, and how fast it could be.

    Hears each SOURCE, or synthetic clips where none is named, and writes no records.
    """
    configure(verbose=verbose)
    found = _expand(sources, recursive) if sources else None
    prepare_torch()
    from ..bench.run import bench as measure

    qwa = Qwa(model=model, device=device, dtype=dtype, batch=batch, workers=workers)
    figures = measure(qwa, found, clips)
    if json:
        typer.echo(orjson.dumps(_rounded(figures)).decode())
    elif figures.failed < figures.files:
        typer.echo(_text(figures))
    if figures.failed:
        raise typer.Exit(Exit.ALL_FAILED if figures.failed == figures.files else Exit.SOME_FAILED)


def _expand(words: Sequence[str], recursive: bool) -> Iterator[Source]:
    """The sources, at least one. Raises UsageError and NoInputError."""
    sources = expand_sources(words, recursive=recursive)
    first = next(sources, None)
    if first is None:
        raise NoInputError("no input matched")
    return chain([first], sources)


def _rounded(figures: Figures) -> dict[str, object]:
    """The figures by name, seconds to the millisecond."""
    values = asdict(figures).items()
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in values}


def _text(figures: Figures) -> str:
    """The figures for people to read."""
    f = figures
    threads = f", {f.threads} threads" if f.device == "cpu" else ""
    device = "" if f.device_memory is None else f", {f.device_memory / 1e6:,.0f} MB on the device"
    failed = f", {f.failed} failed" if f.failed else ""
    share = f"; {f.rtfx / f.ceiling:.0%} of it was reached" if f.ceiling else ""
    rows = [
        ("model", f"{f.model}, '{f.command}', {f.device}, {f.dtype}{threads}, batch {f.batch}"),
        (
            "speed",
            f"{f.rtfx:.1f}x real time: {f.audio_seconds:.1f} s of audio in {f.seconds:.1f} s",
        ),
        ("heard", f"{f.clips} clips of {f.files} files{failed}"),
        ("decode", f"{f.decode_seconds:.1f} s, in threads beside the rest"),
        ("encode", _seconds(f.encode_seconds)),
        ("steps", _seconds(f.step_seconds)),
        ("tokens", f"{f.tokens:,}: {f.tokens_per_second:.1f} a second"),
        ("in work", f"{f.mean_seats:.1f} of {f.batch} clips on average"),
        ("memory", f"{f.peak_memory / 1e6:,.0f} MB at most{device}"),
        ("machine", f"{f.flops / 1e9:,.0f} GFLOP/s, {f.bandwidth / 1e9:,.1f} GB/s"),
        ("ceiling", f"{f.ceiling:.1f}x real time by these{share}"),
    ]
    return "\n".join(f"{name:<8} {value}" for name, value in rows)


def _seconds(value: float | None) -> str:
    return "not timed on this device" if value is None else f"{value:.1f} s"
