"""Small tokenizers in the layouts of the real ones, for the checkpoints of `tiny_transformers`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import Qwen2Tokenizer

FIRST_ADDED = 490
ADDED_2 = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|audio_eos|>", "<|box_0|>",
    "<|box_1|>", "<|box_2|>", "<|box_3|>", "<|box_4|>", "<|AUDIO|>",
)  # fmt: skip
ADDED_3 = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>",
    "<asr_text>", "<timestamp>", "<|box_2|>", "<|box_3|>", "<|box_4|>", "<|audio_pad|>",
)  # fmt: skip
"""What Qwen2-Audio and Qwen2.5-Omni, and what later models add; audio is 500 in both."""

TEXTS = (
    "system\nYou are a helpful assistant. user\nTranscribe the English audio into text.",
    "assistant\nlanguage Englishlanguage Chinese Detect the language and recognize the speech:",
    "Qui dit ça ? Personne. 你好 你没事吧 Ничего не слышно.",
)


@cache
def _trained() -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=FIRST_ADDED, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def library(added: tuple[str, ...]) -> Qwen2Tokenizer:
    """The library's own tokenizer, `added` from id 490 on."""
    model = json.loads(_trained().to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        eos_token=None,
        pad_token=None,
        unk_token=None,
    )
    spare = FIRST_ADDED - len(tokenizer)
    tokenizer.add_tokens([f"<|spare_{n}|>" for n in range(spare)], special_tokens=True)
    tokenizer.add_tokens(list(added), special_tokens=True)
    assert tokenizer.convert_tokens_to_ids(added[-1]) == FIRST_ADDED + len(added) - 1
    return tokenizer


def write(directory: Path, added: tuple[str, ...], *, whole: bool) -> Path:
    """Write it into a checkpoint: as one `tokenizer.json`, or as vocabulary and merges apart."""
    tokenizer = library(added)
    if whole:
        tokenizer.save_pretrained(directory)
        return directory
    tokenizer.backend_tokenizer.model.save(str(directory))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {
            str(id): {"content": token.content, "special": True}
            for id, token in tokenizer.added_tokens_decoder.items()
        },
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory
