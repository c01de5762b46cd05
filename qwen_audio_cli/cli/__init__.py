"""The command line of `qwa`; nothing here imports torch or numpy before a run needs them."""

from __future__ import annotations

from .app import app, main

__all__ = ["app", "main"]
