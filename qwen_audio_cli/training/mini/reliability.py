"""How well foretold probabilities hold: bins, the error expected of them, and a picture (SVG)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

BINS = 10

SIDE = 220
LEFT, GAP, TOP, BOTTOM = 56, 40, 44, 44
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Of the panels in turn (Okabe and Ito 2008: told apart by all)."""

Foretold = Sequence[tuple[float, float]]
"""(probability that was foretold, how far the answer was right from 0 to 1)."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers that were foretold alike: how many, and the means of what was foretold and came."""

    count: int
    foretold: float
    right: float


def bins(pairs: Foretold, count: int = BINS) -> tuple[Bin, ...]:
    """The answers in `count` bins of equal mass (less, where there are fewer answers)."""
    ordered = np.array(sorted(pairs), dtype=np.float64).reshape(-1, 2)
    parts = np.array_split(ordered, max(1, min(count, len(ordered))))
    return tuple(Bin(len(part), *map(float, part.mean(axis=0))) for part in parts if len(part))


def expected_error(found: Sequence[Bin]) -> float:
    """The expected calibration error: the mean distance of foretold and right, by bins' counts."""
    answers = sum(one.count for one in found)
    return sum(one.count * abs(one.foretold - one.right) for one in found) / answers


def draw(panels: Mapping[str, Foretold]) -> str:
    """A panel for each kind of answer: what was foretold (across) and what came (up)."""
    width = LEFT + len(panels) * (SIDE + GAP)
    height = TOP + SIDE + BOTTOM
    parts = [
        part
        for number, (name, pairs) in enumerate(panels.items())
        for part in _panel(name, bins(pairs), LEFT + number * (SIDE + GAP), COLOURS[number])
    ]
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" '
            'font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _panel(name: str, found: Sequence[Bin], left: int, colour: str) -> Iterable[str]:
    count = sum(one.count for one in found)
    told = f", error {expected_error(found):.3f}" if count else ""
    yield f'<text x="{left}" y="18">{escape(name)}</text>'
    yield f'<text x="{left}" y="34" fill="#666666">{count:,} answers{told}</text>'
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _place(share, share, left)
        yield f'<path d="M{left} {y}H{left + SIDE}" stroke="#dddddd"/>'
        yield f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{share:g}</text>'
        yield f'<text x="{x}" y="{TOP + SIDE + 16}" text-anchor="middle">{share:g}</text>'
    middle = left + SIDE / 2
    yield f'<text x="{middle}" y="{TOP + SIDE + 34}" text-anchor="middle">confidence</text>'
    (low, bottom), (high, top) = _place(0, 0, left), _place(1, 1, left)
    yield f'<path d="M{low} {bottom}L{high} {top}" stroke="#888888" stroke-dasharray="4 4"/>'
    places = [_place(one.foretold, one.right, left) for one in found]
    line = " ".join(f"{x},{y}" for x, y in places)
    yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for (x, y), one in zip(places, found, strict=True):
        told = f"{one.count} answers: {one.foretold:.3f} foretold, {one.right:.3f} right"
        yield f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"><title>{told}</title></circle>'
        # A count stands on the side of its point that the diagonal leaves free.
        above = one.right >= one.foretold
        yield (
            f'<text x="{x}" y="{y - 6 if above else y + 14}" font-size="8" fill="#666666" '
            f'text-anchor="{"end" if above else "start"}">{one.count}</text>'
        )


def _place(foretold: float, right: float, left: int) -> tuple[float, float]:
    return round(left + SIDE * foretold, 1), round(TOP + SIDE * (1 - right), 1)
