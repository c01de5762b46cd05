"""Which engines a run needs: for a family's model, and for the one that it consults."""

from __future__ import annotations

from typing import Any

import torch

from .devices import budget_for
from .engine.engine import Engine, Manner
from .engine.memory import rows_that_fit
from .families.base import Family

COLLEAGUE = 0.2
"""Of the memory for keys and values, what a model that is consulted may have: each of its requests
keeps them for a step."""


def engine_for(
    family: Family, device: torch.device, batch: int | None, manner: Manner, share: float = 1.0
) -> Engine[Any, Any]:
    """The engine of a family that is loaded, as its colleague is, in a `share` of free memory."""
    colleague = None
    if family.colleague is not None:
        colleague = engine_for(family.colleague, device, batch, manner, share * COLLEAGUE)
        share *= 1 - COLLEAGUE
    budget = budget_for(family.model, device, batch)
    budget.rows = int(share * rows_that_fit(family.model.cache))
    return Engine(family.model, device, budget, manner, colleague)
