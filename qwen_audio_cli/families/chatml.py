"""ChatML: how the turns of a conversation become one prompt, for every model that chats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Protocol

Piece = str | Sequence[int]
"""A part of a message: text, in which nothing is a tag, or the ids of an audio span or of a tag."""

Message = tuple[str, Sequence[Piece]]
"""A role (`system`, `user`, `assistant`) and what it says."""

END = "<|im_end|>"
"""What ends a message, and so an answer."""


class Encoder(Protocol):
    """What a tokenizer needs for it."""

    @property
    def special(self) -> Mapping[str, int]:
        """Spelling -> id of the tokens that no text gives."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""


def encode(tokenizer: Encoder, pieces: Iterable[Piece]) -> list[int]:
    """The ids of pieces in order; texts that touch are one text."""
    ids: list[int] = []
    for textual, run in groupby(pieces, lambda piece: isinstance(piece, str)):
        if textual:
            ids += tokenizer.encode("".join(str(piece) for piece in run))
        else:
            ids += [int(id) for piece in run for id in piece]
    return ids


def chatml(
    tokenizer: Encoder, messages: Iterable[Message], reply: Sequence[Piece] = ()
) -> list[int]:
    """The prompt for the assistant's next message, which begins with `reply`."""
    start, end = (tokenizer.special[token] for token in ("<|im_start|>", END))
    pieces: list[Piece] = []
    for role, content in messages:
        pieces += [[start], f"{role}\n", *content, [end], "\n"]
    return encode(tokenizer, [*pieces, [start], "assistant\n", *reply])
