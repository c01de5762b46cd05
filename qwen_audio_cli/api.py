"""The Python face of `qwa`; the command line takes the same way.

from qwen_audio_cli import Qwa

for record in Qwa().transcribe(["talk.wav"], timestamps=True):
    print(record.text)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from .answering import Answering, IsDone
from .audio.sources import Source, expand_sources
from .errors import UsageError
from .groups import group
from .models import CARDS, Wanted, default_for, is_to_fetch, open_model
from .options import Options
from .queries import Query, each_once, share
from .readback import exchanges
from .records import ErrorRecord, Record
from .tasks import Task, able_families

if TYPE_CHECKING:
    from .families.base import Family
    from .models import ModelCard
    from .plan import TaskPlan

LOG = logging.getLogger(__name__)

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

    `model` is an alias, the directory of a checkpoint or of an adapter to one, or a name on the
    Hugging Face hub (None: the best embedded one for each task); of the hub, `revision` is a
    branch, tag or commit, and `offline` forbids fetching. `aligner` is the forced aligner that
    Qwen3-ASR consults for the times of words (None: the one that is on this machine).
    `device` is `auto`, `cpu`, `cuda`, `cuda:1`, `mps`; `dtype` is `auto`, `float32`, `bfloat16`,
    `float16`. `batch` is how many clips are answered at once (None: what suits the device),
    `workers` how many threads decode audio. `devices`, as ("cuda:0", "cuda:1"), gives each a
    process of its own, which share the sources. `device_map` (`auto`, `balanced`, `sequential`)
    spreads a model that is too large for one device over all.
    `full_window` encodes every clip at the model's whole window, as the reference does. `order` is
    that of the records: `completion`, each as soon as it may come, or `input`. `deterministic`
    makes answers equal to the last bit whatever the batch. `families` are those
    that are loaded, by the model's name.
    """

    model: str | None = None
    revision: str | None = None
    offline: bool = False
    aligner: str | None = None
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
    _warned: set[str] = field(default_factory=set, init=False, repr=False)

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
        """Give the labels of a `task` (or your own `labels`) probabilities. Options: `Options`.

        A task about two clips takes the sources in pairs.
        """
        return self._run("classify", sources, recursive, options)

    def timestamp(
        self, sources: Name | Iterable[Name], *, recursive: bool = False, **options: Any
    ) -> Iterator[Record | ErrorRecord]:
        """Say when words or sounds are heard. Options: `Options`.

        `text` is what is spoken in the one source, or a mapping of it by the sources' names: then
        its words are looked for.
        """
        return self._run("timestamp", sources, recursive, options)

    def ask(
        self,
        question: str,
        sources: Name | Iterable[Name] = (),
        *,
        together: bool = False,
        history: Iterable[Record | ErrorRecord | Mapping[str, Any]] | None = None,
        recursive: bool = False,
        **options: Any,
    ) -> Iterator[Record | ErrorRecord]:
        """Answer a question about each source. Options: `Options`.

        With `together` it is asked once about all of them; with `history`, the records of the
        questions before it (or what JSON reads of them), about their clips and all `sources`.
        """
        turns = exchanges(history or ())
        options |= {"question": question, "together": together or history is not None}
        return self._run("ask", sources, recursive, options | {"history": turns})

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
        return self._answer(share(named, questions, Options(**options)), sources, recursive)

    def _run(
        self,
        command: str,
        sources: Name | Iterable[Name],
        recursive: bool,
        options: dict[str, Any],
    ) -> Iterator[Record | ErrorRecord]:
        return self._answer([Query(command, Options(**options))], sources, recursive)

    def _answer(
        self, queries: Sequence[Query], sources: Name | Iterable[Name], recursive: bool
    ) -> Iterator[Record | ErrorRecord]:
        names = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
        answering = self.verify(queries)
        return answering(expand_sources(names, recursive=recursive, each_once=each_once(queries)))

    def prepare(self, command: str, options: Options) -> Answering:
        """Verify a run of one task, as `verify` does."""
        return self.verify([Query(command, options)])

    def verify(self, queries: Sequence[Query]) -> Answering:
        """Verify what a run asks for; nothing is loaded before its result is called.

        The result takes sources as they are named, and puts together what is heard in one request.
        Raises UsageError for what a task or the model cannot do, ModelError and ConfigError for a
        model or a device that is not there.
        """
        family, answering = self._verify(queries)
        self._warn(family, queries)
        first = queries[0]  # all take sources alike

        def answer(
            sources: Iterator[Source], is_done: IsDone = lambda identifier, name: False
        ) -> Iterator[Record | ErrorRecord]:
            options = first.options
            groups = group(sources, first.task, text=options.text, history=options.history)
            return answering(groups, is_done)

        return answer

    def _warn(self, family: Family, queries: Sequence[Query]) -> None:
        """Say once of each task that a model does, but not well."""
        unsure = [q.task.name for q in queries if family.name in q.task.experimental]
        if new := [name for name in unsure if name not in self._warned]:
            self._warned.update(new)
            LOG.warning(
                "%s is experimental at %s: expect wrong answers", family.label, ", ".join(new)
            )

    def _verify(self, queries: Sequence[Query]) -> tuple[Family, Answering]:
        """The model of a run, and its answers to sources as `group` gives them."""
        tasks = [query.task for query in queries]
        speech_alone = all(query.finds_speech for query in queries)
        hashes = [
            query.options.hash(query.command, full_window=self.full_window, vad=speech_alone)
            for query in queries
        ]
        name = self.model or default_for(*tasks)
        prepare_torch(deterministic=self.deterministic)
        family = self._family(name, queries)
        _require_all(family.name, tasks)
        plans = tuple(map(_task_plan, queries, hashes))
        for plan in plans:
            family.check(plan.job)
        if self.devices:
            return family, self._fleet(queries, plans, family)
        return family, self._alone(name, family, plans, heard_whole=not speech_alone)

    def _family(self, name: str, queries: Sequence[Query]) -> Family:
        """The model by name; one that is known to be unable to do a task is not fetched for it."""
        timed = any(query.tags.timestamps for query in queries)
        family = self.families.get(name)
        if family is not None and (family.colleague or not timed or family.name != "qwen3-asr"):
            return family
        self.families.pop(name, None)  # it was opened without its aligner
        wanted = Wanted(name, self.revision, self.offline)
        if card := CARDS.get(name):
            _require_all(card.family, [query.task for query in queries])
            for query in queries:
                query.task.require(card.family, query.tags.text_language)
            if not self.devices and is_to_fetch(wanted):
                self._require_room(card)
        return open_model(wanted, full_window=self.full_window, timed=timed, aligner=self.aligner)

    def _require_room(self, card: ModelCard) -> None:
        """Raise ModelError before a model is fetched for a device that has no room for it."""
        from .devices import find_device, find_dtype, require_memory

        device = find_device(self.device)
        dtype = find_dtype(self.dtype, device)
        weights = card.parameters * 1_000_000
        require_memory(card.alias, weights, dtype, device, self.device_map)

    def _alone(
        self, name: str, family: Family, tasks: tuple[TaskPlan, ...], *, heard_whole: bool
    ) -> Answering:
        """The run on one device. Raises ModelError for a device that is not there."""
        from .audio.vad import load_vad
        from .devices import find_device, find_dtype, require_memory
        from .engine.engine import Manner
        from .engines import engine_for
        from .pipeline import run
        from .plan import Plan

        device = find_device(self.device)
        dtype = find_dtype(self.dtype, device)

        def answer(
            sources: Iterator[Source], is_done: IsDone = lambda identifier, name: False
        ) -> Iterator[Record | ErrorRecord]:
            if name not in self.families:
                both = [family, *([family.colleague] if family.colleague else [])]
                weights = sum(one.parameters for one in both)
                require_memory(family.label, weights, dtype, device, self.device_map)
                family.load(dtype, device, self.device_map)
                if family.colleague is not None:
                    family.colleague.load(dtype, device)
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
            return run(plan, engine_for(family, device, self.batch, manner), sources)

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
    _, answering = replace(qwa, device=device)._verify(queries)
    return answering


def prepare_torch(*, deterministic: bool = False) -> None:
    """Set what PyTorch reads from the environment when it is imported; the user's own stands."""
    for name, value in {**ENVIRONMENT, **(EXACT_ENVIRONMENT if deterministic else {})}.items():
        os.environ.setdefault(name, value)


def _require_all(family: str, tasks: Sequence[Task]) -> None:
    """Raise UsageError naming the families that can do all tasks, where this one cannot."""
    unable = [task.name for task in tasks if family not in task.families]
    if unable and len(tasks) > 1:
        able = ", ".join(able_families(tasks)) or "none"
        raise UsageError(
            f"{family} cannot do {', '.join(unable)}; "
            f"families that can do all tasks of this run: {able}"
        )


def _task_plan(query: Query, options_hash: str) -> TaskPlan:
    from .families.base import Job, Turn
    from .merge import Choice
    from .plan import TaskPlan

    task, options = query.task, query.options
    job = Job(
        task=task,
        tags=query.tags,
        labels=options.chosen_labels(task),
        temperature=options.temperature,
        seed=options.seed,
        longest=options.max_tokens,
        context=options.context,
        history=tuple(Turn(e.question, e.answer, len(e.files)) for e in options.history),
    )
    return TaskPlan(job, options_hash, Choice(options.top_k, options.threshold))
