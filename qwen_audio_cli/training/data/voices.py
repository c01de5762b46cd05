"""Who speaks: Kokoro's voices and blends of two, each in one split for good.

A voice's first letter is its accent and its second the speaker's sex, by Kokoro's own naming.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..manifest import Split
from .phonemes import ACCENTS, Accent

Gender = Literal["female", "male"]
_GENDERS: Mapping[str, Gender] = MappingProxyType({"f": "female", "m": "male"})


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


VOICES: Mapping[Accent, tuple[str, ...]] = MappingProxyType(
    {
        "en-us": _names(
            "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river "
            "af_sarah af_sky am_adam am_echo am_eric am_fenrir am_liam am_michael am_onyx "
            "am_puck am_santa"
        ),
        "en-gb": _names(
            "bf_alice bf_emma bf_isabella bf_lily bm_daniel bm_fable bm_george bm_lewis"
        ),
        "es": ("ef_dora", "em_alex", "em_santa"),
        "fr-fr": ("ff_siwis",),
        "it": ("if_sara", "im_nicola"),
        "pt-br": ("pf_dora", "pm_alex", "pm_santa"),
    }
)
"""The voices native to an accent."""

_HELD_OUT: Mapping[str, Split] = MappingProxyType(
    {
        **dict.fromkeys(("af_river", "am_eric", "bf_lily", "bm_fable"), "dev"),
        **dict.fromkeys(("af_nova", "am_liam", "bf_alice", "bm_daniel"), "test"),
    }
)
_BLEND_SHARE = 0.5  # of the speakers in training
_WEIGHTS = (0.5, 0.6, 0.7, 0.8)
_NATIVE_WEIGHTS = (0.7, 0.8, 0.9)  # of a native voice with an English one


@dataclass(frozen=True, slots=True)
class Speaker:
    """A voice, or a blend of `weight` parts of it with the rest of `other`."""

    voice: str
    other: str | None = None
    weight: float = 1.0

    @property
    def name(self) -> str:
        """As `af_heart` or, blended, `af_heart+af_sky:0.6`."""
        return self.voice if self.other is None else f"{self.voice}+{self.other}:{self.weight}"

    @property
    def gender(self) -> Gender:
        """The sex of the voice; only voices of one sex are blended."""
        return _GENDERS[self.voice[1]]


def split_of(voice: str) -> Split:
    """The one split a voice is heard in."""
    return _HELD_OUT.get(voice, "train")


def draw(language: str, split: Split, rng: random.Random) -> tuple[Speaker, Accent]:
    """A speaker of a language, and the accent, from the voices of one split alone.

    Sexes are even. Where a split has no native voice of that sex, an English one speaks the
    language. For training, half of the speakers are blends, mostly of the native voice.
    """
    accent = rng.choice(ACCENTS[language])
    sex = rng.choice("fm")
    native = _voices(accent, sex, split)
    english = _voices("en-us", sex, split) + _voices("en-gb", sex, split)
    voice = rng.choice(native or english)
    others = sorted({*native, *english} - {voice})
    if split != "train" or rng.random() >= _BLEND_SHARE:
        return Speaker(voice), accent
    weights = _WEIGHTS if language == "en" else _NATIVE_WEIGHTS
    return Speaker(voice, rng.choice(others), rng.choice(weights)), accent


def _voices(accent: Accent, sex: str, split: Split) -> list[str]:
    return [v for v in VOICES[accent] if v[1] == sex and split_of(v) == split]
