"""Mini's tokenizer against the rules of SmolLM2's, and its tags against the grammar."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_audio_cli.errors import ConfigError, UsageError
from qwen_audio_cli.families.mini_tokenizer import LANGUAGES, MiniTokenizer, mini_tags
from qwen_audio_cli.families.qwen_prompt import NOTE_TAGS, answer_tokens
from qwen_audio_cli.tags import INSTRUCTIONS, SPECIAL_TOKENS, TagSequence
from qwen_audio_cli.tasks import TASKS

pytest.importorskip("gguf", reason="gguf, of the extra 'train', is not installed")
pytest.importorskip("regex", reason="regex, for the reference, is not installed")
import regex
import tiny_mini
from tiny_mini import NEEDS_WHEEL, Built


@pytest.fixture(scope="module", params=["tiny", pytest.param("real", marks=NEEDS_WHEEL)])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    make = tiny_mini.tiny if request.param == "tiny" else tiny_mini.real
    return make(tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def tokenizer(built: Built) -> MiniTokenizer:
    return MiniTokenizer.read(built.directory)


def spelling() -> dict[int, str]:
    """GPT-2's character for each byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {
        byte: chr(256 + place) for place, byte in enumerate(hidden)
    }


def slow_bpe(text: str, tokens: dict[str, int], merges: list[tuple[str, str]]) -> list[int]:
    """The ids of a text by the rules of llama.cpp's `smollm`: digits one by one, then GPT-2's."""
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    words = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    characters, ids = spelling(), []
    for part in regex.split(r"(\p{N})", text):
        for word in regex.findall(words, part):
            pieces = [characters[byte] for byte in word.encode()]
            while pairs := [pair for pair in pairwise(pieces) if pair in ranks]:
                best = min(pairs, key=ranks.__getitem__)
                joined, place = [], 0
                while place < len(pieces):
                    found = tuple(pieces[place : place + 2]) == best
                    joined.append("".join(best) if found else pieces[place])
                    place += 1 + found
                pieces = joined
            ids += [tokens[piece] for piece in pieces if piece in tokens]
    return ids


PARTS = [
    *tiny_mini.TEXT,
    "it's 12\u00bd ",
    "\n\n ",
    "<|en|>",
    "na\u00efve \u4f60\u597d",
    " ",
    "<|endoftext|>",
]


@given(text=st.text() | st.lists(st.sampled_from(PARTS)).map("".join))
@settings(deadline=None)
def test_text_is_cut_by_the_rules_of_smollm2_and_comes_back(
    built: Built, tokenizer: MiniTokenizer, text: str
) -> None:
    ids = tokenizer.encode(text)
    assert ids == slow_bpe(text, *built.bpe)
    if all(spelling()[byte] in built.bpe[0] for byte in text.encode()):
        assert tokenizer.decode(ids) == text
    assert all(tokenizer.is_text(id) for id in ids)


def test_what_has_no_token_is_no_character(built: Built) -> None:
    """Of the bytes of UTF-8, those of control characters and of planes that nothing is in."""
    characters, (tokens, _) = spelling(), built.bpe
    lacking = {byte for byte in range(256) if characters[byte] not in tokens}
    assert lacking <= {*range(0x20), 0x7F, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)}


def test_digits_stand_alone_though_they_could_merge(tokenizer: MiniTokenizer) -> None:
    assert len(tokenizer.encode("2023")) == 4


def test_every_tag_has_an_id_behind_the_text(built: Built, tokenizer: MiniTokenizer) -> None:
    tokens, _ = built.bpe
    assert list(tokenizer.tags.values()) == list(range(len(tokens), len(tokenizer)))
    assert len(mini_tags()) == 1063 and len(set(mini_tags())) == 1063
    languages = {f"<|{code}|>" for code in LANGUAGES}
    assert set(mini_tags()) - languages < set(SPECIAL_TOKENS)
    assert not languages & set(tokens)


def test_all_that_the_grammar_can_say_has_its_tags(tokenizer: MiniTokenizer) -> None:
    for code in (*LANGUAGES, "unknown"):
        for tag, instructions in INSTRUCTIONS.items():
            phase = "startoftranscript" if tag[:5] == "trans" else "startofanalysis"
            for instruction in instructions:
                tags = TagSequence(phase, code, tag, "en", False, instruction)
                ids = tokenizer.encode_tags(tags)
                assert tokenizer.decode(ids, tags=True) == str(tags)
                assert tokenizer.decode(ids) == "" and len(ids) == 6
    for task in TASKS.values():
        if task.name in NOTE_TAGS:
            assert NOTE_TAGS[task.name] in tokenizer.special
    assert {f"<|midi_pitch_{n}|>" for n in range(128)} < tokenizer.special.keys()


def test_a_question_is_text_between_tags(tokenizer: MiniTokenizer) -> None:
    tags = TASKS["audio-qa"].tags(language="en", question="Is it <|en| > 2?")
    ids = tokenizer.encode_tags(tags)
    assert tokenizer.decode(ids, tags=True) == str(tags)
    assert tokenizer.decode(ids) == tags.question


def test_a_language_without_voices_is_refused(tokenizer: MiniTokenizer) -> None:
    with pytest.raises(UsageError, match=r"found <\|de\|>, expected a language of mini: en, es"):
        tokenizer.encode_tags(TASKS["asr"].tags(language="de"))


@given(hundredths=st.integers(0, 3000))
def test_a_time_is_that_of_the_nearest_tag(tokenizer: MiniTokenizer, hundredths: int) -> None:
    (id,) = answer_tokens(tokenizer, f"<|{hundredths / 100:.2f}|>")[:1]
    time = tokenizer.time(id)
    assert time is not None and abs(time - hundredths / 100) <= 0.02 + 1e-9
    assert tokenizer.decode([id], tags=True) == f"<|{time:.2f}|>"


def test_times_are_a_row_of_audio_apart(tokenizer: MiniTokenizer) -> None:
    times = [time for id in range(len(tokenizer)) if (time := tokenizer.time(id)) is not None]
    assert times == [pytest.approx(0.04 * n) for n in range(751)]
    assert tokenizer.time(tokenizer.special["<|en|>"]) is None


def test_a_tokenizer_without_the_tags_is_refused(tokenizer: MiniTokenizer) -> None:
    lacking = {tag: id for tag, id in tokenizer.special.items() if tag != "<|scene|>"}
    with pytest.raises(ConfigError, match=r"no <\|scene\|>"):
        MiniTokenizer(tokenizer._bpe, lacking)
