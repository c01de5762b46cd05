import contextlib
import hashlib
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.languages import LANGUAGES
from qwen_audio_cli.tags import (
    AUDIO_LANGUAGES,
    FIRST_SPECIAL_ID,
    INSTRUCTIONS,
    PHASE_OF,
    SPECIAL_TOKENS,
    TEXT_LANGUAGES,
    TagSequence,
    neutralise,
    text_language,
)

# Ids by the original tokenizer (QWEN_AUDIO.md 3.7), prompts by its evaluation scripts (7.1).
GOLDEN = {
    "<|startoftranscript|><|en|><|transcribe|><|en|><|notimestamps|><|wo_itn|>": (
        [151852, 151859, 151855, 151859, 151868, 154877],
        TagSequence("startoftranscript", "en", "transcribe", "en", instruction="wo_itn"),
    ),
    "<|startoftranscript|><|zh|><|transcribe|><|zh|><|notimestamps|><|wo_itn|>": (
        [151852, 151860, 151855, 151860, 151868, 154877],
        TagSequence("startoftranscript", "zh", "transcribe", "zh", instruction="wo_itn"),
    ),
    "<|startoftranscript|><|en|><|translate|><|zh|><|notimestamps|><|itn|>": (
        [151852, 151859, 151854, 151860, 151868, 154876],
        TagSequence("startoftranscript", "en", "translate", "zh", instruction="itn"),
    ),
    "<|startoftranscript|><|zh|><|transcribe|><|zh|><|timestamps|><|0.00|>": (
        [151852, 151860, 151855, 151860, 151870, 151871],
        TagSequence("startoftranscript", "zh", "transcribe", "zh", timestamps=True),
    ),
    "<|startofanalysis|><|unknown|><|caption|><|en|><|notimestamps|><|caption_clotho|>": (
        [151853, 151858, 151856, 151859, 151868, 154873],
        TagSequence("startofanalysis", "unknown", "caption", "en", instruction="caption_clotho"),
    ),
    "<|startofanalysis|><|unknown|><|caption|><|en|><|notimestamps|><|caption_audiocaps|>": (
        [151853, 151858, 151856, 151859, 151868, 154872],
        TagSequence("startofanalysis", "unknown", "caption", "en", instruction="caption_audiocaps"),
    ),
    "<|startofanalysis|><|unknown|><|caption|><|en|><|notimestamps|><|caption_plain|>": (
        [151853, 151858, 151856, 151859, 151868, 154875],
        TagSequence("startofanalysis", "unknown", "caption", "en", instruction="caption_plain"),
    ),
    "<|startofanalysis|><|unknown|><|keyword|><|en|><|notimestamps|><|scene|>": (
        [151853, 151858, 151857, 151859, 151868, 155155],
        TagSequence("startofanalysis", "unknown", "keyword", "en", instruction="scene"),
    ),
    "<|startofanalysis|><|en|><|keyword|><|en|><|notimestamps|><|emotion_recognition|>": (
        [151853, 151859, 151857, 151859, 151868, 154887],
        TagSequence("startofanalysis", "en", "keyword", "en", instruction="emotion_recognition"),
    ),
    "<|startofanalysis|><|en|><|keyword|><|en|><|notimestamps|><|vocal_classification|>": (
        [151853, 151859, 151857, 151859, 151868, 155157],
        TagSequence("startofanalysis", "en", "keyword", "en", instruction="vocal_classification"),
    ),
    "<|startofanalysis|><|unknown|><|keyword|><|en|><|notimestamps|><|note_analysis|>": (
        [151853, 151858, 151857, 151859, 151868, 154889],
        TagSequence("startofanalysis", "unknown", "keyword", "en", instruction="note_analysis"),
    ),
    "<|startofanalysis|><|en|><|question|>Are there birds?<|answer|>": (
        [151853, 151859, 155152, None, 155153],
        TagSequence("startofanalysis", "en", "question", question="Are there birds?"),
    ),
}


def test_the_special_tokens_are_those_of_the_original_tokenizer() -> None:
    def digest(tokens: tuple[str, ...]) -> str:
        return hashlib.sha256("\n".join(tokens).encode()).hexdigest()

    assert digest(SPECIAL_TOKENS) == (
        "dc9a82126c221457882ebbe2ecd4a5e6433c0bd1ecec174796ecf2eaf9184ac0"
    )
    assert digest(SPECIAL_TOKENS[-3314:]) == (
        "da6f6761b3526256aad690e49a221a0e107944b94307e0ad800e258e9407fb42"
    )
    assert FIRST_SPECIAL_ID + SPECIAL_TOKENS.index("<audio>") == 155163


@pytest.mark.parametrize("text", GOLDEN)
def test_a_sequence_is_spelled_as_in_the_original(text: str) -> None:
    ids, tags = GOLDEN[text]
    assert str(tags) == text
    assert TagSequence.parse(text) == tags
    tokens = {token: FIRST_SPECIAL_ID + n for n, token in enumerate(SPECIAL_TOKENS)}
    assert [tokens.get(piece) for piece in tags.pieces()] == ids
    tags.require_original()


def sequences() -> st.SearchStrategy[TagSequence]:
    """Every kind of sequence the grammar has."""
    languages = st.sampled_from(sorted(LANGUAGES))
    heard = st.one_of(st.just("unknown"), languages)
    written = st.one_of(st.just("zh_tr"), languages)
    untagged = st.text(min_size=1).map(neutralise).filter(str.strip)

    @st.composite
    def draw_sequence(draw: st.DrawFn) -> TagSequence:
        task = draw(st.sampled_from(sorted(PHASE_OF)))
        phase = PHASE_OF[task]
        if task == "question":
            return TagSequence(phase, draw(heard), task, question=draw(untagged))
        transcript = phase == "startoftranscript"
        audio = draw(st.one_of(st.none(), heard) if transcript else heard)
        optional = task == "transcribe" and audio is None
        text = draw(st.one_of(st.none(), written) if optional else written)
        timed = draw(st.booleans())
        last = None if timed and transcript else draw(st.sampled_from(INSTRUCTIONS[task]))
        return TagSequence(phase, audio, task, text, timed, last)

    return draw_sequence()


@given(sequences())
def test_parse_is_the_inverse_of_str(tags: TagSequence) -> None:
    assert TagSequence.parse(str(tags)) == tags
    assert TagSequence.parse(f"  {tags}\n") == tags


@given(sequences())
def test_every_tag_of_a_determined_sequence_is_a_token_or_a_language_it_lacks(
    tags: TagSequence,
) -> None:
    determined = tags if tags.determined else tags.detected("fr")
    lacking = {f"<|{code}|>" for code in LANGUAGES} - set(SPECIAL_TOKENS)
    pieces = set(determined.pieces()) - {determined.question}
    assert pieces <= set(SPECIAL_TOKENS) | lacking
    if pieces & lacking:
        with pytest.raises(UsageError, match="by Qwen-Audio"):
            determined.require_original()
    else:
        determined.require_original()


@given(st.lists(st.sampled_from([*SPECIAL_TOKENS[:1], *SPECIAL_TOKENS[208:240], "x", " "])))
def test_parse_takes_a_text_only_if_str_gives_it_back(parts: list[str]) -> None:
    text = "".join(parts)
    with contextlib.suppress(UsageError):
        assert str(TagSequence.parse(text)) == text.strip()


def test_an_undetermined_language_is_filled_in_by_what_the_model_heard() -> None:
    tags = TagSequence("startoftranscript", None, "transcribe", instruction="wo_itn")
    assert not tags.determined
    assert str(tags) == (
        "<|startoftranscript|><|auto|><|transcribe|><|auto|><|notimestamps|><|wo_itn|>"
    )
    assert "<|auto|>" not in SPECIAL_TOKENS
    with pytest.raises(UsageError, match="auto"):
        tags.require_original()
    assert str(tags.detected("fr")) == (
        "<|startoftranscript|><|fr|><|transcribe|><|fr|><|notimestamps|><|wo_itn|>"
    )
    translation = TagSequence("startoftranscript", None, "translate", "de", instruction="itn")
    assert translation.detected("fr").text_language == "de"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"found the end, expected <\|startoftranscript\|> or <\|startofanalysis\|>"),
        ("transcribe", "found text 'transcribe'"),
        ("<|startoftranscription|><|en|>", r"spelling, <\|startoftranscript\|>"),
        ("<|startoftranscripts|>", r"spelling, <\|startoftranscript\|>"),
        ("<|analysis|><|en|>", r"found <\|analysis\|>, expected <\|startoftranscript\|>"),
        ("<|startofanalysis|><|xx|><|keyword|>", r"found <\|xx\|>, expected an audio language"),
        ("<|startofanalysis|><|zh_tr|><|keyword|>", r"found <\|zh_tr\|>, expected an audio"),
        ("<|startofanalysis|><|auto|><|keyword|>", r"found <\|auto\|>, expected a language"),
        ("<|startofanalysis|><|en|><|grounding|>", r"found <\|grounding\|> after"),
        ("<|startofanalysis|><|en|><|transcribe|>", r"expected <\|caption\|> or <\|keyword\|>"),
        ("<|startoftranscript|><|en|><|caption|>", r"expected <\|transcribe\|> or"),
        ("<|startoftranscript|><|en|>hm<|transcribe|>", "found text 'hm'"),
        ("<|startoftranscript|><|en|><|transcribe|><|unknown|>", "expected a text language"),
        ("<|startoftranscript|><|en|><|transcribe|><|auto|>", "no text language"),
        ("<|startoftranscript|><|en|><|transcribe|><|en|><|sil|>", r"<\|sil\|>, expected <\|times"),
        ("<|startoftranscript|><|en|><|transcribe|><|en|><|timestamps|>", r"the end.*0\.00"),
        (
            "<|startoftranscript|><|en|><|transcribe|><|en|><|timestamps|><|1.00|>",
            r"found <\|1\.00\|>, expected <\|0\.00\|>",
        ),
        (
            "<|startoftranscript|><|en|><|transcribe|><|en|><|notimestamps|><|scene|>",
            r"found <\|scene\|>, expected <\|wo_itn\|> or <\|itn\|>",
        ),
        (
            "<|startoftranscript|><|en|><|transcribe|><|en|><|notimestamps|><|itn|><|itn|>",
            r"found <\|itn\|>, expected the end",
        ),
        ("<|startofanalysis|><|en|><|question|>why?", r"found the end, expected <\|answer\|>"),
        ("<|startofanalysis|><|en|><|question|><|answer|>", "found an empty question"),
        ("<|startofanalysis|><|en|><|question|>a<|en|>b<|answer|>", r"<\|en\|> within"),
        ("<|startofanalysis|><|en|><|question|>a<audio>b<|answer|>", "<audio> within"),
        ("<|startofanalysis|><|en|><|question|>a<|answer|> no", "found text ' no', expected the"),
    ],
)
def test_an_error_names_what_was_found_and_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TagSequence.parse(text)


def test_a_sequence_outside_the_grammar_cannot_be_built() -> None:
    with pytest.raises(UsageError, match="no output instruction"):
        TagSequence("startoftranscript", "en", "transcribe", "en")
    with pytest.raises(UsageError, match=r"0\.00"):
        TagSequence("startoftranscript", "en", "transcribe", "en", True, "0.00")
    with pytest.raises(UsageError, match="itn"):
        TagSequence("startoftranscript", "en", "transcribe", "en", True, "itn")
    with pytest.raises(UsageError, match="question only"):
        TagSequence("startofanalysis", "en", "question", "en", question="why?")
    with pytest.raises(UsageError, match="a question after"):
        TagSequence("startofanalysis", "en", "caption", "en", False, "caption_plain", "why?")


# Pieces of tags, so that random text is full of broken, nested and repeated ones.
TAG_LIKE = st.lists(
    st.sampled_from(
        [
            *"<|>[]/: a\n",
            *("<|", "|>", "<|en|>", "<|answer|>", "<|im_start|>", "<audio>", "</audio>", "audio"),
            *("[[[AUDIO:modality]]]", "AUDIO:modality", "0.00", "\u0338", "\u212a"),
        ]
    ),
    max_size=12,
).map("".join)


@given(st.one_of(TAG_LIKE, st.text()))
@example("<|<|en|>en|>")
@example("<<|en|>|en|>")
@example("[[[[AUDIO:modality]]]]")
def test_a_neutralised_text_holds_no_token_and_stays_as_it_is(text: str) -> None:
    plain = neutralise(text)
    assert not [token for token in SPECIAL_TOKENS if token in unicodedata.normalize("NFC", plain)]
    assert neutralise(plain) == plain
    # Nothing is lost but the join of what made a tag.
    assert plain.replace(" ", "") == unicodedata.normalize("NFC", text).replace(" ", "")


def test_plain_questions_are_left_alone() -> None:
    question = "Is 3 < 4 |> true, and what is <b>bold</b>? été [[AUDIO]]"
    assert neutralise(question) == question


def test_languages_to_write_include_traditional_chinese() -> None:
    assert text_language("zh_tr") == text_language("Traditional Chinese") == "zh_tr"
    assert text_language("German") == "de"
    assert set(AUDIO_LANGUAGES) < set(LANGUAGES)
    assert {*TEXT_LANGUAGES} - {*AUDIO_LANGUAGES} == {"zh_tr"}
    with pytest.raises(UsageError, match="unknown language"):
        text_language("traditional")
