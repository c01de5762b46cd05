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
from ..engine.arena import CacheShape
from ..engine.attention import Span, Step, attention_dtype
from ..engine.transfer import to_device
from ..errors import ConfigError
from .checkpoint import Checkpoint, blank_embedding
from .encoder import AudioEncoder, EncoderConfig
from .placement import Plan, device_of
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


class FramedEncoder(AudioEncoder):
    """The encoder with the vectors that stand before and behind what a decoder reads of it."""

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__(config)
        self.audio_bos_eos_token = blank_embedding(2, width)

    def framed(self, rows: Tensor) -> Tensor:
        """A clip's rows [rows, width] between the begin and the end vector."""
        begin, end = self.audio_bos_eos_token.weight[:, None]
        return torch.cat([begin, rows, end])


class AudioTower(FramedEncoder):
    """The encoder with what Qwen-Audio adds: pooling, projection, begin and end vectors."""

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__(config, width)
        self.proj = nn.Linear(config.width, width)

    def rows(self, mel: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Per clip of [batch, mels, frames] its [audio_rows(length) + 2, width].

        Pairs of encoder frames are averaged; an odd last one is dropped. The begin and the end
        vector are the first and the last row.
        """
        heard = self.proj(self.ln_post(pooled(self(mel, lengths))))
        return [
            self.framed(clip[: audio_rows(length)])
            for clip, length in zip(heard, lengths, strict=True)
        ]


def pooled(states: Tensor) -> Tensor:
    """Averages of pairs of frames: [batch, frames, width] to [batch, frames // 2, width]."""
    return avg_pool1d(states.transpose(1, 2), 2).transpose(1, 2)


class QwenAudioModel(nn.Module):
    """Audio tower and decoder of one checkpoint; implements `engine.request.Model`.

    `audio_tokens` are the ids whose positions in a prompt audio takes: begin, pad, end. Their own
    embeddings are never used. A prompt goes through `forward` in one piece.
    """

    def __init__(
        self,
        audio: FramedEncoder,
        decoder: QwenDecoder,
        audio_tokens: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.audio = audio
        self.decoder = decoder
        self.vocabulary = decoder.config.vocabulary
        self.positions = decoder.config.positions
        self.frame_bytes = 4 * decoder.config.width // 4  # a row of 40 ms, in float32 at most
        self.capturable = True
        self._audio_tokens = frozenset(audio_tokens)

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        audio_tokens: tuple[int, int, int],
        dtype: torch.dtype,
        device: torch.device,
        device_map: str | None = None,
    ) -> QwenAudioModel:
        """Load a checkpoint of the 2023 layout, onto `device` or spread by `device_map`.

        Raises ConfigError where it does not fit, ModelError where memory is too small.
        """
        with torch.device("meta"):
            model = cls.build(checkpoint, audio_tokens)
        plan = Plan({"": device})
        if device_map:
            plan = Plan.spread(model, device_map, dtype, ("AudioTower", "QwenBlock"))
        checkpoint.fill(model, model.parameter_name, dtype=dtype, plan=plan)
        model.decoder.tie()
        return model

    @classmethod
    def build(cls, checkpoint: Checkpoint, audio_tokens: tuple[int, int, int]) -> QwenAudioModel:
        """The network that a checkpoint's configuration describes. Raises ConfigError."""
        encoder, decoder = geometry(checkpoint)
        return cls(AudioTower(encoder, decoder.width), QwenDecoder(decoder), audio_tokens)

    @staticmethod
    def parameter_name(name: str) -> str:
        """What a weight of a checkpoint is called here."""
        name = name.removeprefix("transformer.")
        return name if name.startswith("audio.") else f"decoder.{name}"

    @property
    def cache(self) -> CacheShape:
        """What the decoder keeps of every position, each layer where the layer is."""
        config, weight = self.decoder.config, self.decoder.wte.weight
        dtype = attention_dtype(weight)
        devices = tuple(device_of(block) for block in self.decoder.h)
        return CacheShape(config.key_heads, config.head_width, dtype, devices)

    def encode(self, features: Tensor, lengths: Sequence[int]) -> Sequence[Any]:
        """Rows of each clip of [batch, mels, frames]: [rows, width]."""
        assert isinstance(self.audio, AudioTower)
        return self.audio.rows(features.to(self.audio.positional_embedding), lengths)

    def open(self, memories: Sequence[object], watch: bool) -> Tensor:
        """The rows of the prompt's clips, in order. There is nothing to `watch`."""
        rows = cast("list[Tensor]", list(memories))
        return torch.cat(rows) if rows else self.decoder.wte.weight[:0]

    def forward(self, tokens: Tensor, positions: Tensor, step: Step, rows: Tensor) -> Tensor:
        """Scores [len(rows), vocabulary] of the packed step."""
        x = self.decoder.wte(tokens)
        splice(x, step.spans, self._audio_tokens)
        hidden = self.decoder(x, positions, step)
        return self.decoder.logits(hidden[rows.to(hidden.device)])


def splice(x: Tensor, spans: Sequence[Span], audio_tokens: frozenset[int]) -> None:
    """Put the audio of prompts into their embeddings, in place.

    `x` [rows, width] is of packed rows; the context of a span is the audio [rows, width] of its
    whole prompt, of which the last rows belong here where the first were fed before. Raises
    ValueError where a prompt has another number of audio tokens than its audio has rows.
    """
    places: list[int] = []
    audio: list[Tensor] = []
    for span in spans:
        if span.tokens is None or span.branches:
            continue
        here = [span.start + i for i, token in enumerate(span.tokens) if token in audio_tokens]
        heard = cast(Tensor, span.context)
        if len(here) > len(heard) or (not span.extent.length and len(here) < len(heard)):
            raise ValueError(f"{len(here)} audio tokens in a prompt for {len(heard)} rows")
        places += here
        audio.append(heard[len(heard) - len(here) :])
    if places:
        x.index_copy_(0, to_device(places, x.device), torch.cat(audio).to(x))
