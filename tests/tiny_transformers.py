"""Tiny random checkpoints of the Qwen audio models that transformers has, as they lie on disk.

The library writes them, so that names and files are its own; what it does not write (a whole Omni
with its talker, Qwen3-ASR as its authors published it) is renamed here. Weights are as large as to
make every part of the network matter to its scores.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    PreTrainedModel,
    Qwen2_5OmniConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen3ASRConfig,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)

VOCABULARY = 512
AUDIO_TOKEN = 500
TIMESTAMP_TOKEN = 496
CLASSES = 64
"""Of a forced aligner: times up to 5.04 s."""
WEIGHTS = "model.safetensors"

TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
}
AUDIO = {
    "num_mel_bins": 128,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "d_model": 32,
}
QWEN3_AUDIO = AUDIO | {"output_dim": 64, "n_window_infer": 400, "downsample_hidden_size": 8}
MROPE = {"rope_type": "default", "rope_theta": 10_000.0}


def qwen2_audio(directory: Path) -> Path:
    """Qwen2-Audio: as many key heads as heads, an embedding for each end."""
    config = Qwen2AudioConfig(
        audio_config=AUDIO,
        text_config=TEXT | {"num_key_value_heads": 4, "tie_word_embeddings": False},
        audio_token_id=AUDIO_TOKEN,
    )
    return _save(Qwen2AudioForConditionalGeneration(config), directory)


def qwen25_omni(directory: Path) -> Path:
    """A whole Qwen2.5-Omni, of whose talker there is a trace."""
    config = Qwen2_5OmniConfig(
        thinker_config={
            "audio_config": AUDIO | {"output_dim": 64},
            "text_config": TEXT | {"rope_parameters": MROPE | {"mrope_section": [2, 3, 3]}},
            "vision_config": {
                "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
                "out_hidden_size": 64, "fullatt_block_indexes": [0],
            },
            "audio_token_index": AUDIO_TOKEN,
            "vision_start_token_id": 497,
        }
    )  # fmt: skip
    thinker = Qwen2_5OmniThinkerForConditionalGeneration(config.thinker_config)
    return _whole_omni(_save(thinker, directory), config, "Qwen2_5OmniModel")


def qwen3_omni(directory: Path) -> Path:
    """A whole Qwen3-Omni, of whose talker there is a trace; one layer has no experts."""
    config = Qwen3OmniMoeConfig(
        thinker_config={
            "audio_config": QWEN3_AUDIO,
            "text_config": TEXT
            | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
            | {"head_dim": 24, "mlp_only_layers": [1]}
            | {"rope_parameters": MROPE | {"mrope_section": [4, 4, 4]}},
            "vision_config": {
                "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
                "out_hidden_size": 64, "deepstack_visual_indexes": [0],
                "num_position_embeddings": 16,
            },
            "audio_token_id": AUDIO_TOKEN,
            "vision_start_token_id": 497,
        }
    )  # fmt: skip
    thinker = Qwen3OmniMoeThinkerForConditionalGeneration(config.thinker_config)
    return _whole_omni(_save(thinker, directory), config, "Qwen3OmniMoeForConditionalGeneration")


def qwen3_asr(directory: Path) -> Path:
    """Qwen3-ASR in the library's layout, one embedding for both ends."""
    config = Qwen3ASRConfig(
        audio_config=QWEN3_AUDIO,
        text_config=TEXT | {"head_dim": 24, "tie_word_embeddings": True},
        audio_token_id=AUDIO_TOKEN,
        tie_word_embeddings=True,
    )
    return _save(Qwen3ASRForConditionalGeneration(config), directory)


def qwen3_asr_original(directory: Path) -> Path:
    """The same weights in the layout of its authors."""
    return _as_published(qwen3_asr(directory), {}, {})


def qwen3_aligner(directory: Path) -> Path:
    """Qwen3-ForcedAligner in the library's layout: classes where others have the vocabulary."""
    config = Qwen3ASRConfig(
        audio_config=QWEN3_AUDIO,
        text_config=TEXT | {"head_dim": 24, "max_position_embeddings": 4096},
        audio_token_id=AUDIO_TOKEN,
        timestamp_token_id=TIMESTAMP_TOKEN,
        timestamp_segment_time=80,
        num_labels=CLASSES,
    )
    return _save(Qwen3ASRForTokenClassification(config), directory)


def qwen3_aligner_original(directory: Path) -> Path:
    """The same weights in the layout of its authors."""
    return _as_published(
        qwen3_aligner(directory),
        {"timestamp_token_id": TIMESTAMP_TOKEN, "timestamp_segment_time": 80},
        {"model_type": "qwen3_forced_aligner", "classify_num": CLASSES},
    )


def _as_published(directory: Path, whole: dict[str, Any], thinker: dict[str, Any]) -> Path:
    """Make of a checkpoint in the library's layout one of Qwen3-ASR's authors.

    `whole` and `thinker` are what else stands in its configuration, and in the thinker's.
    """
    renamed = {
        "model.multi_modal_projector.linear_1.": "audio_tower.proj1.",
        "model.multi_modal_projector.linear_2.": "audio_tower.proj2.",
        "model.audio_tower.": "audio_tower.",
        "model.language_model.": "model.",
        "score.": "lm_head.",
    }
    weights = {}
    for name, tensor in load_file(directory / WEIGHTS).items():
        prefix = next((prefix for prefix in renamed if name.startswith(prefix)), "")
        weights["thinker." + renamed.get(prefix, "") + name.removeprefix(prefix)] = tensor
    save_file(weights, directory / WEIGHTS, {"format": "pt"})
    text = TEXT | {"head_dim": 24, "tie_word_embeddings": True, "rope_theta": 10_000.0}
    text |= {"rope_scaling": {"mrope_section": [4, 4, 4], "rope_type": "default"}}
    config = {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "thinker_config": {
            "audio_config": QWEN3_AUDIO | {"n_window": 50, "conv_chunksize": 500},
            "text_config": text,
            "audio_token_id": AUDIO_TOKEN,
            **thinker,
        },
        **whole,
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


WRITERS: dict[str, Callable[[Path], Path]] = {
    "qwen2_audio": qwen2_audio,
    "qwen25_omni": qwen25_omni,
    "qwen3_omni": qwen3_omni,
    "qwen3_asr": qwen3_asr,
}


def _save(network: PreTrainedModel, directory: Path) -> Path:
    """Draw the weights and save them, without a word of how to generate."""
    generator = torch.Generator().manual_seed(0)
    head = getattr(network, "lm_head", None)
    tied = head is not None and head.weight is network.get_input_embeddings().weight
    for name, weight in network.named_parameters():
        drawn = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            weight.data = 0.2 * drawn + (1.0 if _is_norm(name) else 0.0)
            if head is None and ("q_norm" in name or "k_norm" in name):
                weight.data *= 3  # an aligner's marks are all one token: what each looks at tells
        elif "embed_tokens" in name:
            # A tied embedding as large as an untied one would have every token follow itself.
            weight.data = drawn * (0.1 if tied else 0.5)
        elif "embed_positions" not in name:
            weight.data = drawn * _scale(name) / weight[0].numel() ** 0.5
    network.tie_weights()
    network.save_pretrained(directory)
    return directory


def _scale(name: str) -> float:
    """Attention is not the same everywhere, and what layers add outweighs the last token."""
    strong = ("q_proj", "k_proj", "o_proj", "down_proj")
    return 2.0 if any(part in name for part in strong) else 1.0


def _is_norm(name: str) -> bool:
    return ("norm" in name and name.endswith("weight")) or "ln_post.weight" in name


def _whole_omni(directory: Path, config: Any, architecture: str) -> Path:
    """Make of a thinker's checkpoint that of the Omni it is a part of."""
    weights = {
        name if name.startswith("thinker.") else f"thinker.{name}": tensor
        for name, tensor in load_file(directory / WEIGHTS).items()
    }
    weights["talker.model.embed_tokens.weight"] = torch.ones(4, 4)
    save_file(weights, directory / WEIGHTS, {"format": "pt"})
    config.architectures = [architecture]
    config.save_pretrained(directory)
    return directory
