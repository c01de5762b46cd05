"""How mini is trained, beside what every run says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ...errors import UsageError
from ..recipe import Recipe

PORTIONS: Mapping[str, float] = MappingProxyType(
    {
        "asr": 1.0,
        "translation": 0.4,
        "gender": 0.12,
        "language": 0.18,
        "note": 0.0,
        "pitch": 0.1,
        "velocity": 0.07,
        "instrument": 0.08,
        "music-caption": 0.08,
        "music-qa": 0.08,
        "audio-caption": 0.5,
        "audio-qa": 0.25,
        "sound-event": 0.4,
        "sound-event-times": 0.0,
        "word-times": 0.0,
    }
)
"""How often an epoch hears each item of a task: transcripts, which are the hardest, the most. What
asks for the same of a recording twice, or for times, which the CTC head tells, is left out."""


@dataclass(frozen=True, kw_only=True)
class MiniRecipe(Recipe):
    """With `hearing` projector, summary and CTC head learn; the decoder learns nothing yet.

    Of what may be recorded elsewhere (`retake.py`) there are so many `takes` more: each epoch hears
    another one. What a frozen encoder makes of each is kept, 0.3 GB for an hour.

    Later the head is left as it is, but for a weight of its loss beside the answers', `ctc`, which
    is wanted where adapters are put beside the encoder's last `encoder_layers`, too.
    """

    # Notes are all as long as each other: sorted by length, a batch would have but one task.
    bucket: int = 1
    hearing: bool = False
    takes: int = 3
    ctc: float = 0.0
    encoder_layers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ctc >= 0:
            raise UsageError("ctc must be at least 0")
        if self.takes < 0:
            raise UsageError("takes must be at least 0")
        if self.encoder_layers < 0 or (self.hearing and self.encoder_layers):
            raise UsageError("encoder-layers is 0 or more, and 0 with --hearing")
        if self.full:
            raise UsageError("mini is trained by adapters: its decoder is kept as it is stored")
