"""The Python face of `qwa`; the command line takes the same way.

from qwen_audio_cli import Qwa

for record in Qwa().transcribe(["talk.wav"], timestamps=True):
    print(record.text)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from .answering import Answering
from .audio.sources import Source, expand_sources
from .errors import UsageError
from .models import default_for, open_model
from .options import Options
from .queries import Query, share
from .records import ErrorRecord, Record
from .tasks import FAMILIES, Task

if TYPE_CHECKING:
    from .families.base import Family
    from .pipeline import TaskPlan

MOST_WORKERS = 256

Order = Literal["completion", "input"]
"""The order of records: each as soon as it is complete, or as their sources are named."""

ORDERS: tuple[Order, ...] = get_args(Order)

DEVICE_MAPS = ("auto", "balanced", "sequential")
"""How a model is spread over devices, in the terms of accelerate: `sequential` fills one after the
other, `auto` and `balanced` use all evenly."""

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # Threads that wait for each other spin for some microseconds only: on a machine that does
        # other work too, more costs several times the work itself, and less a tenth on a quiet one.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "3000",
        # Every length of audio is a new shape, of which oneDNN would remember a thousand.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    }
)
"""What a run sets for PyTorch, where the user has not."""

# No sum of a GPU may be split by how many rows there are.
EXACT_ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "CUBLASLT_WORKSPACE_SIZE": "1"}

Name = str | os.PathLike[str]
"""What names a source: a file, a directory, a glob, or `-`."""


@dataclass(eq=False)
class Qwa:
    """Models on a device, loaded when first needed and kept.

    `model` is an alias or a checkpoint's path (None: the best embedded one for each task). `device`
    is `auto`, `cpu`, `cuda`, `cuda:1`, `mps`; `dtype` is `auto`, `float32`, `bfloat16`, `float16`.
    `batch` is how many clips are answered at once (None: what suits the device), `workers` how many
    threads decode audio. `devices`, as ("cuda:0", "cuda:1"), gives each a process of its own, which
    share the sources. `device_map` (`auto`, `balanced`, `sequential`) spreads a model that is too
    large for one device over all.
    `full_window` encodes every clip at the model's whole window, as the reference does. `order` is
    that of the records: `completion`, each as soon as it may come, or `input`. `deterministic`
    makes answers equal to the last bit whatever the batch. `families` are those
    that are loaded, by the model's name.
    """

    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    devices: tuple[str, ...] = ()
    device_map: str | None = None
    batch: int | None = None
    workers: int = 2
    full_window: bool = False
    order: str = "completion"
    deterministic: bool = False
    families: dict[str, Family] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise UsageError("batch must be at least 1")
        if not 1 <= self.workers <= MOST_WORKERS:
            raise UsageError(f"workers must be between 1 and {MOST_WORKERS}")
        if self.order not in ORDERS:
            raise UsageError(f"unknown order '{self.order}': {' or '.join(ORDERS)}")
        if self.devices and (self.device != "auto" or self.device_map):
            raise UsageError("devices have a model each: they take no --device and no --device-map")
        if self.device_map not in (None, *DEVICE_MAPS):
            names = ", ".join(DEVICE_MAPS)
            raise UsageError(f"unknown device map '{self.device_map}': {names}")

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

    def run(
        self,
        tasks: str | Iterable[str],
        sources: Name | Iterable[Name],
        *,
        questions: Sequence[str] = (),
        recursive: bool = False,
        **options: Any,
    ) -> Iterator[Record | ErrorRecord]:
        """Do several tasks about each source, which is heard once: a record for each.

        `tasks` are as `transcribe` or `classify:language`; every question is an `ask`. Options:
        `Options`, each for the tasks that have it.
        """
        named = [tasks] if isinstance(tasks, str) else tasks
        queries = share(named, questions, Options(**options))
        return self.verify(queries)(_expand(sources, recursive))

    def _run(
        self,
        command: str,
        sources: Name | Iterable[Name],
        recursive: bool,
        options: dict[str, Any],
    ) -> Iterator[Record | ErrorRecord]:
        return self.prepare(command, Options(**options))(_expand(sources, recursive))

    def prepare(self, command: str, options: Options) -> Answering:
        """Verify a run of one task, as `verify` does."""
        return self.verify([Query(command, options)])

    def verify(self, queries: Sequence[Query]) -> Answering:
        """Verify what a run asks for; nothing is loaded before its result is called.

        Raises UsageError for what a task or the model cannot do, ModelError and ConfigError for a
        model or a device that is not there.
        """
        tasks = [query.task for query in queries]
        speech_alone = all(query.task.speech and query.options.vad for query in queries)
        hashes = [
            query.options.hash(query.command, full_window=self.full_window, vad=speech_alone)
            for query in queries
        ]
        name = self.model or default_for(*tasks)
        _prepare_torch(deterministic=self.deterministic)
        family = self.families.get(name) or open_model(name, full_window=self.full_window)
        _require_all(family, tasks)
        plans = tuple(map(_task_plan, queries, hashes))
        for plan in plans:
            family.check(plan.job)
        if self.devices:
            return self._fleet(queries, plans, family)
        return self._alone(name, family, plans, heard_whole=not speech_alone)

    def _alone(
        self, name: str, family: Family, tasks: tuple[TaskPlan, ...], *, heard_whole: bool
    ) -> Answering:
        """The run on one device. Raises ModelError for a device that is not there."""
        from .audio.vad import load_vad
        from .devices import budget_for, find_device, find_dtype
        from .engine.engine import Engine, Manner
        from .pipeline import Plan, run

        device = find_device(self.device)
        dtype = find_dtype(self.dtype, device)

        def answer(
            sources: Iterator[Source], is_done: Callable[[str], bool] = lambda identifier: False
        ) -> Iterator[Record | ErrorRecord]:
            if name not in self.families:
                family.load(dtype, device, self.device_map)
                self.families[name] = family
            plan = Plan(
                family=family,
                tasks=tasks,
                vad=None if heard_whole else load_vad(),
                is_done=is_done,
                readers=self.workers,
                in_order=self.order == "input",
            )
            manner = Manner.of(device, deterministic=self.deterministic)
            budget = budget_for(family.model, device, self.batch)
            return run(plan, Engine(family.model, device, budget, manner), sources)

        return answer

    def _fleet(
        self, queries: Sequence[Query], tasks: tuple[TaskPlan, ...], family: Family
    ) -> Answering:
        """The run on several devices, a process each."""
        from .fleet.fleet import Fleet

        alone = replace(self, devices=(), order="completion")
        prepare = partial(_on_device, alone, tuple(queries))
        give_up = [partial(task.give_up, family.label) for task in tasks]
        return Fleet(self.devices, prepare, give_up, in_order=self.order == "input")


def _on_device(qwa: Qwa, queries: Sequence[Query], device: str) -> Answering:
    """A run of a fleet, in the process of one device."""
    return replace(qwa, device=device).verify(queries)


def _prepare_torch(*, deterministic: bool) -> None:
    """Set what PyTorch reads from the environment when it is imported; the user's own stands."""
    for name, value in {**ENVIRONMENT, **(EXACT_ENVIRONMENT if deterministic else {})}.items():
        os.environ.setdefault(name, value)


def _expand(sources: Name | Iterable[Name], recursive: bool) -> Iterator[Source]:
    names = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    return expand_sources(names, recursive=recursive)


def _require_all(family: Family, tasks: Sequence[Task]) -> None:
    """Raise UsageError naming the families that can do all tasks, where this one cannot."""
    unable = [task.name for task in tasks if family.name not in task.families]
    if unable and len(tasks) > 1:
        able = [name for name in FAMILIES if all(name in task.families for task in tasks)]
        raise UsageError(
            f"{family.name} cannot do {', '.join(unable)}; "
            f"families that can do all tasks of this run: {', '.join(able) or 'none'}"
        )


def _task_plan(query: Query, options_hash: str) -> TaskPlan:
    from .families.base import Job
    from .merge import Choice
    from .pipeline import TaskPlan

    task, options = query.task, query.options
    job = Job(
        task=task,
        tags=query.tags,
        labels=options.chosen_labels(task),
        temperature=options.temperature,
        seed=options.seed,
        longest=options.max_tokens,
    )
    return TaskPlan(job, options_hash, Choice(options.top_k, options.threshold))
