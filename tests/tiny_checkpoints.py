"""Tiny random checkpoints in the layout of the real ones, for tests.

Widths are a few dozen, so that a forward pass takes milliseconds; names, shapes and files are the
original's. Weights are as large as to make every part of the network matter to its scores.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

INDEX = "model.safetensors.index.json"
SPECIAL_TOKENS = 3522
SPARE_ROWS = 13
"""Rows of the embedding that no token has; the real ones have 782."""

MERGED = "in th er an re on the is ou ing and ~t ~the ~a ~s ~~ au io dio audio"
"""Pieces of several bytes, in the order of their ranks; ~ is a space."""


def ranks() -> list[bytes]:
    """All bytes (in an order of their own, as the real file has them) and some merges."""
    single = [bytes([byte]) for byte in (*range(0x21, 0x100), *range(0x21))]
    words = [word.replace("~", " ").encode() for word in MERGED.split()]
    character = "你".encode()
    return [*single, *words, character[:2], character]


def write_ranks(path: Path, pieces: list[bytes]) -> None:
    """Write pieces as a tiktoken file."""
    lines = (f"{base64.b64encode(piece).decode()} {rank}" for rank, piece in enumerate(pieces))
    path.write_text("\n".join(lines) + "\n")


def qwen_audio(
    directory: Path,
    *,
    chat: bool = False,
    key_heads: int = 4,
    tied: bool = False,
    seed: int = 0,
) -> Path:
    """Write a Qwen-Audio of 2 + 2 layers and give `directory`.

    `key_heads` below 4 is grouped-query attention and `tied` one embedding for both ends, as in
    later models of this family.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pieces = ranks()
    write_ranks(directory / "qwen.tiktoken", pieces)
    config = _config(len(pieces) + SPECIAL_TOKENS + SPARE_ROWS, tied)
    if key_heads != config["num_attention_heads"]:
        config["num_key_value_heads"] = key_heads
    generation = {"chat_format": "chatml" if chat else "raw", "eos_token_id": len(pieces)}
    if chat:
        generation["max_new_tokens"] = 24
    _write(directory / "config.json", config)
    _write(directory / "generation_config.json", generation)
    _write(directory / "tokenizer_config.json", {"tokenizer_class": "QWenTokenizer"})
    _write_shards(directory, _weights(config, key_heads, tied, torch.Generator().manual_seed(seed)))
    return directory


def _config(vocabulary: int, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "kv_channels": 16,
        "intermediate_size": 192,
        "layer_norm_epsilon": 1e-4,
        "max_position_embeddings": 8192,
        "seq_length": 2048,
        "rotary_emb_base": 10000,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "no_bias": True,
        "tie_word_embeddings": tied,
        "vocab_size": vocabulary,
        "audio": {
            "n_mels": 80,
            "n_ctx": 1500,
            "n_state": 32,
            "n_head": 2,
            "n_layer": 2,
            "output_dim": 64,
            "avg_pool": True,
            "add_audio_bos_eos_token": True,
            # As in an early release of the chat checkpoint: wrong, and to be ignored.
            "audio_start_id": 155164,
        },
    }


def _weights(
    config: dict[str, Any], key_heads: int, tied: bool, generator: torch.Generator
) -> dict[str, Tensor]:
    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator) * scale / (shape[-1] ** 0.5)

    def norm(width: int) -> Tensor:
        return 1 + 0.2 * torch.randn(width, generator=generator)

    width, half = config["hidden_size"], config["intermediate_size"] // 2
    heads = config["num_attention_heads"] + 2 * key_heads
    qkv = heads * config["kv_channels"]
    # A tied embedding as large as an untied one would have every token follow itself.
    scale = 1.0 if tied else 8.0
    weights = {"transformer.wte.weight": random(config["vocab_size"], width, scale=scale)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"transformer.h.{layer}"
        weights |= {
            f"{prefix}.ln_1.weight": norm(width),
            f"{prefix}.attn.c_attn.weight": random(qkv, width, scale=2.0),
            f"{prefix}.attn.c_attn.bias": random(qkv),
            f"{prefix}.attn.c_proj.weight": random(width, width),
            f"{prefix}.ln_2.weight": norm(width),
            f"{prefix}.mlp.w1.weight": random(half, width),
            f"{prefix}.mlp.w2.weight": random(half, width),
            f"{prefix}.mlp.c_proj.weight": random(width, half),
        }
    weights["transformer.ln_f.weight"] = norm(width)
    if not tied:
        weights["lm_head.weight"] = random(config["vocab_size"], width)
    return weights | _audio_weights(config["audio"], width, random, norm)


def _audio_weights(audio: dict[str, Any], width: int, random: Any, norm: Any) -> dict[str, Tensor]:
    state = audio["n_state"]
    prefix = "transformer.audio"
    weights = {
        f"{prefix}.conv1.weight": random(state, audio["n_mels"], 3, scale=0.5),
        f"{prefix}.conv1.bias": random(state),
        f"{prefix}.conv2.weight": random(state, state, 3, scale=0.5),
        f"{prefix}.conv2.bias": random(state),
        f"{prefix}.positional_embedding": random(audio["n_ctx"], state),
        f"{prefix}.ln_post.weight": norm(state),
        f"{prefix}.ln_post.bias": random(state),
        f"{prefix}.proj.weight": random(width, state),
        f"{prefix}.proj.bias": random(width),
        f"{prefix}.audio_bos_eos_token.weight": random(2, width, scale=8.0),
    }
    for layer in range(audio["n_layer"]):
        block = f"{prefix}.blocks.{layer}"
        for name in ("query", "key", "value", "out"):
            weights[f"{block}.attn.{name}.weight"] = random(state, state, scale=2.0)
            if name != "key":
                weights[f"{block}.attn.{name}.bias"] = random(state)
        for name in ("attn_ln", "mlp_ln"):
            weights[f"{block}.{name}.weight"] = norm(state)
            weights[f"{block}.{name}.bias"] = random(state)
        weights[f"{block}.mlp.0.weight"] = random(4 * state, state)
        weights[f"{block}.mlp.0.bias"] = random(4 * state)
        weights[f"{block}.mlp.2.weight"] = random(state, 4 * state)
        weights[f"{block}.mlp.2.bias"] = random(state)
    return weights


def _write_shards(directory: Path, weights: dict[str, Tensor]) -> None:
    names = list(weights)
    places: dict[str, str] = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, directory / shard, {"format": "pt"})
        places |= dict.fromkeys(part, shard)
    size = sum(tensor.nbytes for tensor in weights.values())
    _write(directory / INDEX, {"metadata": {"total_size": size}, "weight_map": places})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))
