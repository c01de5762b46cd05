"""Qwen-Audio as a network: checkpoint layout, audio rows within the prompt, the engine's protocol.

Source: QwenLM/Qwen-Audio, `modeling_qwen.py` and `audio.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d

from ..audio.features import HOP
from ..engine.cache import CacheShape, KVCache, Span
from ..errors import ConfigError
from .checkpoint import Checkpoint, blank_embedding
from .encoder import AudioEncoder, EncoderConfig
from .qwen_decoder import QwenConfig, QwenDecoder

SHORTEST = 3 * HOP
"""The fewest samples that give a row of audio; shorter clips are zero-padded to it."""


def mel_frames(samples: int, window: int) -> int:
    """Mel frames of a clip that the encoder takes: the whole ones, rounded up to an even number.

    `window` is the longest clip, in samples. The cut is part of the model: the first convolution
    sees zeros behind the last of these frames, not the levels of silence.
    """
    whole = min(max(samples, SHORTEST), window) // HOP
    return whole + whole % 2


def audio_rows(frames: int) -> int:
    """Rows that `frames` mel frames become between the begin and the end vector: 25 a second."""
    return frames // 4


def geometry(checkpoint: Checkpoint) -> tuple[EncoderConfig, QwenConfig]:
    """The geometry a checkpoint's `config.json` describes.

    `num_key_value_heads`, `qkv_bias` and `tie_word_embeddings` are ours: the original has one key
    head a head, biases and two embeddings. Raises ConfigError for any other architecture.
    """
    config, where = checkpoint.config, checkpoint.directory
    architecture = ", ".join(config.get("architectures") or ["unknown"])
    if "QWenLMHeadModel" not in architecture or not isinstance(config.get("audio"), dict):
        raise ConfigError(
            f"{where}: its architecture ({architecture}) is not Qwen-Audio's, "
            "QWenLMHeadModel with an audio encoder"
        )
    audio = config["audio"]
    if not (audio.get("avg_pool") and audio.get("add_audio_bos_eos_token")):
        raise ConfigError(f"{where}: Qwen-Audio's encoder pools and has begin and end vectors")
    try:
        return _encoder_config(audio), _decoder_config(config)
    except KeyError as missing:
        raise ConfigError(f"{where}: config.json has no {missing}") from None
    except TypeError as error:
        raise ConfigError(f"{where}: config.json: {error}") from None


def _encoder_config(audio: Mapping[str, Any]) -> EncoderConfig:
    return EncoderConfig(
        mels=audio["n_mels"],
        width=audio["n_state"],
        layers=audio["n_layer"],
        heads=audio["n_head"],
        positions=audio["n_ctx"],
    )


def _decoder_config(config: Mapping[str, Any]) -> QwenConfig:
    return QwenConfig(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        key_heads=config.get("num_key_value_heads", config["num_attention_heads"]),
        head_width=config["kv_channels"],
        ffn=config["intermediate_size"] // 2,  # the original counts both branches
        positions=config["seq_length"],
        eps=config["layer_norm_epsilon"],
        rope_base=config["rotary_emb_base"],
        qkv_bias=config.get("qkv_bias", True),
        tied=config["tie_word_embeddings"],
    )


class AudioTower(AudioEncoder):
    """The encoder with what Qwen-Audio adds: pooling, projection, begin and end vectors."""

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__(config)
        self.proj = nn.Linear(config.width, width)
        self.audio_bos_eos_token = blank_embedding(2, width)

    def rows(self, mel: Tensor) -> Tensor:
        """[batch, mels, frames] to [batch, audio_rows(frames) + 2, width], begin and end included.

        Pairs of encoder frames are averaged; an odd last one is dropped.
        """
        pooled = avg_pool1d(self(mel).transpose(1, 2), 2).transpose(1, 2)
        heard = self.proj(self.ln_post(pooled))
        around = self.audio_bos_eos_token.weight.expand(len(heard), 2, -1)
        return torch.cat([around[:, :1], heard, around[:, 1:]], dim=1)


class AudioCache(KVCache):
    """A request's cache beside the rows that stand at its prompt's audio tokens, [rows, width]."""

    __slots__ = ("audio",)

    def __init__(self, shape: CacheShape, capacity: int, audio: Tensor) -> None:
        super().__init__(shape, capacity)
        self.audio = audio


class QwenAudioModel(nn.Module):
    """Audio tower and decoder of one checkpoint; implements `engine.request.Model`.

    `audio_tokens` are the ids whose positions in a prompt audio takes: begin, pad, end. Their own
    embeddings are never used. A prompt goes through `forward` in one piece.
    """

    def __init__(
        self, encoder: EncoderConfig, decoder: QwenConfig, audio_tokens: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.audio = AudioTower(encoder, decoder.width)
        self.decoder = QwenDecoder(decoder)
        self.vocabulary = decoder.vocabulary
        self._audio_tokens = audio_tokens

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        audio_tokens: tuple[int, int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> QwenAudioModel:
        """Load a checkpoint of the 2023 layout. Raises ConfigError where it does not fit."""
        encoder, decoder = geometry(checkpoint)
        with torch.device("meta"):
            model = cls(encoder, decoder, audio_tokens)
        checkpoint.fill(model, _rename, dtype=dtype, device=device)
        return model

    def encode(self, features: Tensor) -> list[Tensor]:
        """Rows of each clip of [batch, mels, frames], all of one length: [rows, width]."""
        weight = self.audio.positional_embedding
        return list(self.audio.rows(features.to(weight)))

    def open(self, memories: Sequence[object], capacity: int, watch: bool) -> AudioCache:
        """A cache over the rows of the prompt's clips, in order. There is nothing to `watch`."""
        config, weight = self.decoder.config, self.decoder.wte.weight
        audio = torch.cat(cast("list[Tensor]", list(memories))) if memories else weight[:0]
        shape = CacheShape(
            config.layers, config.key_heads, config.head_width, weight.dtype, weight.device
        )
        return AudioCache(shape, capacity, audio)

    def forward(
        self, tokens: Tensor, positions: Tensor, spans: Sequence[Span], rows: Tensor
    ) -> Tensor:
        """Scores [len(rows), vocabulary] of the packed step."""
        x = self.decoder.wte(tokens)
        for span in spans:
            if isinstance(span.cache, AudioCache) and not span.cache.length:
                self._splice(x[span.start : span.stop], tokens[span.start : span.stop], span.cache)
        return self.decoder.logits(self.decoder(x, positions, spans)[rows])

    def _splice(self, x: Tensor, prompt: Tensor, cache: AudioCache) -> None:
        """Put the audio of a prompt into its embeddings `x` [tokens, width], in place."""
        here = torch.isin(prompt, torch.tensor(self._audio_tokens, device=prompt.device)).nonzero()
        if len(here) != len(cache.audio):
            raise ValueError(f"{len(here)} audio tokens in a prompt for {len(cache.audio)} rows")
        x[here[:, 0]] = cache.audio


def _rename(name: str) -> str | None:
    name = name.removeprefix("transformer.")
    return name if name.startswith("audio.") else f"decoder.{name}"
