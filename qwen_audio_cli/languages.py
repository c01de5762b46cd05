"""Languages: the one table of codes and English names, and how a user may spell them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from .errors import UsageError

# The 99 languages of openai/whisper in the order of its tokens, and Cantonese (large-v3).
# fmt: off
LANGUAGES: Mapping[str, str] = MappingProxyType({
    "en": "english", "zh": "chinese", "de": "german", "es": "spanish", "ru": "russian",
    "ko": "korean", "fr": "french", "ja": "japanese", "pt": "portuguese", "tr": "turkish",
    "pl": "polish", "ca": "catalan", "nl": "dutch", "ar": "arabic", "sv": "swedish",
    "it": "italian", "id": "indonesian", "hi": "hindi", "fi": "finnish", "vi": "vietnamese",
    "he": "hebrew", "uk": "ukrainian", "el": "greek", "ms": "malay", "cs": "czech",
    "ro": "romanian", "da": "danish", "hu": "hungarian", "ta": "tamil", "no": "norwegian",
    "th": "thai", "ur": "urdu", "hr": "croatian", "bg": "bulgarian", "lt": "lithuanian",
    "la": "latin", "mi": "maori", "ml": "malayalam", "cy": "welsh", "sk": "slovak", "te": "telugu",
    "fa": "persian", "lv": "latvian", "bn": "bengali", "sr": "serbian", "az": "azerbaijani",
    "sl": "slovenian", "kn": "kannada", "et": "estonian", "mk": "macedonian", "br": "breton",
    "eu": "basque", "is": "icelandic", "hy": "armenian", "ne": "nepali", "mn": "mongolian",
    "bs": "bosnian", "kk": "kazakh", "sq": "albanian", "sw": "swahili", "gl": "galician",
    "mr": "marathi", "pa": "punjabi", "si": "sinhala", "km": "khmer", "sn": "shona", "yo": "yoruba",
    "so": "somali", "af": "afrikaans", "oc": "occitan", "ka": "georgian", "be": "belarusian",
    "tg": "tajik", "sd": "sindhi", "gu": "gujarati", "am": "amharic", "yi": "yiddish", "lo": "lao",
    "uz": "uzbek", "fo": "faroese", "ht": "haitian creole", "ps": "pashto", "tk": "turkmen",
    "nn": "nynorsk", "mt": "maltese", "sa": "sanskrit", "lb": "luxembourgish", "my": "myanmar",
    "bo": "tibetan", "tl": "tagalog", "mg": "malagasy", "as": "assamese", "tt": "tatar",
    "haw": "hawaiian", "ln": "lingala", "ha": "hausa", "ba": "bashkir", "jw": "javanese",
    "su": "sundanese", "yue": "cantonese",
})
# fmt: on
"""Code -> English name in lower case; codes are Whisper's (mostly ISO 639-1)."""

UNSPACED: frozenset[str] = frozenset({"zh", "ja", "th", "lo", "my", "km", "bo", "yue"})
"""Languages written without spaces between words."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "burmese": "my",
        "castilian": "es",
        "flemish": "nl",
        "haitian": "ht",
        "letzeburgesch": "lb",
        "mandarin": "zh",
        "moldavian": "ro",
        "moldovan": "ro",
        "panjabi": "pa",
        "pushto": "ps",
        "sinhalese": "si",
        "valencian": "ca",
    }
)
"""Other English names -> code, as openai/whisper accepts them."""

_CODES: Mapping[str, str] = MappingProxyType(
    {**{name: code for code, name in LANGUAGES.items()}, **ALIASES, **{c: c for c in LANGUAGES}}
)


def resolve(language: str) -> str:
    """Return the code of a language given by code, name or alias in any case.

    Raises UsageError that names the nearest languages for one that is not known.
    """
    wanted = language.strip().lower()
    if wanted in _CODES:
        return _CODES[wanted]
    near = difflib.get_close_matches(wanted, _CODES, n=3, cutoff=0.6)
    nearest = list(dict.fromkeys(_CODES[match] for match in near))
    hint = (
        "did you mean " + " or ".join(f"{LANGUAGES[code]} ({code})" for code in nearest) + "?"
        if nearest
        else "give a code such as 'en' or a name such as 'french'"
    )
    raise UsageError(f"unknown language '{language}': {hint}")
