"""What a hostile or careless user does: names, checkpoints and options that must not end a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tiny_checkpoints import INDEX, qwen_audio

from qwen_audio_cli.exits import Exit

ROOT = Path(__file__).resolve().parent.parent
ONE = ROOT / "examples" / "en-one-participant.wav"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name[:4] != "QWA_"}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def qwa(
    *arguments: str | bytes | Path, before: tuple[str, ...] = ()
) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Exit code, records by file, standard error."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "qwen_audio_cli", *arguments],
        capture_output=True,
        env=ENVIRONMENT,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {record["file"]: record for record in found}, done.stderr.decode()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return qwen_audio(tmp_path / "tiny")


def test_a_name_too_long_for_any_file_fails_alone(tiny: Path) -> None:
    long = "z" * 300 + ".wav"
    code, found, _ = qwa("transcribe", ONE, long, "--model", tiny)
    assert code == Exit.SOME_FAILED
    assert found[str(ONE)]["status"] == "ok"
    assert found[long]["error"]["code"] == "missing"


def test_a_file_in_a_closed_directory_fails_alone(tiny: Path, tmp_path: Path) -> None:
    # Root reads everything, unless it starts without the capabilities to.
    before: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not installed")
        before = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    closed = tmp_path / "closed"
    closed.mkdir()
    shutil.copy(ONE, closed / "a.wav")
    closed.chmod(0)
    try:
        code, found, _ = qwa("transcribe", ONE, closed / "a.wav", "--model", tiny, before=before)
    finally:
        closed.chmod(0o700)
    assert code == Exit.SOME_FAILED
    assert found[str(ONE)]["status"] == "ok"
    assert found[str(closed / "a.wav")]["error"]["code"] == "permission"


@pytest.mark.parametrize("shard", [0, 1])
def test_a_cut_shard_is_named(tiny: Path, shard: int) -> None:
    path = sorted(tiny.glob("*.safetensors"))[shard]
    os.truncate(path, path.stat().st_size - 500)
    code, found, messages = qwa("transcribe", ONE, "--model", tiny)
    assert (code, found) == (Exit.CONFIG, {})
    assert path.name in messages


def test_an_index_that_is_none_is_named(tiny: Path) -> None:
    (tiny / INDEX).write_text('{"weight_map": [1, 2]}')
    code, _, messages = qwa("transcribe", ONE, "--model", tiny)
    assert code == Exit.CONFIG
    assert INDEX in messages


def test_scores_that_are_no_numbers_give_error_records(tiny: Path) -> None:
    for path in tiny.glob("*.safetensors"):
        weights = {name: tensor * float("nan") for name, tensor in load_file(path).items()}
        save_file(weights, path)
    code, found, _ = qwa("transcribe", ONE, "--model", tiny)
    assert code == Exit.ALL_FAILED
    assert found[str(ONE)]["error"]["code"] == "internal"


def test_a_label_that_whisper_does_not_know_is_refused_by_name() -> None:
    code, found, messages = qwa("classify", "--task", "language", "--labels", "Elvish,fr", ONE)
    assert (code, found) == (Exit.USAGE, {})
    assert "Elvish" in messages


def test_a_question_in_no_encoding_is_refused(tiny: Path) -> None:
    code, found, _ = qwa("ask", b"what \xff\xfe?", ONE, "--model", tiny)
    assert (code, found) == (Exit.USAGE, {})
