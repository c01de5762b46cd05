"""A picture of the comparison of prompts: the loss of each task, a dot a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from ..curve import COLOURS
from .tag_results import Result

LEFT, WIDTH, ROW, TOP = 150, 420, 30, 50


def draw(results: Sequence[Result]) -> str:
    """The picture, as SVG: a row a task, a colour a way of prompting."""
    tasks = sorted({one.task for one in results})
    names = list(dict.fromkeys(one.prompting for one in results))
    most = max(one.loss for one in results)
    height = TOP + ROW * len(tasks) + 40
    parts = [
        *_frame(tasks, most),
        *(
            f'<circle cx="{_place(one.loss, most)}" cy="{_row(tasks, one, names)}" r="4" '
            f'fill="{COLOURS[1 + names.index(one.prompting)]}"/>'
            for one in results
        ),
    ]
    for number, name in enumerate(names):
        x = LEFT + 90 * number
        parts.append(f'<circle cx="{x}" cy="20" r="4" fill="{COLOURS[1 + number]}"/>')
        parts.append(f'<text x="{x + 10}" y="24">{escape(name)}</text>')
    size = f'width="{LEFT + WIDTH + 40}" height="{height}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def _place(loss: float, most: float) -> float:
    return round(LEFT + WIDTH * loss / most, 1)


def _row(tasks: Sequence[str], one: Result, names: Sequence[str]) -> float:
    apart = 7 * (names.index(one.prompting) - (len(names) - 1) / 2)
    return TOP + ROW * (tasks.index(one.task) + 0.5) + apart


def _frame(tasks: Sequence[str], most: float) -> Iterator[str]:
    bottom = TOP + ROW * len(tasks)
    for number, task in enumerate(tasks):
        y = TOP + ROW * (number + 0.5)
        yield f'<path d="M{LEFT} {y}H{LEFT + WIDTH}" stroke="#dddddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(task)}</text>'
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = _place(share * most, most)
        yield f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{share * most:.2g}</text>'
    yield (
        f'<text x="{LEFT + WIDTH / 2}" y="{bottom + 34}" text-anchor="middle">'
        "loss per token of the dev split</text>"
    )
