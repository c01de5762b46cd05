"""How the authors of Qwen3-ASR and its forced aligner lay out what they published.

They nest the configuration and name the weights as an Omni thinker's, and one architecture stands
for both models; the library only reads the layout that it converted them to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES = {
    r"^thinker\.audio_tower\.proj1\.": "model.multi_modal_projector.linear_1.",
    r"^thinker\.audio_tower\.proj2\.": "model.multi_modal_projector.linear_2.",
    r"^thinker\.audio_tower\.": "model.audio_tower.",
    r"^thinker\.model\.": "model.language_model.",
}
_AUDIO_KEYS = (
    "num_mel_bins", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "d_model",
    "activation_function", "n_window", "n_window_infer", "output_dim", "downsample_hidden_size",
)  # fmt: skip
_TEXT_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps",
    "rope_theta", "attention_bias", "tie_word_embeddings",
)  # fmt: skip


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's configuration is in the authors' layout."""
    return "thinker_config" in config


def is_aligner(config: Mapping[str, Any]) -> bool:
    """Whether one in the authors' layout is the forced aligner's: its head gives classes."""
    return "classify_num" in (config.get("thinker_config") or ())


def loading(config: Mapping[str, Any]) -> dict[str, Any]:
    """What to load a checkpoint in the authors' layout with: `config` and `key_mapping`."""
    import transformers  # the rest of this module is asked before anything is loaded

    thinker = config["thinker_config"]
    audio, text = thinker["audio_config"], thinker["text_config"]
    classes = {"num_labels": thinker["classify_num"]} if is_aligner(config) else {}
    ours = transformers.Qwen3ASRConfig(
        audio_config={key: audio[key] for key in _AUDIO_KEYS if key in audio},
        text_config={key: text[key] for key in _TEXT_KEYS if key in text},
        audio_token_id=thinker["audio_token_id"],
        tie_word_embeddings=text.get("tie_word_embeddings", True),
        **classes,
    )
    head = "score." if classes else "lm_head."
    return {"config": ours, "key_mapping": _NAMES | {r"^thinker\.lm_head\.": head}}
