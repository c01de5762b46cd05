"""The man pages and completions are current, correct, and do what they are for."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_audio_cli.tasks import COMMANDS, TASKS

ROOT = Path(__file__).parent.parent
FILES: dict[str, str] = runpy.run_path(str(ROOT / "scripts/generate_docs.py"))["generate"]()
PAGES = sorted((ROOT / "man").iterdir())


def tool(name: str) -> str:
    if (path := shutil.which(name)) is None:
        pytest.skip(f"{name} is not installed")
    return path


def test_what_is_committed_is_what_is_generated() -> None:
    committed = [*PAGES, *(ROOT / "completions").iterdir()]
    assert {str(path.relative_to(ROOT)): path.read_text() for path in committed} == FILES


def test_mandoc_has_nothing_to_say() -> None:
    lint = [tool("mandoc"), "-Tlint", "-W", "warning", *PAGES]
    assert subprocess.run(lint, capture_output=True, text=True).stdout == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_tells_what_the_help_tells(page: Path) -> None:
    """Read by `mandoc`, so that nothing is lost in escaping."""
    page_text = subprocess.run(
        [tool("mandoc"), "-Tascii", "-O", "width=500", page], capture_output=True, check=True
    ).stdout.decode()
    page_text = re.sub(r".\x08", "", page_text)
    command = page.stem.split("-")[1:]
    helped = subprocess.run(
        [sys.executable, "-m", "qwen_audio_cli", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ).stdout
    options, _, examples = helped.partition("Examples:\n")
    examples, _, _ = examples.partition("\n\n")
    named = re.findall(r"^  (-.*?)(?:  |$)", options, re.MULTILINE)
    assert named
    for option in named:
        assert re.search(rf"^ +{re.escape(option)}( |$)", page_text, re.MULTILINE), option
    for line in examples.strip().splitlines():
        assert " ".join(line.split()) in " ".join(page_text.split())
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "EXIT STATUS"):
        assert re.search(rf"^{section}$", page_text, re.MULTILINE)


@pytest.fixture
def path_with_qwa(tmp_path: Path) -> dict[str, str]:
    """An environment in which `qwa` is this checkout's."""
    program = tmp_path / "qwa"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m qwen_audio_cli "$@"\n')
    program.chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }


WANTED = {
    "qwa trans": ["transcribe", "translate"],
    "qwa classify --task vocal": ["vocal-sound"],
    "qwa timestamp --task ": [t.name for t in TASKS.values() if t.command == "timestamp"],
    "qwa ask --model whisper-b": ["whisper-base"],
    "qwa models pull qwen3-asr": ["qwen3-asr-0.6b", "qwen3-asr-1.7b"],
    "qwa run --tasks transcribe,classify:vo": ["transcribe,classify:vocal-sound"],
    "qwa run --order ": ["completion", "input"],
    "qwa transcribe --resu": ["--resume"],
    "qwa transcribe --fail-on-flag clipping,trunc": ["clipping,truncated"],
}


def test_bash_completes(path_with_qwa: dict[str, str]) -> None:
    script = f"""
        source {ROOT}/completions/qwa.bash
        while IFS= read -r line; do
            read -ra COMP_WORDS <<< "$line"
            [[ $line == *" " ]] && COMP_WORDS+=("")
            COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
            _qwa_completion qwa
            echo "${{COMPREPLY[*]}}"
        done
    """
    done = subprocess.run(
        [tool("bash"), "-c", script],
        input="".join(f"{line}\n" for line in WANTED),
        capture_output=True,
        text=True,
        env=path_with_qwa,
        check=True,
    )
    assert done.stdout.splitlines() == [" ".join(words) for words in WANTED.values()]


def test_fish_completes(path_with_qwa: dict[str, str]) -> None:
    for line, words in WANTED.items():
        script = f"source {ROOT}/completions/qwa.fish; complete -C '{line}'"
        done = subprocess.run(
            [tool("fish"), "-c", script], capture_output=True, text=True, env=path_with_qwa
        )
        assert sorted(row.split("\t")[0] for row in done.stdout.splitlines()) == sorted(words)


def test_zsh_takes_its_script() -> None:
    subprocess.run([tool("zsh"), "-n", ROOT / "completions/_qwa"], check=True)


def test_every_command_has_a_page() -> None:
    assert {f"qwa-{command}.1" for command in (*COMMANDS, "run")} < {page.name for page in PAGES}
