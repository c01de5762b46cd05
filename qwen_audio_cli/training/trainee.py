"""What of a network is trained, and how it is saved: adapters, or the whole checkpoint anew."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from ..audio.decode import Samples
from ..errors import OutputWriteError, UsageError
from ..families.base import Teachable
from ..layout import SINGLE, small_names
from . import lora
from .augment import spec_augment
from .batches import Example, heard
from .files import write_tensors
from .manifest import Item
from .network import Anatomy, anatomy
from .recipe import Recipe
from .step import answer_losses

THINKERS = ("qwen-omni", "qwen3-omni-captioner")
"""Families of which a part is loaded only, so that no whole checkpoint can be written of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The model that is trained: where it lies, and by which name and revision it is found."""

    directory: Path
    name: str
    revision: str | None = None


@dataclass(slots=True, eq=False)
class Trainee:
    """A loaded family's network, with what is trained of it in float32."""

    family: Teachable
    base: Base
    recipe: Recipe
    dtype: torch.dtype
    anatomy: Anatomy = field(init=False)
    weights: dict[str, nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        """Raises UsageError for what cannot be trained whole."""
        self.anatomy = anatomy(self.family.model)
        if not self.recipe.full:
            torch.manual_seed(self.recipe.seed)
            self.weights = lora.inject(self.anatomy, self.recipe)
            return
        if self.family.name in THINKERS or self.anatomy.own:
            raise UsageError(f"{self.family.label} is stored in several parts: it takes no --full")
        self.weights = dict(self.anatomy.weights(encoder=self.recipe.train_encoder))
        for weight in self.weights.values():
            weight.requires_grad_()

    @property
    def label(self) -> str:
        """What records call its model."""
        return self.family.label

    @property
    def ear(self) -> Teachable:
        """The family itself makes the lessons."""
        return self.family

    @property
    def count(self) -> int:
        """How many numbers are trained."""
        return sum(weight.numel() for weight in self.weights.values())

    @property
    def hears(self) -> bool:
        """Whether anything is trained that audio goes through before it is part of a prompt."""
        return any(not name.startswith(self.anatomy.decoder) for name in self.weights)

    def retaken(self, item: Item, samples: Samples, epoch: int) -> Samples:
        """A user's recordings are heard as they are."""
        return samples

    def masked(self, features: Tensor, seed: str) -> Tensor:
        """SpecAugment."""
        return spec_augment(features, seed)

    def losses(self, batch: Sequence[Example]) -> Tensor:
        """The loss of each example, summed over its answer: [examples]."""
        model = self.family.model
        with nullcontext() if self.hears else torch.no_grad():
            memories = self._encode([example.features for example in batch])
            contexts = [model.open([memory], False) for memory in memories]
        lessons = [heard(self.family, *pair) for pair in zip(batch, memories, strict=True)]
        return answer_losses(model, lessons, contexts)

    def weight(self, example: Example) -> float:
        """Every token counts alike."""
        return 1.0

    def _encode(self, features: Sequence[Tensor]) -> list[object]:
        """Each clip alone or, where a call costs more than padding, all at once."""
        model, device = self.family.model, next(iter(self.weights.values())).device
        if device.type == "cpu":
            return [m for clip in features for m in model.encode(clip[None], [clip.shape[1]])]
        lengths = [clip.shape[1] for clip in features]
        padded = torch.stack([pad(f, (0, max(lengths) - f.shape[1])) for f in features])
        return list(model.encode(padded.to(device), lengths))

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Drop out what adapters drop out in training, and nothing else."""
        drops = [
            module
            for name, module in self.anatomy.network.named_modules()
            if isinstance(module, nn.Dropout) and ".lora_dropout." in name
        ]
        for module in drops:
            module.train()
        try:
            yield
        finally:
            for module in drops:
                module.eval()

    def save(self, directory: Path) -> None:
        """Write a directory that `--model` takes. Raises OutputWriteError."""
        if self.recipe.full:
            self._save_whole(directory)
            return
        names: Mapping[str, str | None] = {
            "base_model_name_or_path": self.base.name,
            "revision": self.base.revision,
        }
        lora.save(self.anatomy, self.weights, self.recipe, names, directory)

    def _save_whole(self, directory: Path) -> None:
        network = self.anatomy.network
        names = [path.name for path in self.base.directory.iterdir()]
        small = [name for name in small_names(names) if not name.endswith(".index.json")]
        try:
            for name in small:
                shutil.copyfile(self.base.directory / name, directory / name)
            if isinstance(network, PreTrainedModel):
                # Its weights are written by the library's own names, which those of a checkpoint
                # in another layout are not.
                network.config.architectures = [type(network).__name__]
                network.config.save_pretrained(directory)
        except OSError as error:
            raise OutputWriteError(f"{directory}: cannot be written: {error}") from error
        own = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
        weights = {
            self.anatomy.published(name): tensor.to(self.dtype)
            for name, tensor in network.state_dict().items()
            if name in own  # a weight that has two names is written once
        }
        write_tensors(weights, directory / SINGLE, {"revision": _digest(weights)})


def _digest(weights: Mapping[str, Tensor]) -> str:
    """What tells these weights from others of the same shapes."""
    whole = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().cpu().flatten().contiguous()
        whole.update(values.view(torch.uint8).numpy().data)
    return whole.hexdigest()[:12]
