"""The tokenizer of the 2023 checkpoints, built from their `qwen.tiktoken`: text to ids and back."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer

from ..errors import ConfigError
from ..tags import AUDIO_LANGUAGES, SPECIAL_TOKENS, TagSequence
from .bpe import ALPHABET, byte_level_bpe


class QwenTokenizer:
    """Byte-level BPE over `ranks`, the byte strings of ids 0, 1, …; special tokens follow them.

    `special` maps the spelling of every special token to its id. Only `encode_tags` gives such ids:
    a tag within a text is text.
    """

    languages = AUDIO_LANGUAGES

    def __init__(self, ranks: Sequence[bytes]) -> None:
        self._ranks = tuple(ranks)
        self.special: Mapping[str, int] = {
            token: id for id, token in enumerate(SPECIAL_TOKENS, len(self._ranks))
        }
        self._bpe = _tokenizer({piece: rank for rank, piece in enumerate(self._ranks)})
        self._first_time = self.special["<|0.00|>"]
        self._last_time = self.special["<|30.00|>"]

    @classmethod
    def read(cls, path: Path) -> QwenTokenizer:
        """Read a tiktoken file: a line per rank, its bytes in base64 and the rank.

        Raises ConfigError where it is missing or not such a file.
        """
        try:
            lines = [line.split() for line in path.read_bytes().splitlines() if line.strip()]
            ranks = {int(rank): base64.b64decode(piece, validate=True) for piece, rank in lines}
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from error
        pieces = [ranks.get(rank, b"") for rank in range(len(lines))]
        known = set(pieces)
        if b"" in known or len(known) != len(pieces):
            raise ConfigError(f"{path}: ranks are not 0, 1, … with a piece each")
        if missing := [byte for byte in range(256) if bytes([byte]) not in known]:
            raise ConfigError(f"{path}: no rank for byte {missing[0]:#04x}")
        return cls(pieces)

    def __len__(self) -> int:
        return len(self._ranks) + len(SPECIAL_TOKENS)

    def encode(self, text: str) -> list[int]:
        """Ids of a text in NFC, none of them special whatever it holds."""
        ids: list[int] = self._bpe.encode(text).ids
        return ids

    def encode_tags(self, tags: TagSequence) -> list[int]:
        """Ids of a tag sequence: one for each tag, and those of the question's text.

        Raises UsageError where there is no token for a tag.
        """
        tags.require_original()
        ids: list[int] = []
        for piece in tags.pieces():
            ids += self.encode(piece) if piece == tags.question else [self.special[piece]]
        return ids

    def decode(self, ids: Iterable[int], *, tags: bool = False) -> str:
        """Text of ids; special tokens are spelled out with `tags` and left out without.

        Ids that have no token, as the embedding's spare rows, give nothing; bytes that are not
        UTF-8 give U+FFFD.
        """
        return b"".join(self._bytes(id, tags) for id in ids).decode("utf-8", "replace")

    def is_text(self, id: int) -> bool:
        """Whether an id stands for a piece of text, not for a tag or for nothing."""
        return id < len(self._ranks)

    def time(self, id: int) -> float | None:
        """Seconds that a timestamp stands for, None for all other ids."""
        if self._first_time <= id <= self._last_time:
            return (id - self._first_time) / 100
        return None

    def _bytes(self, id: int, tags: bool) -> bytes:
        if id < len(self._ranks):
            return self._ranks[id]
        if tags and id < len(self):
            return SPECIAL_TOKENS[id - len(self._ranks)].encode()
        return b""


def _tokenizer(ranks: Mapping[bytes, int]) -> Tokenizer:
    def spelled(piece: bytes) -> str:
        return piece.decode("latin-1").translate(ALPHABET)

    merges = [
        (spelled(halves[0]), spelled(halves[1]))
        for piece in ranks
        if len(piece) > 1 and (halves := _halves(piece, ranks))
    ]
    # tiktoken looks a whole word up before it merges: hence `whole_words`.
    vocabulary = {spelled(piece): rank for piece, rank in ranks.items()}
    return byte_level_bpe(vocabulary, merges, whole_words=True)


def _halves(piece: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two pieces that BPE joins last into `piece`; None where it never comes to it.

    A tiktoken file lists results of merges only; a merge is found again by encoding the piece with
    the ranks below its own.
    """
    own = ranks[piece]
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 2:
        results = [ranks.get(a + b, own) for a, b in pairwise(parts)]
        lowest = min(results)
        if lowest >= own:
            return None
        at = results.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]
