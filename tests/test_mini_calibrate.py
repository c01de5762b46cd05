"""Calibrating mini: the fits against torch's own optimiser, the files, and what is read of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import EXAMPLES
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from qwen_audio_cli import Qwa
from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.families.base import ClipAnswer
from qwen_audio_cli.families.calibration import Calibration
from qwen_audio_cli.records import Record
from qwen_audio_cli.tasks import TASKS
from qwen_audio_cli.training.data import described, sounds
from qwen_audio_cli.training.data.instruments import INSTRUMENTS
from qwen_audio_cli.training.data.notes import Phrase
from qwen_audio_cli.training.manifest import Item, write
from qwen_audio_cli.training.mini import facts
from qwen_audio_cli.training.mini.calibrate import (
    FEWEST,
    Chosen,
    Evidence,
    Written,
    calibrate,
    evidence,
    learned,
)
from qwen_audio_cli.training.mini.fitting import RIDGE, fit_logistic, fit_temperature
from qwen_audio_cli.training.mini.reliability import Bin, bins, draw, expected_error

RANDOM = np.random.default_rng(7)


def optimised(start: torch.Tensor, loss: object) -> torch.Tensor:
    """Where torch's L-BFGS finds a loss least, in float64."""
    weights = start.double().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(weights)  # type: ignore[operator]
        value.backward()
        return value  # type: ignore[no-any-return]

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


@pytest.mark.parametrize("fractional", [False, True])
def test_the_regression_is_that_of_least_loss(fractional: bool) -> None:
    numbers = np.column_stack([-RANDOM.exponential(0.5, 200), RANDOM.uniform(0, 1, 200)])
    chance = 1 / (1 + np.exp(-(0.5 + 1.5 * numbers[:, 0] + 2 * numbers[:, 1])))
    right = chance if fractional else (RANDOM.uniform(size=200) < chance).astype(float)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        scores = weights[0] + torch.from_numpy(numbers) @ weights[1:]
        entropy = binary_cross_entropy_with_logits(scores, torch.from_numpy(right), reduction="sum")
        return entropy + RIDGE / 2 * weights[1:].square().sum()

    theirs = optimised(torch.zeros(3), loss).tolist()
    ours = fit_logistic(numbers, right)
    assert [ours.bias, *ours.weights] == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("right", [[0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
def test_evidence_that_parts_right_from_wrong_exactly_gives_a_curve(right: list[float]) -> None:
    curve = fit_logistic(np.array([[-3.0], [-1.0], [-0.5]]), np.array(right))
    assert all(map(math.isfinite, (curve.bias, *curve.weights)))
    near = [curve([-3.0]), curve([-0.75])]
    assert near == pytest.approx([right[0], right[1]], abs=0.2)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_that_of_least_surprise(temperature: float) -> None:
    true = torch.from_numpy(RANDOM.standard_normal((300, 5)) * 2)
    truth = torch.multinomial(true.softmax(-1), 1, generator=torch.manual_seed(1))[:, 0]
    scores = true * temperature  # as a model would that is too sure, or not sure enough

    def loss(weights: torch.Tensor) -> torch.Tensor:
        return cross_entropy(scores * weights, truth)

    theirs = 1 / float(optimised(torch.ones(1), loss))
    ours = fit_temperature([row + 5 for row in scores.numpy()], truth.tolist())
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours == pytest.approx(temperature, rel=0.2)


def test_bins_are_of_equal_mass_and_their_error_by_hand() -> None:
    pairs = [(0.9, 1.0), (0.1, 0.0), (0.2, 1.0), (0.8, 0.5), (0.7, 1.0)]
    assert bins(pairs, 2) == (
        Bin(3, pytest.approx(1.0 / 3), pytest.approx(2.0 / 3)),
        Bin(2, pytest.approx(0.85), pytest.approx(0.75)),
    )
    assert expected_error(bins(pairs, 2)) == pytest.approx((3 * (1 / 3) + 2 * 0.1) / 5)
    assert [one.count for one in bins(pairs, 10)] == [1] * 5
    assert {one.count for one in bins([(0.5, 1.0)] * 104)} == {10, 11}


def test_the_diagram_has_a_panel_and_a_point_for_every_bin() -> None:
    svg = ElementTree.fromstring(draw({"a & b": [(0.25, 1.0)] * 40, "c": [(0.5, 0.5), (1.0, 0.0)]}))
    space = "{http://www.w3.org/2000/svg}"
    texts = ["".join(text.itertext()) for text in svg.iter(f"{space}text")]
    assert "a & b" in texts and "40 answers, error 0.750" in texts and texts.count("4") == 10
    points = [circle.attrib for circle in svg.iter(f"{space}circle")]
    assert len(points) == 12
    # 0.5 foretold and 0.5 right lies in the middle of its panel, between its frame's corners.
    frame = [path.attrib["d"] for path in svg.iter(f"{space}path")][-1]
    begin, end = (tuple(map(float, p.split())) for p in frame[1:].split("L"))
    middle = [(a + b) / 2 for a, b in zip(begin, end, strict=True)]
    assert [float(points[10][key]) for key in ("cx", "cy")] == pytest.approx(middle)


# --- facts ---------------------------------------------------------------------------------------


def test_the_sounds_of_every_caption_are_read_back() -> None:
    """Of all scenes of one to four sounds, with any sound that the corpus has."""
    table = "\n".join(line for text in (sounds._SONIC_PI,) for line in text.strip().splitlines())
    happens = [*sounds._HAPPENS.values(), *(h for _, h, _ in sounds._rows(table))]
    happens += ["a bass drum is struck", "a harp plays a note"]
    for number in range(300):
        drawn = RANDOM.choice(len(happens), RANDOM.integers(1, 5), replace=False)
        overlapping = len(drawn) == 2 and number % 2 == 0
        events = []
        for place, which in enumerate(drawn):
            times = 1 if overlapping else int(RANDOM.integers(1, 4))
            for turn in range(times):
                begin = place + turn / 4
                length = 1.5 if overlapping else 0.1
                events.append(described.Event(str(which), happens[which], begin, begin + length))
        told = facts.sounds(described.caption(events))
        assert told == tuple(happens[which].lower() for which in drawn)


def test_captions_of_scenes_are_compared_by_sounds_and_order() -> None:
    task = TASKS["audio-caption"]
    truth = "A dog barks twice, then a bell rings."
    for said, same in {
        "a dog barks three times while a bell rings": True,
        "A bell rings, then a dog barks twice.": False,
        "A dog barks twice.": False,
    }.items():
        assert facts.same_facts(task, truth, said) == same


def test_every_fact_of_music_is_read_back_in_every_form() -> None:
    names = set()
    for program, mode, tempo in (
        (0, "major", "slow"),
        (32, "minor", "fast"),
        (87, "minor", "slow"),
    ):
        for texture in ("alone", "with chords", "with drums"):
            instrument = INSTRUMENTS[program]
            phrase = Phrase(instrument, 0, mode, tempo, 60, texture, (), 1.0)
            told = set()
            for form in range(3):
                caption = _caption(phrase, form)
                told.add(facts.music(caption))
            (one,) = told
            names.add(one)
            accompanied = {texture} - {"alone"}
            assert one == {instrument.name, mode, tempo, "high register", *accompanied}
    assert len(names) == 9


def _caption(phrase: Phrase, form: int) -> str:
    from qwen_audio_cli.training.data.midi import Note

    return replace(phrase, notes=(Note(0, 90, 80, 0.0, 1.0),)).caption(form)


# --- evidence ------------------------------------------------------------------------------------


def item(**values: object) -> Item:
    return Item(audio=EXAMPLES / "en-one-participant.wav", split="dev", **values)  # type: ignore[arg-type]


def test_evidence_of_a_transcript_is_how_many_words_are_right() -> None:
    spoken = item(task="asr", language="en", target="The conference begins, now.")
    answer = ClipAnswer(text="the conferences begins now", avg_logprob=-0.2, agreement=0.5)
    assert evidence(spoken, answer) == Written("transcript", -0.2, 0.5, 0.75)
    silent = item(task="asr", language="en", target="<|sil|>")
    assert evidence(silent, replace(answer, text="")) == Written("transcript", -0.2, 0.5, 1.0)


def test_evidence_of_an_analysis_is_whether_it_is_right() -> None:
    asked = item(task="audio-qa", question="Is speech heard?", target="yes")
    answer = ClipAnswer(text="Yes", avg_logprob=-0.2)
    assert evidence(asked, answer) == Written("analysis", -0.2, None, True)
    note = item(task="note", target="<|pitch|><|midi_pitch_54|>")
    wrong = replace(answer, text="<|pitch|><|midi_pitch_55|>")
    assert evidence(note, wrong) == Written("analysis", -0.2, None, False)
    timed = item(
        task="sound-event-times",
        timestamps=True,
        target="<|0.00|><|sil|><|0.32|>bongo<|0.41|><|sil|><|1.56|>harp<|1.65|>",
    )
    assert evidence(timed, replace(answer, text="bongo harp")) == Written(
        "analysis", -0.2, None, True
    )


def test_evidence_of_labels_is_the_share_of_the_right_one() -> None:
    labels = (("male", 0.7), ("female", 0.3))
    spoken = item(task="gender", target="female")
    logs = (math.log(0.7), math.log(0.3))
    assert evidence(spoken, ClipAnswer(labels=labels)) == Chosen(logs, 1)
    doubled = tuple(2 * value for value in logs)
    assert evidence(spoken, ClipAnswer(labels=labels), 2.0) == Chosen(doubled, 1)
    vanished = ClipAnswer(labels=(("male", 1.0), ("female", 0.0)))
    assert evidence(spoken, vanished) == Chosen((0.0, pytest.approx(-690.8, abs=0.1)), 1)
    assert evidence(replace(spoken, target="neither"), ClipAnswer(labels=labels)) is None


def drawn(count: int, sharpness: float) -> list[Evidence]:
    """Answers of each kind; of labels the shares are sharper than they should be."""
    found: list[Evidence] = []
    for _ in range(count):
        logprob, agreement = -float(RANDOM.exponential(1)), float(RANDOM.uniform())
        chance = 1 / (1 + math.exp(-(1 + 2 * logprob)))
        found.append(Written("analysis", logprob, None, float(RANDOM.uniform() < chance)))
        found.append(Written("transcript", logprob, agreement, (chance + agreement) / 2))
        logs = RANDOM.standard_normal(4)
        true = np.exp(logs) / np.exp(logs).sum()
        found.append(Chosen(tuple(map(float, sharpness * logs)), int(RANDOM.choice(4, p=true))))
    return found


def test_what_is_learned_is_calibrated() -> None:
    outcome = learned(drawn(2000, 4.0))
    assert outcome.calibration.temperature == pytest.approx(4.0, rel=0.15)
    assert outcome.calibration.written("analysis", -0.5) == pytest.approx(0.5, abs=0.07)
    told = outcome.as_dict()
    assert {kind: figures["answers"] for kind, figures in told.items()} == dict.fromkeys(
        ("transcript", "analysis", "labels"), 2000
    )
    assert all(figures["error"] < 0.05 for figures in told.values())


def test_what_is_foretold_comes_from_the_other_half() -> None:
    """Where nothing is to be learned, what an answer itself was like tells nothing of it."""
    found = [*drawn(FEWEST, 1.0)]
    outcome = learned(found)
    written = [one for one in found if isinstance(one, Written) and one.kind == "analysis"]
    whole = [outcome.calibration.written("analysis", one.logprob) for one in written]
    assert sorted(foretold for foretold, _ in outcome.foretold["analysis"]) != sorted(whole)
    assert sorted(right for _, right in outcome.foretold["analysis"]) == sorted(
        one.right for one in written
    )


def test_too_few_answers_of_a_kind_teach_nothing() -> None:
    found = [one for one in drawn(FEWEST, 1.0) if not isinstance(one, Chosen)]
    with pytest.raises(UsageError, match="0 labels in the dev split: too few to learn from"):
        learned(found)


# --- a whole run ---------------------------------------------------------------------------------


def test_a_mini_is_calibrated_and_its_answers_say_how_sure_they_are(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf, of the extra 'train', is not installed")
    import tiny_mini

    (tmp_path / "built").mkdir()
    model = tiny_mini.tiny(tmp_path / "built").directory
    recording = min(EXAMPLES.glob("*.wav"), key=lambda path: path.stat().st_size)
    items = [
        made
        for path in [recording] * (FEWEST + 2)
        for made in (
            Item(audio=path, task="asr", target="one other", split="dev", language="en"),
            Item(
                audio=path, task="audio-qa", question="Is speech heard?", target="yes", split="dev"
            ),
            Item(audio=path, task="gender", target="female", split="dev"),
            Item(audio=path, task="gender", target="male", split="test"),
        )
    ]
    foreign = [replace(one, task="translation", to="en") for one in items[:1]]
    refused = [replace(one, task="lyrics") for one in items[:1]]
    manifest = tmp_path / "manifest.jsonl"
    write([*items, *foreign, *refused], manifest)
    before = json.loads((model / "config.json").read_text())
    (unsure,) = Qwa(str(model), device="cpu").transcribe(recording, language="en")
    assert isinstance(unsure, Record) and unsure.confidence is None
    told: list[str] = []
    outcome = calibrate(
        model, [manifest], FEWEST + 1, device="cpu", dtype="float32", tell=told.append
    )
    assert {len(pairs) for pairs in outcome.foretold.values()} == {FEWEST + 1}
    assert len(told) == 2 and told[0].startswith("lyrics: 1 items are left out: ")
    after = json.loads((model / "config.json").read_text())
    assert Calibration.read(after.pop("calibration")) == outcome.calibration
    assert after == before
    ElementTree.parse(model / "reliability.svg")
    (sure,) = Qwa(str(model), device="cpu").transcribe(recording, language="en")
    assert isinstance(sure, Record) and sure.confidence is not None
    assert 0 <= sure.confidence <= 1 and sure.text == unsure.text
    # Calibrated again, the temperature is that of the raw likelihoods still.
    again = calibrate(model, [manifest], FEWEST + 1, device="cpu", dtype="float32")
    assert again.calibration.temperature == pytest.approx(outcome.calibration.temperature, rel=1e-3)
