"""The engine's loop with a scripted model: batching, budgets, failures, sharing, cancellation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import CPU
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import END, VOCABULARY, Script, ScriptedModel, finish, run, say

from qwen_audio_cli.engine.attention import padded, views
from qwen_audio_cli.engine.engine import Engine, Manner
from qwen_audio_cli.engine.request import AudioInput, Generate, Score, Scored
from qwen_audio_cli.engine.sampler import loops, sample
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Cancelled, Work

scripts = st.lists(
    st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=12, unique=True),
    min_size=1,
    max_size=12,
)
manners = st.builds(
    Manner,
    deterministic=st.booleans(),
    lookahead=st.booleans(),
    backend=st.sampled_from([views, padded]),
)


def engine_of(model: ScriptedModel, manner: Manner | None = None, **budget: int) -> Any:
    return Engine(model, CPU, Budget(**budget), manner)


@given(
    scripts,
    manners,
    st.integers(1, 5),
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(80, 400),
    st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_every_clip_gets_its_own_answer_within_the_budget(
    scripts: list[list[int]],
    manner: Manner,
    seats: int,
    frames: int,
    tokens: int,
    rows: int,
    patience: int,
) -> None:
    model = ScriptedModel()
    engine = engine_of(
        model,
        manner,
        seats=seats,
        encoder_frames=frames,
        prompt_tokens=tokens,
        rows=rows,
        patience=patience,
    )
    found = run(engine, scripts, lambda: say(prompt=(9, 8, 7, 1)))
    assert [found[key].result.tokens for key in range(len(scripts))] == scripts
    assert [found[key].result.finish for key in range(len(scripts))] == ["stop"] * len(scripts)
    assert model.most_seats <= seats
    assert model.most_encoded <= max(frames, *map(len, scripts))
    assert model.most_prompts <= tokens
    assert engine.arena.rows <= rows and engine.hungry


@given(scripts, manners, st.data())
@settings(max_examples=60, deadline=None)
def test_cancelled_works_leave_the_others_as_they_are(
    scripts: list[list[int]], manner: Manner, data: st.DataObject
) -> None:
    gone = data.draw(st.sets(st.integers(0, len(scripts) - 1)))
    engine = engine_of(ScriptedModel(), manner, seats=3, rows=150)
    for key, script in enumerate(scripts):
        engine.add(Work(key, (AudioInput(torch.tensor([script]).float()),), say()))
    found = {}
    for _ in range(data.draw(st.integers(0, 8))):
        found |= {done.key: done for done in engine.turn()}
    engine.cancel(lambda key: key in gone)
    found |= finish(engine)
    assert len(found) == len(scripts)
    for key, script in enumerate(scripts):
        if isinstance(found[key].error, Cancelled):
            assert key in gone
        else:
            assert found[key].result.tokens == script


def test_clips_come_and_go_between_steps() -> None:
    """Short answers leave their seats to the next while a long one goes on."""
    engine = engine_of(ScriptedModel(), seats=2)
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


def test_looking_ahead_computes_one_row_an_answer_in_vain() -> None:
    plain, ahead = ScriptedModel(), ScriptedModel()
    scripts = [[2, 3, 4], [5, 6], [7]]
    run(engine_of(plain), scripts)
    run(engine_of(ahead, Manner(lookahead=True)), scripts)
    assert ahead.fed == plain.fed + len(scripts)


@pytest.mark.parametrize("manner", [Manner(), Manner(lookahead=True)])
def test_a_poisoned_clip_ends_alone(manner: Manner) -> None:
    def poison(script: Script, rows: int) -> None:
        if 7 in script:
            raise RuntimeError("poisoned")

    model = ScriptedModel(poison)
    found = run(engine_of(model, manner, seats=3), [[2, 3], [7], [4, 5, 6], [8], [9, 7]])
    assert {key: str(done.error) for key, done in found.items() if done.error} == {
        1: "poisoned", 4: "poisoned",
    }  # fmt: skip
    assert [found[key].result.tokens for key in (0, 2, 3)] == [[2, 3], [4, 5, 6], [8]]


@pytest.mark.parametrize("manner", [Manner(), Manner(lookahead=True)])
def test_a_clip_that_fails_late_ends_alone(manner: Manner) -> None:
    """The fifth step of one clip raises: its neighbours are in the middle of their answers."""
    steps = 0

    def poison(script: Script, rows: int) -> None:
        nonlocal steps
        steps += script[0] == 7
        if script[0] == 7 and steps > 5:
            raise RuntimeError("poisoned")

    scripts = [[2, 3, 4, 5, 6, 8, 9, 10], [7, 8, 9, 10, 11, 12, 13], [14, 15, 16, 17, 18, 19]]
    found = run(engine_of(ScriptedModel(poison), manner), scripts)
    assert str(found[1].error) == "poisoned"
    assert [found[key].result.tokens for key in (0, 2)] == [scripts[0], scripts[2]]


def test_where_memory_runs_out_less_is_done_at_once(caplog: pytest.LogCaptureFixture) -> None:
    def short(script: Script, rows: int) -> None:
        if rows > 8:
            raise torch.OutOfMemoryError("out of memory")

    engine = engine_of(ScriptedModel(short), seats=12, prompt_tokens=64)
    found = run(engine, [[n, n + 1] for n in range(2, 14)], lambda: say(prompt=(5, 4, 3, 1)))
    assert [found[key].result.tokens for key in range(12)] == [[n, n + 1] for n in range(2, 14)]
    budget = engine.scheduler.budget
    assert budget.prompt_tokens < 64 and budget.encoder_frames < 6_000
    assert all("memory ran out" in message for message in caplog.messages)


def test_a_clip_too_large_for_memory_ends_alone() -> None:
    def short(script: Script, rows: int) -> None:
        if len(script) > 8:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")

    scripts = [[2, 3], list(range(2, 12)), [4]]
    found = run(engine_of(ScriptedModel(short)), scripts)
    assert "not enough memory" in str(found[1].error)
    assert found[0].result.tokens == [2, 3] and found[2].result.tokens == [4]
    found = run(engine_of(ScriptedModel(), rows=20), [[2], [3]], lambda: say(longest=30))
    assert {type(done.error) for done in found.values()} == {MemoryError}


def test_scores_that_are_no_numbers_end_their_clip_alone() -> None:
    class Broken(ScriptedModel):
        def forward(self, tokens: Any, positions: Any, step: Any, rows: Any) -> Any:
            scores = super().forward(tokens, positions, step, rows)
            for span, row in zip(step.spans, scores, strict=False):
                if span.context == (7, 8):
                    row[:] = torch.nan
            return scores

    found = run(engine_of(Broken()), [[2, 3], [7, 8], [4]])
    assert isinstance(found[1].error, ArithmeticError)
    assert found[0].result.tokens == [2, 3] and found[2].result.tokens == [4]


def test_an_error_within_a_dialogue_ends_its_clip_alone() -> None:
    def wrong() -> Any:
        yield Generate(prompt=(1,), longest=3, stop=frozenset({END}))
        raise KeyError("lost")

    engine = engine_of(ScriptedModel())
    engine.add(Work(0, (AudioInput(torch.ones(1, 2) * 5),), wrong()))
    engine.add(Work(1, (AudioInput(torch.ones(1, 1) * 5),), say()))
    found = finish(engine)
    assert {key: type(done.error) for key, done in found.items()} == {0: KeyError, 1: type(None)}


def test_a_dialogue_may_go_on_after_a_failure() -> None:
    def dialogue() -> Any:
        try:
            yield from say(longest=1000)
        except MemoryError:
            return (yield from say(longest=5))

    found = run(engine_of(ScriptedModel(), rows=50), [[4, 5]], dialogue)
    assert found[0].result.tokens == [4, 5]


def test_answers_end_at_the_longest_and_in_a_loop() -> None:
    for lookahead in (False, True):
        engine = engine_of(ScriptedModel(), Manner(lookahead=lookahead))
        long = run(engine, [list(range(2, 12))], lambda: say(longest=4))[0].result
        assert long.tokens == [2, 3, 4, 5] and long.finish == "length"
        looping = run(engine, [[3, 4] * 30])[0].result
        assert looping.finish == "repeat" and looping.tokens == [3, 4] * 8


def test_continuations_are_scored_behind_one_prompt() -> None:
    def dialogue() -> Any:
        answer = yield Score((9, 8, 1), [[5, 6, 7], [5, 7], [6]])
        assert isinstance(answer, Scored)
        return answer.logprobs

    for backend in (views, padded):
        model = ScriptedModel()
        found = run(engine_of(model, Manner(backend=backend)), [[5, 6, 7]], dialogue)[0].result
        right, wrong = 0.0, -20.0  # log-softmax of 10 among -10s
        for one, expected in zip(found, [[right] * 3, [right, wrong], [wrong]], strict=True):
            assert one == pytest.approx(expected, abs=1e-5)
        assert model.fed == 3 + 2 + 1  # the prompt once, and what is behind each first token


def test_many_continuations_take_several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_audio_cli.engine.scoring.BRANCH_ROWS", 3)

    def dialogue() -> Any:
        return (yield Score((1,), [[5, 6, 7], [5, 7], [5, 6, 7], [2], [5, 6, 8], [5, 6]])).logprobs

    found = run(engine_of(ScriptedModel()), [[5, 6, 7]], dialogue)[0].result
    assert [sum(one) for one in found] == pytest.approx([0, -20, 0, -20, -20, 0], abs=1e-4)


def test_what_prompts_have_in_common_is_computed_once() -> None:
    """Two requests about one clip, the second with more room than the first left."""
    beginning = tuple(range(2, 22))

    def dialogue() -> Any:
        first = yield Score((*beginning, 1), [[5], [6]])
        second = yield from say(longest=30, prompt=(*beginning, 9, 1))
        third = yield from say(longest=3, prompt=(*beginning, 1))
        return first.logprobs[0], second.tokens, third.tokens

    model = ScriptedModel()
    found = run(engine_of(model), [[5, 6, 7]], dialogue)[0].result
    assert found[1:] == ([5, 6, 7], [5, 6, 7]) and found[0] == pytest.approx([0], abs=1e-6)
    assert model.encoded == 1
    assert model.fed == 21 + (2 + 3) + (1 + 2)


def test_works_that_need_more_rows_than_are_free_wait_without_starving() -> None:
    """All hold a prefix and want more rows than there are: they get in line and compute again."""

    def dialogue() -> Any:
        yield Score((3, 4, 5, 1), [[5]])
        return (yield from say(longest=30, prompt=(3, 4, 5, 1))).tokens

    scripts = [[n, n + 1, n + 2] for n in range(2, 10)]
    found = run(engine_of(ScriptedModel(), seats=8, rows=40), scripts, dialogue)
    assert [found[key].result for key in range(8)] == scripts


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(40, 90))
@settings(max_examples=30, deadline=None)
def test_fragmented_rows_are_brought_together(longest: list[int], rows: int) -> None:
    lengths = iter(longest)
    scripts = [list(range(2, 2 + min(n, 12))) for n in longest]
    engine = engine_of(ScriptedModel(), seats=6, rows=rows)
    found = run(engine, scripts, lambda: say(longest=next(lengths)))
    for key, (script, most) in enumerate(zip(scripts, longest, strict=True)):
        if most + 1 <= engine.arena.rows:
            assert found[key].result.tokens == script[:most]


def test_sampling_depends_on_seed_and_position_only_and_has_the_right_frequencies() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0]).expand(4000, 3)
    request = Generate((1,), 9, frozenset(), temperature=1.0, seed=3)
    tokens, logprobs = sample(scores, [request] * 4000, range(4000))
    drawn = tokens.tolist()
    for token, share in enumerate(scores[0].softmax(-1).tolist()):
        assert drawn.count(token) / 4000 == pytest.approx(share, abs=0.03)
    torch.testing.assert_close(logprobs, scores.log_softmax(-1).gather(1, tokens[:, None])[:, 0])
    greedy = Generate((1,), 9, frozenset())
    alone, _ = sample(scores[:4], [request, greedy, request, request], [17, 5, 3999, 0])
    assert alone.tolist() == [drawn[17], 0, drawn[3999], drawn[0]]
    other = Generate((1,), 9, frozenset(), temperature=1.0, seed=4)
    assert drawn != sample(scores, [other] * 4000, range(4000))[0].tolist()


def test_a_low_temperature_is_nearly_greedy() -> None:
    scores = torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
    cold = Generate((1,), 9, frozenset(), temperature=0.01)
    tokens, _ = sample(scores, [cold] * 200, range(200))
    assert (tokens == scores.argmax(-1)).float().mean() > 0.95


def test_biases_forbid_tokens() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0]] * 3)
    bias, first = torch.zeros(3), torch.zeros(3)
    bias[0], first[:2] = -torch.inf, -torch.inf
    request = Generate((1,), 9, frozenset(), bias=bias, first_bias=first)
    free = Generate((1,), 9, frozenset())
    tokens, logprobs = sample(scores, [request, request, free], [0, 1, 0])
    assert tokens.tolist() == [2, 1, 0]
    expected = [
        0.0,
        float((scores[0] + bias).log_softmax(-1)[1]),
        float(scores[0].log_softmax(-1)[0]),
    ]
    assert logprobs.tolist() == pytest.approx(expected)


def test_loops_are_told_from_what_people_repeat() -> None:
    assert loops([1, 2, 3] * 8) and loops([9, *[4] * 32]) and loops(list(range(30)) * 8)
    assert not loops([4] * 20)  # counting, or a long number
    assert not loops([1, 2, 3] * 7) and not loops(list(range(200)))
