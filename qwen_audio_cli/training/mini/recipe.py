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
        "translation": 0.5,
        "gender": 0.5,
        "language": 0.5,
        "note": 0.0,
        "pitch": 0.7,
        "velocity": 0.4,
        "instrument": 0.7,
        "music-caption": 0.6,
        "music-qa": 0.6,
        "audio-caption": 0.5,
        "audio-qa": 0.4,
        "sound-event": 0.5,
        "sound-event-times": 0.0,
        "word-times": 0.0,
    }
)
"""How often an epoch hears each item of a task: transcripts, which are the hardest, the most. What
asks for the same of a recording twice, or for times, which the CTC head tells, is left out."""


@dataclass(frozen=True, kw_only=True)
class MiniRecipe(Recipe):
    """`ctc` is the weight of the CTC loss beside the answers' loss.

    With `ctc_only` projector and CTC head learn to spell, the decoder learns nothing yet. Adapters
    are put beside the encoder's last `encoder_layers` too, once the others have learned.
    """

    # Notes are all as long as each other: sorted by length, a batch would have but one task.
    bucket: int = 1
    ctc: float = 0.3
    ctc_only: bool = False
    encoder_layers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ctc >= 0:
            raise UsageError("ctc must be at least 0")
        if self.encoder_layers < 0 or (self.ctc_only and self.encoder_layers):
            raise UsageError("encoder-layers is 0 or more, and 0 with --ctc-only")
        if self.full:
            raise UsageError("mini is trained by adapters: its decoder is kept as it is stored")
