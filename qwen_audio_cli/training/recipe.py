"""How a model is trained: every choice of a run, in one value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import UsageError

MOST_RANK = 1024


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run does; two runs of one recipe on one manifest give the same weights.

    Low-rank adapters (LoRA, arXiv 2106.09685) of `rank` and `alpha` are trained on all projections
    of the decoder's layers or, with `full`, all of the decoder, and with `train_encoder` the
    encoder, too. There are `steps` steps, or else `epochs` over the items; a step hears
    `accumulate` batches of at most `rows` rows (tokens, and 13 or 25 a second of audio). The
    learning rate rises to `rate` in the first `warmup` of all steps and falls by a cosine.
    Items are sorted by length within each `bucket` batches, so that those of one are alike.
    Gradients longer than `clip` are shortened. `augment` masks parts of what is heard
    (SpecAugment). `portions` tell how often an epoch hears each item of a task, if not once. The
    dev split is heard each `evaluate_every` steps.
    """

    full: bool = False
    train_encoder: bool = False
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    epochs: float = 3.0
    steps: int | None = None
    rows: int = 2048
    accumulate: int = 1
    bucket: int = 64
    rate: float | None = None
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    augment: bool = False
    portions: Mapping[str, float] = field(default_factory=dict)
    evaluate_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "rows", "accumulate", "bucket", "evaluate_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')} must be at least 1")
        if self.rank > MOST_RANK:
            raise UsageError(f"rank must be at most {MOST_RANK}")
        if self.steps is not None and self.steps < 1:
            raise UsageError("steps must be at least 1")
        for name in ("epochs", "clip", "peak_rate"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name.replace('peak_', '')} must be above 0")
        for name in ("warmup", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} lies between 0 and 1")
        if unheard := [task for task, portion in self.portions.items() if not portion >= 0]:
            raise UsageError(f"the portion of {unheard[0]} must be at least 0")
        if self.train_encoder and not self.full:
            raise UsageError("the encoder is trained with all weights of the decoder: add --full")

    @property
    def peak_rate(self) -> float:
        """The highest learning rate: ten times as high for adapters as for whole matrices."""
        if self.rate is not None:
            return self.rate
        return 1e-5 if self.full else 1e-4

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of `steps`."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return self.peak_rate * (step + 1) / rising
        return self.peak_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))

    def values(self) -> dict[str, Any]:
        """All choices by name, as JSON has them."""
        return asdict(self)
