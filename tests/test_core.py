"""The core's parts on their own: attention back-ends, the arena, the scheduler, decode graphs."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwen_audio_cli.engine.arena import Arena, CacheShape
from qwen_audio_cli.engine.attention import Backend, Span, Step, padded, varlen, views
from qwen_audio_cli.engine.graphs import DecodeGraphs, bucket_sizes
from qwen_audio_cli.engine.memory import give_back, rows_that_fit
from qwen_audio_cli.engine.scheduler import Budget, Scheduler


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: Tensor,
) -> Tensor:
    """What torch documents of `varlen_attn` for these arguments, in plain arithmetic."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == seqused_k.dtype == torch.int32
    assert len(cu_seq_q) == len(cu_seq_k) == len(seqused_k) + 1 and window_size == (-1, 0)
    assert int(cu_seq_q[-1]) == len(query)
    assert enable_gqa == (query.shape[1] != key.shape[1])
    out = torch.empty_like(query)
    bounds = pairwise(cu_seq_q.tolist())
    for (begin, end), start, used in zip(
        bounds, cu_seq_k.tolist(), seqused_k.tolist(), strict=False
    ):
        assert end - begin <= max_q and used <= max_k
        seen = torch.ones(end - begin, used, dtype=torch.bool).tril(used - (end - begin))
        own = slice(start, start + used)
        out[begin:end] = plain(query[begin:end], key[own], value[own], seen)
    return out


def plain(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


BACKENDS: dict[str, Backend] = {
    "views": views,
    "padded": padded,
    "varlen": partial(varlen, kernel=flash),
}


@pytest.mark.parametrize("name", BACKENDS)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 7)), min_size=1, max_size=6),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.sampled_from([1, 2]),
    st.integers(0, 3),
)
@settings(max_examples=25, deadline=None)
def test_packed_attention_is_that_of_each_request_alone(
    name: str, requests: list[tuple[int, int]], branches: list[int], groups: int, spare: int
) -> None:
    """Against plain softmax: pasts and new rows of any length, the last one branching, and NaN in
    all rows of the arena that are nobody's."""
    torch.manual_seed(sum(map(sum, requests)) + sum(branches))
    requests = [*requests, (5, sum(branches))]
    heads, width = 2, 8
    shape = CacheShape(heads, width, torch.float32, (CPU, CPU))
    arena = Arena(shape, sum(past + new + 2 for past, new in requests))
    for layer in (*arena.keys, *arena.values):
        layer[1:] = torch.nan
    spans: list[Span] = []
    targets: list[int] = []
    for past, new in requests:
        extent = arena.open(past + new + 2)
        extent.length = past
        for layer in (*arena.keys, *arena.values):
            layer[extent.start : extent.start + past] = torch.randn(past, heads, width)
        lengths = tuple(branches) if len(spans) == len(requests) - 1 else ()
        start = len(targets)
        spans.append(Span(start, start + new, extent, branches=lengths))
        targets += range(extent.start + past, extent.start + past + new)
    rows = len(targets) + spare
    step = Step(arena, spans, torch.tensor(targets + [0] * spare), BACKENDS[name])
    for layer in range(2):
        query = torch.randn(rows, heads * groups, width)
        key, value = torch.randn(2, rows, heads, width).unbind()
        found = step.attend(layer, query, key, value)
        assert found.shape == query.shape
        for span in spans:
            extent, mine = span.extent, slice(span.start, span.stop)
            past = slice(extent.start, extent.start + extent.length)
            begin = span.start
            for length in span.branches or (span.rows,):
                part = slice(begin, begin + length)
                keys = torch.cat([arena.keys[layer][past], key[part]])
                values = torch.cat([arena.values[layer][past], value[part]])
                seen = torch.ones(length, len(keys), dtype=torch.bool).tril(extent.length)
                expected = plain(query[part], keys, values, seen)
                torch.testing.assert_close(found[part], expected, atol=1e-5, rtol=1e-5)
                begin += length
            assert begin == mine.stop


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 30), st.integers(0, 99)), max_size=60))
@settings(max_examples=60, deadline=None)
def test_the_arena_keeps_what_extents_hold_through_every_move(
    actions: list[tuple[bool, int, int]],
) -> None:
    arena = Arena(CacheShape(1, 1, torch.float32, (CPU,)), 100)
    held: list[tuple[Any, list[float]]] = []
    stamp = 0.0
    for opens, rows, which in actions:
        if opens and rows <= arena.free:
            extent = arena.open(rows)
            extent.length = rows
            values = [stamp + i for i in range(rows)]
            arena.keys[0][extent.start : extent.start + rows, 0, 0] = torch.tensor(values)
            arena.values[0][extent.start : extent.start + rows, 0, 0] = -torch.tensor(values)
            held.append((extent, values))
            stamp += 1000
        elif opens:
            with pytest.raises(MemoryError, match=f"{rows} rows"):
                arena.open(rows)
        elif held:
            extent, values = held.pop(which % len(held))
            if which % 3 == 0 and extent.capacity + 4 <= arena.free:
                keep = which % (len(values) + 1)
                held.append((arena.grow(extent, extent.capacity + 4, keep), values[:keep]))
            else:
                arena.close(extent)
        taken = sorted((e.start, e.start + e.capacity) for e, _ in held)
        assert all(one[1] <= other[0] for one, other in pairwise(taken))
        assert arena.free == 100 - sum(e.capacity for e, _ in held)
        for extent, values in held:
            rows_held = slice(extent.start, extent.start + len(values))
            assert arena.keys[0][rows_held, 0, 0].tolist() == values
            assert arena.values[0][rows_held, 0, 0].tolist() == [-value for value in values]
    for extent, _ in held:
        arena.close(extent)
    assert arena.holes == [(1, 101)]


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 30), st.integers(1, 60)), max_size=30),
    st.integers(1, 4),
    st.integers(1, 90),
    st.integers(60, 200),
    st.integers(0, 4),
)
@settings(deadline=None)
def test_the_scheduler_keeps_to_its_budget_and_starves_nobody(
    clips: list[tuple[int, int, int]], seats: int, held: int, rows: int, patience: int
) -> None:
    """Clips of (mel frames, prompt tokens, rows), each answered in as many steps as its number."""
    scheduler = Scheduler(Budget(seats, rows, held, 60, 40, patience))
    for number, (frames, _, _) in enumerate(clips):
        scheduler.add(number, frames)
    seated: dict[int, int] = {}
    started: set[int] = set()
    done: list[int] = []
    for _ in range(2000):
        if scheduler.idle:
            break
        admitted = scheduler.admit()
        assert len(admitted) <= 1 or sum(clips[n][0] for n in admitted) <= 60
        for number in admitted:
            seated[number] = 1 + number % 5
            _, tokens, needed = clips[number]
            scheduler.open(number, min(tokens, needed), needed, once=number % 5 == 0)
        assert len(seated) <= seats
        assert len(seated) == 1 or sum(clips[n][0] for n in seated) <= held
        step = scheduler.schedule()
        prompts = [n for n in step if n not in started]
        assert len(prompts) <= 1 or sum(min(clips[n][1:]) for n in prompts) <= 40
        started.update(prompts)
        assert sum(clips[n][2] for n in seated if n in started) <= rows
        for number in step:
            seated[number] -= 1
            if not seated[number]:
                scheduler.release(number)
                del seated[number]
                done.append(number)
    assert sorted(done) == list(range(len(clips))) and scheduler.free_rows == rows


def test_the_longest_comes_first_but_nobody_waits_for_ever() -> None:
    scheduler = Scheduler(Budget(seats=1))
    scheduler.add(0, 1)
    scheduler.add(1, 1)
    order: list[int] = []
    for number in range(2, 40):
        scheduler.add(number, number)
        (admitted,) = scheduler.admit()
        order.append(admitted)
        scheduler.release(admitted)
    assert order[0] == 2 and order.index(0) <= 2 and order.index(1) <= 4


def test_prompts_wait_for_company_while_others_are_answered() -> None:
    scheduler = Scheduler(Budget(prompt_tokens=20, patience=2))
    for number in range(3):
        scheduler.add(number, 1)
    scheduler.admit()
    scheduler.open(0, 5, 9, once=False)
    assert scheduler.schedule() == [0]  # nothing else to do
    scheduler.open(1, 5, 9, once=False)
    assert scheduler.schedule() == [0] and scheduler.schedule() == [0]
    assert scheduler.schedule() == [0, 1]  # it has waited long enough
    scheduler.hold(1, 9)
    scheduler.open(1, 5, 9, once=True)
    scheduler.open(2, 5, 9, once=False)
    assert scheduler.schedule() == [0, 1, 2]  # half a step's worth
    assert scheduler.schedule() == [0, 2]  # 1 needed no more than that


class CountingModel:
    """Scores from what attention gives: the sum of the tokens a request holds, as a one-hot."""

    vocabulary, positions, capturable = 64, 20, True
    cache = CacheShape(1, 2, torch.float32, (CPU,))

    def forward(self, tokens: Tensor, positions: Tensor, step: Step, rows: Tensor) -> Tensor:
        value = torch.stack([tokens.float(), positions.float()], -1)[:, None]
        mean = step.attend(0, torch.zeros_like(value), torch.zeros_like(value), value)[:, 0]
        return torch.cat([mean, positions[:, None].float()], -1)[rows]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=5), st.data())
@settings(max_examples=30, deadline=None)
def test_replayed_decode_steps_equal_packed_ones(
    requests: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Buffers, buckets and spare rows, with a graph that is its function called again."""
    captured: list[int] = []

    def capture(work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        scores = work()
        captured.append(len(scores))
        return lambda: scores.copy_(work()), scores

    model: Any = CountingModel()
    arena = Arena(model.cache, 100)
    last = torch.zeros(5, dtype=torch.long)
    graphs = DecodeGraphs(model, arena, last, capture=capture, kernel=flash)
    held = []
    for seat, (length, gap) in enumerate(requests):
        arena.open(gap + 1)
        extent = arena.open(length + 6)
        tokens = torch.arange(length) + seat
        arena.keys[0][extent.start : extent.start + length] = 0
        arena.values[0][extent.start : extent.start + length, 0, 0] = tokens.float()
        held.append((seat, extent.start, length, int(tokens.sum())))
    for number in range(4):
        chosen: Sequence[Any] = data.draw(
            st.lists(st.sampled_from(held), min_size=1, unique=True), label=f"step {number}"
        )
        last.random_(0, 50)
        scores = graphs.run([(seat, begin, length) for seat, begin, length, _ in chosen])
        for row, (seat, _, length, total) in zip(scores, chosen, strict=False):
            expected = (total + int(last[seat])) / (length + 1)
            assert row[0] == pytest.approx(expected, rel=1e-5) and row[2] == length
    assert set(captured) <= {1, 2, 4, 5} and len(captured) == len(set(captured))


def test_decode_graphs_have_few_sizes() -> None:
    assert bucket_sizes(1) == [1] and bucket_sizes(16) == [1, 2, 4, 8, 16]
    assert bucket_sizes(40) == [1, 2, 4, 8, 16, 32, 40]


def test_there_is_room_for_as_many_rows_as_memory_has() -> None:
    """A quarter to all of what the system calls available, by the size of a row."""
    shape = CacheShape(8, 64, torch.float32, (CPU,) * 6)
    assert shape.row_bytes == 2 * 6 * 8 * 64 * 4
    lines = Path("/proc/meminfo").read_text().splitlines()
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    share = rows_that_fit(shape) * shape.row_bytes / (kilobytes * 1024)
    assert 0.25 < share < 1


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_free_memory_between_what_is_in_use_is_given_back() -> None:
    blocks = [torch.ones(16_000) for _ in range(4_000)]  # 64 kB each, on the heap
    kept = blocks[::40]
    before = resident()
    del blocks
    give_back()
    assert before - resident() > 150e6 and len(kept) == 100
