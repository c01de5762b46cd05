"""What the tagged prompts need of a tokenizer, whichever vocabulary a checkpoint has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ..tags import TagSequence


class TagTokenizer(Protocol):
    """Text and tags to ids and back. Only `encode_tags` gives a tag: one in a text is text."""

    @property
    def special(self) -> Mapping[str, int]:
        """Spelling -> id of the tokens that no text gives."""

    @property
    def languages(self) -> tuple[str, ...]:
        """The audio languages that have a tag."""

    def __len__(self) -> int:
        """How many ids there are."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, none of them special."""

    def encode_tags(self, tags: TagSequence) -> list[int]:
        """Ids of a tag sequence and of the question's text.

        Raises UsageError where there is no token for a tag.
        """

    def decode(self, ids: Iterable[int], *, tags: bool = False) -> str:
        """Text of ids; special tokens are spelled out with `tags` and left out without."""

    def is_text(self, id: int) -> bool:
        """Whether an id stands for a piece of text."""

    def time(self, id: int) -> float | None:
        """Seconds that a timestamp stands for, None for all other ids."""
