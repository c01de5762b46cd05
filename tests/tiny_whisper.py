"""Tiny random Whisper checkpoints in the layouts that are published, mostly as transformers saves.

Importing this needs transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from qwen_audio_cli.models import WEIGHTS

PUBLISHED = json.loads((WEIGHTS / "whisper-base" / "tokenizer.json").read_text(encoding="utf-8"))
TAGS = [token["content"] for token in PUBLISHED["added_tokens"]]
TIMES = [f"<|{number / 50:.2f}|>" for number in range(1501)]
TEACHERS_HEADS = [[0, 1], [7, 0], [25, 1]]


@dataclass(frozen=True)
class Vocabulary:
    """Pieces of text in the order of their ids, and the tags behind them."""

    pieces: dict[str, int]
    tags: dict[str, int]

    @property
    def merges(self) -> list[list[str]]:
        merges = PUBLISHED["model"]["merges"]
        return [pair for pair in merges if "".join(pair) in self.pieces]

    @property
    def size(self) -> int:
        return len(self.pieces) + len(self.tags)

    def ids(self, *names: str) -> list[int]:
        return [self.tags[f"<|{name}|>"] for name in names]


@cache
def vocabulary(kind: str) -> Vocabulary:
    """The numbering of openai/whisper-base, of -large-v3 (one language more) or of -base.en."""
    pieces = [piece for piece in PUBLISHED["model"]["vocab"] if piece not in TAGS]
    tags = [*TAGS, *TIMES]
    if kind == "large-v3":
        tags.insert(tags.index("<|su|>") + 1, "<|yue|>")
        tags[tags.index("<|nocaptions|>")] = "<|nospeech|>"
    elif kind == "english":
        pieces.pop()
    numbered = {piece: id for id, piece in enumerate(pieces)}
    return Vocabulary(numbered, {tag: id for id, tag in enumerate(tags, len(pieces))})


def tiny(words: Vocabulary, **geometry: Any) -> Any:
    """A random Whisper of transformers, whose scores all of its weights matter to."""
    config = transformers.WhisperConfig(
        **{"vocab_size": words.size, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2}
        | {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        | {"encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
        | geometry
    )
    model = transformers.WhisperForConditionalGeneration(config)
    random = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        scale = 2.5 * weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.2
        scale = {"embed_tokens": 0.3, "embed_positions": 1.0}.get(name.split(".")[-2], scale)
        whole = 1.0 if name.endswith("norm.weight") else 0.0
        weight.data = whole + scale * torch.randn(weight.shape, generator=random)
    model.generation_config = generation(words)
    return model.eval()


def generation(words: Vocabulary, **facts: Any) -> Any:
    """The facts of a published `generation_config.json`, with every tag but the end suppressed."""
    start, end = words.ids("startoftranscript", "endoftext")
    muted = [id for id in words.tags.values() if id != end]
    known: dict[str, Any] = {
        "suppress_tokens": [1, 2, 7, *muted],
        "begin_suppress_tokens": [220, end],
        "decoder_start_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
        "max_length": 448,
        "no_timestamps_token_id": words.tags["<|notimestamps|>"],
        "is_multilingual": words is not vocabulary("english"),
    }
    if known["is_multilingual"]:
        first, last = words.tags["<|en|>"], words.tags["<|translate|>"]
        known["lang_to_id"] = {tag: id for tag, id in words.tags.items() if first <= id < last}
        known["task_to_id"] = dict(zip(("transcribe", "translate"), (last + 1, last), strict=True))
    return transformers.GenerationConfig(**known | facts)


def tokenizer(words: Vocabulary, *, times: bool = True) -> Any:
    """transformers' tokenizer of a vocabulary."""
    backend = json.loads(json.dumps(PUBLISHED))
    tags = {tag: id for tag, id in words.tags.items() if times or tag not in TIMES}
    backend["model"] |= {"vocab": words.pieces, "merges": words.merges}
    backend["added_tokens"] = [
        PUBLISHED["added_tokens"][0] | {"id": id, "content": tag} for tag, id in tags.items()
    ]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend))
    )


def write(path: Path, content: Any) -> None:
    path.unlink(missing_ok=True)  # it may be a second name of a file that others have
    path.write_text(json.dumps(content) if not isinstance(content, str) else content)


def files(directory: Path, words: Vocabulary, added: dict[str, Any]) -> None:
    """The vocabulary as it was published before there was a `tokenizer.json`."""
    write(directory / "vocab.json", words.pieces)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in words.merges)]
    write(directory / "merges.txt", "\n".join(lines) + "\n")
    for name, content in added.items():
        write(directory / name, content)


def newest(directory: Path) -> None:
    """What transformers saves today, the front end within `processor_config.json`."""
    words = vocabulary("base")
    tiny(words).save_pretrained(directory)
    backend = tokenizer(words)
    backend.save_pretrained(directory)
    loaded = transformers.WhisperTokenizer.from_pretrained(directory)
    extractor = transformers.WhisperFeatureExtractor()
    transformers.WhisperProcessor(extractor, loaded).save_pretrained(directory)
    assert (directory / "processor_config.json").is_file()


def turbo(directory: Path) -> None:
    """As large-v3-turbo: 128 mels, a shallow decoder, 16 bits; here in shards with an index."""
    words = vocabulary("large-v3")
    model = tiny(words, num_mel_bins=128, encoder_layers=5, decoder_layers=1)
    model.half().save_pretrained(directory, max_shard_size="1MB")
    assert len(list(directory.glob("*.safetensors"))) > 1
    transformers.WhisperFeatureExtractor(feature_size=128).save_pretrained(directory)
    tokenizer(words).save_pretrained(directory)


def distilled(directory: Path) -> None:
    """As distil-whisper: two layers that list their teacher's heads; weights in two precisions."""
    words = vocabulary("large-v3")
    model = tiny(words, encoder_layers=4)
    model.generation_config = generation(words, alignment_heads=TEACHERS_HEADS)
    model.save_pretrained(directory)
    weights = load_file(directory / "model.safetensors")
    save_file(
        {name: tensor + 1 for name, tensor in weights.items()},
        directory / "model.fp32-1.safetensors",
    )
    tokenizer(words).save_pretrained(directory)


def english(directory: Path) -> None:
    """As the .en checkpoints: one token less, tags of languages that nothing was trained for."""
    words = vocabulary("english")
    model = tiny(words)
    model.save_pretrained(directory)
    tokenizer(words).save_pretrained(directory)


def oldest(directory: Path) -> None:
    """As first converted: no `generation_config.json`, no times among the tags, an untied copy."""
    words = vocabulary("base")
    model = tiny(words)
    facts = model.generation_config.to_dict()
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink()
    config = json.loads((directory / "config.json").read_text())
    keys = ("suppress_tokens", "begin_suppress_tokens", "eos_token_id", "decoder_start_token_id")
    write(directory / "config.json", config | {key: facts[key] for key in keys})
    weights = load_file(directory / "model.safetensors")
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"].clone()
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    added = {tag: id for tag, id in words.tags.items() if tag not in TIMES}
    files(directory, words, {"added_tokens.json": added})


def listed(directory: Path) -> None:
    """English-only by its size alone, its tags listed in `tokenizer_config.json`."""
    words = vocabulary("english")
    tiny(words).save_pretrained(directory)
    (directory / "generation_config.json").unlink()
    config = json.loads((directory / "config.json").read_text())
    suppressed = generation(words).suppress_tokens
    end = words.tags["<|endoftext|>"]
    config |= {"suppress_tokens": suppressed, "begin_suppress_tokens": [220, end]}
    write(directory / "config.json", config)
    tags = {str(id): {"content": tag, "special": True} for tag, id in words.tags.items()}
    files(directory, words, {"tokenizer_config.json": {"added_tokens_decoder": tags}})


def bare(directory: Path) -> None:
    """Saved without the head: no `model.` before the names."""
    words = vocabulary("base")
    model = tiny(words)
    model.model.save_pretrained(directory)
    model.generation_config.save_pretrained(directory)
    tokenizer(words, times=False).save_pretrained(directory)


def short(directory: Path) -> None:
    """A window of 15 s, and answers of at most 64 tokens."""
    words = vocabulary("base")
    tiny(words, max_source_positions=750, max_target_positions=128).save_pretrained(directory)
    tokenizer(words).save_pretrained(directory)
    transformers.WhisperFeatureExtractor(chunk_length=15).save_pretrained(directory)


LAYOUTS: dict[str, tuple[Callable[[Path], None], str]] = {
    writer.__name__: (writer, words)
    for writer, words in (
        (newest, "base"),
        (turbo, "large-v3"),
        (distilled, "large-v3"),
        (english, "english"),
        (oldest, "base"),
        (listed, "english"),
        (bare, "base"),
        (short, "base"),
    )
}
