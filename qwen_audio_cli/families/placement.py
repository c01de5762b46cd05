"""Where the parts of a model lie: all on one device, or spread over several by accelerate."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError


class Plan:
    """Which device each parameter of a model, built on the meta device, goes to."""

    def __init__(self, devices: Mapping[str, torch.device]) -> None:
        """`devices` by module name; "" is the whole model."""
        self._devices = dict(devices)

    @classmethod
    def spread(cls, model: nn.Module, how: str, dtype: torch.dtype, whole: Sequence[str]) -> Plan:
        """Plan for several devices; modules of the classes named in `whole` stay in one piece.

        `how` is one of accelerate's ways: `sequential` fills one device after the other, `auto` and
        `balanced` use all evenly.

        Raises ModelError where all devices together have too little memory.
        """
        from accelerate import infer_auto_device_map
        from accelerate.utils import get_balanced_memory, get_max_memory

        limits = get_max_memory()
        if how != "sequential":
            limits = get_balanced_memory(model, limits, list(whole), dtype=dtype)
        found = infer_auto_device_map(model, limits, list(whole), dtype=dtype)
        if "disk" in found.values():
            raise ModelError("all devices together have too little memory for the model")
        return cls({name: torch.device(device) for name, device in found.items()})

    def device(self, parameter: str) -> torch.device:
        """Where a parameter is loaded to."""
        while parameter not in self._devices:
            parameter = parameter.rpartition(".")[0]
        return self._devices[parameter]

    def connect(self, model: nn.Module) -> None:
        """Let a loaded model move what passes from one device to the next.

        Modules on the CPU beside others on accelerators are computed there, weight by weight.
        """
        if "" in self._devices:
            return
        from accelerate import dispatch_model

        dispatch_model(model, self._devices, force_hooks=True)


def device_of(module: nn.Module) -> torch.device:
    """The device that a module computes on."""
    hook = getattr(module, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return next(module.parameters()).device if device is None else torch.device(device)


@torch.no_grad()
def change_weight(model: nn.Module, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Make of a parameter of a loaded model, by name, what `change` makes of it, in its own dtype.

    One that is fetched when it is needed, from a disk even, lies in main memory then.
    """
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    parameter = module.get_parameter(own)
    if parameter.device.type != "meta":
        parameter.copy_(change(parameter))
        return
    hook: Any = module._hf_hook
    changed = change(hook.weights_map[own]).to(parameter.dtype)
    hook.weights_map = ChainMap({own: changed}, hook.weights_map)
