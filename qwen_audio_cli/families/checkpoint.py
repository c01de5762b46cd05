"""Checkpoints on disk: config, safetensors shards, revision; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import ConfigError, ModelError
from ..layout import CONFIG, INDEX, read_object, weight_names
from .adapter import Adapter
from .blocks import MINIMUM, SCALE, is_aside, multiply_out
from .packed import pack
from .placement import Plan

HEADERS = "np"  # for reading them alone: torch would map the file, for which memory may not do


def blank_embedding(rows: int, width: int) -> nn.Embedding:
    """An embedding that a checkpoint is to fill.

    The constructor of nn.Embedding draws its values from a normal distribution, for which, on the
    meta device, torch imports its compiler: more than a second of a cold start.
    """
    blank: nn.Embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
        torch.empty(rows, width)
    )
    return blank


class Checkpoint:
    """A directory in the Hugging Face layout: `config.json` and safetensors, in one file or shards.

    `adapter` changes its weights when they are loaded.

    Raises ModelError when there is no such directory or it may not be read, ConfigError when it is
    no such checkpoint, a shard is missing or damaged, or only pickled weights are there.
    """

    def __init__(self, directory: Path, adapter: Adapter | None = None) -> None:
        self.directory, self.adapter = directory, adapter
        try:
            self._names = sorted(path.name for path in directory.iterdir())
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
            raise ModelError(f"{directory}: no such model directory") from None
        except OSError as error:
            raise ModelError(f"{directory}: cannot be read: {error.strerror}") from error
        self.config = self.json(CONFIG)

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """What changes its weights, in this order."""
        return () if self.adapter is None else (self.adapter,)

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object of the checkpoint, by file name."""
        return read_object(self.directory / name)

    @cached_property
    def shards(self) -> list[Path]:
        """The safetensors files, in order; all of them exist."""
        index = self.directory / INDEX if INDEX in self._names else None
        shards = [self.directory / name for name in weight_names(self._names, index)]
        if missing := [shard.name for shard in shards if not shard.exists()]:
            raise ConfigError(f"{self.directory}: missing {', '.join(missing)}")
        if not shards:
            pickled = any(name.endswith((".bin", ".pt", ".pth")) for name in self._names)
            why = "only pickled weights, which are never loaded" if pickled else "no weights"
            raise ConfigError(f"{self.directory}: {why}; a *.safetensors file is needed")
        return shards

    @cached_property
    def revision(self) -> str:
        """What identifies these weights: the build's own mark, the hub's commit, or a digest.

        The digest covers the configurations and every shard's header and size, not each value.
        """
        first = self.shards[0]
        try:
            with safe_open(first, HEADERS) as shard:
                mark = (shard.metadata() or {}).get("revision")
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{first}: {error}") from error
        if mark:
            return str(mark)
        if self.directory.parent.name == "snapshots":
            return self.directory.name[:12]
        digest = hashlib.sha256()
        for path in sorted(self.directory.glob("*config.json")):
            digest.update(path.read_bytes())
        for path in self.shards:
            size = path.stat().st_size
            with path.open("rb") as file:
                header = file.read(8)
                if (length := int.from_bytes(header, "little")) > size:
                    raise ConfigError(f"{path}: no safetensors file")
                digest.update(header + file.read(length))
            digest.update(str(size).encode())
        return digest.hexdigest()[:12]

    def title(self, label: str) -> str:
        """What records call the model that loads it under a label, and its adapter, if any."""
        own = f"{label}@{self.revision}"
        adapter = self.adapter
        return own if adapter is None else f"{adapter.label}@{adapter.revision}+{own}"

    def count(self, wanted: Callable[[str], bool] = lambda name: True) -> int:
        """How many weights there are under the names that are `wanted`; reads the headers alone."""
        return sum(
            math.prod(shape) * (2 if name + MINIMUM in shapes else 1)
            for shapes in map(self._shapes, self.shards)
            for name, shape in shapes.items()
            if wanted(name) and not is_aside(name, shapes)
        )

    def _shapes(self, path: Path) -> dict[str, list[int]]:
        """The tensors of a shard."""
        try:
            with safe_open(path, HEADERS) as shard:
                return {name: shard.get_slice(name).get_shape() for name in shard.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{path}: {error}") from error

    def tensors(
        self, wanted: Callable[[str], bool] = lambda name: True
    ) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, one at a time; matrices in few bits come multiplied out in float32."""
        for path in self.shards:
            try:
                with safe_open(path, "pt") as shard:
                    names = set(shard.keys())
                    for name in sorted(names):
                        if is_aside(name, names) or not wanted(name):
                            continue
                        tensor = shard.get_tensor(name)
                        if name + SCALE in names:
                            lowest = name + MINIMUM
                            minimum = shard.get_tensor(lowest) if lowest in names else None
                            tensor = multiply_out(tensor, shard.get_tensor(name + SCALE), minimum)
                        yield name, tensor
            except (SafetensorError, OSError, ValueError) as error:
                raise ConfigError(f"{path}: {error}") from error

    def fill(
        self,
        module: nn.Module,
        rename: Callable[[str], str | None],
        *,
        dtype: torch.dtype,
        plan: Plan,
    ) -> None:
        """Give `module`, built on the meta device, its parameters; all must come, each once.

        `rename` maps a checkpoint's name to the module's, or to None for what is not needed. An
        adapter was trained on the one's names or the other's.
        """
        wanted = dict(module.named_parameters())
        shapes = {name: parameter.shape for name, parameter in wanted.items()}
        changes = [
            change
            for adapter in self.adapters
            for change in adapter.changes(shapes, lambda name: (name, rename(name))).items()
        ]
        state = {
            name: tensor.to(device=plan.device(name), dtype=dtype)
            for theirs, tensor in self.tensors()
            if (name := rename(theirs)) is not None
        }
        if missing := sorted(wanted.keys() - state.keys()):
            raise ConfigError(f"{self.directory}: no weights for {', '.join(missing[:3])} …")
        if unknown := sorted(state.keys() - wanted.keys()):
            raise ConfigError(f"{self.directory}: unknown weights {', '.join(unknown[:3])} …")
        for name, parameter in wanted.items():
            if parameter.shape != state[name].shape:
                raise ConfigError(
                    f"{self.directory}: {name} has shape {list(state[name].shape)}, "
                    f"the configuration says {list(parameter.shape)}"
                )
        for name, change in changes:
            state[name] = change(state[name]).to(dtype)
        module.load_state_dict(state, assign=True)
        module.requires_grad_(False).eval()
        plan.connect(module)
        pack(module)
