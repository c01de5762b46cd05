"""How much faster than it lasts audio is transcribed, side by side with two peers.

    python benchmarks/throughput.py --threads 2

    qwa             `qwa transcribe` over all files as one process, as a user runs it
    qwa float32     the same with `--dtype float32`, the type that the peers compute in
    qwa python      this package through its Python face
    transformers    transformers' own Whisper, file by file, float32, greedy
    openai-whisper  the original, file by file, float32, greedy; left out where not installed

All have the same weights and the same files: short prompts (see prompts.py). The sets: `english`;
`english-told`, where the systems are told the language (transformers encodes a file twice to detect
it); `mixed`, over five languages. Each system is a process of its own; a round runs all of them in
turn, and the median of the rounds counts. RTFx is seconds of audio by seconds of work, `rtfx` from
the start of the process to its end, `warm_rtfx` without imports and loading; ratios are multiples
of transformers'. The last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import processes
from prompts import LANGUAGES, Prompt, normalise, prompts

COMMANDS: dict[str, tuple[str, ...]] = {"qwa": (), "qwa float32": ("--dtype", "float32")}
PYTHON = {"qwa python": "qwa", "transformers": "transformers", "openai-whisper": "openai-whisper"}
PEER = "transformers"

SETS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "english": (("en",), None),
    "english-told": (("en",), "en"),
    "mixed": (LANGUAGES, None),
}
"""Set -> its languages, and the one that the systems are told."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a system over all files: seconds, peak memory in MB, texts in their order."""

    whole: float
    warm: float | None
    peak_mb: float
    texts: list[str]


def try_out(system: str, spoken: Sequence[Prompt], told: str | None) -> Trial:
    """Run a system once."""
    paths = [prompt.path for prompt in spoken]
    language = () if told is None else ("--language", told)
    if system in COMMANDS:
        ran, records = processes.transcribe(paths, *COMMANDS[system], *language)
        texts = [records[path].get("text", "") for path in paths]
        return Trial(ran.seconds, None, ran.peak_mb, texts)
    script = str(Path(__file__).with_name("systems.py"))
    ran = processes.run([sys.executable, script, PYTHON[system], *language, *map(str, paths)])
    answer = json.loads(ran.output)
    texts = [answer["texts"][str(path)] for path in paths]
    return Trial(ran.seconds, answer["answer"], ran.peak_mb, texts)


def plain(spoken: Sequence[Prompt], texts: Sequence[str]) -> list[str]:
    """Texts made comparable, each by the rules of its language."""
    pairs = zip(spoken, texts, strict=True)
    return [normalise(prompt.language, [text])[0] for prompt, text in pairs]


def report(
    name: str, spoken: Sequence[Prompt], trials: dict[str, list[Trial]]
) -> dict[str, object]:
    """Print the table of a set; gives its figures."""
    audio = sum(prompt.seconds for prompt in spoken)
    words = {system: plain(spoken, done[0].texts) for system, done in trials.items()}
    figures: dict[str, dict[str, object]] = {}
    for system, done in trials.items():
        row: dict[str, object] = {"seconds": [round(trial.whole, 3) for trial in done]}
        row["rtfx"] = round(audio / statistics.median(trial.whole for trial in done), 2)
        warm = [trial.warm for trial in done if trial.warm is not None]
        if warm:
            row["warm_seconds"] = [round(seconds, 3) for seconds in warm]
            row["warm_rtfx"] = round(audio / statistics.median(warm), 2)
        row["peak_mb"] = round(max(trial.peak_mb for trial in done))
        if PEER in words:
            same = zip(words[system], words[PEER], strict=True)
            row["same_words"] = sum(ours == theirs for ours, theirs in same)
        figures[system] = row
    for row in figures.values() if PEER in figures else ():
        for key in ("rtfx", "warm_rtfx"):
            if key in row:
                ratio = float(str(row[key])) / float(str(figures[PEER][key]))
                row[key.replace("rtfx", "ratio")] = round(ratio, 2)
    columns = ("rtfx", "ratio", "warm_rtfx", "warm_ratio", "peak_mb", "same_words")
    print(f"{name}: {len(spoken)} files, {audio:.0f} s")
    print(f"{'':16}" + "".join(f"{column:>12}" for column in columns))
    for system, row in figures.items():
        print(f"{system:16}" + "".join(f"{row.get(column, '')!s:>12}" for column in columns))
    return {"files": len(spoken), "audio_seconds": round(audio, 1), "systems": figures}


def main() -> None:
    """Read the options and run."""
    installed = [
        system
        for system in (*COMMANDS, *PYTHON)
        if system != "openai-whisper" or importlib.util.find_spec("whisper")
    ]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", nargs="+", choices=installed, default=installed)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--number", type=int, default=60, help="files in each set")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of prompts")
    parser.add_argument("--threads", type=int, default=2, help="that each system computes with")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the children
    machine = processes.machine()
    sets: dict[str, list[Prompt]] = {}
    trials: dict[str, dict[str, list[Trial]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sets:
            languages, told = SETS[name]
            each = -(-options.number // len(languages))
            sets[name] = [
                prompt
                for language in languages
                for prompt in prompts(language, each, Path(folder), options.seed)
            ]
            trials[name] = {system: [] for system in options.systems}
            for number in range(options.rounds):
                for system in options.systems:
                    print(f"{name}, round {number + 1}: {system}", file=sys.stderr)
                    trials[name][system].append(try_out(system, sets[name], told))
    figures = {name: report(name, spoken, trials[name]) for name, spoken in sets.items()}
    about = {"threads": options.threads, "rounds": options.rounds, "seed": options.seed}
    print(json.dumps({"benchmark": "throughput", **about, "sets": figures, "machine": machine}))


if __name__ == "__main__":
    main()
