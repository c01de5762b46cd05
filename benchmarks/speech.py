"""How fast the embedded model transcribes beside its peers, and how many words are wrong.

    python benchmarks/speech.py --threads 2

    qwa              `qwa transcribe` over all files as one process, as a user runs it
    qwa batch 1      the same with `--batch 1`
    qwa float32      the same with `--dtype float32`, the type that most peers compute in
    qwa python       this package through its Python face; also at batch 1, and in float32
    transformers     the library's Whisper, file by file, and its pipeline at batch 16
    faster-whisper   CTranslate2, file by file, and its batched pipeline, in float32 and in int8
    openai-whisper   the original, file by file

What is not installed is left out. All have the same weights and files: `short` are prompts of a few
seconds (see prompts.py), `long` files of several minutes that are made of such prompts with pauses
of 0.3 s; all are told that it is English. Each system is a process of its own; a round runs all of
them in turn, and the median of the rounds counts. RTFx is seconds of audio by seconds of work,
`rtfx` from the start of the process to its end, `warm` without imports and loading. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import processes
from prompts import Prompt, normalise, prompts, word_error_rate

COMMANDS: dict[str, tuple[str, ...]] = {
    "qwa": (),
    "qwa batch 1": ("--batch", "1"),
    "qwa float32": ("--dtype", "float32"),
}
SCRIPTS: dict[str, tuple[str, ...]] = {
    "qwa python": ("qwa",),
    "qwa python batch 1": ("qwa", "--batch", "1"),
    "qwa python float32": ("qwa", "--dtype", "float32"),
    "transformers": ("transformers",),
    "transformers batched": ("transformers-batched",),
    "faster-whisper": ("faster-whisper",),
    "faster-whisper batched": ("faster-whisper-batched",),
    "faster-whisper int8": ("faster-whisper", "--compute", "int8"),
    "faster-whisper batched int8": ("faster-whisper-batched", "--compute", "int8"),
    "openai-whisper": ("openai-whisper",),
}
MODULES = {"transformers": "transformers", "faster": "faster_whisper", "openai": "whisper"}
"""What a system needs, by the first word of its name."""

LANGUAGE = "en"
PAUSE_SECONDS = 0.3
SYSTEMS_PY = str(Path(__file__).with_name("systems.py"))


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a system over all files: seconds, peak memory in MB, texts in their order."""

    whole: float
    warm: float | None
    peak_mb: float
    texts: list[str]


def installed() -> list[str]:
    """The systems that can run here."""
    return [
        system
        for system in (*COMMANDS, *SCRIPTS)
        if (module := MODULES.get(system.replace("-", " ").split()[0])) is None
        or importlib.util.find_spec(module)
    ]


def long_files(spoken: Sequence[Prompt], count: int, folder: Path) -> Iterator[Prompt]:
    """The prompts one behind the other in `count` files, a pause behind each."""
    each = -(-len(spoken) // count)
    for number in range(0, len(spoken), each):
        part = spoken[number : number + each]
        path = folder / f"long-{number}.wav"
        yield Prompt(path, LANGUAGE, join(part, path), " ".join(prompt.text for prompt in part))


def join(spoken: Sequence[Prompt], path: Path) -> float:
    """Write prompts to one file with pauses of silence; gives its seconds."""
    import wave

    frames = 0
    with wave.open(str(path), "wb") as joined:
        for prompt in spoken:
            with wave.open(str(prompt.path), "rb") as sound:
                if not frames:
                    joined.setparams(sound.getparams())
                pause = int(PAUSE_SECONDS * sound.getframerate())
                joined.writeframes(sound.readframes(sound.getnframes()))
                joined.writeframes(bytes(pause * sound.getsampwidth()))
                frames += sound.getnframes() + pause
                rate = sound.getframerate()
    return frames / rate


def try_out(system: str, spoken: Sequence[Prompt], converted: Path) -> Trial:
    """Run a system once."""
    paths = [prompt.path for prompt in spoken]
    language = ("--language", LANGUAGE)
    if system in COMMANDS:
        ran, records = processes.transcribe(paths, *COMMANDS[system], *language)
        texts = [records[path].get("text", "") for path in paths]
        return Trial(ran.seconds, None, ran.peak_mb, texts)
    words = [*SCRIPTS[system], *language, "--converted", str(converted), *map(str, paths)]
    ran = processes.run([sys.executable, SYSTEMS_PY, *words])
    answer = json.loads(ran.output.splitlines()[-1])
    texts = [answer["texts"][str(path)] for path in paths]
    return Trial(ran.seconds, answer["answer"], ran.peak_mb, texts)


def report(
    name: str, spoken: Sequence[Prompt], trials: dict[str, list[Trial]]
) -> dict[str, object]:
    """Print the table of a set; gives its figures."""
    audio = sum(prompt.seconds for prompt in spoken)
    truth = normalise(LANGUAGE, [prompt.text for prompt in spoken])
    figures: dict[str, dict[str, object]] = {}
    for system, done in trials.items():
        rate = word_error_rate(truth, normalise(LANGUAGE, done[0].texts))
        row: dict[str, object] = {
            "rtfx": round(audio / statistics.median(trial.whole for trial in done), 2),
            "wer": round(rate, 4),
            "peak_mb": round(max(trial.peak_mb for trial in done)),
            "seconds": [round(trial.whole, 3) for trial in done],
        }
        warm = [trial.warm for trial in done if trial.warm is not None]
        if warm:
            row["warm"] = round(audio / statistics.median(warm), 2)
            row["warm_seconds"] = [round(seconds, 3) for seconds in warm]
        figures[system] = row
    columns = ("rtfx", "warm", "wer", "peak_mb")
    print(f"{name}: {len(spoken)} files, {audio:.0f} s")
    print(f"{'':28}" + "".join(f"{column:>10}" for column in columns))
    for system, row in figures.items():
        print(f"{system:28}" + "".join(f"{row.get(column, '')!s:>10}" for column in columns))
    return {"files": len(spoken), "audio_seconds": round(audio, 1), "systems": figures}


def main() -> None:
    """Read the options and run."""
    here = installed()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", nargs="+", choices=here, default=here)
    parser.add_argument("--sets", nargs="+", choices=("short", "long"), default=("short", "long"))
    parser.add_argument("--number", type=int, default=60, help="prompts of the short set")
    parser.add_argument("--long-number", type=int, default=200, help="prompts of the long set")
    parser.add_argument("--long-files", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of prompts")
    parser.add_argument("--threads", type=int, default=2, help="that each system computes with")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the children
    machine = processes.machine()
    sets: dict[str, list[Prompt]] = {}
    trials: dict[str, dict[str, list[Trial]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        converted = folder / "ct2"
        if any(system.startswith("faster") for system in options.systems):
            processes.run([sys.executable, SYSTEMS_PY, "convert", "--converted", str(converted)])
        if "short" in options.sets:
            sets["short"] = prompts(LANGUAGE, options.number, folder, options.seed)
        if "long" in options.sets:
            spoken = prompts(LANGUAGE, options.long_number, folder, options.seed + 1)
            sets["long"] = list(long_files(spoken, options.long_files, folder))
        for kind, files in sets.items():
            trials[kind] = {system: [] for system in options.systems}
            for number in range(options.rounds):
                for system in options.systems:
                    print(f"{kind}, round {number + 1}: {system}", file=sys.stderr)
                    trials[kind][system].append(try_out(system, files, converted))
    figures = {kind: report(kind, files, trials[kind]) for kind, files in sets.items()}
    about = {"threads": options.threads, "rounds": options.rounds, "seed": options.seed}
    print(json.dumps({"benchmark": "speech", **about, "sets": figures, "machine": machine}))


if __name__ == "__main__":
    main()
