"""Decode steps as CUDA graphs: one launch in place of the thousands that a step of single rows is.

A graph holds addresses, so everything that changes from step to step lies in buffers that are
written before it is replayed; no Python number may vary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from .arena import Arena
from .attention import Attend, Kernel, Span, Step, varlen_kernel
from .request import Model
from .transfer import to_device

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]
"""Records what a function does; gives what does it again, and the tensor it leaves each time."""


def bucket_sizes(seats: int) -> list[int]:
    """How many rows graphs are captured for: 1, 2, 4, 8, then every 16th, up to `seats`."""
    sizes = [size for size in (1, 2, 4, 8) if size < seats]
    return [*sizes, *range(16, seats, 16), seats]


class DecodeGraphs:
    """The decode step of a model for a few numbers of rows, the next larger of which is taken."""

    def __init__(
        self,
        model: Model,
        arena: Arena,
        last: Tensor,
        *,
        capture: Capture | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        """Prepare buffers; a size is captured when it is first needed.

        `last` [seats] are the tokens sampled last, which a step begins from. `capture` and `kernel`
        stand for CUDA's in tests.
        """
        self._model = model
        self._arena = arena
        self._last = last
        self._capture = capture or CudaCapture()
        self._kernel = kernel or varlen_kernel()
        self._sizes = bucket_sizes(len(last))
        # Row by row: seat, arena row that is written, position, rows in use, begin of the keys.
        self._buffers = torch.zeros(5, len(last) + 1, dtype=torch.long, device=last.device)
        self._graphs: dict[int, tuple[Callable[[], object], Tensor]] = {}

    def run(self, rows: Sequence[tuple[int, int, int]]) -> Tensor:
        """Scores [n or more, vocabulary] of the next token of each (seat, begin, length)."""
        size = next(size for size in self._sizes if size >= len(rows))
        spare = [(0, 0, 0)] * (size - len(rows))  # they write to scratch, and see it only
        columns = [
            (seat, begin + length, length, length + 1, begin)
            for seat, begin, length in [*rows, *spare]
        ]
        self._buffers[:, :size].copy_(to_device(torch.tensor(columns).T, self._buffers.device))
        if size not in self._graphs:
            self._graphs[size] = self._capture(partial(self._step, size))
        replay, scores = self._graphs[size]
        replay()
        return scores

    def _step(self, size: int) -> Tensor:
        """What is captured: from the buffers to scores [size, vocabulary]."""
        seats, targets, positions, _, _ = (buffer[:size] for buffer in self._buffers)
        step = Step(self._arena, (), targets, partial(self._backend, size))
        rows = torch.arange(size, device=targets.device)
        tokens = self._last.index_select(0, seats)
        return self._model.forward(tokens, positions, step, rows)

    def _backend(self, size: int, spans: Sequence[Span], device: torch.device) -> Attend:
        """One query row a request over its rows of the arena."""
        used = self._buffers[3, :size].int()
        begins = self._buffers[4, : size + 1].int()
        order = torch.arange(size + 1, dtype=torch.int32, device=device)

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            mixed: Tensor = self._kernel(
                query,
                keys,
                values,
                order,
                begins,
                1,
                self._model.positions,
                window_size=(-1, 0),
                enable_gqa=query.shape[1] != keys.shape[1],
                seqused_k=used,
            )
            return mixed

        return attend


class CudaCapture:
    """Captures CUDA graphs that share one pool of memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """Warm up beside the current stream, as CUDA asks for, then record."""
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            scores = work()
        return graph.replay, scores
