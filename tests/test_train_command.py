"""`qwa train` from the outside: what it prints, how it ends, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES
from lessons import checkpoint, items

from qwen_audio_cli.cli.app import run
from qwen_audio_cli.exits import Exit
from qwen_audio_cli.training.manifest import write

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("qwen3_asr", tmp_path_factory.mktemp("base"))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    write(items(), path)
    return path


def arguments(base: Path, manifest: Path, *more: str) -> list[str]:
    given = ["--model", str(base), "--manifest", str(manifest), "--dtype", "float32"]
    return ["train", *given, "-o", str(manifest.parent / "tuned"), "--device", "cpu", *more]


def test_it_ends_with_a_line_of_json_and_a_model_that_answers(
    base: Path, manifest: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(base, manifest, "--steps", "3", "--rank", "2")) == Exit.OK
    told = capfd.readouterr()
    summary = json.loads(told.out)
    assert summary["steps"] == 3
    assert summary["items"] == 2
    assert summary["output"] == str(manifest.parent / "tuned")
    assert summary["loss"] > 0 and summary["dev_loss"] > 0
    assert "qwa: step 3: dev loss" in told.err
    wav = str(EXAMPLES / "en-one-participant.wav")
    assert run(["transcribe", "--model", summary["output"], "--device", "cpu", wav]) == Exit.OK
    record = json.loads(capfd.readouterr().out)
    assert record["model"].startswith("tuned@")
    assert run(arguments(base, manifest, "--steps", "3")) == Exit.USAGE
    assert "is not an empty directory: --resume goes on with a run" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("more", "code", "reason"),
    [
        (["--train-encoder"], Exit.USAGE, "add --full"),
        (["--rank", "0"], Exit.USAGE, "rank must be at least 1"),
        (["--epochs", "nan"], Exit.USAGE, "epochs must be above 0"),
        (["--dropout", "1"], Exit.USAGE, "dropout lies between 0 and 1"),
        (["--resume"], Exit.USAGE, "no run to go on with"),
        (["--dtype", "float16"], Exit.USAGE, "float32 or bfloat16"),
        (["--device", "cuda:7"], Exit.UNAVAILABLE, "'cuda:7' is not available"),
        (["--model", "whisper-base"], Exit.USAGE, "whisper is not trained"),
        (["--model", "whsper"], Exit.USAGE, "unknown model 'whsper'"),
        (["--manifest", "no.jsonl"], Exit.USAGE, "no.jsonl: cannot be read"),
        (["-o", "/dev/null/tuned"], Exit.CANNOT_CREATE, "/dev/null/tuned: cannot be created"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    base: Path,
    manifest: Path,
    capfd: pytest.CaptureFixture[str],
    more: list[str],
    code: Exit,
    reason: str,
) -> None:
    assert run(arguments(base, manifest, *more)) == code
    told = capfd.readouterr()
    assert reason in told.err
    assert told.out == ""
    assert "Traceback" not in told.err


def test_without_peft_it_says_what_to_install(
    base: Path, manifest: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert run(arguments(base, manifest)) == Exit.UNAVAILABLE
    needs = "training needs peft: pip install 'qwen-audio-cli[train]'"
    assert needs in capfd.readouterr().err


def test_ctrl_c_ends_it_with_130_and_resume_goes_on(base: Path, manifest: Path) -> None:
    command = [sys.executable, "-m", "qwen_audio_cli", *arguments(base, manifest)]
    command += ["--steps", "100", "--rank", "2"]
    settings: dict[str, Any] = {
        "env": os.environ | {"PYTHONPATH": str(ROOT)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    with subprocess.Popen(command, **settings) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "step 1 of 100" in line:
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=60)
    assert process.returncode == Exit.INTERRUPTED
    assert out == ""
    assert "--resume goes on from there" in err
    done = subprocess.run([*command, "--resume"], timeout=200, check=True, **settings)
    assert "qwa: goes on behind step" in done.stderr
    assert json.loads(done.stdout)["steps"] == 100


def test_an_adapter_is_not_trained_further(
    base: Path, manifest: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(base, manifest, "--steps", "1", "--rank", "2")) == Exit.OK
    tuned = manifest.parent / "base-adapter"
    shutil.move(manifest.parent / "tuned", tuned)
    assert run(arguments(tuned, manifest)) == Exit.USAGE
    assert "an adapter is trained no further: name its base model" in capfd.readouterr().err
