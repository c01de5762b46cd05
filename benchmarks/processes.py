"""Systems under measurement, each in a process of its own: how long, how much memory, what came.

    python benchmarks/processes.py

prints what machine this is, as it stands in the results.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QWA = (sys.executable, "-m", "qwen_audio_cli")
PACKAGES = ("qwen-audio-cli", "torch", "transformers", "faster-whisper", "openai-whisper")


@dataclass(frozen=True, slots=True)
class Ran:
    """What a process wrote, seconds to its end and to its first byte, and its peak memory in MB."""

    output: bytes
    seconds: float
    first_byte: float
    peak_mb: float


def run(command: Sequence[str]) -> Ran:
    """Run a command to its end; exits where it fails.

    Linux counts what the parent held when it started a child towards that child's peak, so the
    benchmarks import torch and the like only when all measurements are done.
    """
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdout is not None
    with process.stdout as stdout:
        output = [stdout.read(1)]
        first_byte = time.perf_counter() - begun
        while chunk := stdout.read(1 << 16):
            output.append(chunk)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command[:4])} …: exit status {process.returncode}")
    peak = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return Ran(b"".join(output), seconds, first_byte, peak)


def transcribe(paths: Iterable[Path], *options: str) -> tuple[Ran, dict[Path, dict[str, Any]]]:
    """Run `qwa transcribe`, as a user does; gives the records by path too."""
    ran = run([*QWA, "transcribe", "--quiet", *options, *map(str, paths)])
    records = [json.loads(line) for line in ran.output.splitlines()]
    return ran, {Path(record["file"]): record for record in records}


def fastest(work: Callable[[], object], calls: int = 30) -> float:
    """Milliseconds of the fastest of some calls in this process, the first three left out."""
    taken = []
    for _ in range(calls):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return 1e3 * min(taken[3:])


def machine() -> dict[str, object]:
    """What the figures depend on: processor, system, versions."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor,
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


if __name__ == "__main__":
    print(json.dumps(machine()))
