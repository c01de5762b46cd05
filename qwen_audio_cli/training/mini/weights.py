"""Mini's own weights as they are before training, and how they are written."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...families.mini_model import TRAINED, ActNorm, MiniModel
from ...families.mini_tokenizer import MiniTokenizer
from ..files import write_tensors

NOISE = 0.5
"""Of the deviation of embeddings."""

SCALE = 10.0
"""What a summary's cosines are multiplied by at first."""

TRAINED_FILE = "trained.safetensors"
"""The part of a checkpoint that training replaces."""


def begin(model: MiniModel, tokenizer: MiniTokenizer, seed: int) -> None:
    """Give mini's own weights their first values; all others must have theirs.

    A tag begins as the mean of the embeddings that its spelling has as text, and noise, without
    which pitches 67 and 76 would be one; so do the audio's begin and end, without noise.
    """
    generator = torch.Generator().manual_seed(seed)
    text = model.decoder.wte.weight

    def spelled(tag: str) -> Tensor:
        ids = tokenizer.encode(tag.strip("<|>[]/").replace("_", " "))
        return text[ids].mean(0)

    with torch.no_grad():
        for tag, id in tokenizer.tags.items():
            noise = NOISE * text.std() * torch.randn(text.shape[1], generator=generator)
            model.decoder.wte.tags.weight[id - len(text)] = spelled(tag) + noise
        model.audio.audio_bos_eos_token.weight[:] = torch.stack([spelled("audio"), spelled("end")])
        for part in (model.audio.norm, model.audio.proj, model.audio.summary, model.ctc):
            for module in part.modules():
                _begin(module, generator)
        model.audio.summary.scales.fill_(SCALE)


def _begin(module: nn.Module, generator: torch.Generator) -> None:
    """The first values of a module's own weights."""
    if isinstance(module, nn.LayerNorm | ActNorm):
        module.reset_parameters()
    elif isinstance(module, nn.Linear | nn.Conv1d):
        bound = 1 / math.sqrt(module.weight[0].numel())
        module.weight.uniform_(-bound, bound, generator=generator)
        assert module.bias is not None
        module.bias.zero_()


def save_trained(model: nn.Module, directory: Path) -> None:
    """Write the weights that are mini's own, in float16. Raises OutputWriteError."""
    weights = {
        f"transformer.{name.removeprefix('decoder.')}": parameter.detach().half()
        for name, parameter in model.named_parameters()
        if name.startswith(TRAINED)
    }
    save(weights, directory / TRAINED_FILE)


def save(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights in place of an earlier file. Raises OutputWriteError.

    The header has a digest of them, so that a checkpoint's revision changes with any value.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().data)
    write_tensors(weights, path, {"digest": digest.hexdigest()})
