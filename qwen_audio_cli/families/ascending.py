"""Repairs times that should ascend and do not, as the forced aligner's authors do.

QwenLM/Qwen3-ASR, `qwen3_forced_aligner.py`: what does not belong to the longest run of times that
ascend is replaced by what its neighbours in that run say.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

SNAP = 2
"""So many wrong times in a row are set to the nearest right one; more are spread between two."""


def ascending(times: Sequence[float]) -> list[float]:
    """The times, none before the one in front of it."""
    right = longest_ascent(times)
    if not right:
        return []
    first, last = right[0], right[-1]
    repaired = [times[first]] * first + [times[first]]
    for begin, end in pairwise(right):
        repaired += _between(times[begin], times[end], end - begin - 1)
        repaired.append(times[end])
    return repaired + [times[last]] * (len(times) - 1 - last)


def longest_ascent(values: Sequence[float]) -> list[int]:
    """Places of the longest subsequence that never descends, in n log n.

    Of several, the one that ends first, and before each of its members has the first that can be.
    """
    # Per length the values that end an ascent of that length, negated: each is below those before
    # it, so that all lists can be searched; and their places.
    ends: list[list[float]] = []
    places: list[list[int]] = []
    before: list[int] = []
    lowest: list[float] = []  # per length the lowest of its values, none below the one before
    for place, value in enumerate(values):
        length = bisect_right(lowest, value)
        if length == len(lowest):
            lowest.append(value)
            ends.append([])
            places.append([])
        lowest[length] = value
        before.append(places[length - 1][bisect_left(ends[length - 1], -value)] if length else -1)
        ends[length].append(-value)
        places[length].append(place)
    found: list[int] = []
    place = places[-1][0] if places else -1
    while place >= 0:
        found.append(place)
        place = before[place]
    return found[::-1]


def _between(left: float, right: float, count: int) -> Iterator[float]:
    """What `count` times between two right ones are set to."""
    step = (right - left) / (count + 1)
    for number in range(1, count + 1):
        if count > SNAP:
            yield left + step * number
        else:
            yield left if number <= count + 1 - number else right
