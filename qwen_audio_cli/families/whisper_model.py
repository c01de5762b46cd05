"""Whisper as a network: its weights' names, encoder and decoder behind the engine's protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..engine.arena import CacheShape
from ..engine.attention import Step, attention_dtype
from .checkpoint import Checkpoint
from .encoder import AudioEncoder, EncoderConfig
from .placement import Plan
from .whisper_checkpoint import facts, geometry
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


def parameter_name(name: str) -> str | None:
    """What a weight of a checkpoint is called here; None for one that is not needed."""
    if name == "proj_out.weight":  # tied to the token embedding
        return None
    for pattern, ours in _RENAMES:
        name = pattern.sub(ours, name)
    return name


class WhisperModel(nn.Module):
    """Encoder and decoder of one checkpoint; implements `engine.request.Model`.

    A clip shorter than the window is encoded at its own length. The decoder was trained on whole
    windows, though, and does not find an end when it hears nothing behind the speech: so what the
    encoder makes of pure silence, computed once, stands behind the clip's frames, up to the
    window's end. Whole windows of mel frames go through unchanged, as in the reference.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        decoder: DecoderConfig,
        watched: Mapping[int, Sequence[int]],
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
        encoder, decoder = geometry(checkpoint)
        with torch.device("meta"):
            model = cls(encoder, decoder, facts(checkpoint, decoder).watched)
        checkpoint.fill(model, parameter_name, dtype=dtype, plan=Plan({"": device}))
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
