"""What the comparison of prompts measures, and its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One task after one run, on `items` of the dev split.

    `loss` is per token of the answers; `sure` the share of items whose right answer has a
    probability above one half, so that greedy decoding is bound to write it.
    """

    prompting: str
    seed: int
    task: str
    items: int
    loss: float
    sure: float


def table(results: Sequence[Result]) -> str:
    """The results in Markdown: of each task and way the loss and the sure share, seed by seed."""
    names = list(dict.fromkeys(one.prompting for one in results))
    lines = [
        "| task (items) | " + " | ".join(f"{name}: loss; sure" for name in names) + " |",
        "|---" * (1 + len(names)) + "|",
    ]
    for task in sorted({one.task for one in results}):
        cells, items = [], 0
        for name in names:
            runs = [one for one in results if (one.task, one.prompting) == (task, name)]
            losses = " / ".join(f"{one.loss:.2f}" for one in runs)
            cells.append(f"{losses}; {' / '.join(f'{one.sure:.0%}' for one in runs)}")
            items = max(one.items for one in runs)
        lines.append(f"| {task} ({items}) | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
