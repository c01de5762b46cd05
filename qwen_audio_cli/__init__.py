"""Audio understanding from the shell: one audio-language model, many tasks, JSONL out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Qwa as Qwa

__version__ = "0.1.0"
__all__ = ["Qwa", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Qwa":  # on first use only, so that a look at the version costs no import
        from .api import Qwa

        return Qwa
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
