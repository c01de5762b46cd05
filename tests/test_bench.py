"""The benchmarks run, hear what they say they hear, and get from all systems the same tokens."""

from __future__ import annotations

import json
import os
import sys
import wave
from pathlib import Path
from subprocess import run
from types import ModuleType
from typing import Any

import pytest
import tiny_checkpoints
import torch
from conftest import EXAMPLES

from qwen_audio_cli.api import Qwa
from qwen_audio_cli.audio.sources import Source, expand_sources
from qwen_audio_cli.bench.meter import MeteredFamily, Scales
from qwen_audio_cli.bench.run import Figures, bench
from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.families.packed import PackedLinear
from qwen_audio_cli.models import WEIGHTS

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The modules `qwen2_audio` and `roofline` of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import qwen2_audio
    import roofline

    return qwen2_audio, roofline


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoints.qwen_audio(tmp_path_factory.mktemp("tiny") / "qwen-audio"))


def last_line(script: str, *words: str) -> dict[str, Any]:
    """What a benchmark prints as its last line, run in a process of its own on one thread."""
    command = [sys.executable, str(BENCHMARKS / script), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return report


# --- benchmarks/ --------------------------------------------------------------------------------


def test_the_core_writes_what_generate_writes(shapes: tuple[ModuleType, ModuleType]) -> None:
    pytest.importorskip("transformers")
    report = last_line("throughput.py", "--shape", "tiny", "--number", "4", "--threads", "1")
    clips = list(shapes[0].draw(4, 0))
    assert report["clips"] == 4
    assert report["audio_seconds"] == pytest.approx(
        sum(c.samples for c in clips) / 16_000, abs=0.01
    )
    assert report["tokens"] == sum(c.tokens for c in clips)
    assert report["systems"].keys() == {"generate", "generate batched", "core"}
    assert [row["same_tokens"] for row in report["systems"].values()] == [4, 4, 4]
    for row in report["systems"].values():
        assert row["rtfx"] == pytest.approx(report["audio_seconds"] / row["seconds"][0], rel=0.2)


def test_memory_is_told_at_both_counts() -> None:
    pytest.importorskip("transformers")
    report = last_line("throughput.py", "--memory", "--shape", "tiny", "--memory-at", "2", "6")
    resident = report["resident_mb"]
    assert resident.keys() == {"2", "6"}
    assert all(50 < megabytes <= report["peak_mb"] + 1 for megabytes in resident.values())


def test_gpu_runs_on_a_cpu_too() -> None:
    pytest.importorskip("transformers")
    report = last_line("gpu.py", "--tiny", "--device", "cpu")
    assert report["phases"].keys() == {"encode", "prefill", "decode"}
    for phase in report["phases"].values():
        assert phase["share"] == pytest.approx(phase["least_ms"] / phase["ms"])
    assert {row["same_tokens"] for row in report["engine"].values()} == {report["number"]}
    row = report["engine"]["eager"]
    assert row["rtfx"] == pytest.approx(30 * report["number"] / row["seconds"])
    assert report["bound_rtfx"]["in_turn"] <= report["bound_rtfx"]["overlap"]


def test_roofline_counts_what_torch_counts(shapes: tuple[ModuleType, ModuleType]) -> None:
    """Against torch's own counter; it takes causal attention for full."""
    transformers = pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    models, roofline = shapes
    shape = models.SCALED
    with torch.device("meta"):
        network = transformers.Qwen2AudioForConditionalGeneration(models.config(shape, 7))
        tokens = torch.zeros(1, 300, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            network.model.language_model(input_ids=tokens)
    prefill = roofline.prefill(shape, 300).flops - 2 * shape.vocabulary * shape.width
    prefill += 4 * shape.width * shape.layers * 300**2 / 2
    assert counter.get_total_flops() == pytest.approx(prefill, rel=0.01)


def test_clips_are_drawn_as_told(shapes: tuple[ModuleType, ModuleType]) -> None:
    clips = list(shapes[0].draw(2000, 3))
    assert clips == list(shapes[0].draw(2000, 3))
    assert all(1 <= clip.seconds <= 30 and 1 <= clip.tokens <= 160 for clip in clips)
    assert sum(clip.seconds for clip in clips) / 2000 == pytest.approx(15.5, abs=0.6)
    rate = sum(clip.tokens for clip in clips) / sum(clip.seconds for clip in clips)
    assert rate == pytest.approx(3.3, abs=0.3)
    assert len(clips[0].wave()) == clips[0].samples


# --- qwa bench ----------------------------------------------------------------------------------


def measure(qwa: Qwa, sources: list[Path] | None, clips: int = 0) -> Figures:
    figures = bench(qwa, None if sources is None else expand_sources(sources), clips)
    assert figures.rtfx == pytest.approx(figures.audio_seconds / figures.seconds)
    assert figures.encode_seconds is not None and figures.step_seconds is not None
    assert 0 < figures.encode_seconds + figures.step_seconds < figures.seconds
    assert 0 < figures.mean_seats <= figures.batch
    assert figures.flops > 1e9 and figures.bandwidth > 1e8
    return figures


def test_bench_hears_synthetic_clips(tiny: str) -> None:
    figures = measure(Qwa(tiny, device="cpu", dtype="float32", batch=3), None, 4)
    assert (figures.command, figures.files, figures.clips, figures.failed) == (
        "transcribe",
        4,
        4,
        0,
    )
    assert 4 <= figures.audio_seconds <= 120
    assert 4 <= figures.tokens <= 4 * 160
    assert figures.dtype == "float32"
    again = measure(Qwa(tiny, device="cpu", dtype="float32", batch=3), None, 4)
    assert (again.audio_seconds, again.tokens) == (figures.audio_seconds, figures.tokens)


def test_bench_hears_files(tmp_path: Path) -> None:
    names = sorted(EXAMPLES.glob("*.wav"))[:2]
    lengths = []
    for name in names:
        with wave.open(str(name)) as sound:
            lengths.append(sound.getnframes() / sound.getframerate())
    figures = measure(Qwa(device="cpu", dtype="float32"), names)
    assert (figures.files, figures.failed) == (2, 0)
    assert figures.audio_seconds == pytest.approx(sum(lengths), abs=0.01)
    assert figures.tokens > 0
    assert figures.decode_seconds > 0
    assert figures.ceiling > figures.rtfx


def test_a_file_that_fails_is_counted(tiny: str, tmp_path: Path) -> None:
    names = [sorted(EXAMPLES.glob("*.wav"))[0], tmp_path / "nothing.wav"]
    figures = measure(Qwa(tiny, device="cpu", dtype="float32"), names)
    assert (figures.files, figures.failed) == (2, 1)


def test_a_measured_run_answers_as_any_other(tiny: str) -> None:
    """Counting changes nothing, and counts what the records say."""
    name = sorted(EXAMPLES.glob("*.wav"))[0]
    qwa = Qwa(tiny, device="cpu", dtype="float32")
    [plain] = qwa.transcribe(name, max_tokens=12)
    family = qwa.families[tiny]
    scales = Scales(family.model)
    metered = MeteredFamily(family, scales)
    qwa.families[tiny] = metered
    [measured] = qwa.transcribe(name, max_tokens=12)
    assert (plain.text, plain.segments) == (measured.text, measured.segments)
    segments = plain.segments or ()
    assert metered.counts.clips == len(segments)
    assert 0 < metered.counts.tokens <= 12 * len(segments)
    decoder = family.model.decoder
    matrices = [m for m in decoder.modules() if isinstance(m, (PackedLinear, torch.nn.Linear))]
    linear = sum(matrix.in_features * matrix.out_features for matrix in matrices)
    small = [weight for weight in decoder.parameters() if weight.ndim == 1]
    assert scales.step_bytes == 4 * linear + sum(weight.nbytes for weight in small)
    linear -= decoder.config.vocabulary * decoder.config.width  # scores are for few rows
    assert scales.flops["step"] >= 2 * linear * metered.model.rows


def test_bench_names_what_no_model_can(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dtype"):
        bench(Qwa(str(WEIGHTS / "whisper-base"), dtype="int3"), iter([Source("a", None)]), 1)


def test_bench_on_the_command_line(tiny: str, tmp_path: Path) -> None:
    def qwa(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "qwen_audio_cli", "bench", *words]
        ran = run(command, capture_output=True, text=True)
        return ran.returncode, ran.stdout, ran.stderr

    model = ("--model", tiny, "--device", "cpu", "--dtype", "float32")
    code, out, _ = qwa(*model, "--clips", "3", "--json")
    assert code == 0
    figures = json.loads(out)
    assert (figures["clips"], figures["device"]) == (3, "cpu")
    code, out, _ = qwa(*model, "--clips", "2")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()][:2] == ["model", "speed"]
    assert "x real time" in out
    assert qwa(*model, str(tmp_path / "*.wav"))[:2] == (3, "")
    assert qwa(*model, str(tmp_path / "none.wav"))[:2] == (4, "")
    assert qwa("--model", "no-such-model")[0] == 2
    assert qwa(*model, "--clips", "0")[0] == 2
