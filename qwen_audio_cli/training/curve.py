"""The learning curve as an SVG picture: training loss, and that of the dev split by task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 160, 30, 40
COLOURS = ("#888888", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of the training loss and of tasks in turn (Okabe and Ito 2008: told apart by all)."""

SMOOTHING = 0.9
"""How much of the mean so far each further loss of a training step leaves."""

Points = Sequence[tuple[float, float]]
"""(step, loss)."""


def draw(recorded: Iterable[Mapping[str, Any]]) -> str:
    """The picture of the lines of `metrics.jsonl`."""
    curves: dict[str, list[tuple[float, float]]] = {}
    mean: float | None = None
    for line in recorded:
        if "loss" in line:
            mean = (
                line["loss"] if mean is None else SMOOTHING * mean + (1 - SMOOTHING) * line["loss"]
            )
            curves.setdefault("training", []).append((line["step"], mean))
        for task, loss in line.get("dev", {}).items():
            curves.setdefault(f"dev: {task}", []).append((line["step"], loss))
    curves = {name: points for name, points in curves.items() if points}
    steps = max((step for points in curves.values() for step, _ in points), default=1) or 1
    top = max((loss for points in curves.values() for _, loss in points), default=1.0) or 1.0
    parts = [*_frame(steps, top)]
    for number, (name, points) in enumerate(curves.items()):
        parts += _curve(name, points, number, steps, top)
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" '
            'font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _place(step: float, loss: float, steps: float, top: float) -> tuple[float, float]:
    x = LEFT + (WIDTH - LEFT - RIGHT) * step / steps
    return round(x, 1), round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * loss / top, 1)


def _frame(steps: float, top: float) -> Iterable[str]:
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = _place(steps * share, top * share, steps, top)
        yield f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#dddddd"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{top * share:.3g}</text>'
        yield f'<text x="{x}" y="{HEIGHT - 20}" text-anchor="middle">{steps * share:.0f}</text>'
    yield f'<text x="{LEFT}" y="18">loss per token</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">step</text>'


def _curve(name: str, points: Points, number: int, steps: float, top: float) -> Iterable[str]:
    colour = COLOURS[number % len(COLOURS)]
    places = [_place(step, loss, steps, top) for step, loss in points]
    line = " ".join(f"{x},{y}" for x, y in places)
    yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    if len(places) == 1:
        yield f'<circle cx="{places[0][0]}" cy="{places[0][1]}" r="3" fill="{colour}"/>'
    y = TOP + 16 * number + 8
    x = WIDTH - RIGHT + 12
    yield f'<text x="{x}" y="{y}" fill="{colour}">{escape(name)}</text>'
