"""What workers are sent in tests, in a module that they can import, and what is looked for after.

Nothing at the top imports torch. Where a test is about processes and not about answers, they run
`Parrot`, which loads no model.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from qwen_audio_cli import Qwa
from qwen_audio_cli.answering import Answering, IsDone
from qwen_audio_cli.audio.sources import Source
from qwen_audio_cli.errors import InputError, ModelError
from qwen_audio_cli.fleet.fleet import Fleet
from qwen_audio_cli.options import Options
from qwen_audio_cli.queries import share
from qwen_audio_cli.records import ErrorRecord, Record, record_id

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
MODEL, OPTIONS = "parrot@1", "0" * 12
LOG = logging.getLogger("qwen_audio_cli.test")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")


@dataclass(frozen=True)
class Real:
    """A run with the embedded model; the source that is called `poison` kills its worker."""

    model: str | None = None
    tasks: str = "transcribe"

    def __call__(self, device: str) -> Answering:
        qwa = Qwa(model=self.model, device=device, dtype="float32", batch=4)
        answering = qwa.verify(share([self.tasks], (), Options(timestamps=True)))
        whole = threads()

        def answer(sources: Iterator[Source], is_done: IsDone) -> Iterator[Record | ErrorRecord]:
            LOG.info("%d of %d threads", threads(), whole)
            return answering(map(_swallow, sources), is_done)

        return answer


def _swallow(source: Source) -> Source:
    if source.path is not None and source.path.name == "poison.wav":
        os.kill(os.getpid(), signal.SIGKILL)
    return source


@dataclass(frozen=True)
class Parrot:
    """A run that says who it is; some names of sources make it misbehave."""

    tasks: tuple[str, ...] = ("asr",)

    def __call__(self, device: str) -> Answering:
        if device == "mps":
            raise ModelError("the device 'mps' is not available")
        return self.answer

    def answer(
        self, sources: Iterator[Source], is_done: IsDone = lambda identifier, name: bool(identifier)
    ) -> Iterator[Record | ErrorRecord]:
        for source in sources:
            pending: Sequence[str] = self.tasks
            if source.name.startswith("die"):
                os.kill(os.getpid(), signal.SIGKILL)
            elif source.name.startswith("raise"):
                raise RuntimeError("out of crackers")
            elif source.name.startswith("hang"):
                threading.Event().wait()
            elif source.name.startswith("log"):
                try:
                    raise ValueError("a cause")
                except ValueError:
                    LOG.exception("%s: two\nlines", source.name)
            elif source.name == "gate":
                assert source.path is not None
                with source.path.open("rb") as gate:
                    gate.read(1)
                for _ in range(100):  # while the other workers may do what they should not
                    is_done(parrot_id(source.name), source.name)
            elif source.name == "print":
                print("this is no record")
            else:
                done = {
                    task: is_done(parrot_id(source.name, task), source.name) for task in pending
                }
                pending = [task for task in pending if not done[task]]
            for task in pending:
                yield Record(
                    id=parrot_id(source.name, task),
                    task=task,
                    file=source.name,
                    model=MODEL,
                    options=OPTIONS,
                    text=str(os.getpid()),
                )
                if source.name.startswith("half"):
                    os.kill(os.getpid(), signal.SIGKILL)


def threads() -> int:
    import torch

    return torch.get_num_threads()


def parrot_id(name: str, task: str = "asr") -> str:
    return record_id(name, task, MODEL, OPTIONS)


def lost_asr(content: str, source: Source, error: InputError) -> ErrorRecord:
    return ErrorRecord(
        id=parrot_id(content), task="asr", file=source.name, code=error.code, message=str(error)
    )


def lost_language(content: str, source: Source, error: InputError) -> ErrorRecord:
    lost = lost_asr(content, source, error)
    return replace(lost, id=parrot_id(content, "language"), task="language")


ONE_TASK = (lost_asr,)
TWO_TASKS = (lost_asr, lost_language)


def named(*names: str) -> Iterator[Source]:
    return (Source(name, Path(name)) for name in names)


def parrots(*devices: str, in_order: bool = False) -> Fleet:
    return Fleet(devices, Parrot(), ONE_TASK, in_order)


def children(pid: int | None = None) -> set[int]:
    """The processes that are children of one, zombies too."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may hold anything; the parent follows the state after it.
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == (pid or os.getpid()):
                found.add(int(status.parent.name))
    return found


@contextlib.contextmanager
def standard_input(path: Path) -> Iterator[None]:
    """Make a file this process's descriptor 0, as a shell does."""
    saved = os.dup(0)
    with path.open("rb") as file:
        os.dup2(file.fileno(), 0)
    try:
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)


def comparable(record: Record | ErrorRecord) -> Any:
    """All of a record that does not depend on what else was in its batch."""
    if isinstance(record, ErrorRecord):
        return record
    segments = record.segments or ()
    spoken = [[(word.word, word.start, word.end) for word in part.words or ()] for part in segments]
    return replace(record, timing=None, segments=None), spoken
