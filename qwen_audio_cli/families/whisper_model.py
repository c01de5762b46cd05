"""Whisper as a network: checkpoint layout, encoder and decoder behind the engine's protocol."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.arena import CacheShape
from ..engine.attention import Step, attention_dtype
from ..errors import ConfigError
from .checkpoint import Checkpoint
from .encoder import AudioEncoder, EncoderConfig
from .placement import Plan
from .whisper_decoder import AudioKeys, DecoderConfig, Hearing, Tail, WhisperDecoder, hearing
from .word_times import frame_levels

SILENT_MEL = -1.5
"""Every bin of the log-mel features of digital silence: (log10(1e-10) + 4) / 4."""

# Names of the Hugging Face layout (openai/whisper-*) to those of the modules here, in this order.
_RENAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^model\.", ""),
        (r"encoder_attn_layer_norm", "cross_attn_ln"),
        (r"encoder_attn", "cross_attn"),
        (r"self_attn_layer_norm", "attn_ln"),
        (r"self_attn", "attn"),
        (r"q_proj", "query"),
        (r"k_proj", "key"),
        (r"v_proj", "value"),
        (r"out_proj", "out"),
        (r"fc1", "mlp.0"),
        (r"fc2", "mlp.2"),
        (r"final_layer_norm", "mlp_ln"),
        (r"embed_tokens", "token_embedding"),
        (r"embed_positions\.weight", "positional_embedding"),
        (r"^encoder\.layer_norm", "encoder.ln_post"),
        (r"^decoder\.layer_norm", "decoder.ln"),
        (r"\.layers\.", ".blocks."),
    )
)


def _rename(name: str) -> str | None:
    if name == "proj_out.weight":  # tied to the token embedding
        return None
    for pattern, ours in _RENAMES:
        name = pattern.sub(ours, name)
    return name


def _geometry(config: dict[str, Any], where: str) -> tuple[EncoderConfig, DecoderConfig]:
    try:
        width = config["d_model"]
        return EncoderConfig(
            mels=config["num_mel_bins"],
            width=width,
            layers=config["encoder_layers"],
            heads=config["encoder_attention_heads"],
            positions=config["max_source_positions"],
        ), DecoderConfig(
            vocabulary=config["vocab_size"],
            width=width,
            layers=config["decoder_layers"],
            heads=config["decoder_attention_heads"],
            positions=config["max_target_positions"],
        )
    except KeyError as missing:
        raise ConfigError(f"{where}: config.json has no {missing}") from None
    except TypeError as error:
        raise ConfigError(f"{where}: config.json: {error}") from None


class WhisperModel(nn.Module):
    """Encoder and decoder of one checkpoint; implements `engine.request.Model`.

    A clip shorter than the window is encoded at its own length. The decoder was trained on whole
    windows, though, and does not find an end when it hears nothing behind the speech: so what the
    encoder makes of pure silence, computed once, stands behind the clip's frames, up to the
    window's end. Whole windows of mel frames go through unchanged, as in the reference.
    """

    def __init__(
        self, encoder: EncoderConfig, decoder: DecoderConfig, watched: dict[int, list[int]]
    ) -> None:
        super().__init__()
        self.encoder = AudioEncoder(encoder)
        self.decoder = WhisperDecoder(decoder)
        self.vocabulary = decoder.vocabulary
        self.positions = decoder.positions
        # Keys and values of every layer; an encoder frame is two of mel. In float32 at most.
        self.frame_bytes = 2 * 4 * decoder.layers * decoder.width // 2
        self.capturable = False  # clips are attended to one after the other
        self._watched = watched
        self._silence: AudioKeys | None = None

    @classmethod
    def load(cls, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> WhisperModel:
        """Load the Hugging Face layout. Raises ConfigError where it does not fit."""
        where = str(checkpoint.directory)
        encoder, decoder = _geometry(checkpoint.config, where)
        watched: dict[int, list[int]] = {}
        heads = checkpoint.json("generation_config.json").get("alignment_heads")
        if heads is None:  # as openai/whisper: all heads of the upper half
            upper = range(decoder.layers // 2, decoder.layers)
            heads = [(layer, head) for layer in upper for head in range(decoder.heads)]
        for layer, head in heads:
            watched.setdefault(layer, []).append(head)
        with torch.device("meta"):
            model = cls(encoder, decoder, watched)
        checkpoint.fill(model, _rename, dtype=dtype, plan=Plan({"": device}))
        model.decoder.tie()
        return model

    @property
    def _dtype(self) -> torch.dtype:
        return self.encoder.positional_embedding.dtype

    @property
    def cache(self) -> CacheShape:
        """What the decoder keeps of every position."""
        config = self.decoder.config
        weight = self.decoder.positional_embedding
        devices = (weight.device,) * config.layers
        width = config.width // config.heads
        return CacheShape(config.heads, width, attention_dtype(weight), devices)

    def encode(self, features: Tensor, lengths: Sequence[int]) -> list[AudioKeys]:
        """Per clip of [batch, mels, frames] the decoder's keys and values of it."""
        hidden = self.encoder.ln_post(self.encoder(features.to(self._dtype), lengths))
        kept = self.cache.dtype
        memories = []
        for mel, clip, length in zip(features, hidden, lengths, strict=True):
            frames = clip[: -(-length // 2)]
            layers = [b.cross_attn.project(frames, kept) for b in self.decoder.layers]
            memories.append(AudioKeys(layers, frame_levels(mel[None, :, :length])[0]))
        return memories

    def _silent_window(self) -> AudioKeys:
        """The keys and values of a window of digital silence."""
        if self._silence is None:
            config = self.encoder.config
            mel = torch.full((1, config.mels, 2 * config.positions), SILENT_MEL)
            mel = mel.to(self.decoder.positional_embedding.device)
            (self._silence,) = self.encode(mel, [mel.shape[-1]])
        return self._silence

    def open(self, memories: Sequence[object], watch: bool) -> Hearing:
        """What a request hears: one clip."""
        (audio,) = memories
        assert isinstance(audio, AudioKeys)
        return Hearing(audio, self._watched if watch else {})

    def forward(self, tokens: Tensor, positions: Tensor, step: Step, rows: Tensor) -> Tensor:
        """Scores [len(rows), vocabulary] of the packed step."""
        whole = self.encoder.config.positions
        tail = None
        if any(hearing(span).audio.frames < whole for span in step.spans):
            tail = Tail.behind(self._silent_window(), step.spans, len(tokens))
        return self.decoder.logits(self.decoder(tokens, positions, step, tail)[rows])
