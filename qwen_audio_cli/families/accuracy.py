"""How far two transcripts say the same."""

from __future__ import annotations

from collections.abc import Sequence


def accuracy(said: Sequence[object], heard: Sequence[object]) -> float:
    """1 less the error rate, but not below 0: the share of `said`, words or letters, `heard` right.

    What is wrong, missing and added counts alike. Where nothing was said, nothing is to be heard.
    """
    if not said:
        return 0.0 if heard else 1.0
    return max(0.0, 1 - _distance(said, heard) / len(said))


def _distance(one: Sequence[object], other: Sequence[object]) -> int:
    """The fewest parts to change, leave out and put in (Wagner and Fischer 1974)."""
    row = list(range(len(other) + 1))
    for number, word in enumerate(one, 1):
        diagonal, row[0] = row[0], number
        for place, same in enumerate(other, 1):
            changed = diagonal + (word != same)
            diagonal = row[place]
            row[place] = min(changed, diagonal + 1, row[place - 1] + 1)
    return row[-1]
