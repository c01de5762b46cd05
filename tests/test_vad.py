"""The native Silero network against the wheel's own, and what both detectors hear."""

from __future__ import annotations

import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwen_audio_cli.audio import SAMPLE_RATE
from qwen_audio_cli.audio import vad as vad_module
from qwen_audio_cli.audio.vad import FRAME, EnergyVad, SileroVad, Vad, load_vad

EXAMPLES = Path(__file__).parent.parent / "examples"
SPEECH = soundfile.read(EXAMPLES / "en-no-connection.wav", dtype="float32")[0]


def probabilities(vad: Vad, samples: NDArray[np.float32], *cuts: int) -> NDArray[np.float32]:
    stream = vad.stream()
    blocks = np.split(samples, sorted(cuts))
    return np.concatenate([*(stream.feed(block) for block in blocks), stream.flush()])


@pytest.fixture(scope="module")
def original() -> Any:
    """The network as the wheel runs it, loaded without importing the wheel."""
    file = distribution("silero-vad").locate_file("silero_vad/data/silero_vad.jit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(file))  # type: ignore[no-untyped-call]


def native_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of the wheel's TorchScript network under the names of ours."""
    patterns = {
        r"stft\.forward_basis_buffer": "stft_conv.weight",
        r"encoder\.0\.reparam_conv": "conv1",
        r"encoder\.1\.reparam_conv": "conv2",
        r"encoder\.2\.reparam_conv": "conv3",
        r"encoder\.3\.reparam_conv": "conv4",
        r"decoder\.rnn\.(.*)": r"lstm_cell.\1_l0",
        r"decoder\.decoder\.2": "final_conv",
    }
    renamed = {}
    for name, weight in weights.items():
        for pattern, replacement in patterns.items():
            name = re.sub(f"^{pattern}", replacement, name)
        renamed[name] = weight
    return renamed


@pytest.mark.parametrize("name", ["en-echo-test", "fr-no-connection"])
def test_the_network_is_that_of_the_wheel(name: str, original: Any) -> None:
    samples, _ = soundfile.read(EXAMPLES / f"{name}.wav", dtype="float32")
    with torch.no_grad():
        expected = original.audio_forward(torch.from_numpy(samples)[None], SAMPLE_RATE)[0].numpy()
    own = SileroVad()
    agreement = np.mean((probabilities(own, samples) > 0.5) == (expected > 0.5))
    # The safetensors file holds another training of this architecture (silero-vad#768) …
    assert agreement > 0.98
    # … so that the architecture is compared with the weights of the TorchScript network.
    own._network = vad_module._SileroNetwork().requires_grad_(False)
    own._network.load_state_dict(native_names(original._model.state_dict()))
    np.testing.assert_allclose(probabilities(own, samples), expected, atol=1e-4)


def test_the_wheel_is_not_imported() -> None:
    SileroVad().stream()
    assert "silero_vad" not in sys.modules


@pytest.mark.parametrize("vad", [SileroVad(), EnergyVad()], ids=["silero", "energy"])
@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 40_000), max_size=12), length=st.integers(0, 40_000))
def test_the_size_of_the_blocks_does_not_matter(vad: Vad, cuts: list[int], length: int) -> None:
    samples = SPEECH[:length]
    whole = probabilities(vad, samples)
    assert len(whole) == -(-length // FRAME)
    assert ((whole >= 0) & (whole <= 1)).all()
    np.testing.assert_allclose(probabilities(vad, samples, *cuts), whole, atol=1e-5)


def test_threads_share_the_network_and_nothing_else() -> None:
    vad = SileroVad()
    expected = [probabilities(vad, SPEECH[start:]) for start in range(0, 80_000, 10_000)]
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(
            lambda start: probabilities(vad, SPEECH[start:], *range(0, 90_000, 7777)),
            range(0, 80_000, 10_000),
        )
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, right, atol=1e-5)


def noise(level: float, seconds: float = 6.0) -> NDArray[np.float32]:
    generator = np.random.default_rng(0)
    samples = generator.standard_normal(int(seconds * SAMPLE_RATE)) * level
    return samples.astype(np.float32)


def chords(seconds: float = 6.0) -> NDArray[np.float32]:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    decay = np.exp(-3 * (time % 0.5))
    tones = sum(np.sin(2 * np.pi * pitch * time) for pitch in (220, 277.2, 329.6, 440))
    return (0.1 * tones * decay).astype(np.float32)


@pytest.mark.parametrize(
    "samples", [np.zeros(96_000, np.float32), noise(0.001), noise(0.1), chords()],
    ids=["silence", "faint noise", "loud noise", "music"],
)  # fmt: skip
def test_silero_hears_no_speech_where_there_is_none(samples: NDArray[np.float32]) -> None:
    assert probabilities(SileroVad(), samples).max() < 0.35


@pytest.mark.parametrize("vad", [SileroVad(), EnergyVad()], ids=["silero", "energy"])
def test_speech_is_heard_between_silences(vad: Vad) -> None:
    silence = noise(0.0003, 2.0)
    samples = np.concatenate([silence, SPEECH, silence])
    heard = probabilities(vad, samples) > 0.5
    edge = len(silence) // FRAME
    assert not heard[: edge - 1].any()
    assert not heard[-edge + 8 :].any()
    assert heard[edge:-edge].mean() > 0.6
    assert heard[edge : edge + 30].any()


def test_energy_gets_used_to_a_steady_noise_but_not_to_speech() -> None:
    steady = noise(0.01, 12.0)
    assert probabilities(EnergyVad(), steady)[-31:].max() < 0.35
    echo, _ = soundfile.read(EXAMPLES / "en-echo-test.wav", dtype="float32")
    twice = probabilities(EnergyVad(), np.concatenate([echo, echo]))
    assert (twice[-len(twice) // 2 :] > 0.5).mean() > 0.5


def test_silero_is_loaded_where_it_is_installed() -> None:
    assert isinstance(load_vad(), SileroVad)


def test_without_the_wheel_a_warning_tells_what_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "path", [])  # where importlib.metadata looks for wheels
    vad_module._load_network.cache_clear()
    assert isinstance(load_vad(), EnergyVad)
    assert "silero-vad is not installed" in caplog.text
