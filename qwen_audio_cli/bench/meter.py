"""What a run does and what that costs, seen from outside the engine.

A family and a model that stand before the real ones: they count, time and weigh, and change nothing
that is computed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..engine.arena import CacheShape
from ..engine.attention import Step
from ..engine.request import (
    Consult,
    Dialogue,
    Generate,
    Generated,
    Model,
    Request,
    Score,
    Spell,
    Spelled,
    Speller,
)
from ..families.base import ClipAnswer, Family, Job, Subject

Phase = Literal["encode", "step"]

Lengths = Callable[[float], int]
"""How many tokens the answer about a clip of so many seconds shall have."""


@dataclass(slots=True)
class Counts:
    """What has been asked of a model, whatever its engine made of it.

    `rows` are tokens computed at least, `keys` rows of the past that sampling token by token reads;
    `seated` sums up over clips the seconds that each was in work.
    """

    clips: int = 0
    tokens: int = 0
    rows: int = 0
    keys: int = 0
    seated: float = 0.0


class Observer(Protocol):
    """Watches the calls of a model."""

    def watch(self, phase: Phase) -> AbstractContextManager[None]:
        """What a call of that phase happens in."""


class Stopwatch:
    """How long calls take: on a CPU what they last, on a GPU what lies between two events.

    A GPU's steps are not timed: most are replayed without a call.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: dict[Phase, float] = {"encode": 0.0, "step": 0.0}
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def watch(self, phase: Phase) -> Iterator[None]:
        """Time a call."""
        if not self._cuda:
            begun = time.perf_counter()
            yield
            self._seconds[phase] += time.perf_counter() - begun
        elif phase == "encode":
            begin, end = _event(), _event()
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
        else:
            yield

    def seconds(self, phase: Phase) -> float | None:
        """The sum of a phase; None where it is not known."""
        if self._cuda and phase == "step":
            return None
        for begin, end in self._events:
            end.synchronize()
            self._seconds["encode"] += begin.elapsed_time(end) / 1000
        self._events.clear()
        return self._seconds[phase]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _packed_flops(x: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
    return 2 * math.prod(x) * weight[0]


PACKED_FLOPS = {torch.ops.mkldnn._linear_pointwise: _packed_flops}
"""How many operations the product with a packed matrix is, which torch's counter does not know."""


class Scales:
    """Floating-point operations of each phase, and the bytes of weights that a step reads."""

    def __init__(self, model: Model) -> None:
        self.flops: dict[Phase, int] = {"encode": 0, "step": 0}
        self._reads = _WeightReads(model)

    @property
    def step_bytes(self) -> int:
        """Bytes of the weights that steps have read, each counted once."""
        return self._reads.bytes

    @contextmanager
    def watch(self, phase: Phase) -> Iterator[None]:
        """Weigh a call."""
        reads = self._reads if phase == "step" else nullcontext()
        with FlopCounterMode(display=False, custom_mapping=PACKED_FLOPS) as counter, reads:
            yield
        self.flops[phase] += counter.get_total_flops()


def weights(model: Model) -> Iterator[nn.Parameter]:
    """The weights of a model that is a module or is made of some."""
    parts = (model,) if isinstance(model, nn.Module) else vars(model).values()
    for part in parts:
        if isinstance(part, nn.Module):
            yield from part.parameters()


class _WeightReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which weights go through anything but the choice of some of their rows."""

    def __init__(self, model: Model) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        storages = (weight.untyped_storage() for weight in weights(model))
        self._sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        self._seen: set[int] = set()
        self._packed: dict[int, int] = {}  # they have no storage that could be asked for

    @property
    def bytes(self) -> int:
        plain = sum(self._sizes[pointer] for pointer in self._seen)
        return plain + sum(self._packed.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # the signature is torch's
        if func is not torch.ops.aten.embedding.default:
            tensors = [a for a in args if isinstance(a, Tensor)]
            packed = [tensor for tensor in tensors if tensor.is_mkldnn]
            self._packed |= {id(t): t.numel() * t.element_size() for t in packed}
            plain = (t.untyped_storage().data_ptr() for t in tensors if not t.is_mkldnn)
            self._seen.update(pointer for pointer in plain if pointer in self._sizes)
        return func(*args, **(kwargs or {}))


class MeteredModel:
    """A model whose calls `observer` watches, with the `frames` and `rows` that went through it.

    Frames are the clips' own; rows are all of a step's, with those that fill it up.
    """

    def __init__(self, model: Model, observer: Observer) -> None:
        self.observer = observer
        self.frames = self.rows = 0
        self.vocabulary, self.positions = model.vocabulary, model.positions
        self.capturable, self.frame_bytes = model.capturable, model.frame_bytes
        self._model = model

    @property
    def cache(self) -> CacheShape:
        """That of the model."""
        return self._model.cache

    def encode(self, features: Tensor, lengths: Sequence[int]) -> Sequence[object]:
        """As the model does."""
        self.frames += sum(lengths)
        with self.observer.watch("encode"):
            return self._model.encode(features, lengths)

    def open(self, memories: Sequence[object], watch: bool) -> object:
        """As the model does."""
        return self._model.open(memories, watch)

    def forward(self, tokens: Tensor, positions: Tensor, step: Step, rows: Tensor) -> Tensor:
        """As the model does."""
        self.rows += len(tokens)
        with self.observer.watch("step"):
            return self._model.forward(tokens, positions, step, rows)

    def spelled(self, memory: object, tokens: Sequence[int]) -> Spelled:
        """As the model does, which has a head that spells; not watched."""
        assert isinstance(self._model, Speller)
        return self._model.spelled(memory, tokens)


class MeteredFamily:
    """A loaded family that counts what its dialogues ask for.

    With `lengths` answers get these lengths whatever they say: nothing ends them earlier but a
    loop, and only the first is asked for.
    """

    def __init__(self, family: Family, observer: Observer, lengths: Lengths | None = None) -> None:
        self.name, self.label, self.window = family.name, family.label, family.window
        self.model = MeteredModel(family.model, observer)
        self.counts = Counts()
        self.colleague, self.parameters = family.colleague, family.parameters
        self._family = family
        self._lengths = lengths

    def check(self, job: Job) -> None:
        """As the family does."""
        self._family.check(job)

    def load(self, dtype: torch.dtype, device: torch.device, device_map: str | None = None) -> None:
        """As the family does."""
        self._family.load(dtype, device, device_map)

    def features(self, samples: NDArray[np.float32]) -> Tensor:
        """As the family does."""
        return self._family.features(samples)

    def answer(self, job: Job, subject: Subject) -> Dialogue[ClipAnswer]:
        """The family's dialogue, counted."""
        dialogue = self._family.answer(job, subject)
        if self._lengths is not None:
            dialogue = _of_length(dialogue, self._lengths(sum(subject.seconds)))
        return self._counted(dialogue)

    def _counted(self, dialogue: Dialogue[ClipAnswer]) -> Dialogue[ClipAnswer]:
        begun = time.perf_counter()
        fed: Sequence[int] = ()
        try:
            request = next(dialogue)
            while True:
                try:
                    answer = yield request
                except Exception as error:
                    request = dialogue.throw(error)
                    continue
                fed = self._count(request, fed)
                if isinstance(answer, Generated):
                    past, new = len(fed), len(answer.logprobs)
                    self.counts.tokens += new
                    self.counts.rows += new - 1
                    self.counts.keys += new * past + new * (new - 1) // 2
                request = dialogue.send(answer)
        except StopIteration as stop:
            result: ClipAnswer = stop.value
            return result
        finally:
            self.counts.clips += 1
            self.counts.seated += time.perf_counter() - begun

    def _count(self, request: Request, fed: Sequence[int]) -> Sequence[int]:
        """Count a request's own rows, not the beginning it shares with what was `fed`; gives that.

        What a colleague does is not counted, nor what a spelling head does.
        """
        if isinstance(request, Spell):
            return fed
        if isinstance(request, Consult):
            return ()
        same = takewhile(lambda pair: pair[0] == pair[1], zip(fed, request.prompt, strict=False))
        self.counts.rows += len(request.prompt) - sum(1 for _ in same)
        if isinstance(request, Score):
            self.counts.rows += sum(len(tokens) - 1 for tokens in request.continuations)
        return request.prompt


def _of_length(dialogue: Dialogue[ClipAnswer], length: int) -> Dialogue[ClipAnswer]:
    """The dialogue up to its first answer in text, which gets that many tokens."""
    try:
        request = next(dialogue)
        while not isinstance(request, Generate):
            request = dialogue.send((yield request))
    except StopIteration as stop:
        result: ClipAnswer = stop.value
        return result
    yield replace(request, stop=frozenset(), longest=length)
    dialogue.close()
    return ClipAnswer(text="")
