"""Byte-level BPE as all Qwen models have it: how text is cut, and how its bytes are spelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

# QwenLM/Qwen-Audio, `tokenization_qwen.py`: contractions, words, single digits, marks, white space.
_PRE_TOKEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _alphabet() -> dict[int, int]:
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = count(0x100)
    return {byte: byte if byte in visible else next(others) for byte in range(256)}


ALPHABET: Mapping[int, int] = _alphabet()
"""Byte -> the code point of the visible character that spells it: GPT-2's table."""


def byte_level_bpe(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], *, whole_words: bool = False
) -> Tokenizer:
    """A tokenizer of text in NFC over pieces that are spelled by `ALPHABET`; it has no tags.

    With `whole_words` a word of the vocabulary is never merged from its parts. Raises Exception, as
    tokenizers does, for merges of unknown pieces.
    """
    tokenizer = Tokenizer(BPE(dict(vocabulary), list(merges), ignore_merges=whole_words))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRE_TOKEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
