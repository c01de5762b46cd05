"""How long a user waits for the first word: `qwa --help`, and one 5-second file.

    python benchmarks/cold_start.py

Each run is a process of its own, one after the other; the file's pages are in memory after the
first. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import wave
from collections.abc import Sequence
from pathlib import Path

import processes

RECORDING = Path(__file__).resolve().parent.parent / "examples" / "en-no-connection.wav"
SECONDS = 5
HEAVY = ("torch", "numpy", "transformers", "tokenizers", "safetensors", "soundfile", "soxr")


def heavy_imports() -> list[str]:
    """Which of the heavy packages `qwa --help` imports, told by the interpreter itself."""
    command = [sys.executable, "-X", "importtime", *processes.QWA[1:], "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(re.findall(r"\|\s*(\w+)(?:\.[\w.]+)?$", ran.stderr, re.MULTILINE))
    if "qwen_audio_cli" not in imported:
        sys.exit("the interpreter did not tell what it imported")
    return [package for package in HEAVY if package in imported]


def first_seconds(target: Path) -> None:
    """Write the first seconds of a real recording."""
    with wave.open(str(RECORDING)) as recording, wave.open(str(target), "wb") as cut:
        cut.setparams(recording.getparams())
        cut.writeframes(recording.readframes(SECONDS * recording.getframerate()))


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Print and give the least, the median and the largest."""
    figures = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    cells = "".join(f"{value:10.3f}" for value in figures.values())
    print(f"{name:34}{cells}")
    return {key: round(value, 3) for key, value in figures.items()}


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    machine = processes.machine()
    helped = [processes.run([*processes.QWA, "--help"]) for _ in range(options.runs)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "five-seconds.wav"
        first_seconds(path)
        answered = []
        for _ in range(options.runs):
            ran, records = processes.transcribe([path])
            answered.append(ran)
        print(f"heard: {records[path]['text']}")
    print(f"{'seconds':34}{'min':>10}{'median':>10}{'max':>10}")
    figures = {
        "help": spread("qwa --help", [ran.seconds for ran in helped]),
        "first_byte": spread("qwa transcribe, to the first byte", [r.first_byte for r in answered]),
        "end": spread("qwa transcribe, to its end", [ran.seconds for ran in answered]),
    }
    heavy = heavy_imports()
    peak = round(max(ran.peak_mb for ran in answered))
    print(f"qwa --help imports of {', '.join(HEAVY)}: {', '.join(heavy) or 'none'}")
    print(f"qwa transcribe, peak memory: {peak} MB")
    about = {"runs": options.runs, "help_imports": heavy, "peak_mb": peak}
    print(json.dumps({"benchmark": "cold_start", **about, "seconds": figures, "machine": machine}))


if __name__ == "__main__":
    main()
