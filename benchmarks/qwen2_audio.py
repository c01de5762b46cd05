"""Qwen2-Audio with random weights, in its own shape and in smaller ones, and clips for it to hear.

The scaled shape has the original's proportions: widths an eighth, layers a quarter, the vocabulary
a 32nd, so that encoder, decoder and output projection each have a 256th of their weights. What does
not shrink as much is attention over the past: it counts eight times as much beside the matrix
products as in the original. Speed does not depend on what the weights say.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 30.0
TOKENS_A_SECOND = 3.3
"""Of an answer: about what a transcript takes."""

SPREAD = 0.3
MOST_TOKENS = 160
AUDIO = "<|AUDIO|>"
TEXT = f"<|audio_bos|>{AUDIO}<|audio_eos|>Write down what is said:"
END = "<|endoftext|>"
SPECIAL = ("<|im_start|>", "<|im_end|>", AUDIO, "<|audio_bos|>", "<|audio_eos|>")


@dataclass(frozen=True, slots=True)
class Shape:
    """Geometry of a network: as many key heads as heads, an encoder MLP of four widths."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    ffn: int
    encoder_width: int
    encoder_layers: int
    encoder_heads: int
    mels: int = 128
    positions: int = 1500


FULL = Shape(156_032, 4096, 32, 32, 11_008, 1280, 32, 20)
SCALED = Shape(156_032 // 32, 4096 // 8, 32 // 4, 32 // 8, 11_008 // 8, 1280 // 8, 32 // 4, 20 // 4)
TINY = Shape(512, 32, 2, 2, 64, 32, 2, 2)
SHAPES = {"full": FULL, "scaled": SCALED, "tiny": TINY}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A clip: its number, its length in samples, and how many tokens its answer shall have."""

    number: int
    samples: int
    tokens: int

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return self.samples / RATE

    def wave(self) -> NDArray[np.float32]:
        """Its samples: noise whose loudness rises and falls as speech's does."""
        noise = np.random.default_rng(self.number).standard_normal(self.samples, np.float32)
        time = np.arange(self.samples, dtype=np.float32) / RATE
        return 0.1 * noise * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time, dtype=np.float32))


def draw(count: int, seed: int = 0) -> Iterator[Drawn]:
    """Clips of 1-30 s, uniformly; answers of 3.3 tokens a second, times a log-normal factor.

    The factor's logarithm has a standard deviation of 0.3; an answer has 1-160 tokens.
    """
    chance = random.Random(seed)
    for number in range(count):
        seconds = chance.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)
        tokens = round(seconds * TOKENS_A_SECOND * math.exp(chance.gauss(0, SPREAD)))
        yield Drawn(number, int(seconds * RATE), min(max(tokens, 1), MOST_TOKENS))


def config(shape: Shape, audio_token: int) -> Any:
    """transformers' configuration of a shape."""
    from transformers import Qwen2AudioConfig

    audio = {
        "num_mel_bins": shape.mels,
        "d_model": shape.encoder_width,
        "encoder_layers": shape.encoder_layers,
        "encoder_attention_heads": shape.encoder_heads,
        "encoder_ffn_dim": 4 * shape.encoder_width,
        "max_source_positions": shape.positions,
    }
    text = {
        "model_type": "qwen2",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    }
    return Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_id=audio_token)


def randomise(network: Any, seed: int) -> None:
    """Draw the matrices, where they are, as large as to make every part matter to the scores."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0 if name.endswith("bias") else 1)
                continue
            # Embeddings are of unit size; of queries and keys, attention is to be a choice.
            fan_in = 1 if "embed" in name else parameter[0].numel()
            gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
            parameter.normal_(0, gain * fan_in**-0.5)


def write(directory: Path, shape: Shape, seed: int = 0) -> Path:
    """Write a checkpoint in float32 with its processor, and give `directory`."""
    from transformers import Qwen2AudioForConditionalGeneration

    processor = _processor(shape.vocabulary)
    processor.save_pretrained(directory)
    tokenizer = processor.tokenizer
    audio_token = tokenizer.convert_tokens_to_ids(AUDIO)
    network = Qwen2AudioForConditionalGeneration(config(shape, audio_token))
    randomise(network, seed)
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    network.save_pretrained(directory)
    return directory


def _processor(vocabulary: int) -> Any:
    """A processor of the original's classes, over a tokenizer of bytes alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2AudioProcessor, WhisperFeatureExtractor

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    assert len(letters) + len(SPECIAL) < vocabulary
    pieces = {piece: number for number, piece in enumerate(letters)}
    backend = Tokenizer(models.BPE(vocab=pieces, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=list(SPECIAL),
        padding_side="left",
    )
    extractor = WhisperFeatureExtractor(feature_size=128, return_attention_mask=True)
    return Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer)
