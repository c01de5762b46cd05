"""What the weights of a network were called elsewhere: in other releases, and by other packages.

An adapter keeps the names of the network that it was trained on: that of a transformers release,
or of the packages that the models' authors published (qwen-asr, the whole Omni models).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_RENAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^thinker\.", ""),
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^language_model\.model\.", "model."),
        (r"^model\.(layers|norm|embed_tokens)\b", r"model.language_model.\1"),
        (r"^(audio_tower|multi_modal_projector|visual)\.", r"model.\1."),
    )
)
"""To the names of today, one after the other."""

_PROJECTOR = re.compile(r"^model\.audio_tower\.proj([12])\.")


def names_of_today(name: str) -> Iterator[str]:
    """What a weight of another release may be called now; its own name comes first."""
    yield name
    for pattern, today in _RENAMES:
        name = pattern.sub(today, name)
    yield name
    yield _PROJECTOR.sub(r"model.multi_modal_projector.linear_\1.", name)  # of Qwen3-ASR
