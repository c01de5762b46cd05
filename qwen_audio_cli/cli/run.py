"""One run from the command line: what is refused before it, where its records go, how it ends."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import typer

from ..answering import Answering
from ..api import Qwa
from ..audio.sources import AUDIO_NAME, STANDARD_INPUT, Source, expand_sources
from ..errors import NoInputError, UsageError
from ..exits import Exit
from ..fleet.fleet import parse_devices
from ..options import Options
from ..queries import Query, each_once, share
from ..records import Record
from ..sinks import Sink
from ..sinks.journal import Journal
from ..sinks.jsonl import JsonlSink
from .console import LOG, Progress, configure
from .options import AnswerOptions, RunOptions

RUN = "run"
"""The subcommand that does several tasks."""


def execute(
    command: str,
    words: Sequence[str] | None,
    answer: AnswerOptions,
    how: RunOptions,
    **own: Any,
) -> None:
    """Run a subcommand, `own` being the options that it alone has; exit with what came of it."""
    configure(quiet=how.quiet, verbose=how.verbose, color=not how.no_color)
    queries = _queries(command, answer.values() | own)
    if answer.show_tags:
        typer.echo("\n".join(str(query.tags) for query in queries))
        return
    flags = how.failing_flags()
    sources = _expand(words or (), how, queries)
    answering = _qwa(how).verify(queries)
    with JsonlSink.to_stdout() if how.to_stdout else JsonlSink.to_file(how.output) as sink:
        journal = Journal.read(how.output) if how.resume else Journal()
        code = _answer(answering, _guard(sources, how), sink, journal, flags, len(queries))
    raise typer.Exit(code)


def _queries(command: str, values: dict[str, Any]) -> Sequence[Query]:
    """What a run asks of every source. Raises UsageError."""
    if command != RUN:
        return [Query(command, Options(**values))]
    tasks, questions = values.pop("tasks"), values.pop("questions")
    return share(tasks, questions, Options(**values))


def _qwa(how: RunOptions) -> Qwa:
    return Qwa(
        model=how.model,
        revision=how.revision,
        offline=how.offline,
        aligner=how.aligner,
        device=how.device,
        dtype=how.dtype,
        devices=() if how.devices is None else tuple(parse_devices(how.devices)),
        device_map=how.device_map,
        batch=how.batch,
        workers=how.workers,
        full_window=how.full_window,
        order=how.order,
        deterministic=how.deterministic,
    )


def _expand(words: Sequence[str], how: RunOptions, queries: Sequence[Query]) -> Iterator[Source]:
    """The sources, at least one, unless a conversation is about some already.

    Raises UsageError and NoInputError.
    """
    names = [*words, *([] if how.files_from is None else [how.files_from])]
    earlier = [file for query in queries for turn in query.options.history for file in turn.files]
    _verify_input([*names, *earlier], how)
    if not names:
        if earlier:
            return iter(())
        raise UsageError(
            "name audio files, directories or globs, - for audio on standard input, or a list "
            "of them by --files-from"
        )
    sources = expand_sources(
        words,
        files_from=how.files_from,
        null=how.null,
        recursive=how.recursive,
        each_once=each_once(queries),
    )
    first = next(sources, None)
    if first is None:
        deeper = not how.recursive and any(map(os.path.isdir, words))
        raise NoInputError("no input matched" + (" (-r searches deeper)" if deeper else ""))
    return chain([first], sources)


def _verify_input(names: Sequence[str], how: RunOptions) -> None:
    """Raise UsageError for what does not go together with input or output of these names."""
    if how.null and how.files_from is None:
        raise UsageError("--null tells how to read a list: it needs --files-from")
    if how.resume and how.to_stdout:
        raise UsageError("--resume reads an earlier output: it needs --output FILE")
    if STANDARD_INPUT in names and sys.stdin is not None and sys.stdin.isatty():
        raise UsageError("standard input is a terminal: pipe something into it")
    if not how.to_stdout and AUDIO_NAME.fullmatch(how.output.name):
        raise UsageError(f"{how.output}: is named like audio, but the output is JSON lines")
    for name in names:
        _refuse_output(name, _output_status(how))


def refuse_output(given: Path | None, how: RunOptions) -> None:
    """Raise UsageError where what is read as no source is the output."""
    if given is not None:
        _refuse_output(str(given), _output_status(how))


def _output_status(how: RunOptions) -> os.stat_result | None:
    """The regular file that is written to, if there is one."""
    try:
        status = os.fstat(1) if how.to_stdout else how.output.stat()
    except OSError:  # opening it will tell why
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _refuse_output(name: str, output: os.stat_result | None) -> None:
    if output is None or name == STANDARD_INPUT:
        return
    try:
        same = os.path.samestat(Path(name).stat(), output)
    except (OSError, ValueError):  # opening it will tell why
        return
    if same:
        raise UsageError(f"{name}: is both input and output")


def _guard(sources: Iterator[Source], how: RunOptions) -> Iterator[Source]:
    output = _output_status(how)
    for source in sources:
        if source.path is not None:
            _refuse_output(source.name, output)
        yield source


def _answer(
    answering: Answering,
    sources: Iterator[Source],
    sink: Sink,
    journal: Journal,
    failing: frozenset[str],
    tasks: int,
) -> Exit:
    """Write a record for every source and task that is not in the journal."""
    before = len(journal)
    begun = time.perf_counter()
    records = answering(sources, journal.take)
    LOG.debug("loaded in %.1f s", time.perf_counter() - begun)
    progress = Progress(tasks)
    flagged, told = False, ""
    try:
        for record in records:
            with progress.aside():
                sink.write(record)
                if isinstance(record, Record):
                    flagged |= not failing.isdisjoint(record.flags)
                elif record.message != told:  # once for all the tasks of a file
                    LOG.error("%s", record.message)
                    told = record.message
            progress.count(record)
    except (KeyboardInterrupt, SystemExit):
        progress.close()
        LOG.info("stopped: %s", progress.summary(before - len(journal)))
        raise
    finally:
        progress.close()
    before -= len(journal)
    LOG.info("%s", progress.summary(before))
    if progress.failed:
        return Exit.SOME_FAILED if progress.answered or before else Exit.ALL_FAILED
    return Exit.FLAGGED if flagged else Exit.OK
