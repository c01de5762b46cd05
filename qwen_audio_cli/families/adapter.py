"""LoRA adapters in peft's files: verified, and added to the weights that they were trained beside.

Hu et al. 2021 (arXiv 2106.09685); the other scale is that of Kalajdzievski 2023 (arXiv 2312.03732).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import ConfigError
from ..layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_object
from .placement import change_weight

Names = Callable[[str], Iterable[str | None]]
"""What a weight may be called in a module, by the name that an adapter has for it."""

Shapes = Mapping[str, Sequence[int]]

# How it was trained, or put onto a model; its tensors say the rest. `fan_in_fan_out` is how the
# trained network stored its matrices: B A is [out, in] whichever way, as all matrices are here.
_HISTORY = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying",
        "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern",
        "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core",
        "modules_to_save", "peft_version", "qalora_group_size", "revision", "runtime_config",
        "target_modules", "task_type",
    }
)  # fmt: skip
_READ = frozenset(
    {
        "alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type", "r",
        "rank_pattern", "use_rslora",
    }
)  # fmt: skip

# The other ways to begin change the weights beside the adapter (PiSSA, OLoRA, LoftQ, CorDA ...).
_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")

_PREFIX = "base_model.model."
_LOW_RANK = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])(?:\.[^.]+)?\.weight")
# Of a layer that has a LoRA, and of one that was trained as a whole, as it is called within peft.
_WITHIN = re.compile(r"\.(base_layer|modules_to_save\.[^.]+)(?=\.)")


@dataclass(frozen=True, slots=True)
class Change:
    """What an adapter makes of a weight: `whole` in its place, if there is one, plus an update.

    The update of a matrix [out, in] is `scale` * `up` [out, rank] @ `down` [rank, in].
    """

    whole: Tensor | None
    down: Tensor | None
    up: Tensor | None
    scale: float

    def __call__(self, weight: Tensor) -> Tensor:
        """The new weight, where the old one lies; a sum is in float32."""
        if self.whole is not None:
            weight = self.whole.to(weight.device)
        if self.down is None or self.up is None:
            return weight
        up, down = (half.to(weight.device, torch.float32) for half in (self.up, self.down))
        return torch.addmm(weight.float(), up, down, alpha=self.scale)


class Adapter:
    """A directory with `adapter_config.json` and `adapter_model.safetensors`; `label` names it.

    Raises ConfigError where it is no LoRA of matrices alone, beside whole tensors in the place of
    others (`modules_to_save`), and for files that are missing or damaged; ModelError where they may
    not be read.
    """

    def __init__(self, directory: Path, label: str) -> None:
        self.directory, self.label = directory, label
        self._config = read_object(directory / ADAPTER_CONFIG)
        self._verify_config()
        self._weights = directory / ADAPTER_WEIGHTS
        if not self._weights.exists():
            pickled = any(directory.glob("adapter_model*.bin"))
            why = "only pickled weights, which are never loaded" if pickled else "no weights"
            raise ConfigError(f"{directory}: {why}; {ADAPTER_WEIGHTS} is needed")
        # By the name of a weight: the tensors of its A and B, or the "whole" one.
        self._parts: dict[str, dict[str, str]] = {}
        self._shapes = self._read_header()
        self._verify_tensors()

    @cached_property
    def revision(self) -> str:
        """The hub's commit, or a digest of both files."""
        if self.directory.parent.name == "snapshots":
            return self.directory.name[:12]
        digest = hashlib.sha256()
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            with (self.directory / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:12]

    def changes(self, shapes: Shapes, names: Names) -> dict[str, Change]:
        """What becomes of the parameters of a module, by name, of which `shapes` has all.

        Raises ConfigError for what fits none of them, naming it.
        """
        found: dict[str, Change] = {}
        try:
            with safe_open(self._weights, "pt") as file:
                for theirs, parts in self._parts.items():
                    name = self._find(theirs, shapes, names)
                    if name in found:
                        raise ConfigError(f"{self._weights}: {theirs} is there twice")
                    scale = self._scale(theirs) if "A" in parts else 1.0
                    whole, down, up = (
                        file.get_tensor(parts[part]) if part in parts else None
                        for part in ("whole", "A", "B")
                    )
                    found[name] = Change(whole, down, up, scale)
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{self._weights}: {error}") from error
        return found

    def apply(self, module: nn.Module, names: Names) -> None:
        """Change the parameters of a loaded module. Raises ConfigError where they do not fit."""
        parameters = dict(module.named_parameters(remove_duplicate=False))
        times = Counter(map(id, parameters.values()))
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        for name, change in self.changes(shapes, names).items():
            if times[id(parameters[name])] > 1:
                raise ConfigError(
                    f"{self._weights}: {name} is one weight with another of this model, and cannot "
                    "be changed alone"
                )
            change_weight(module, name, change)

    def _verify_config(self) -> None:
        config, where = self._config, self.directory / ADAPTER_CONFIG
        if (kind := config.get("peft_type")) != "LORA":
            raise ConfigError(f"{where}: {kind or 'an unknown kind'} is no LoRA (peft_type)")
        if (bias := config.get("bias", "none")) != "none":
            raise ConfigError(f"{where}: trained biases are not supported (bias: {bias})")
        if (begin := config.get("init_lora_weights", True)) not in _BEGINNINGS:
            raise ConfigError(
                f"{where}: init_lora_weights '{begin}' may have changed the base model too; saved "
                "as a plain LoRA it can be used"
            )
        for key in sorted(config.keys() - _HISTORY - _READ):
            if config[key]:
                raise ConfigError(f"{where}: {key} is not supported")

    def _read_header(self) -> dict[str, list[int]]:
        """The shapes of the tensors."""
        try:
            with safe_open(self._weights, "np") as file:
                names = file.keys()
                return {name: file.get_slice(name).get_shape() for name in names}
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{self._weights}: {error}") from error

    def _verify_tensors(self) -> None:
        if not self._shapes:
            raise ConfigError(f"{self._weights}: no tensors")
        for tensor, shape in self._shapes.items():
            name = tensor.removeprefix(_PREFIX)
            match = _LOW_RANK.fullmatch(name)
            if (".lora_" in name) != bool(match) or (match and len(shape) != 2):
                raise ConfigError(f"{self._weights}: {tensor} is no LoRA of a linear layer")
            weight = f"{match['module']}.weight" if match else _WITHIN.sub("", name)
            parts = self._parts.setdefault(weight, {})
            part = match["half"] if match else "whole"
            if part in parts:
                raise ConfigError(f"{self._weights}: {tensor} is there twice, as {parts[part]}")
            parts[part] = tensor
        for weight, parts in self._parts.items():
            if parts.keys() & {"A", "B"}:
                for half in {"A", "B"} - parts.keys():
                    raise ConfigError(f"{self._weights}: {weight} has no lora_{half}")
                self._scale(weight)

    def _scale(self, weight: str) -> float:
        """What B A is multiplied by. Raises ConfigError where their rank is another."""
        module, parts = weight.removesuffix(".weight"), self._parts[weight]
        rank = self._number(module, "rank_pattern", "r")
        alpha = self._number(module, "alpha_pattern", "lora_alpha")
        if not rank == self._shapes[parts["A"]][0] == self._shapes[parts["B"]][1]:
            raise ConfigError(
                f"{self._weights}: {parts['A']} {self._shapes[parts['A']]} and {parts['B']} "
                f"{self._shapes[parts['B']]} are not of rank {rank}, as {ADAPTER_CONFIG} says"
            )
        return alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)

    def _number(self, module: str, pattern: str, otherwise: str) -> float:
        """A setting of a module: of the first pattern that its name ends with, or of all."""
        value, where = self._config.get(otherwise), self.directory / ADAPTER_CONFIG
        try:
            for key, special in (self._config.get(pattern) or {}).items():
                if re.fullmatch(rf"(.*\.)?({key})", module):
                    value = special
                    break
        except (AttributeError, re.error) as error:
            raise ConfigError(f"{where}: {pattern}: {error}") from error
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ConfigError(f"{where}: {otherwise} of {module} is no positive number")
        return value

    def _find(self, theirs: str, shapes: Shapes, names: Names) -> str:
        """The parameter that a weight is. Raises ConfigError for none, and for another shape."""
        name = next((name for name in names(theirs) if name is not None and name in shapes), None)
        if name is None:
            raise ConfigError(f"{self._weights}: {theirs} fits no weight of its base model")
        parts = {part: self._shapes[tensor] for part, tensor in self._parts[theirs].items()}
        wanted = [parts["whole"]] if "whole" in parts else []
        if "A" in parts:
            wanted.append([parts["B"][0], parts["A"][1]])
        for shape in wanted:
            if shape != list(shapes[name]):
                raise ConfigError(
                    f"{self._weights}: {theirs} is for a weight of shape {shape}, its base "
                    f"model's is {list(shapes[name])}"
                )
        return name
