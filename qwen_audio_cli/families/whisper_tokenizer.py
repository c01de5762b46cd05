"""Whisper's vocabulary, from whichever files a checkpoint keeps it in: ids to text, tags to ids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .bpe import ALPHABET

_BYTES: Mapping[int, int] = {character: byte for byte, character in ALPHABET.items()}
_TAG = re.compile(r"<\|.*\|>")


class WhisperTokenizer:
    """What ids stand for: pieces of text, and tags as `<|en|>`.

    Whisper is never given a text, so there is nothing here that encodes one.
    """

    def __init__(self, pieces: Mapping[str, int], added: Mapping[str, int]) -> None:
        """`pieces` are spelled in byte-level BPE's alphabet, `added` tokens as they read.

        Raises ValueError where two of them have one id, or a piece is spelled otherwise.
        """
        tokens = {**pieces, **added}
        if len(set(tokens.values())) < len(tokens):
            raise ValueError("two tokens have one id")
        self._tags = {token: id for token, id in tokens.items() if _TAG.fullmatch(token)}
        self._pieces = {id: piece for piece, id in pieces.items() if piece not in self._tags}
        if strange := {*map(ord, "".join(self._pieces.values()))} - _BYTES.keys():
            raise ValueError(f"'{chr(min(strange))}' does not spell a byte")
        self._added = {
            id: token.encode()
            for token, id in added.items()
            if token not in self._tags and token not in pieces
        }

    @classmethod
    def read(cls, directory: Path) -> WhisperTokenizer:
        """Read `tokenizer.json`, or else `vocab.json` and where its added tokens are.

        These are in `added_tokens.json`, `tokenizer_config.json`, or both. Raises ConfigError where
        files are missing, damaged or no such tokenizer's.
        """
        path = directory / "tokenizer.json"
        try:
            if path.is_file():
                return cls._of(_object(path))
            path = directory / "vocab.json"
            return cls(_object(path), _added(directory))
        except FileNotFoundError:
            reason = "no tokenizer.json, and no vocab.json in its place"
            raise ConfigError(f"{directory}: {reason}") from None
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: no tokenizer of Whisper's: {error!r}") from error

    @classmethod
    def _of(cls, whole: dict[str, Any]) -> WhisperTokenizer:
        kind = whole["model"].get("type", "BPE")
        if kind != "BPE":
            raise ValueError(f"its model is {kind}, not BPE")
        added = {token["content"]: token["id"] for token in whole.get("added_tokens", ())}
        return cls(whole["model"]["vocab"], added)

    def tag(self, name: str) -> int | None:
        """The id of a tag, by its name without `<|` and `|>`."""
        return self._tags.get(f"<|{name}|>")

    def is_text(self, id: int) -> bool:
        """Whether an id stands for a piece of text, not for a tag or for nothing."""
        return id in self._pieces or id in self._added

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; tags and ids of nothing give nothing.

        Bytes that are not UTF-8, as of a character whose last piece is still to come, give U+FFFD.
        """
        return b"".join(map(self._bytes, ids)).decode("utf-8", "replace")

    def _bytes(self, id: int) -> bytes:
        if id in self._pieces:
            return self._pieces[id].translate(_BYTES).encode("latin-1")
        return self._added.get(id, b"")


def _added(directory: Path) -> dict[str, int]:
    added: dict[str, int] = {}
    if (path := directory / "added_tokens.json").is_file():
        added = _object(path)
    if (path := directory / "tokenizer_config.json").is_file():
        listed = _object(path).get("added_tokens_decoder", {})
        added |= {token["content"]: int(id) for id, token in listed.items()}
    return added


def _object(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("a JSON object is expected")
    return content
