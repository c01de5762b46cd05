"""The tokenizer of the models since Qwen2-Audio, read from the files it was published in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from ..errors import ConfigError
from .bpe import byte_level_bpe


class ChatTokenizer:
    """Text to ids and back; `special` maps the spelling of every added token to its id.

    No text gives such an id: what a user types is never a tag.
    """

    def __init__(self, bpe: Tokenizer, special: Mapping[str, int]) -> None:
        """`bpe` knows no added token."""
        self._bpe = bpe
        self._where = ""  # what messages begin with
        self.special = dict(special)
        self._spellings = {id: token for token, id in special.items()}

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read `tokenizer.json`, or `vocab.json` and `merges.txt`, with `tokenizer_config.json`.

        Raises ConfigError where they are missing, damaged or no tokenizer's.
        """
        try:
            tokenizer = cls._read(directory)
            tokenizer._where = f"{directory}: "
            return tokenizer
        except ConfigError:
            raise
        except Exception as error:  # tokenizers raises Exception itself
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"{directory}: its tokenizer cannot be read: {reason}") from error

    @classmethod
    def _read(cls, directory: Path) -> Self:
        special: dict[str, int] = {}
        if (config := directory / "tokenizer_config.json").is_file():
            added = _object(config).get("added_tokens_decoder", {})
            special = {token["content"]: int(id) for id, token in added.items()}
        if (directory / "tokenizer.json").is_file():
            whole = _object(directory / "tokenizer.json")
            special |= {token["content"]: token["id"] for token in whole.pop("added_tokens", [])}
            # Without added tokens, none is found within a text.
            bpe = Tokenizer.from_str(
                json.dumps(whole | {"added_tokens": [], "post_processor": None})
            )
            bpe.no_padding()
            bpe.no_truncation()
            return cls(bpe, special)
        lines = _text(directory / "merges.txt").splitlines()
        merges = [
            (first, second)
            for line in lines
            if line and not line.startswith("#version")
            for first, second in [line.split(" ")]
        ]
        return cls(byte_level_bpe(_object(directory / "vocab.json"), merges), special)

    def require(self, *tokens: str) -> tuple[int, ...]:
        """The ids of added tokens. Raises ConfigError where there is none."""
        if missing := [token for token in tokens if token not in self.special]:
            raise ConfigError(f"{self._where}the tokenizer has no {', '.join(missing)}")
        return tuple(self.special[token] for token in tokens)

    def encode(self, text: str) -> list[int]:
        """Ids of a text in NFC, none of them of an added token whatever it holds."""
        ids: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; added tokens and ids of nothing give nothing."""
        text: str = self._bpe.decode([id for id in ids if id not in self._spellings])
        return text


def _object(path: Path) -> dict[str, Any]:
    content = json.loads(_text(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a JSON object is expected")
    return content


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from error
