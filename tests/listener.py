"""A family of models that tells what it was given: tones, lengths, text, context and history.

Its files are tones, as `tone` writes them; which they are is found out by a Fourier transform.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
import torch
from scripted import END, ScriptedModel

from qwen_audio_cli import Qwa, api
from qwen_audio_cli.cli.app import run
from qwen_audio_cli.cli.console import LOG
from qwen_audio_cli.engine.request import Generate, Generated
from qwen_audio_cli.families.base import ClipAnswer, TimedWord, TooLong
from qwen_audio_cli.records import ErrorRecord, Record, to_json
from qwen_audio_cli.schema import SCHEMA

Records = list[dict[str, Any]]
Here = Callable[..., tuple[int, Records, list[str]]]
ALIGNER = "qwen3-forced-aligner"

WINDOW, ROOM = 10.0, 25.0
"""Seconds that the listener hears of a clip, and of all clips together."""

STEP = 100
"""Hz between two tones."""


def tone(path: Path, number: int, seconds: float = 1.0, *, rate: int = 16_000) -> Path:
    """Write a tone of `number` (from 2 to 31) times `STEP` Hz."""
    times = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * number * STEP * times), rate)
    return path


class Listener:
    """Needs no checkpoint; `name` is the family whose tasks it does."""

    label = "listener@1"
    window = WINDOW
    colleague = None
    parameters = 0

    def __init__(self, name: str = "qwen-audio-chat") -> None:
        self.name = name
        self.model = ScriptedModel()

    def check(self, job: Any) -> None:
        job.task.require(self.name, job.tags.text_language)

    def load(self, *where: Any) -> None:
        pass

    def features(self, samples: Any) -> torch.Tensor:
        power = np.abs(np.fft.rfft(samples))
        return torch.tensor([[round(power.argmax() * 16_000 / len(samples) / STEP)]])

    def answer(self, job: Any, subject: Any) -> Any:
        if sum(subject.seconds) > ROOM:
            raise TooLong(f"{sum(subject.seconds):g} s are more than {ROOM:g}")
        heard = yield Generate(prompt=(1,), longest=64, stop=frozenset({END}))
        assert isinstance(heard, Generated)
        if job.labels:
            same = 0.9 if len({*heard.tokens}) == 1 else 0.1
            return ClipAnswer(labels=(("yes", same), ("no", 1 - same)))
        tones = " ".join(map(str, heard.tokens))
        lengths = " ".join(f"{seconds:g}" for seconds in subject.seconds)
        turns = [f"{turn.question} {turn.answer!r} {turn.clips}" for turn in job.history]
        words = None
        if subject.text is not None:
            every = subject.text.split()
            share = subject.seconds[0] / max(1, len(every))
            words = tuple(
                TimedWord(word, n * share, (n + 1) * share, 1.0) for n, word in enumerate(every)
            )
        said = [tones, lengths, subject.text, job.context or None, *turns]
        return ClipAnswer(text="|".join(part for part in said if part is not None), words=words)


def listening(name: str = "qwen-audio-chat", **how: Any) -> Qwa:
    """A face whose model is a listener."""
    qwa = Qwa(model="listener", device="cpu", dtype="float32", **how)
    qwa.families["listener"] = Listener(name)
    return qwa


def written(records: Iterable[Record | ErrorRecord]) -> Records:
    """Records as they are written, each valid."""
    return parse(b"\n".join(map(to_json, records)))


def parse(content: bytes) -> Records:
    """The records of an output, each valid."""
    found = [json.loads(line) for line in content.splitlines()]
    for record in found:
        jsonschema.validate(record, SCHEMA)
    return found


@contextlib.contextmanager
def command_line(output: pytest.CaptureFixture[bytes], patch: pytest.MonkeyPatch) -> Iterator[Here]:
    """Runs the command line with a listener: exit code, records, messages."""
    patch.setenv("QWA_MODEL", "listener")
    patch.setenv("QWA_DEVICE", "cpu")
    handlers, level = LOG.handlers[:], LOG.level

    def call(
        *arguments: str | Path, family: str = "qwen-audio-chat"
    ) -> tuple[int, Records, list[str]]:
        patch.setattr(api, "open_model", lambda *wanted, **how: Listener(family))
        code = run([os.fspath(argument) for argument in arguments])
        shown, told = output.readouterr()
        return code, parse(shown), told.decode().splitlines()

    yield call
    LOG.handlers[:] = handlers
    LOG.setLevel(level)
