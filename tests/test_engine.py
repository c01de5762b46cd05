"""The engine's loop with a scripted model: what is said is known, so that batching is judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import CPU
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwen_audio_cli.engine.cache import CacheShape, KVCache, Span, causal_attention
from qwen_audio_cli.engine.engine import Done, Engine, Work
from qwen_audio_cli.engine.request import AudioInput, Generate, Generated, Score, Scored
from qwen_audio_cli.engine.sampler import loops, pick
from qwen_audio_cli.engine.scheduler import Budget, Scheduler

END = 0
VOCABULARY = 32


class ScriptedCache(KVCache):
    def __init__(self, capacity: int, script: list[int]) -> None:
        super().__init__(CacheShape(1, 1, 1, torch.float32, CPU), capacity)
        self.script = script
        self.fed: list[int] = []

    def fork(self, room: int) -> KVCache:
        copy = ScriptedCache(self.length + room, self.script)
        copy.length, copy.fed = self.length, list(self.fed)
        return copy


class ScriptedModel:
    """Says what a clip's features spell, then the end; notes how it was driven."""

    vocabulary = VOCABULARY

    def __init__(self, poisoned: int | None = None) -> None:
        self.poisoned = poisoned
        self.most_seats = 0
        self.most_frames = 0

    def encode(self, features: Tensor) -> Sequence[object]:
        self.most_frames = max(self.most_frames, features.shape[0] * features.shape[2])
        if bool(features.isnan().any()):
            raise ValueError("not a number")
        return [[int(value) for value in clip[0]] for clip in features]

    def open(self, memories: Sequence[object], capacity: int, watch: bool) -> KVCache:
        script = [token for memory in memories for token in memory]  # type: ignore[attr-defined]
        return ScriptedCache(capacity, script)

    def forward(
        self, tokens: Tensor, positions: Tensor, spans: Sequence[Span], rows: Tensor
    ) -> Tensor:
        self.most_seats = max(self.most_seats, len(spans))
        scores = torch.full((len(tokens), VOCABULARY), -10.0)
        for span in spans:
            cache = span.cache
            assert isinstance(cache, ScriptedCache)
            assert positions[span.start] == cache.length < cache.capacity
            if self.poisoned in cache.script:
                raise RuntimeError("poisoned")
        for span in spans:
            cache = span.cache
            assert isinstance(cache, ScriptedCache)
            for row in range(span.start, span.stop):
                cache.fed.append(int(tokens[row]))
                said = len(cache.fed) - 1  # a prompt of one token comes first
                script = cache.script
                scores[row, script[said] if said < len(script) else END] = 10.0
        return scores[rows]


def say(longest: int = 64) -> Any:
    answer = yield Generate(prompt=(1,), longest=longest, stop=frozenset({END}))
    assert isinstance(answer, Generated)
    return answer


def run(
    engine: Engine[int, Any], scripts: Sequence[Sequence[float]], dialogue: Any = say
) -> dict[int, Done[int, Any]]:
    for key, script in enumerate(scripts):
        audio = AudioInput(torch.tensor([list(script)]))
        engine.add(Work(key, (audio,), dialogue()))
    found: dict[int, Done[int, Any]] = {}
    for _ in range(10_000):
        if engine.idle:
            return found
        for done in engine.turn():
            assert done.key not in found
            found[done.key] = done
    raise AssertionError("the engine starved")


scripts = st.lists(
    st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=12, unique=True),
    min_size=1,
    max_size=12,
)


@given(scripts, st.integers(1, 5), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_every_clip_gets_its_own_answer_within_the_budget(
    scripts: list[list[int]], seats: int, frames: int
) -> None:
    model = ScriptedModel()
    engine: Engine[int, Any] = Engine(model, CPU, Budget(seats, encoder_frames=frames))
    found = run(engine, scripts)
    assert [found[key].result.tokens for key in range(len(scripts))] == scripts
    assert model.most_seats <= seats
    assert model.most_frames <= max(frames, *map(len, scripts))
    assert engine.hungry and not engine._running


def test_clips_come_and_go_between_steps() -> None:
    """Short answers leave their seats to the next while a long one goes on."""
    engine: Engine[int, Any] = Engine(ScriptedModel(), CPU, Budget(seats=2))
    for key, length in enumerate((12, 2, 2, 2)):
        script = torch.arange(2, 2 + length)[None].float()
        engine.add(Work(key, (AudioInput(script),), say()))
    order: list[int] = []
    turns = 0
    while not engine.idle:
        order += [done.key for done in engine.turn()]
        turns += 1
    assert order == [1, 2, 3, 0]
    assert turns == 13  # the longest answer alone takes as many


def test_a_poisoned_clip_ends_alone() -> None:
    engine: Engine[int, Any] = Engine(ScriptedModel(poisoned=7), CPU, Budget(seats=3))
    found = run(engine, [[2, 3], [7], [4, 5, 6], [float("nan")], [8]])
    assert {key: done.error is None for key, done in found.items()} == {
        0: True, 1: False, 2: True, 3: False, 4: True,
    }  # fmt: skip
    assert [found[key].result.tokens for key in (0, 2, 4)] == [[2, 3], [4, 5, 6], [8]]
    assert str(found[1].error) == "poisoned" and str(found[3].error) == "not a number"


def test_an_error_within_a_dialogue_ends_its_clip_alone() -> None:
    def wrong() -> Any:
        yield Generate(prompt=(1,), longest=3, stop=frozenset({END}))
        raise KeyError("lost")

    engine: Engine[int, Any] = Engine(ScriptedModel(), CPU, Budget())
    engine.add(Work(0, (AudioInput(torch.ones(1, 2) * 5),), wrong()))
    engine.add(Work(1, (AudioInput(torch.ones(1, 1) * 5),), say()))
    found = [done for _ in range(6) for done in engine.turn()]
    assert {done.key: type(done.error) for done in found} == {0: KeyError, 1: type(None)}


def test_answers_end_at_the_longest_and_in_a_loop() -> None:
    engine: Engine[int, Any] = Engine(ScriptedModel(), CPU, Budget())
    long = run(engine, [list(range(2, 12))], lambda: say(longest=4))[0].result
    assert long.tokens == [2, 3, 4, 5] and long.finish == "length"
    looping = run(engine, [[3, 4] * 30])[0].result
    assert looping.finish == "repeat" and looping.tokens == [3, 4] * 8


def test_continuations_are_scored_behind_one_prompt() -> None:
    def dialogue() -> Any:
        answer = yield Score((1,), [[5, 6, 7], [5, 7], [6]])
        assert isinstance(answer, Scored)
        return answer.logprobs

    engine: Engine[int, Any] = Engine(ScriptedModel(), CPU, Budget())
    engine.add(Work(0, (AudioInput(torch.tensor([[5.0, 6.0, 7.0]])),), dialogue()))
    (done,) = engine.turn()
    assert done.error is None and done.result is not None
    right, wrong = 0.0, -20.0  # log-softmax of 10 among -10s
    for found, expected in zip(done.result, [[right] * 3, [right, wrong], [wrong]], strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_packed_attention_is_that_of_each_request_alone(lengths: list[int], groups: int) -> None:
    """Against plain softmax attention, first whole prompts, then two more rows behind each."""
    torch.manual_seed(sum(lengths))
    heads, width = 2 * groups, 8
    caches = [KVCache(CacheShape(1, 2, width, torch.float32, CPU), n + 2) for n in lengths]
    past: list[tuple[Tensor, Tensor]] = [
        (torch.empty(0, 2, width), torch.empty(0, 2, width)) for _ in lengths
    ]
    for rows in (lengths, [2] * len(lengths)):
        starts = [sum(rows[:i]) for i in range(len(rows) + 1)]
        spans = [Span(starts[i], starts[i + 1], cache) for i, cache in enumerate(caches)]
        query = torch.randn(sum(rows), heads, width)
        key, value = torch.randn(2, sum(rows), 2, width).unbind()
        found = causal_attention(query, key, value, spans, 0)
        for i, span in enumerate(spans):
            mine = slice(span.start, span.stop)
            past[i] = torch.cat([past[i][0], key[mine]]), torch.cat([past[i][1], value[mine]])
            keys, values = (part.repeat_interleave(groups, dim=1) for part in past[i])
            scores = torch.einsum("qhd,khd->hqk", query[mine], keys) / width**0.5
            seen = torch.ones(scores.shape[1:], dtype=torch.bool).tril(len(keys) - rows[i])
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            expected = torch.einsum("hqk,khd->qhd", weights, values)
            torch.testing.assert_close(found[mine], expected, atol=1e-5, rtol=1e-5)
            span.cache.advance(rows[i])


def test_sampling_depends_on_seed_and_position_only_and_has_the_right_frequencies() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0])
    request = Generate((1,), 9, frozenset(), temperature=1.0, seed=3)
    drawn = [pick(scores, request, position)[0] for position in range(4000)]
    assert drawn == [pick(scores, request, position)[0] for position in range(4000)]
    expected = scores.softmax(-1).tolist()
    for token, share in enumerate(expected):
        assert drawn.count(token) / 4000 == pytest.approx(share, abs=0.03)
    other = Generate((1,), 9, frozenset(), temperature=1.0, seed=4)
    assert drawn != [pick(scores, other, position)[0] for position in range(4000)]


def test_biases_forbid_tokens() -> None:
    scores = torch.tensor([3.0, 2.0, 1.0])
    bias, first = torch.zeros(3), torch.zeros(3)
    bias[0], first[:2] = -torch.inf, -torch.inf
    request = Generate((1,), 9, frozenset(), bias=bias, first_bias=first)
    assert pick(scores, request, 0) == (2, 0.0)
    token, logprob = pick(scores, request, 1)
    assert token == 1 and logprob == pytest.approx(float((scores + bias).log_softmax(-1)[1]))


def test_loops_are_told_from_what_people_repeat() -> None:
    assert loops([1, 2, 3] * 8) and loops([9, *[4] * 32]) and loops(list(range(30)) * 8)
    assert not loops([4] * 20)  # counting, or a long number
    assert not loops([1, 2, 3] * 7) and not loops(list(range(200)))


def test_the_scheduler_is_fair_and_lets_a_large_clip_through() -> None:
    scheduler = Scheduler(Budget(seats=3, held_frames=160, encoder_frames=100))
    for number, frames in enumerate((900, 40, 50, 60, 10)):
        scheduler.add(number, frames)
    assert scheduler.admit() == [0]  # over the budget, so alone
    assert scheduler.admit() == []
    scheduler.release(0)
    assert scheduler.admit() == [1, 2]  # as many as one round of encoding takes
    assert scheduler.admit() == [3] and scheduler.admit() == []
    scheduler.release(1)
    assert scheduler.admit() == [4] and not scheduler.hungry


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 4), st.integers(1, 90))
def test_the_scheduler_keeps_to_its_budget_and_starves_nobody(
    lengths: list[int], seats: int, held: int
) -> None:
    scheduler = Scheduler(Budget(seats, held, encoder_frames=60))
    for number, frames in enumerate(lengths):
        scheduler.add(number, frames)
    seated: list[int] = []
    order: list[int] = []
    while not scheduler.idle:
        admitted = scheduler.admit()
        seated += admitted
        order += admitted
        assert len(seated) <= seats
        assert len(seated) == 1 or sum(lengths[number] for number in seated) <= held
        assert len(admitted) <= 1 or sum(lengths[number] for number in admitted) <= 60
        scheduler.release(seated.pop(0))
    assert order == list(range(len(lengths))) and scheduler.hungry
