"""What mini's files say: its configuration, and the encoder that it shares with Whisper."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ConfigError
from ..layout import WEIGHTS, is_adapter
from .adapter import Adapter
from .checkpoint import Checkpoint
from .encoder import EncoderConfig
from .qwen_decoder import QwenConfig
from .whisper_checkpoint import geometry as whisper_geometry
from .whisper_model import parameter_name

ARCHITECTURE = "QwaMiniForAudioLanguage"
"""What `config.json` calls it."""

LORA = "lora"
"""The directory within a checkpoint that has what training added to the decoder's matrices."""


@dataclass(frozen=True, slots=True)
class MiniConfig:
    """Geometry of the whole network.

    `layers` are the encoder's layers (1 is the first) whose outputs are heard side by side, the
    last of them the encoder's last; `projector`, `summary` and `spelling` are the widths within the
    projector, the summary and the CTC head. `tags` counts the ids at the vocabulary's end that have
    embeddings of their own.
    """

    encoder: EncoderConfig
    decoder: QwenConfig
    layers: tuple[int, ...]
    projector: int
    summary: int
    spelling: int
    tags: int


class MiniCheckpoint(Checkpoint):
    """Mini's own files and, for what they lack, the embedded encoder that `config.json` names.

    Weights are named as in the 2023 layout. Raises ConfigError where that encoder is not here, or
    is another one than mini was built on.
    """

    def __init__(
        self, directory: Path, adapter: Adapter | None = None, *, merged: bool = True
    ) -> None:
        super().__init__(directory, adapter)
        has_own = merged and is_adapter(directory / LORA)
        self._own = Adapter(directory / LORA, LORA) if has_own else None
        named = self.part("encoder")
        name, revision = str(named.get("model")), named.get("revision")
        if Path(name).name != name or not (WEIGHTS / name).is_dir():
            raise ConfigError(f"{directory}: its encoder, {name}, is no embedded model")
        self.encoder = Checkpoint(WEIGHTS / name)
        if self.encoder.revision != revision:
            raise ConfigError(
                f"{directory}: it hears with {name}@{revision}, here is {self.encoder.revision}"
            )

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """Mini's own low-rank part, and then that of whoever tuned it further."""
        return super().adapters if self._own is None else (self._own, *super().adapters)

    @cached_property
    def revision(self) -> str:
        """A digest of all its files, the low-rank part among them."""
        if self._own is None:
            return super().revision
        return hashlib.sha256(f"{super().revision} {self._own.revision}".encode()).hexdigest()[:12]

    def part(self, key: str) -> Mapping[str, Any]:
        """An object within `config.json`."""
        content = self.config.get(key)
        if not isinstance(content, dict):
            raise ConfigError(f"{self.directory}: config.json has no object '{key}'")
        return content

    def count(self, wanted: Callable[[str], bool] = lambda name: True) -> int:
        """How many weights there are under `wanted` names, the encoder's among them."""
        lent = self._lent()
        return super().count(wanted) + self.encoder.count(
            lambda name: name in lent and wanted(lent[name])
        )

    def tensors(
        self, wanted: Callable[[str], bool] = lambda name: True
    ) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, one at a time, the encoder's last."""
        yield from super().tensors(wanted)
        lent = self._lent()
        needed = self.encoder.tensors(lambda name: name in lent and wanted(lent[name]))
        yield from ((lent[name], tensor) for name, tensor in needed)

    def _lent(self) -> dict[str, str]:
        """The encoder's weights that mini's own files lack: their names there, and here."""
        own = {name for shard in self.shards for name in self._shapes(shard)}
        theirs = (name for shard in self.encoder.shards for name in self.encoder._shapes(shard))
        named = ((name, parameter_name(name)) for name in theirs)
        return {
            name: ours
            for name, module in named
            if module is not None
            and module.startswith("encoder.")
            and (ours := f"transformer.audio.{module.removeprefix('encoder.')}") not in own
        }

    def geometry(self) -> MiniConfig:
        """What `config.json` describes. Raises ConfigError where it does not make sense."""
        encoder, _ = whisper_geometry(self.encoder)
        audio, decoder = (_Sizes(self, key) for key in ("audio", "decoder"))
        layers = self.part("audio").get("layers")
        if not (
            isinstance(layers, list)
            and all(type(layer) is int and layer > 0 for layer in layers)
            and layers == sorted({*layers, encoder.layers})
            and layers[-1] == encoder.layers
        ):
            raise ConfigError(
                f"{self.directory}: audio.layers is {layers!r}: layers of the encoder in order, "
                f"the last of them {encoder.layers}, are expected"
            )
        config = MiniConfig(
            encoder=encoder,
            decoder=QwenConfig(
                vocabulary=decoder.count("vocabulary"),
                width=decoder.count("width"),
                layers=decoder.count("layers"),
                heads=decoder.count("heads"),
                key_heads=decoder.count("key_heads"),
                head_width=decoder.count("head_width"),
                ffn=decoder.count("ffn"),
                positions=decoder.count("positions"),
                eps=decoder.number("eps"),
                rope_base=decoder.number("rope_base"),
                qkv_bias=False,
                tied=True,
            ),
            layers=tuple(layers),
            projector=audio.count("projector"),
            summary=audio.count("summary"),
            spelling=audio.count("spelling"),
            tags=decoder.count("tags"),
        )
        if config.tags >= config.decoder.vocabulary:
            raise ConfigError(f"{self.directory}: decoder.tags is no part of decoder.vocabulary")
        if config.decoder.heads % config.decoder.key_heads:
            raise ConfigError(
                f"{self.directory}: decoder.heads is no multiple of decoder.key_heads"
            )
        return config


class _Sizes:
    """Reads numbers out of one object of a configuration."""

    def __init__(self, checkpoint: MiniCheckpoint, key: str) -> None:
        self._where = f"{checkpoint.directory}: config.json: {key}"
        self._content = checkpoint.part(key)

    def count(self, name: str) -> int:
        value = self._content.get(name)
        if type(value) is not int or value < 1:
            raise ConfigError(f"{self._where}.{name} is {value!r}, not a whole number above 0")
        return value

    def number(self, name: str) -> float:
        value = self._content.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ConfigError(f"{self._where}.{name} is {value!r}, not a number above 0")
        return float(value)
