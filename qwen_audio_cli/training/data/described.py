"""What is said of a scene: captions, labels, times, questions and answers, all from its events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np

SILENCE = "<|sil|>"
"""Written where nothing is heard, or nothing is spoken."""
SPEECH = "speech"

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
_TIMES = ("", "", " twice", " three times", " four times", " five times", " six times")
# Who hears one of a group may well say another: no question asks for one where another is heard.
_ALIKE = (
    "drum loop, drum roll, bass drum, snare drum, tom, cymbal, hi-hat, cowbell, conga, bongo",
    "drum loop, drum roll, tabla, conga, bongo, tom",
    "hand clap, clapping, finger snap, sea waves, running water, record crackle, whoosh, shaker",
    "bell, telephone, triangle, cowbell, agogo, electronic beep, vibraphone, rubbed glass, whistle",
    "claves, wood block, guiro, maracas, shaker, tambourine, finger snap, bongo, conga, tabla",
    "drone, rubbed glass, choir, synthesizer bass, deep boom, helicopter",
    "piano, guitar, harp, vibraphone, drone, synthesizer bass",
    "violin, trumpet, saxophone, clarinet, flute, whistle, choir, chirping birds",
    "coins, struck metal, bell, triangle, card flip, footsteps, door, tambourine",
    "record scratching, record crackle, drum loop, whoosh, burp, crow, car, helicopter",
    "gunshot, deep boom, bass drum, door, tom",
    "speech, choir",
)
# One hearing of these holds several sounds, or has no bounds: nobody would agree on how many.
_COUNTLESS = """chirping birds, clapping, footsteps, telephone, coins, tambourine, shaker, maracas,
drum loop, drum roll, running water, sea waves, record crackle, record scratching, drone,
helicopter, card flip, door, choir, guitar, piano, speech"""
_GROUPS = tuple(frozenset(group.split(", ")) for group in _ALIKE)
_UNCOUNTED = frozenset(label.strip() for label in _COUNTLESS.split(","))


@dataclass(frozen=True, slots=True)
class Event:
    """A sound between two times in seconds: its label, and a clause about it."""

    label: str
    happens: str
    start: float
    end: float


def labels(events: Iterable[Event]) -> tuple[str, ...]:
    """The labels, each once, as they begin."""
    return tuple(dict.fromkeys(event.label for event in _in_order(events)))


def timeline(events: Sequence[Event], seconds: float) -> str:
    """Times and what is heard between them in turns, from 0.00 to the end of the scene.

    Where sounds overlap, a stretch has the labels of all, parted by ", ", so that times only grow.
    """
    ends = {0.0, round(seconds, 2)}
    times = sorted(ends | {round(time, 2) for e in events for time in (e.start, e.end)})
    stretches: list[tuple[str, float]] = []
    for begin, end in pairwise(times):
        middle = (begin + end) / 2
        heard = labels(event for event in events if event.start <= middle <= event.end)
        text = ", ".join(heard) or SILENCE
        if stretches and stretches[-1][0] == text:
            stretches[-1] = (text, end)
        else:
            stretches.append((text, end))
    return "<|0.00|>" + "".join(f"{text}<|{end:.2f}|>" for text, end in stretches)


def caption(events: Sequence[Event]) -> str:
    """A sentence about what happens, in its order; `while` where two sounds overlap."""
    runs = [list(run) for _, run in groupby(_in_order(events), key=lambda event: event.label)]
    clauses = [run[0].happens + _TIMES[len(run)] for run in runs]
    if overlapping(events):
        *others, last = clauses
        text = f"{', '.join(others)} while {last}"
    elif len(clauses) > 2:
        text = f"{', then '.join(clauses[:-1])}, and finally {clauses[-1]}"
    else:
        text = ", then ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."


def overlapping(events: Sequence[Event]) -> bool:
    """Whether two sounds are heard at the same time."""
    ordered = _in_order(events)
    return any(a.end > b.start for a, b in pairwise(ordered))


def questions(
    events: Sequence[Event], known: Sequence[str], random: np.random.Generator
) -> list[tuple[str, str]]:
    """What may be asked about a scene, with the answers; `known` are labels of other sounds."""
    heard = labels(events)
    chosen = heard[random.integers(len(heard))]
    absent = _absent(heard, known)
    asked = [
        ("What is heard?", ", ".join(heard)),
        ("How many different sounds are heard?", _NUMBERS[len(heard)]),
        ("Is speech heard?", _yes(SPEECH in heard)),
        (f"Is this sound heard: {chosen}?", "yes"),
    ]
    if chosen not in _UNCOUNTED:
        times = _NUMBERS[sum(event.label == chosen for event in events)]
        asked.append((f"How many times is this sound heard: {chosen}?", times))
    if absent:
        asked.append((f"Is this sound heard: {absent[random.integers(len(absent))]}?", "no"))
    if len(events) > 1:
        asked.append(("Are two sounds heard at the same time?", _yes(overlapping(events))))
    if len(heard) > 1:
        ordered = _in_order(events)
        asked.append(("Which sound begins first?", ordered[0].label))
        asked.append(("Which sound begins last?", ordered[-1].label))
    return asked


def _absent(heard: Sequence[str], known: Sequence[str]) -> list[str]:
    """Known labels of which nobody would say that they are heard."""
    near = {other for label in heard for group in _GROUPS if label in group for other in group}
    return [label for label in known if label not in near and label not in heard]


def _in_order(events: Iterable[Event]) -> list[Event]:
    return sorted(events, key=lambda event: event.start)


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"
