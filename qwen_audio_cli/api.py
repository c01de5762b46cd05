"""The Python face of `qwa`; the command line takes the same way.

from qwen_audio_cli import Qwa

for record in Qwa().transcribe(["talk.wav"], timestamps=True):
    print(record.text)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .audio.sources import Source, expand_sources
from .errors import ModelError, UsageError
from .models import default_for, open_model
from .options import Options
from .records import ErrorRecord, Record

if TYPE_CHECKING:
    import torch

    from .families.base import Family

MOST_WORKERS = 256

Name = str | os.PathLike[str]
"""What names a source: a file, a directory, a glob, or `-`."""


class Answering(Protocol):
    """A verified run: loads its model if need be and answers for sources.

    `is_done` tells of a record's id whether its work is there already. Raises ConfigError where
    the weights do not fit.
    """

    def __call__(
        self, sources: Iterator[Source], is_done: Callable[[str], bool] = ..., /
    ) -> Iterator[Record | ErrorRecord]:
        """Give a record for each source that is not done, as soon as it is complete."""


@dataclass(eq=False)
class Qwa:
    """Models on a device, loaded when first needed and kept.

    `model` is an alias or a checkpoint's path (None: the best embedded one for each task). `device`
    is `auto`, `cpu`, `cuda`, `cuda:1`, `mps`; `dtype` is `auto`, `float32`, `bfloat16`, `float16`.
    `batch` is how many clips are answered at once, `workers` how many threads decode audio.
    `full_window` encodes every clip at the model's whole window, as the reference does.
    """

    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch: int = 16
    workers: int = 2
    full_window: bool = False
    _families: dict[str, Family] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UsageError("batch must be at least 1")
        if not 1 <= self.workers <= MOST_WORKERS:
            raise UsageError(f"workers must be between 1 and {MOST_WORKERS}")

    def transcribe(
        self, sources: Name | Iterable[Name], *, recursive: bool = False, **options: Any
    ) -> Iterator[Record | ErrorRecord]:
        """Write down what is said; with `timestamps`, when each word is. Options: `Options`."""
        return self._run("transcribe", sources, recursive, options)

    def translate(
        self, sources: Name | Iterable[Name], *, recursive: bool = False, **options: Any
    ) -> Iterator[Record | ErrorRecord]:
        """Write down in the language `to` what is said in another. Options: `Options`."""
        return self._run("translate", sources, recursive, options)

    def caption(
        self, sources: Name | Iterable[Name], *, recursive: bool = False, **options: Any
    ) -> Iterator[Record | ErrorRecord]:
        """Describe what is heard in a sentence. Options: `Options`."""
        return self._run("caption", sources, recursive, options)

    def classify(
        self, sources: Name | Iterable[Name], *, recursive: bool = False, **options: Any
    ) -> Iterator[Record | ErrorRecord]:
        """Give the labels of a `task` (or your own `labels`) probabilities. Options: `Options`."""
        return self._run("classify", sources, recursive, options)

    def timestamp(
        self, sources: Name | Iterable[Name], *, recursive: bool = False, **options: Any
    ) -> Iterator[Record | ErrorRecord]:
        """Say when words or sounds are heard. Options: `Options`."""
        return self._run("timestamp", sources, recursive, options)

    def ask(
        self,
        question: str,
        sources: Name | Iterable[Name],
        *,
        recursive: bool = False,
        **options: Any,
    ) -> Iterator[Record | ErrorRecord]:
        """Answer a question about each source. Options: `Options`."""
        return self._run("ask", sources, recursive, {"question": question, **options})

    def _run(
        self,
        command: str,
        sources: Name | Iterable[Name],
        recursive: bool,
        options: dict[str, Any],
    ) -> Iterator[Record | ErrorRecord]:
        names = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
        expanded = expand_sources(names, recursive=recursive)
        return self.prepare(command, Options(**options))(expanded)

    def prepare(self, command: str, options: Options) -> Answering:
        """Verify what a run asks for; nothing is loaded before its result is called.

        Raises UsageError for what the task or the model cannot do, ModelError and ConfigError for
        a model or a device that is not there.
        """
        task = options.find_task(command)
        sequence, labels = options.tag_sequence(command), options.chosen_labels(task)
        name = self.model or default_for(task)
        # From here on torch is needed. Its threads must not spin while they wait for each other:
        # on a machine that does other work too, that costs several times the work itself.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        family = self._families.get(name) or open_model(name, full_window=self.full_window)
        from .audio.vad import load_vad
        from .engine.engine import Engine
        from .engine.scheduler import Budget
        from .families.base import Job
        from .merge import Choice
        from .pipeline import Plan, run

        job = Job(
            task=task,
            tags=sequence,
            labels=labels,
            temperature=options.temperature,
            seed=options.seed,
            longest=options.max_tokens,
        )
        family.check(job)
        device = _device(self.device)
        dtype = _dtype(self.dtype, device)

        def answer(
            sources: Iterator[Source], is_done: Callable[[str], bool] = lambda identifier: False
        ) -> Iterator[Record | ErrorRecord]:
            if name not in self._families:
                family.load(dtype, device)
                self._families[name] = family
            plan = Plan(
                family=family,
                job=job,
                options=options.hash(command, self.full_window),
                choice=Choice(options.top_k, options.threshold),
                vad=load_vad() if task.speech and options.vad else None,
                is_done=is_done,
                readers=self.workers,
            )
            return run(plan, Engine(family.model, device, Budget(seats=self.batch)), sources)

        return answer


def _device(name: str) -> torch.device:
    """A device by name, `auto` for the best there is. Raises ModelError where it is not there."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"the device '{name}' is not available: {reason}") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    """A floating-point type by name, `auto` for the fastest that the device computes natively."""
    import torch

    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        native = features.get("avx512_bf16") or features.get("amx_bf16")
        return torch.bfloat16 if native else torch.float32
    try:
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[name]
    except KeyError:
        raise UsageError(f"unknown dtype '{name}': auto, float32, bfloat16 or float16") from None
