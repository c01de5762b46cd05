"""What the JSON files of a Whisper checkpoint say, in any of the layouts it was published in.

Where they say something that the network here does not do, the checkpoint is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..audio import SAMPLE_RATE
from ..audio.features import HOP, N_FFT
from ..errors import ConfigError
from .checkpoint import Checkpoint
from .encoder import EncoderConfig
from .whisper_decoder import DecoderConfig

MULTILINGUAL_VOCABULARY = 51_865
"""Tokens that a multilingual checkpoint has at least (openai/whisper, `model.py`)."""


@dataclass(frozen=True, slots=True)
class WhisperFacts:
    """What a checkpoint says of how it is asked.

    `suppressed` tokens are never written, those `suppressed_first` not as the first of an answer.
    `watched` are the heads by layer whose attention tells when a token was heard.
    """

    multilingual: bool
    suppressed: Sequence[int]
    suppressed_first: Sequence[int]
    watched: Mapping[int, Sequence[int]]


def geometry(checkpoint: Checkpoint) -> tuple[EncoderConfig, DecoderConfig]:
    """The geometry of `config.json`.

    Raises ConfigError where it is none of Whisper's, or the checkpoint's features are not those of
    `log_mel`.
    """
    config, path = checkpoint.config, checkpoint.directory / "config.json"
    if config.get("model_type") != "whisper":
        raise ConfigError(f"{checkpoint.directory}: not a Whisper checkpoint")

    def size(key: str) -> int:
        if key not in config:
            raise ConfigError(f"{path}: there is no {key}")
        if type(config[key]) is not int or config[key] < 1:
            raise ConfigError(f"{path}: {key} is {config[key]!r}, not a whole number above 0")
        number: int = config[key]
        return number

    mels, width = size("num_mel_bins"), size("d_model")
    encoder = EncoderConfig(
        mels=mels,
        width=width,
        layers=size("encoder_layers"),
        heads=size("encoder_attention_heads"),
        positions=size("max_source_positions"),
    )
    decoder = DecoderConfig(
        vocabulary=size("vocab_size"),
        width=width,
        layers=size("decoder_layers"),
        heads=size("decoder_attention_heads"),
        positions=size("max_target_positions"),
    )
    architecture = {"activation_function": "gelu", "scale_embedding": False}
    architecture |= {"encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width}
    _require(config, {**architecture, "tie_word_embeddings": True}, path)
    if width % encoder.heads or width % decoder.heads:
        raise ConfigError(f"{path}: d_model is no multiple of the numbers of heads")
    _require_front_end(checkpoint, mels)
    return encoder, decoder


def _require_front_end(checkpoint: Checkpoint, mels: int) -> None:
    features = {"feature_size": mels, "sampling_rate": SAMPLE_RATE, "hop_length": HOP}
    features["n_fft"] = N_FFT
    alone, whole = "preprocessor_config.json", "processor_config.json"
    _require(_optional(checkpoint, alone), features, checkpoint.directory / alone)
    part = _optional(checkpoint, whole).get("feature_extractor", {})
    if isinstance(part, dict):
        _require(part, features, checkpoint.directory / whole)


def _require(content: Mapping[str, Any], wanted: Mapping[str, object], path: Path) -> None:
    """Raise ConfigError where `content` has another value for one of `wanted`'s keys."""
    for key, value in wanted.items():
        if content.get(key, value) != value:
            raise ConfigError(f"{path}: {key} is {content[key]!r}; only {value!r} is supported")


def facts(checkpoint: Checkpoint, decoder: DecoderConfig) -> WhisperFacts:
    """What `generation_config.json` says or, where there is none, `config.json`.

    The first checkpoints had all of it there. Raises ConfigError where it does not make sense.
    """
    path, content = checkpoint.directory / "generation_config.json", checkpoint.config
    if path.is_file():
        content = checkpoint.json(path.name)
    else:
        path = checkpoint.directory / "config.json"
    multilingual = content.get("is_multilingual", decoder.vocabulary >= MULTILINGUAL_VOCABULARY)
    if not isinstance(multilingual, bool):
        raise ConfigError(f"{path}: is_multilingual is {multilingual!r}, not true or false")

    def tokens(key: str) -> list[int]:
        listed = content.get(key) or []
        if not isinstance(listed, list) or not all(type(token) is int for token in listed):
            raise ConfigError(f"{path}: {key} is no list of tokens")
        if unknown := [token for token in listed if token >= decoder.vocabulary]:
            raise ConfigError(f"{path}: {key} has {unknown[0]}, and vocab_size is smaller")
        return [token for token in listed if token >= 0]  # -1 once stood for the usual ones

    return WhisperFacts(
        multilingual=multilingual,
        suppressed=tokens("suppress_tokens"),
        suppressed_first=tokens("begin_suppress_tokens"),
        watched=_watched(content.get("alignment_heads"), decoder, path),
    )


def _watched(listed: object, decoder: DecoderConfig, path: Path) -> dict[int, list[int]]:
    """Alignment heads by layer: those listed or, as in openai/whisper, all of the upper half.

    Checkpoints distilled to fewer layers often list their teacher's: where one of the heads is not
    there, none of them is meant.
    """
    try:
        heads = [(int(layer), int(head)) for layer, head in listed or []]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ConfigError(f"{path}: alignment_heads are no pairs of layer and head") from None
    if not heads or not all(
        0 <= layer < decoder.layers and 0 <= head < decoder.heads for layer, head in heads
    ):
        upper = range(decoder.layers // 2, decoder.layers)
        heads = [(layer, head) for layer in upper for head in range(decoder.heads)]
    watched: dict[int, list[int]] = defaultdict(list)
    for layer, head in heads:
        watched[layer].append(head)
    return dict(watched)


def _optional(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    return checkpoint.json(name) if (checkpoint.directory / name).is_file() else {}
