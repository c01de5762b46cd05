"""Matrices laid out once as the CPU's products want them, not anew at every call.

For the few rows of a decoding step this is 1.3 to 5 times as fast as `nn.Linear`, for long prompts
and audio 1.1 to 1.4 times (benchmarks/packed.py). The layout is oneDNN's own, as torch's compiler
uses it when it freezes a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

_TRAINABLE = ContextVar("_TRAINABLE", default=False)


@contextmanager
def trainable() -> Iterator[None]:
    """Leave the matrices of the models that are loaded within as they are: packed ones learn not.

    What was loaded is frozen nevertheless; who trains it says what of it.
    """
    token = _TRAINABLE.set(True)
    try:
        yield
    finally:
        _TRAINABLE.reset(token)


class PackedLinear(nn.Module):
    """What `nn.Linear` computes, on a CPU; the weight is there in packed form only."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Pack `weight` [out, in]; it can be let go."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self._bias, "none", [], ""
        )
        return out


def can_pack(weight: Tensor) -> bool:
    """Whether such a weight can be packed here, and whether it pays."""
    return (
        not _TRAINABLE.get()
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    )


def pack(model: nn.Module) -> None:
    """Replace every `nn.Linear` of a loaded model for which that is possible."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and can_pack(child.weight) and not _moves(child):
                setattr(module, name, PackedLinear(child.weight, child.bias))


def projection(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """The product with a weight [out, in] that something else needs too, as an embedding does."""
    if can_pack(weight):
        return PackedLinear(weight, None)
    return lambda x: linear(x, weight)


def _moves(module: nn.Module) -> bool:
    """Whether accelerate brings a module's weight when it is needed."""
    return hasattr(module, "_hf_hook")
