"""What the checkpoints whose networks are those of transformers have in common: files and audio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..audio import SAMPLE_RATE
from ..errors import ConfigError
from .adapter import Adapter
from .base import Family
from .chat_tokenizer import ChatTokenizer
from .checkpoint import Checkpoint

if TYPE_CHECKING:
    from .transformers_model import TransformersModel

SPEAKING = ("talker.", "token2wav.", "code2wav.")
"""How the names of weights begin by which an Omni model speaks: they are not loaded."""


class LibraryFamily:
    """A checkpoint that transformers has the network of; `label` is what records call it."""

    name: str
    window: float
    colleague: Family | None = None

    def __init__(
        self,
        directory: Path,
        label: str,
        audio_tokens: Sequence[str],
        adapter: Adapter | None = None,
    ) -> None:
        """Read configuration and vocabulary; `load` gives the network.

        `audio_tokens` begin a span of audio, stand for a row of it, and end it. Raises ModelError
        or ConfigError.
        """
        self._checkpoint = Checkpoint(directory, adapter)
        self.tokenizer = ChatTokenizer.read(directory)
        self._span = self.tokenizer.require(*audio_tokens)
        self.label = self._checkpoint.title(label)
        self.model: TransformersModel

    @property
    def parameters(self) -> int:
        """How many weights `load` loads."""
        return self._checkpoint.count(lambda name: not name.startswith(SPEAKING))

    def load(self, dtype: torch.dtype, device: torch.device, device_map: str | None = None) -> None:
        """Load the network. Raises ConfigError where the weights do not fit."""
        from .transformers_model import TransformersModel

        self.model = TransformersModel.load(self._checkpoint, dtype, device, device_map)
        if self.model.audio_token != self._span[1]:
            raise ConfigError(
                f"{self._checkpoint.directory}: audio is token {self._span[1]} of the tokenizer, "
                f"and {self.model.audio_token} of the configuration"
            )

    def features(self, samples: NDArray[np.float32]) -> Tensor:
        """Log-mel features [mels, frames] of a clip."""
        return self.model.features(samples)

    def _audio(self, seconds: float) -> list[int]:
        """The ids that a clip takes in a prompt."""
        begin, pad, end = self._span
        frames = self.model.frames(round(min(seconds, self.window) * SAMPLE_RATE))
        return [begin, *[pad] * self.model.audio_rows(frames), end]
