"""What mini's CTC head says: asked through the engine, and as a part of its transcripts."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, recording
from numpy.typing import NDArray
from torch import Tensor

from qwen_audio_cli.engine.engine import Engine, Manner
from qwen_audio_cli.engine.request import (
    AudioInput,
    Dialogue,
    Generate,
    Generated,
    Score,
    Scored,
    Spell,
    Spelled,
)
from qwen_audio_cli.engine.scheduler import Budget
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.errors import ConfigError
from qwen_audio_cli.families.base import ClipAnswer, Job, Subject
from qwen_audio_cli.families.ctc_alignment import ROW_SECONDS
from qwen_audio_cli.families.mini import Mini
from qwen_audio_cli.families.mini_config import MiniCheckpoint
from qwen_audio_cli.families.qwen_prompt import base_prompt
from qwen_audio_cli.families.spelling import SYMBOLS, read, spelling, symbols
from qwen_audio_cli.tasks import TASKS

pytest.importorskip("gguf", reason="gguf, of the extra 'train', is not installed")
import tiny_mini
from scripted import ScriptedModel, finish, say
from tiny_mini import Built

Samples = NDArray[np.float32]
SECONDS = 4.0
ROWS = 100
SILENCE = np.zeros(round(SECONDS * 16_000), np.float32)
CALIBRATION = {
    "transcript": {"bias": -1.0, "logprob": 2.0, "agreement": 3.0},
    "analysis": {"bias": 1.0, "logprob": 0.5},
    "temperature": 2.0,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return tiny_mini.tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def calibrated(tiny: Built, tmp_path_factory: pytest.TempPathFactory) -> Mini:
    directory = tmp_path_factory.mktemp("calibrated") / "mini"
    shutil.copytree(tiny.directory, directory)
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"calibration": CALIBRATION}))
    family = Mini(directory, "mini")
    family.load(torch.float32, CPU)
    return family


# --- the engine ---------------------------------------------------------------------------------


def ask(*requests: Any) -> Any:
    """A dialogue of these requests; gives their answers."""
    answers = []
    for request in requests:
        answers.append((yield request))
    return answers


def hold(
    family: Mini, dialogues: Sequence[tuple[Samples, Any]], seats: int, *, lookahead: bool = False
) -> list[Any]:
    """Results of dialogues about a clip each, `seats` of them in one batch."""
    manner = Manner(lookahead=lookahead)
    engine: Engine[int, Any] = Engine(family.model, CPU, Budget(seats=seats), manner)
    for number, (samples, dialogue) in enumerate(dialogues):
        engine.add(Work(number, (AudioInput(family.features(samples)),), dialogue))
    outcomes = finish(engine)
    assert all(done.error is None for done in outcomes.values())
    return [outcomes[number].result for number in range(len(dialogues))]


def clips() -> list[Samples]:
    long, short = recording("en-no-connection"), recording("fr-one-participant")
    return [long, short, long[:700], short[:7_840], short]


def prompt(family: Mini, samples: Samples) -> list[int]:
    return asking(family, samples, "")


def asking(family: Mini, samples: Samples, draft: str) -> list[int]:
    """How a plain transcript is asked for, where the head hears a draft of it."""
    audio = tiny_mini.audio_ids(family, samples, draft)
    return base_prompt(family.tokenizer, audio, TASKS["asr"].tags(language="en"), TASKS["asr"])


def by_hand(built: Built, samples: Samples) -> Tensor:
    """Log-probabilities [rows, symbols + 1] by another way through the files' weights."""
    weights = dict(MiniCheckpoint(built.directory).tensors())
    scale, shift = (
        weights[f"transformer.audio.norm.{part}"].float() for part in ("scale", "shift")
    )
    mel = built.family.features(samples)
    with torch.inference_mode():
        encoded = built.family.model.audio.encoded(mel[None], [mel.shape[-1]])[0]
    return tiny_mini.letters(built, encoded * scale + shift)


def test_it_is_what_the_head_says_of_what_was_encoded(tiny: Built) -> None:
    samples = recording("fr-one-participant")
    tokens = [5, 60, 9, 5]
    ((spelled,),) = hold(tiny.family, [(samples, ask(Spell(tokens)))], seats=1)
    logprobs = by_hand(tiny, samples)
    best = logprobs.argmax(-1).tolist()
    assert spelled.path == [symbol if symbol < SYMBOLS else None for symbol in best]
    assert len(set(best)) > 1
    assert spelled.logprobs.dtype == torch.float32
    torch.testing.assert_close(
        spelled.logprobs, logprobs[:, [*tokens, SYMBOLS]], atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("lookahead", [False, True])
def test_it_is_the_same_in_any_batch_and_order(tiny: Built, lookahead: bool) -> None:
    family = tiny.family
    spell = Spell(symbols("the cat sat"))

    def dialogues() -> list[tuple[Samples, Any]]:
        writing = [Generate(prompt(family, clip), 9, frozenset()) for clip in clips()]
        asked = [(spell, write) if n % 2 else (write, spell) for n, write in enumerate(writing)]
        return [(clip, ask(*two)) for clip, two in zip(clips(), asked, strict=True)]

    together = hold(family, dialogues(), seats=5, lookahead=lookahead)
    turned = hold(family, dialogues()[::-1], seats=2, lookahead=lookahead)[::-1]
    alone = [hold(family, [one], seats=1)[0] for one in dialogues()]
    for number, answers in enumerate(zip(alone, together, turned, strict=True)):
        spelled = [answer[0 if number % 2 else 1] for answer in answers]
        said = [answer[1 if number % 2 else 0] for answer in answers]
        assert all(isinstance(answer, Spelled) for answer in spelled)
        assert all(answer.path == spelled[0].path for answer in spelled)
        assert all(torch.equal(answer.logprobs, spelled[0].logprobs) for answer in spelled)
        assert all(answer.tokens == said[0].tokens for answer in said)
    assert len({tuple(answers[0 if n % 2 else 1].path) for n, answers in enumerate(alone)}) >= 4


def test_a_beginning_is_kept_over_a_spelling() -> None:
    """What the request before left in the arena serves the one behind."""

    class Speller(ScriptedModel):
        def spelled(self, memory: object, tokens: Sequence[int]) -> Spelled:
            assert isinstance(memory, tuple)
            return Spelled([*memory, None], torch.zeros(len(memory) + 1, len(tokens) + 1))

    def dialogue() -> Any:
        first = yield from say(prompt=(7, 8, 9, 1))
        spelled = yield Spell([3, 4])
        assert isinstance(spelled, Spelled)
        assert spelled.logprobs.shape == (len(spelled.path), 3)
        second = yield from say(prompt=(7, 8, 9, 1))
        return first.tokens, spelled.path, second.tokens

    model = Speller()
    engine: Engine[int, Any] = Engine(model, CPU, Budget())
    engine.add(Work(0, (AudioInput(torch.tensor([[5.0, 6.0]])),), dialogue()))
    assert finish(engine)[0].result == ([5, 6], [5, 6, None], [5, 6])
    assert model.fed == 4 + 2 + 1 + 2


@pytest.mark.parametrize(
    ("clips", "logprob", "error"),
    [
        (1, 0.0, LookupError),
        (2, 0.0, ValueError),
        (0, 0.0, ValueError),
        (1, math.nan, ArithmeticError),
    ],
)
def test_what_cannot_be_spelled_is_said_to_the_dialogue(
    clips: int, logprob: float, error: type[Exception]
) -> None:
    class Speller(ScriptedModel):
        def spelled(self, memory: object, tokens: Sequence[int]) -> Spelled:
            return Spelled([None], torch.full((1, 1), logprob))

    def dialogue() -> Any:
        with pytest.raises(error):
            yield Spell()
        return (yield from say()).tokens

    model = ScriptedModel() if error is LookupError else Speller()
    engine: Engine[int, Any] = Engine(model, CPU, Budget())
    audios = tuple(AudioInput(torch.tensor([[5.0, 6.0]])) for _ in range(clips))
    engine.add(Work(0, audios, dialogue()))
    assert finish(engine)[0].result == [5, 6] * clips


# --- mini's transcripts -------------------------------------------------------------------------


def job(task: str, labels: tuple[str, ...] = (), **options: Any) -> Job:
    return Job(TASKS[task], TASKS[task].tags(**options), labels)


def spikes(tokens: Sequence[int], rows: Sequence[int], heard: Sequence[int] | None) -> Spelled:
    """A head that says token n in row `rows[n]` with probability 0.9, and else the blank.

    Its path has the tokens `heard`, if they are others, in two rows each.
    """
    chances = np.full((ROWS, len(tokens) + 1), 0.01)
    chances[:, -1] = 0.9
    path: list[int | None] = [None] * ROWS
    for column, row in enumerate(rows):
        chances[row, [column, -1]] = 0.9, 0.01
    said = tokens if heard is None else heard
    for place, token in enumerate(said):
        path[3 * place : 3 * place + 2] = token, token
    assert len(path) == ROWS
    return Spelled(path, torch.from_numpy(np.log(chances)).float())


def opened(family: Mini, wanted: Job, heard: str = "") -> tuple[Dialogue[ClipAnswer], Any]:
    """A dialogue, and what it asks once the head has said what it hears."""
    dialogue = family.answer(wanted, Subject((SECONDS,)))
    request = next(dialogue)
    assert isinstance(request, Spell) and not request.tokens
    return dialogue, dialogue.send(spikes((), (), symbols(heard)))


def answered(dialogue: Dialogue[ClipAnswer], answer: object) -> ClipAnswer:
    with pytest.raises(StopIteration) as stop:
        dialogue.send(answer)
    value = stop.value.value
    assert isinstance(value, ClipAnswer)
    return value


def transcript(
    family: Mini,
    wanted: Job,
    text: str,
    *,
    rows: Sequence[int] = (),
    heard: str | None = None,
    tokens: Sequence[int] | None = None,
) -> ClipAnswer:
    """The answer where the decoder writes `text`, and the head hears `heard`, or the same.

    The head is asked again for times alone.
    """
    draft = text if heard is None else heard
    dialogue, request = opened(family, wanted, draft)
    assert isinstance(request, Generate)
    path = spikes([], [], symbols(draft)).path
    assert request.prompt == asking(family, SILENCE, read(path))
    said = family.tokenizer.encode(text) if tokens is None else list(tokens)
    written = Generated(said, [math.log(0.5)] * (len(said) + 1), "stop")
    if not wanted.tags.timestamps:
        return answered(dialogue, written)
    request = dialogue.send(written)
    assert isinstance(request, Spell)
    assert list(request.tokens) == symbols(text)
    instead = None if heard is None else symbols(heard)
    return answered(dialogue, spikes(request.tokens, rows, instead))


@pytest.mark.parametrize("task", ["asr", "word-times"])
def test_words_are_where_the_head_spells_them(tiny: Built, task: str) -> None:
    family, text = tiny.family, "The cat sat in 2023, on the mat."
    counts = list(map(len, spelling(text).split()))
    starts = [10, 20, 30, 40, 60, 70, 80]
    rows = [
        start + place for start, count in zip(starts, counts, strict=True) for place in range(count)
    ]
    wanted = job(task, language="en", timestamps=True)
    answer = transcript(family, wanted, text, rows=rows)
    assert answer.text == text
    assert answer.words is not None
    assert [word.word for word in answer.words] == text.split()
    edges = [edge for word in answer.words for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert edges[0] >= 0 and edges[-1] <= SECONDS
    spelled = [word for word in answer.words if word.word != "2023,"]
    for word, start, count in zip(spelled, starts, counts, strict=True):
        assert word.start < (start + 0.5) * ROW_SECONDS
        assert word.end > (start + count - 0.5) * ROW_SECONDS
        assert word.probability == pytest.approx(0.9)
    figure = answer.words[4]
    assert figure.start == answer.words[3].end and figure.end == answer.words[5].start
    assert figure.probability == pytest.approx(0.5)
    assert (answer.agreement, answer.confidence, answer.flags) == (1.0, None, frozenset())


def test_without_times_the_words_are_compared_alone(tiny: Built) -> None:
    wanted = job("asr", language="en")
    answer = transcript(tiny.family, wanted, "The cat sat in 2023.", heard="a cat sat in in")
    assert answer.words is None
    assert answer.agreement == pytest.approx(1 - (3 + 2) / 11)  # letters of "the", and of "in"
    worse = transcript(tiny.family, wanted, "Cat.", heard="the mat on the cat")
    assert worse.agreement == 0.0


@pytest.mark.parametrize("timestamps", [False, True])
def test_where_the_head_hears_nothing_nothing_is_written(tiny: Built, timestamps: bool) -> None:
    wanted = job("asr", language="en", timestamps=timestamps)
    for answer in (
        transcript(tiny.family, wanted, "The cat.", rows=(), heard=""),
        transcript(tiny.family, wanted, "", tokens=[tiny.family.tokenizer.special["<|sil|>"]]),
        transcript(tiny.family, wanted, "", heard="the cat"),
    ):
        assert answer.text == ""
        assert answer.words == (() if timestamps else None)
        assert answer.flags == {"no_speech"}
    assert answer.agreement == 0.0


def test_more_tokens_than_rows_are_flagged(tiny: Built) -> None:
    text = "the cat sat on the mat " * 20
    wanted = job("asr", language="en", timestamps=True)
    answer = transcript(tiny.family, wanted, text.strip(), heard="the cat")
    assert answer.flags == {"unparsed"}
    assert answer.words is not None and len(answer.words) == 120
    edges = [edge for word in answer.words for edge in (word.start, word.end)]
    assert edges == pytest.approx(sorted(edges)) and edges[-1] == pytest.approx(SECONDS)


def test_confidence_comes_from_the_calibration(calibrated: Mini) -> None:
    def logistic(score: float) -> float:
        return 1 / (1 + math.exp(-score))

    half = math.log(0.5)
    answer = transcript(calibrated, job("asr", language="en"), "The cat sat.", heard="the cat")
    assert answer.agreement == pytest.approx(2 / 3)
    assert answer.confidence == pytest.approx(logistic(-1 + 2 * half + 3 * 2 / 3))
    dialogue, _ = opened(calibrated, job("audio-caption"))
    caption = answered(dialogue, Generated([300], [half, half], "stop"))
    assert caption.confidence == pytest.approx(logistic(1 + half / 2))
    assert caption.agreement is None


def test_answers_with_tags_are_no_transcripts(tiny: Built) -> None:
    dialogue, request = opened(tiny.family, job("entities", language="en"))
    assert isinstance(request, Generate)
    said = tiny.family.tokenizer.encode("the cat")
    answer = answered(dialogue, Generated(said, [0.0] * len(said), "stop"))
    assert (answer.text, answer.agreement) == ("the cat", None)


def test_shares_of_labels_are_tempered(tiny: Built, calibrated: Mini) -> None:
    """Divided by 2, a likelihood of 16 to 1 is one of 4 to 1."""
    sums = [math.log(16.0), 0.0]
    wanted = job("gender", ("male", "female"))
    for family, share, confidence in ((tiny.family, 16 / 17, None), (calibrated, 0.8, 0.8)):
        dialogue, request = opened(family, wanted)
        assert isinstance(request, Score)
        answer = answered(dialogue, Scored([[value / 2, value / 2] for value in sums]))
        assert answer.labels == (
            ("male", pytest.approx(share)),
            ("female", pytest.approx(1 - share)),
        )
        assert answer.confidence == (confidence and pytest.approx(confidence))


def test_labels_that_were_learned_are_told_by_the_summary(tiny: Built, tmp_path: Path) -> None:
    """Without the decoder, by cosines; others and the language of what is said as well."""
    directory = tmp_path / "mini"
    shutil.copytree(tiny.directory, directory)
    labels = {"pitch": ["60", "61", "72"], "language": ["en", "fr", "unknown"]}
    others = {"pitch": labels["pitch"]}
    learned = {"learned": {"languages": ["en", "fr"], "labels": others}}
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | learned))
    family = Mini(directory, "mini")
    family.load(torch.float32, CPU)
    whole = torch.randn(6, 64, generator=torch.Generator().manual_seed(4))
    heard = Spelled([None], torch.zeros(1, 1), whole)

    def shares(task: str) -> dict[str, float]:
        known = labels[task]
        table = family.embedded(known)
        row = whole[{"language": 0, "pitch": 3}[task]]
        cosines = torch.cosine_similarity(row[None], table - table.mean(0), dim=1)
        return dict(zip(known, (10 * cosines).softmax(0).tolist(), strict=True))

    dialogue = family.answer(job("pitch", ("72", "60", "61")), Subject((SECONDS,)))
    next(dialogue)
    answer = answered(dialogue, heard)
    assert answer.labels is not None
    assert dict(answer.labels) == pytest.approx(shares("pitch"), abs=1e-5)
    wanted = job("language", TASKS["language"].labels)
    dialogue = family.answer(wanted, Subject((SECONDS,)))
    next(dialogue)
    answer = answered(dialogue, heard)
    spoken = shares("language")
    assert answer.labels is not None and {label for label, _ in answer.labels} == {"en", "fr"}
    assert answer.no_speech_prob == pytest.approx(spoken.pop("unknown"), abs=1e-5)
    assert answer.language == max(spoken, key=spoken.__getitem__)
    dialogue = family.answer(job("pitch", ("60", "90")), Subject((SECONDS,)))
    next(dialogue)
    assert isinstance(dialogue.send(heard), Score)  # nobody taught it 90


def test_the_language_has_a_confidence_too(calibrated: Mini) -> None:
    wanted = replace(job("language"), labels=("en", "fr"))
    dialogue, request = opened(calibrated, wanted)
    assert isinstance(request, Score)
    known = calibrated.tokenizer.languages
    scores = [[math.log({"en": 1.0, "fr": 81.0}.get(code, 0.01))] for code in (*known, "unknown")]
    answer = answered(dialogue, Scored(scores))
    assert answer.labels == (("fr", pytest.approx(0.9)), ("en", pytest.approx(0.1)))
    assert answer.confidence == pytest.approx(0.9)


def test_whole_answers_are_the_same_in_any_batch(tiny: Built) -> None:
    family = tiny.family
    wanted = job("word-times", language="en")

    def dialogues() -> list[tuple[Samples, Any]]:
        return [(c, family.answer(wanted, Subject((len(c) / 16_000,)))) for c in clips()]

    together = hold(family, dialogues(), seats=5)
    words = 0
    for clip, one, batched in zip(clips(), dialogues(), together, strict=True):
        (alone,) = hold(family, [one], seats=1)
        assert (batched.text, batched.flags) == (alone.text, alone.flags)
        assert batched.agreement == alone.agreement
        assert batched.words is not None and alone.words is not None
        edges = [0.0]
        for word, same in zip(batched.words, alone.words, strict=True):
            assert (word.word, word.start, word.end) == (same.word, same.start, same.end)
            assert word.probability == pytest.approx(same.probability, abs=1e-4)
            edges += [word.start, word.end]
        edges.append(len(clip) / 16_000)
        assert all(one <= other + 1e-9 for one, other in pairwise(edges))
        words += len(batched.words)
    assert words > 5


def test_a_checkpoint_whose_calibration_makes_no_sense_is_refused(
    tiny: Built, tmp_path: Path
) -> None:
    directory = tmp_path / "mini"
    shutil.copytree(tiny.directory, directory)
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"calibration": {"bias": 1}}))
    with pytest.raises(ConfigError, match="calibration"):
        Mini(directory, "mini")
