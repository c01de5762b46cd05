"""What a mini reaches on the held-out splits, beside what it is to reach.

    python benchmarks/mini.py MODEL --data DIRECTORY --out mini.json

MODEL is a checkpoint of mini, DIRECTORY holds the corpora of `python -m
qwen_audio_cli.training.data`: speech, notes, scenes, recordings; one that is not there leaves its
rows empty. The recordings are real and were never trained on. Each task is asked for as a user
would, and where it can do the same the embedded whisper-base hears the same items. `--limit` draws
some items of each line, the same each time; `--only` runs some lines. Transcripts are normalised as
in prompts.py. BLEU needs sacrebleu. It prints a table in Markdown and writes all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import processes
from mini_lines import LINES, Bench, Row


def table(rows: Iterable[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| what | bar | mini | whisper-base | items | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        bar = f"{'at most' if row.most else 'at least'} {written(row.bar, row.unit)}"
        values = (written(value, row.unit) for value in (row.value, row.peer))
        told = "; ".join(filter(None, (row.outcome, row.note)))
        lines.append(f"| {row.what} | {bar} | {' | '.join(values)} | {row.count} | {told} |")
    return "\n".join(lines)


def written(value: float | None, unit: str) -> str:
    """A value with its unit; of shares in percent."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if unit == "%" else f"{value:.1f} {unit}"


def measure(bench: Bench, names: Iterable[str]) -> list[Row]:
    """The rows of some lines."""
    rows: list[Row] = []
    for name in names:
        print(name, file=sys.stderr, flush=True)
        rows += LINES[name](bench)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="the directory of a mini")
    parser.add_argument("--data", type=Path, action="append", required=True, metavar="DIRECTORY")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N items of a line")
    parser.add_argument("--only", nargs="+", choices=LINES, default=list(LINES), metavar="LINE")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of items")
    parser.add_argument("--out", type=Path, default=Path("mini.json"), help="all figures")
    given = parser.parse_args(arguments)
    machine = processes.machine()
    bench = Bench(given.model, given.data, given.limit, given.seed)
    rows = measure(bench, given.only)
    print(table(rows))
    about = {"benchmark": "mini", "model": str(given.model), "limit": given.limit}
    told = [{**asdict(row), "outcome": row.outcome} for row in rows]
    figures = {**about, "seed": given.seed, "rows": told}
    text = json.dumps({**figures, "machine": machine}, indent=1, ensure_ascii=False)
    given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
