"""Where an interrupted run goes on: one file, which holds all that the next step depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import ConfigError, UsageError
from .files import write_tensors
from .manifest import Item

NAME = "resume.state"
"""No `.safetensors`, all of which are weights in the directory of a model."""
_VALUE = "value"


@dataclass(slots=True, eq=False)
class State:
    """How far a run is: steps done, and the lowest validation loss with its step.

    `facts` say what run it is: recipe, manifest, model.
    """

    facts: Mapping[str, Any]
    step: int = 0
    best: float | None = None
    best_step: int | None = None
    recorded: list[dict[str, Any]] = field(default_factory=list)
    """What was measured so far, a line of `metrics.jsonl` each."""

    def save(
        self,
        directory: Path,
        weights: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Write it in place of an earlier one. Raises OutputWriteError."""
        tensors: dict[str, Tensor] = {}
        for name, weight in weights.items():
            tensors[f"{_VALUE}/{name}"] = weight
            for key, value in optimizer.state[weight].items():
                tensors[f"{key}/{name}"] = value
        told = {
            "facts": self.facts,
            "step": self.step,
            "best": self.best,
            "best_step": self.best_step,
            "recorded": self.recorded,
        }
        write_tensors(tensors, directory / NAME, {"state": json.dumps(told)})

    def load(
        self,
        directory: Path,
        weights: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Go on where that of a directory stopped.

        Raises UsageError where there is none, or that of another run; ConfigError where it is
        damaged.
        """
        path = directory / NAME
        if not path.exists():
            raise UsageError(f"{directory}: no run to go on with ({NAME} is missing)")
        try:
            with safe_open(path, "pt") as file:
                told = json.loads((file.metadata() or {})["state"])
                self._compare(told["facts"], directory)
                for name, weight in weights.items():
                    weight.data.copy_(file.get_tensor(f"{_VALUE}/{name}"))
                for key, name in (key.split("/", 1) for key in file.keys()):  # noqa: SIM118
                    if key != _VALUE:
                        weight = weights[name]
                        tensor = file.get_tensor(f"{key}/{name}")
                        device = tensor.device if key == "step" else weight.device
                        optimizer.state[weight][key] = tensor.to(device)
                for key in ("step", "best", "best_step", "recorded"):
                    setattr(self, key, told[key])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from error

    def _compare(self, theirs: Mapping[str, Any], directory: Path) -> None:
        for name, value in self.facts.items():
            if theirs.get(name) != value:
                raise UsageError(
                    f"{directory}: the run there is another one: its {name.replace('_', '-')} "
                    f"is {theirs.get(name)}, not {value}"
                )


def digest(items: Iterable[Item]) -> str:
    """What tells one manifest from another, wherever its recordings lie."""
    whole = hashlib.sha256()
    for item in items:
        told = (item.audio.name, item.target, item.split, str(item.query))
        whole.update(json.dumps(told, ensure_ascii=True).encode())
    return whole.hexdigest()[:16]
