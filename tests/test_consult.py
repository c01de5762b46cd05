"""Classes in place of tokens, and dialogues held by a colleague: judged by scripted models."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import CPU
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import VOCABULARY, Script, ScriptedModel, finish, run, say, script_of
from torch import Tensor

from qwen_audio_cli import engines
from qwen_audio_cli.engine.attention import Step, padded, views
from qwen_audio_cli.engine.engine import Engine, Manner
from qwen_audio_cli.engine.request import AudioInput, Classified, Classify, Consult, Generated
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Cancelled, Work


class Classes(ScriptedModel):
    """Gives every row a class worked out from its clip and all tokens that the arena has before it.

    A wrong row, a wrong length or a foreign token changes the class.
    """

    def forward(self, tokens: Tensor, positions: Tensor, step: Step, rows: Tensor) -> Tensor:
        super().forward(tokens, positions, step, rows)
        scores = torch.zeros(len(tokens), VOCABULARY)
        for span in step.spans:
            begin, past = span.extent.start, span.extent.length
            held = step.arena.keys[0][begin : begin + past + span.rows, 0, 0].tolist()
            for row in range(span.rows):
                known = [int(token) for token in held[: past + row + 1]]
                scores[span.start + row, class_of(script_of(span), known)] = 5.0
        return scores[rows]


def class_of(script: Sequence[int], known: Sequence[int]) -> int:
    weighed = sum((place + 1) * token for place, token in enumerate(known))
    return (sum(script) + weighed) % VOCABULARY


SURE = float(torch.tensor([5.0] + [0.0] * (VOCABULARY - 1)).log_softmax(0)[0])

scripts = st.lists(
    st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=8, unique=True),
    min_size=1,
    max_size=10,
)
prompts = st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=20)
questions = prompts.flatmap(
    lambda prompt: st.tuples(
        st.just(prompt), st.lists(st.integers(0, len(prompt) - 1), min_size=1, max_size=8)
    )
)
manners = st.builds(
    Manner,
    deterministic=st.booleans(),
    lookahead=st.booleans(),
    backend=st.sampled_from([views, padded]),
)
budgets = st.builds(
    Budget,
    seats=st.integers(1, 4),
    rows=st.integers(60, 200),
    encoder_frames=st.integers(1, 30),
    prompt_tokens=st.integers(1, 40),
    patience=st.integers(0, 2),
)


def classify(prompt: Sequence[int], rows: Sequence[int]) -> Any:
    found = yield Classify(prompt, rows)
    assert isinstance(found, Classified)
    assert found.logprobs == pytest.approx([SURE] * len(rows), abs=1e-5)
    return found.classes


def expected(script: Sequence[int], prompt: Sequence[int], rows: Sequence[int]) -> list[int]:
    return [class_of(script, prompt[: row + 1]) for row in rows]


def work(key: int, script: Sequence[float], dialogue: Any) -> Work[int, Any]:
    return Work(key, (AudioInput(torch.tensor([list(script)]).float()),), dialogue)


@given(scripts, st.lists(questions, min_size=1, max_size=4), manners, budgets)
@settings(max_examples=60, deadline=None)
def test_every_row_gets_its_own_class(
    scripts: list[list[int]], asked: list[tuple[list[int], list[int]]], manner: Manner, budget: Any
) -> None:
    """In steps that are shared with whole and partial prompts of other clips."""

    def dialogue() -> Any:
        found = []
        for prompt, rows in asked:
            found.append((yield from classify(prompt, rows)))
        return found

    engine = Engine(Classes(), CPU, budget, manner)
    found = run(engine, scripts, dialogue)
    for key, script in enumerate(scripts):
        assert found[key].result == [expected(script, prompt, rows) for prompt, rows in asked]


def test_a_common_beginning_is_kept_up_to_the_first_row_that_is_wanted() -> None:
    model, prompt, counts = Classes(), [5, 6, 7, 8, 9, 10], []

    def dialogue() -> Any:
        for rows in ([5], [5, 2, 2], [5], [0, 5]):
            before = model.fed
            assert (yield from classify(prompt, rows)) == expected([3, 4], prompt, rows)
            counts.append(model.fed - before)

    found = run(Engine(model, CPU, Budget()), [[3, 4]], dialogue)
    assert found[0].error is None
    assert counts == [6, 4, 1, 6]


def test_an_answer_may_follow_on_classes() -> None:
    """Both kinds of request over one prompt; the keys of one serve the other."""

    def dialogue() -> Any:
        first = yield from classify((9, 8, 7), [0, 2])
        said = yield Classify((9, 8, 1), [1])
        return first, said.classes

    found = run(Engine(Classes(), CPU, Budget()), [[3, 4], [5]], dialogue)
    for key, script in enumerate(([3, 4], [5])):
        assert found[key].result == (
            expected(script, (9, 8, 7), [0, 2]),
            expected(script, (9, 8, 1), [1]),
        )


@pytest.mark.parametrize("rows", [[], [3], [-1], [0, 7]])
def test_rows_that_are_not_in_the_prompt_are_refused(rows: list[int]) -> None:
    def dialogue() -> Any:
        with pytest.raises(ValueError, match="rows"):
            yield Classify((5, 6, 7), rows)
        return (yield from classify((5, 6, 7), [2]))

    found = run(Engine(Classes(), CPU, Budget()), [[3], [4]], dialogue)
    assert found[0].result == expected([3], (5, 6, 7), [2])


@pytest.mark.parametrize("manner", [Manner(), Manner(lookahead=True)])
def test_what_fails_in_a_step_of_classes_ends_alone(manner: Manner) -> None:
    def poison(script: Script, rows: int) -> None:
        if 7 in script:
            raise RuntimeError("poisoned")

    class Broken(Classes):
        def forward(self, tokens: Any, positions: Any, step: Any, rows: Any) -> Any:
            scores = super().forward(tokens, positions, step, rows)
            first = 0
            for span in step.spans:  # each wants two rows
                if script_of(span) == (8,):
                    scores[first + 1, 3] = torch.nan
                first += 2
            return scores

    engine = Engine(Broken(poison), CPU, Budget(), manner)
    scripts = [[2], [7], [3], [8], [4, 5]]
    found = run(engine, scripts, lambda: classify((6, 5, 4), [0, 2]))
    assert str(found[1].error) == "poisoned"
    assert isinstance(found[3].error, ArithmeticError)
    for key in (0, 2, 4):
        assert found[key].result == expected(scripts[key], (6, 5, 4), [0, 2])


def test_a_prompt_without_room_for_its_classes_ends_alone() -> None:
    prompts = iter([[5] * 10, [5] * 41, [6] * 12])
    engine = Engine(Classes(), CPU, Budget(rows=40))
    found = run(engine, [[2], [3], [4]], lambda: classify(next(prompts), [9]))
    assert isinstance(found[1].error, MemoryError)
    assert found[0].result == expected([2], [5] * 10, [9])
    assert found[2].result == expected([4], [6] * 10, [9])


# --- consulting ----------------------------------------------------------------------------------


def pair(manner: Manner | None = None, **budget: int) -> tuple[Any, Any]:
    """An engine with a colleague, which gives classes."""
    colleague: Any = Engine(Classes(), CPU, Budget(seats=2), manner)
    return Engine(ScriptedModel(), CPU, Budget(**budget), manner, colleague), colleague


def finish_both(engine: Any, colleague: Any) -> dict[int, Any]:
    found = finish(engine)
    finish(colleague)
    return found


@given(scripts, questions, manners, budgets, budgets)
@settings(max_examples=80, deadline=None)
def test_a_colleague_answers_in_between(
    scripts: list[list[int]],
    asked: tuple[list[int], list[int]],
    manner: Manner,
    budget: Budget,
    other: Budget,
) -> None:
    """Each of a clip's requests is answered by its own model about its own clip."""
    audios: list[AudioInput] = []

    def dialogue() -> Any:
        said = yield from say(longest=10, prompt=(9, 8, 1))
        classes = yield Consult(classify(*asked))
        again = yield from say(longest=10, prompt=(9, 8, 4, 1))
        return said.tokens, classes, again.tokens

    model, colleague_model = ScriptedModel(), Classes()
    colleague: Any = Engine(colleague_model, CPU, other, manner)
    engine: Any = Engine(model, CPU, budget, manner, colleague)
    for key, script in enumerate(scripts):
        one = work(key, script, dialogue())
        audios += one.audios
        engine.add(one)
    found = finish_both(engine, colleague)
    for key, script in enumerate(scripts):
        assert found[key].result == (script, expected(script, *asked), script)
    assert model.encoded == colleague_model.encoded == len(scripts)
    assert all(audio.features is None and audio.memory is None for audio in audios)


@pytest.mark.parametrize("manner", [Manner(), Manner(lookahead=True)])
def test_who_consults_keeps_the_seat_and_no_rows(manner: Manner) -> None:
    """Others go on meanwhile; a clip that waits for the seat does not come in."""
    slow = ScriptedModel()
    colleague: Any = Engine(slow, CPU, Budget(), manner)
    model = ScriptedModel()
    engine: Any = Engine(model, CPU, Budget(seats=2), manner, colleague)
    script = list(range(2, 12))

    def consulting() -> Any:
        yield from say(longest=1)
        inner = yield Consult(say(longest=20))
        return inner.tokens

    engine.add(work(0, script, consulting()))
    engine.add(work(1, [5, 6, 7, 8], say()))
    engine.add(work(2, [9], say()))
    order: list[int] = []
    alone = 0
    while not engine.idle:
        if order == [1, 2]:  # there is one clip left, and it consults
            alone += 1
            assert engine.arena.free == engine.arena.rows
        order += [done.key for done in engine.turn()]
        if not order:
            assert model.encoded == 2
    assert order == [1, 2, 0]
    assert alone >= 3
    finish_both(engine, colleague)


def test_consulting_first_twice_or_in_turn() -> None:
    """A colleague may have one of its own."""
    third: Any = Engine(Classes(), CPU, Budget())
    second: Any = Engine(ScriptedModel(), CPU, Budget(), None, third)
    first: Any = Engine(ScriptedModel(), CPU, Budget(), None, second)

    def inner() -> Any:
        return (yield Consult(classify((5, 6), [1])))

    def nothing() -> Any:
        return "no question"
        yield

    def outer() -> Any:
        return [(yield Consult(inner())), (yield Consult(nothing())), (yield Consult(say()))]

    found = run(first, [[3, 4], [7]], outer)
    for key, script in enumerate(([3, 4], [7])):
        classes, none, said = found[key].result
        assert classes == expected(script, (5, 6), [1])
        assert none == "no question"
        assert isinstance(said, Generated) and said.tokens == script
    finish(second)
    finish(third)


def test_a_prompt_is_computed_again_after_consulting() -> None:
    """Its rows were given up, whatever the prompts before and after have in common."""
    model = Classes()
    colleague: Any = Engine(Classes(), CPU, Budget())
    engine: Any = Engine(model, CPU, Budget(), None, colleague)

    def dialogue() -> Any:
        before = yield from classify((5, 6, 7), [2])
        other = yield Consult(classify((5, 6, 8), [2]))
        return before, other, (yield from classify((5, 6, 7, 9), [3]))

    assert run(engine, [[3, 4]], dialogue)[0].result == (
        expected([3, 4], (5, 6, 7), [2]),
        expected([3, 4], (5, 6, 8), [2]),
        expected([3, 4], (5, 6, 7, 9), [3]),
    )
    assert model.fed == 3 + 4


def test_errors_of_a_consulted_dialogue_are_raised_in_the_one_that_consults() -> None:
    def poison(script: Script, rows: int) -> None:
        if 7 in script:
            raise RuntimeError("poisoned")

    def wrong() -> Any:
        yield Classify((5,), [0])
        raise KeyError("lost")

    def dialogue() -> Any:
        errors = []
        for inner in (wrong(), classify((5,) * 41, [0])):
            try:
                yield Consult(inner)
            except (KeyError, MemoryError) as error:
                errors.append(type(error))
        said = yield from say(longest=5)
        return errors, said.tokens

    colleague: Any = Engine(Classes(poison), CPU, Budget(rows=40))
    engine: Any = Engine(ScriptedModel(), CPU, Budget(), None, colleague)
    found = run(engine, [[2, 3], [7], [4]], dialogue)
    for key, script in ((0, [2, 3]), (2, [4])):
        assert found[key].result == ([KeyError, MemoryError], script)
    assert str(found[1].error) == "poisoned"
    finish(colleague)


def test_without_a_colleague_consulting_is_an_error_of_the_dialogue() -> None:
    def dialogue() -> Any:
        with pytest.raises(LookupError, match="colleague"):
            yield Consult(say())
        return (yield from say()).tokens

    assert run(Engine(ScriptedModel(), CPU, Budget()), [[2, 3]], dialogue)[0].result == [2, 3]


@given(scripts, manners, st.data())
@settings(max_examples=60, deadline=None)
def test_cancelled_works_leave_nothing_with_the_colleague(
    scripts: list[list[int]], manner: Manner, data: st.DataObject
) -> None:
    gone = data.draw(st.sets(st.integers(0, len(scripts) - 1)))
    engine, colleague = pair(manner, seats=3, rows=150)

    def dialogue() -> Any:
        yield from say(longest=2)
        return (yield Consult(classify((5, 6, 7), [1, 2])))

    for key, script in enumerate(scripts):
        engine.add(work(key, script, dialogue()))
    found = {}
    for _ in range(data.draw(st.integers(0, 10))):
        found |= {done.key: done for done in engine.turn()}
    engine.cancel(lambda key: key in gone)
    found |= finish_both(engine, colleague)
    assert len(found) == len(scripts)
    for key, script in enumerate(scripts):
        if isinstance(found[key].error, Cancelled):
            assert key in gone
        else:
            assert found[key].result == expected(script, (5, 6, 7), [1, 2])


def test_a_clip_that_is_cancelled_while_it_consults_closes_both_dialogues() -> None:
    engine, colleague = pair(seats=1)
    closed: list[str] = []

    def inner() -> Any:
        try:
            while True:
                yield Classify((5,), [0])
        finally:
            closed.append("inner")

    def outer() -> Any:
        try:
            yield Consult(inner())
        finally:
            closed.append("outer")

    engine.add(work(0, [3], outer()))
    for _ in range(4):
        assert not engine.turn()
    engine.cancel(lambda key: True)
    assert sorted(closed) == ["inner", "outer"]
    assert isinstance(finish_both(engine, colleague)[0].error, Cancelled)


def test_features_are_kept_for_a_colleague_alone() -> None:
    """Where nobody else will hear a clip, they are let go as soon as it is encoded."""
    for colleague in (None, Engine(Classes(), CPU, Budget())):
        engine: Any = Engine(ScriptedModel(), CPU, Budget(), None, colleague)
        one = work(0, [2, 3, 4], say())
        engine.add(one)
        engine.turn()
        assert (one.audios[0].features is None) == (colleague is None)
        finish(engine)
        assert one.audios[0].features is None


def test_two_engines_share_the_memory_for_keys_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they claim no more than there is, though neither has written to it yet."""
    for module in (engines, "qwen_audio_cli.engine.engine"):
        monkeypatch.setattr(f"{getattr(module, '__name__', module)}.rows_that_fit", lambda _: 1000)
    aligner = SimpleNamespace(model=ScriptedModel(), colleague=None)
    family: Any = SimpleNamespace(model=ScriptedModel(), colleague=aligner)
    both = engines.engine_for(family, CPU, 32, Manner())
    alone = engines.engine_for(family.colleague, CPU, 32, Manner())
    assert alone.arena.rows == 1000
    assert 700 <= both.arena.rows <= 900
    # What is left is as large as the colleague's longest request must be able to be.
    assert run(both, [[2, 3]], lambda: _ask(1000 - both.arena.rows))[0].result == VOCABULARY


def _ask(rows: int) -> Any:
    """Have the colleague take a prompt of so many rows, and one that is longer by one."""
    yield Consult(say(longest=rows - 1))
    with pytest.raises(MemoryError):
        yield Consult(say(longest=rows))
    return VOCABULARY
