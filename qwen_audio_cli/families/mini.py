"""Mini, this project's own model: a Qwen-Audio on Whisper-base and SmolLM2-135M.

It is asked by tags, and answers, as the base checkpoint of 2023 does.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import ConfigError, UsageError
from .adapter import Adapter
from .mini_config import MiniCheckpoint
from .mini_model import MiniModel
from .mini_tokenizer import MiniTokenizer
from .qwen_audio import QwenAudio


class Mini(QwenAudio):
    """A checkpoint of mini; `label` is what records call it."""

    _network = MiniModel

    def __init__(self, directory: Path, label: str, adapter: Adapter | None = None) -> None:
        checkpoint = MiniCheckpoint(directory, adapter)
        config = checkpoint.geometry()
        tokenizer = MiniTokenizer.read(directory)
        if len(tokenizer) != config.decoder.vocabulary:
            raise ConfigError(
                f"{directory}: the tokenizer has {len(tokenizer)} ids, "
                f"the configuration {config.decoder.vocabulary}"
            )
        self._open(checkpoint, config.encoder, config.decoder, tokenizer, label)

    def load(self, dtype: torch.dtype, device: torch.device, device_map: str | None = None) -> None:
        """Load the network. Raises ConfigError where the weights do not fit."""
        if device_map:
            raise UsageError(f"{self.label} is small enough for one device: it takes no device map")
        super().load(dtype, device)
