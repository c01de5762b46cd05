"""The facts of an answer that was written, read back to be compared with those of the truth."""

from __future__ import annotations

import re

from ...tasks import Parser, Task
from ..data.instruments import INSTRUMENTS

_TAG = re.compile(r"<\|[^|<>]*\|>")
_BETWEEN = re.compile(r", and finally | while |, then |, ")
_OFTEN = re.compile(r" (twice|(three|four|five|six) times)$")
_OF_MUSIC = re.compile(
    r"\b(slow|moderate|fast|major|minor|(?:low|middle|high) register|with \w+)\b"
)
_INSTRUMENTS = sorted({one.name for one in INSTRUMENTS.values()}, key=len, reverse=True)


def plain(text: str) -> str:
    """What is written beside the tags."""
    return " ".join(_TAG.sub(" ", text).split())


def same_facts(task: Task, truth: str, said: str) -> bool:
    """Whether an analysis says what is true: of a caption all its facts, of others the words."""
    if task.name == "audio-caption":
        return sounds(truth) == sounds(said)
    if task.name == "music-caption":
        return music(truth) == music(said)
    if task.parser is Parser.NOTE:  # its tags are the answer
        return "".join(truth.split()) == "".join(said.split())
    return plain(truth).casefold() == plain(said).casefold()


def sounds(caption: str) -> tuple[str, ...]:
    """The sounds that the caption of a scene tells of, in its order; how often is left out."""
    clauses = _BETWEEN.split(caption.strip().removesuffix(".").lower())
    return tuple(_OFTEN.sub("", clause) for clause in clauses)


def music(caption: str) -> frozenset[str]:
    """Tempo, mode, register, accompaniment and instrument of a caption, as far as it names them."""
    text = caption.lower()
    named = next((n for n in _INSTRUMENTS if re.search(rf"\b{re.escape(n.lower())}\b", text)), None)
    return frozenset(_OF_MUSIC.findall(text)) | ({named} if named else set())
