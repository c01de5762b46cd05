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
        "gender": 0.5,
        "language": 1.0,
        "note": 0.0,
        "pitch": 1.0,
        "velocity": 0.5,
        "instrument": 1.0,
        "music-caption": 1.0,
        "music-qa": 1.0,
        "audio-caption": 1.0,
        "audio-qa": 1.0,
        "sound-event": 1.0,
        "sound-event-times": 0.0,
        "word-times": 0.0,
    }
)
"""How often an epoch hears each item of a task. Speech is most of the data; what asks for the same
of a recording twice, or for times, which the CTC head tells, is left out."""


@dataclass(frozen=True, kw_only=True)
class MiniRecipe(Recipe):
    """`ctc` is the weight of the CTC loss beside the answers' loss.

    With `ctc_only` projector and CTC head learn to spell, the decoder learns nothing yet. Adapters
    are put beside the encoder's last `encoder_layers` too, once the others have learned.
    """

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
