"""The library's own network of a checkpoint, fed as its processor feeds it: our models' judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen3ASRFeatureExtractor, WhisperFeatureExtractor

from qwen_audio_cli.families.checkpoint import Checkpoint
from qwen_audio_cli.families.transformers_model import CLASSES

Samples = NDArray[np.float32]


class Reference:
    """The library's own network on its own features, one clip a call."""

    def __init__(self, directory: Path) -> None:
        architecture = Checkpoint(directory).config["architectures"][0]
        self.name = CLASSES[architecture]
        self.network = getattr(transformers, self.name).from_pretrained(directory).eval()
        self.network.generation_config.pad_token_id = 0

    def audio(self, samples: Samples) -> dict[str, Tensor]:
        """What the library's processor gives the network of a clip."""
        asr = self.name.startswith("Qwen3ASR")
        # Qwen2.5-Omni's pads to 300 s, of which all that matters is that it is more than the clip.
        longest = 40 if self.name.startswith("Qwen2_5") else 30
        whisper = WhisperFeatureExtractor(feature_size=128, chunk_length=longest)
        found = (Qwen3ASRFeatureExtractor() if asr else whisper)(
            samples,
            sampling_rate=16_000,
            return_attention_mask=True,
            return_tensors="pt",
            padding=True if self.name.startswith("Qwen3") else "max_length",
            truncation=False,
        )
        mask = "input_features_mask" if asr else "feature_attention_mask"
        return {"input_features": found["input_features"], mask: found["attention_mask"]}

    def frames(self, samples: Samples) -> int:
        """Mel frames of a clip, as the library counts them."""
        return int(self.audio(samples)[self._mask].sum())

    @property
    def _mask(self) -> str:
        return "input_features_mask" if "ASR" in self.name else "feature_attention_mask"

    def inputs(self, prompt: Sequence[int], samples: Samples | None) -> dict[str, Tensor]:
        ids = torch.tensor([list(prompt)])
        audio = {} if samples is None else self.audio(samples)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **audio}

    @torch.inference_mode()
    def scores(self, prompt: Sequence[int], samples: Samples | None) -> Tensor:
        """Scores of every position."""
        scores: Tensor = self.network(**self.inputs(prompt, samples)).logits[0]
        return scores

    def answer(
        self,
        prompt: Sequence[int],
        samples: Samples | None,
        stop: Iterable[int],
        longest: int,
        shortest: int = 0,
    ) -> list[int]:
        """The library's greedy answer of `shortest` to `longest` tokens, without the stop token."""
        stops = sorted(stop)
        said: list[int] = self.network.generate(
            **self.inputs(prompt, samples),
            max_new_tokens=longest,
            min_new_tokens=shortest or None,
            do_sample=False,
            repetition_penalty=1.0,
            eos_token_id=stops,
        )[0, len(prompt) :].tolist()
        return said[:-1] if said[-1] in stops else said

    def logprobs(
        self, prompt: Sequence[int], samples: Samples | None, continuation: Sequence[int]
    ) -> list[float]:
        """The log-probability of each token of a continuation, in a call of its own."""
        scores = self.scores([*prompt, *continuation], samples)
        shares = scores.log_softmax(-1)[len(prompt) - 1 : -1]
        return [float(shares[i, token]) for i, token in enumerate(continuation)]
