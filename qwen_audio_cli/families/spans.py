"""How times that a model wrote out in words are read: `0.5-2.0: dog barking`, one a line."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from .base import TimedWord

_NUMBER = r"(\d+(?:\.\d+)?)\s*s?"
_LINE = re.compile(rf"\W*?{_NUMBER}\s*(?:-|\u2013|to)\s*{_NUMBER}\s*:\s*(\S.*)")


def read_spans(
    text: str, seconds: float, logprobs: Sequence[float]
) -> tuple[tuple[TimedWord, ...], bool]:
    """The spans of a text about `seconds` of audio, and whether all of it could be read.

    What lies behind the end is cut; the probability is that of the whole text, by its tokens' mean.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    probability = math.exp(sum(logprobs) / len(logprobs)) if logprobs else 0.0
    spans: list[TimedWord] = []
    for line in lines:
        if (match := _LINE.fullmatch(line.strip())) is None:
            continue
        begin, end = float(match[1]), min(float(match[2]), seconds)
        if begin < end:
            spans.append(TimedWord(match[3].strip(), begin, end, probability))
    return tuple(spans), len(spans) == len(lines)
