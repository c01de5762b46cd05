"""Which parts of each family's network are trained, and by which names others know them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from ..engine.request import Model
from ..families.mini_model import ANSWERING, MiniModel
from ..families.qwen_model import QwenAudioModel
from ..families.transformers_model import TransformersModel


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A network, seen as what can be trained of it.

    The weights of the decoder begin with `decoder`, and its layers are `layers`. `published` gives
    the name of a weight or module as the checkpoint's publishers have it; `linear` matches the
    published names of the layers' projections. What begins with `own` came with the model's audio
    and is small: it is trained beside adapters, too.
    """

    network: nn.Module
    decoder: tuple[str, ...]
    layers: str
    linear: str
    published: Callable[[str], str]
    own: tuple[str, ...] = ()

    def projections(self) -> list[str]:
        """The names of what low-rank adapters are put beside, within the layers."""
        layers = self.network.get_submodule(self.layers)
        return [
            name
            for name, module in layers.named_modules()
            if isinstance(module, nn.Linear)
            and re.fullmatch(self.linear, self.published(f"{self.layers}.{name}"))
        ]

    def weights(self, *, encoder: bool) -> Iterator[tuple[str, nn.Parameter]]:
        """The decoder's weights by name, and with `encoder` all others."""
        for name, weight in self.network.named_parameters():
            if encoder or name.startswith(self.decoder):
                yield name, weight


def anatomy(model: Model) -> Anatomy:
    """What can be trained of a model that one of the teachable families loaded."""
    if isinstance(model, QwenAudioModel):
        return Anatomy(
            model,
            ("decoder.",),
            "decoder.h",
            r"transformer\.h\.\d+\.(attn|mlp)\.(c_attn|c_proj|w1|w2)",
            _as_qwen_audio,
            ANSWERING if isinstance(model, MiniModel) else (),
        )
    assert isinstance(model, TransformersModel)
    return Anatomy(
        model.network,
        ("model.language_model.", "lm_head."),
        "model.language_model.layers",
        r"model\.language_model\.layers\.\d+\..*(?<=\.)([qkvo]|gate|up|down)_proj",
        lambda name: name,
    )


def _as_qwen_audio(name: str) -> str:
    """A name of our network as the 2023 checkpoints have it."""
    name = name.removeprefix("decoder.")
    return name if name.startswith("lm_head") else f"transformer.{name}"
