from __future__ import annotations

import base64
import hashlib
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from hypothesis import given
from hypothesis import strategies as st
from real_vocabulary import PATH, needs_real
from tokenizers import Regex, pre_tokenizers

from qwen_audio_cli.errors import ConfigError, UsageError
from qwen_audio_cli.families.qwen_tokenizer import QwenTokenizer
from qwen_audio_cli.tags import SPECIAL_TOKENS, TagSequence
from qwen_audio_cli.tasks import TASKS

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RANKS = tiny_checkpoints.ranks()
TINY = QwenTokenizer(RANKS)
# Letters the vocabulary has merges for, marks of every class of the pattern, odd characters.
TEXTS = st.text(
    st.sampled_from("theinandgis audioaoT'sS's1½ \t\r\n.,<|>[]é你好か👍\u0301\u00a0\u017f")
) | st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def real() -> QwenTokenizer:
    assert PATH
    return QwenTokenizer.read(PATH)


def plain_bpe(text: str) -> list[int]:
    """Byte-pair encoding by its definition: join the pair of lowest rank, the leftmost first."""
    rank_of = {piece: rank for rank, piece in enumerate(RANKS)}
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    ids: list[int] = []
    for word, _ in split.pre_tokenize_str(unicodedata.normalize("NFC", text)):
        parts = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [rank_of.get(a + b) for a, b in pairwise(parts)]
            known = [rank for rank in pairs if rank is not None]
            if not known:
                break
            at = pairs.index(min(known))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [rank_of[part] for part in parts]
    return ids


@given(text=TEXTS)
def test_a_tiny_vocabulary_encodes_as_plain_byte_pair_encoding(text: str) -> None:
    ids = TINY.encode(text)
    assert ids == plain_bpe(text)
    assert TINY.decode(ids) == unicodedata.normalize("NFC", text)


def test_merges_are_used() -> None:
    pieces = [TINY.decode([id]) for id in TINY.encode("the audio and the thing 你你")]
    assert "|".join(pieces) == "the| a|u|dio| |and| the| |th|ing| |你|你"


@pytest.mark.parametrize("tag", ["<|endoftext|>", "<|en|>", "<audio>", "[[[AUDIO:modality]]]"])
def test_tags_in_a_text_are_text(tag: str) -> None:
    ids = TINY.encode(f"a{tag}b")
    assert all(TINY.is_text(id) for id in ids)
    assert TINY.decode(ids) == f"a{tag}b"


def test_special_tokens_follow_the_ranks_in_the_originals_order() -> None:
    assert [TINY.special[token] for token in SPECIAL_TOKENS] == list(
        range(len(RANKS), len(RANKS) + 3522)
    )
    assert len(TINY) == len(RANKS) + 3522


def test_tags_are_one_id_each_and_a_question_is_text() -> None:
    special = TINY.special
    tags = TASKS["audio-qa"].tags(question="is it <|en|>?")
    question = TINY.encode("is it < |en|>?")
    assert TINY.encode_tags(tags) == [
        special["<|startofanalysis|>"],
        special["<|en|>"],
        special["<|question|>"],
        *question,
        special["<|answer|>"],
    ]
    assert all(TINY.is_text(id) for id in question)


@pytest.mark.parametrize("tags", [TASKS["asr"].tags(language="ru"), TASKS["asr"].tags()])
def test_a_sequence_without_tokens_is_refused(tags: TagSequence) -> None:
    with pytest.raises(UsageError, match=r"<\|ru\|>|<\|auto\|>"):
        TINY.encode_tags(tags)


def test_decoding_with_and_without_tags_and_ids_without_a_token() -> None:
    tags = [TINY.special[tag] for tag in ("<|0.00|>", "<|sil|>", "<|0.54|>")]
    ids = [*tags, *TINY.encode("the"), len(TINY), len(TINY) + 12]
    assert TINY.decode(ids, tags=True) == "<|0.00|><|sil|><|0.54|>the"
    assert TINY.decode(ids) == "the"
    half = TINY.encode("é")[:1]
    assert TINY.decode(half) == "\ufffd"


def test_timestamps() -> None:
    assert TINY.time(TINY.special["<|0.00|>"]) == 0.0
    assert TINY.time(TINY.special["<|2.33|>"]) == 2.33
    assert TINY.time(TINY.special["<|30.00|>"]) == 30.0
    assert TINY.time(TINY.special["<|timestamps|>"]) is None
    assert TINY.time(TINY.special["<|caption_audiocaps|>"]) is None


def test_reading_gives_the_vocabulary_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "qwen.tiktoken"
    tiny_checkpoints.write_ranks(path, RANKS)
    tokenizer = QwenTokenizer.read(path)
    assert [tokenizer.decode([id]).encode() for id in range(0x5E)] == RANKS[:0x5E]
    assert tokenizer.encode("thing") == plain_bpe("thing")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("not a tiktoken file", "too many values|expected 2"),
        ("a!== 0\n", "base64|character|padding|data"),
        (
            "\n".join(f"{base64.b64encode(p).decode()} {r + 1}" for r, p in enumerate(RANKS)),
            "ranks",
        ),
        ("\n".join(f"{base64.b64encode(p).decode()} 0" for p in RANKS), "ranks"),
        (f"{base64.b64encode(b'a').decode()} 0", "no rank for byte 0x00"),
        ("\xff\xfe", "unpack|expected 2"),
    ],
)
def test_a_damaged_vocabulary_is_a_configuration_error(
    tmp_path: Path, content: str, reason: str
) -> None:
    path = tmp_path / "qwen.tiktoken"
    path.write_text(content)
    with pytest.raises(ConfigError, match=rf"qwen\.tiktoken: .*({reason})"):
        QwenTokenizer.read(path)
    with pytest.raises(ConfigError, match=r"elsewhere"):
        QwenTokenizer.read(tmp_path / "elsewhere")


# Ids of the original's own tokenizer (QwenLM/Qwen-Audio, `tokenization_qwen.py`).
GOLDEN_TAGS = [
    (TASKS["asr"].tags(language="en"), [151852, 151859, 151855, 151859, 151868, 154877]),
    (TASKS["asr"].tags(language="zh"), [151852, 151860, 151855, 151860, 151868, 154877]),
    (
        TASKS["translation"].tags(language="en", target="zh"),
        [151852, 151859, 151854, 151860, 151868, 154876],
    ),
    (TASKS["word-times"].tags(language="zh"), [151852, 151860, 151855, 151860, 151870, 151871]),
    (TASKS["audio-caption"].tags(), [151853, 151858, 151856, 151859, 151868, 154873]),
    (
        TASKS["audio-caption"].tags(instruction="caption_audiocaps"),
        [151853, 151858, 151856, 151859, 151868, 154872],
    ),
    (
        TASKS["audio-caption"].tags(instruction="caption_plain"),
        [151853, 151858, 151856, 151859, 151868, 154875],
    ),
    (TASKS["scene"].tags(), [151853, 151858, 151857, 151859, 151868, 155155]),
    (TASKS["emotion"].tags(), [151853, 151859, 151857, 151859, 151868, 154887]),
    (TASKS["vocal-sound"].tags(), [151853, 151859, 151857, 151859, 151868, 155157]),
    (TASKS["note"].tags(), [151853, 151858, 151857, 151859, 151868, 154889]),
    (
        TASKS["audio-qa"].tags(question="Are there birds?"),
        [151853, 151859, 155152, 11526, 1052, 19654, 30, 155153],
    ),
]


@needs_real
@pytest.mark.parametrize(("tags", "ids"), GOLDEN_TAGS, ids=lambda value: str(value)[:60])
def test_golden_ids_of_tags(real: QwenTokenizer, tags: TagSequence, ids: list[int]) -> None:
    assert real.encode_tags(tags) == ids


@needs_real
def test_golden_ids_of_texts(real: QwenTokenizer) -> None:
    assert real.encode("Audio 1:") == [14755, 220, 16, 25]
    assert real.encode("Audio 1: ") == [14755, 220, 16, 25, 220]
    assert real.encode("<|startoftranscription|>") == [27, 91, 2468, 1055, 1458, 1453, 91, 29]
    assert len(real) == 155_165
    by_id = sorted(real.special, key=real.special.__getitem__)
    assert hashlib.sha256("\n".join(by_id).encode()).hexdigest() == (
        "dc9a82126c221457882ebbe2ecd4a5e6433c0bd1ecec174796ecf2eaf9184ac0"
    )


@pytest.fixture(scope="module")
def encoding() -> Any:
    """The same vocabulary in tiktoken, which the original runs on."""
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed")
    assert PATH
    lines = (line.split() for line in PATH.read_bytes().splitlines())
    ranks = {base64.b64decode(piece): int(rank) for piece, rank in lines}
    return tiktoken.Encoding("qwen", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


@needs_real
@given(text=TEXTS)
def test_the_real_vocabulary_encodes_as_tiktoken(
    real: QwenTokenizer, encoding: Any, text: str
) -> None:
    normal = unicodedata.normalize("NFC", text)
    assert real.encode(text) == encoding.encode_ordinary(normal)
    assert real.decode(real.encode(text)) == normal
