import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_audio_cli.errors import UsageError
from qwen_audio_cli.languages import ALIASES, LANGUAGES, resolve


def test_the_table_is_that_of_whisper() -> None:
    whisper = pytest.importorskip("transformers.models.whisper.tokenization_whisper")
    assert dict(LANGUAGES) == whisper.LANGUAGES
    assert list(LANGUAGES) == list(whisper.LANGUAGES)
    names = {name: code for code, name in LANGUAGES.items()}
    assert names | dict(ALIASES) == whisper.TO_LANGUAGE_CODE


@pytest.mark.parametrize(
    ("given_name", "code"),
    [
        ("French", "fr"),
        ("fr", "fr"),
        ("FR", "fr"),
        (" german ", "de"),
        ("Mandarin", "zh"),
        ("Flemish", "nl"),
        ("Haitian Creole", "ht"),
        ("cantonese", "yue"),
        ("HAW", "haw"),
    ],
)
def test_a_language_may_be_a_code_a_name_or_an_alias(given_name: str, code: str) -> None:
    assert resolve(given_name) == code


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("frensh", r"french \(fr\)"),
        ("Portugese", r"portuguese \(pt\)"),
        ("moldovian", r"did you mean romanian \(ro\)"),
        ("qqqqqq", "a code such as 'en'"),
        ("", "a code such as 'en'"),
    ],
)
def test_an_unknown_language_names_the_nearest(wrong: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        resolve(wrong)


@given(st.text(max_size=20))
def test_whatever_is_typed_gives_a_known_code_or_a_usage_error(text: str) -> None:
    try:
        assert resolve(text) in LANGUAGES
    except UsageError as error:
        assert text in str(error)
