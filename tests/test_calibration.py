"""Confidence: against logistic curves worked out by hand, and word error rates by jiwer."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_audio_cli.errors import ConfigError
from qwen_audio_cli.families.accuracy import accuracy
from qwen_audio_cli.families.calibration import Calibration

PART: dict[str, Any] = {
    "transcript": {"bias": -1.0, "logprob": 2.0, "agreement": 4.0},
    "analysis": {"bias": 0.5, "logprob": 3},
    "temperature": 1.5,
}


def read(part: object) -> Calibration:
    calibration = Calibration.read(part)
    assert calibration is not None
    return calibration


def test_a_checkpoint_without_calibration_has_none() -> None:
    assert Calibration.read(None) is None


def test_written_answers_follow_the_logistic_curve() -> None:
    calibration = read(PART)
    # -1 + 2 * -0.5 + 4 * 0.5 = 0; -1 + 0 + 4 = 3; 0.5 + 3 * -0.5 = -1
    assert calibration.written("transcript", -0.5, 0.5) == 0.5
    assert calibration.written("transcript", 0.0, 1.0) == pytest.approx(1 / (1 + math.exp(-3)))
    assert calibration.written("analysis", -0.5) == pytest.approx(1 / (1 + math.exp(1)))


@pytest.mark.parametrize("logprob", [-1e6, -1e308, 0.0])
def test_the_curve_never_overflows(logprob: float) -> None:
    assert 0.0 <= read(PART).written("analysis", logprob) <= 1.0


def test_evidence_goes_with_the_kind() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        read(PART).written("transcript", -0.5)
    with pytest.raises(ValueError, match="argument 2"):
        read(PART).written("analysis", -0.5, 1.0)


NUMBERS = st.floats(-1e6, 1e6)


@given(st.lists(NUMBERS, min_size=5, max_size=5), st.floats(1e-3, 1e3))
def test_what_is_written_is_read_back(numbers: list[float], temperature: float) -> None:
    one, two, three, four, five = numbers
    part = {
        "transcript": {"bias": one, "logprob": two, "agreement": three},
        "analysis": {"bias": four, "logprob": five},
        "temperature": temperature,
    }
    assert read(json.loads(json.dumps(part))).as_dict() == part


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ([], r"calibration has \[\]: transcript, analysis, temperature are expected"),
        ({}, "calibration has nothing: transcript"),
        ({**PART, "labels": 1}, "has transcript, analysis, temperature, labels: "),
        ({**PART, "temperature": 0}, r"calibration\.temperature is 0\.0, not above 0"),
        ({**PART, "temperature": -1}, "not above 0"),
        ({**PART, "temperature": "1"}, r"calibration\.temperature is '1', not a number"),
        ({**PART, "temperature": True}, "temperature is True, not a number"),
        ({**PART, "temperature": math.nan}, "temperature is nan, not a number"),
        ({**PART, "analysis": 3}, r"calibration\.analysis has 3: bias, logprob are expected"),
        ({**PART, "analysis": PART["transcript"]}, r"\.analysis has bias, logprob, agreement: "),
        ({**PART, "transcript": PART["analysis"]}, r"bias, logprob, agreement are expected"),
        (
            {**PART, "analysis": {"bias": 0, "logprob": None}},
            r"calibration\.analysis\.logprob is None, not a number",
        ),
        ({**PART, "analysis": {"bias": math.inf, "logprob": 0}}, r"analysis\.bias is inf"),
    ],
)
def test_nonsense_is_refused_by_name(part: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Calibration.read(part)


def test_calibration_needs_neither_torch_nor_numpy() -> None:
    """A run that gives no confidence must not pay for it."""
    script = (
        "import sys, qwen_audio_cli.families.calibration as c; c.Calibration.read(None);"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert ran.stdout.split() == [b"[]"]


WORDS = st.lists(st.sampled_from(["a", "b", "cat"]), max_size=8)


@given(WORDS.filter(bool), WORDS)
def test_word_accuracy_is_one_less_jiwers_word_error_rate(
    said: list[str], heard: list[str]
) -> None:
    jiwer = pytest.importorskip("jiwer", reason="jiwer, of the extra 'bench', is not installed")
    rate = jiwer.wer(" ".join(said), " ".join(heard))
    assert accuracy(said, heard) == pytest.approx(max(0.0, 1 - rate))


def test_silence_is_heard_as_nothing() -> None:
    assert accuracy([], []) == 1.0
    assert accuracy([], ["a"]) == 0.0
    assert accuracy(["a"], []) == 0.0
    assert accuracy(["a"], ["a", "b", "c"]) == 0.0
