"""Where the real vocabulary of the Qwen models lies, if it is on this machine: for tests only.

QWA_QWEN_TIKTOKEN may name the `qwen.tiktoken` of a checkpoint; the dashscope wheel has the same
file (`pip install --no-deps dashscope`).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest


def _find() -> Path | None:
    if named := os.environ.get("QWA_QWEN_TIKTOKEN"):
        return Path(named)
    spec = find_spec("dashscope")
    for directory in (spec and spec.submodule_search_locations) or ():
        if (path := Path(directory) / "resources" / "qwen.tiktoken").is_file():
            return path
    return None


PATH = _find()
needs_real = pytest.mark.skipif(
    PATH is None, reason="no qwen.tiktoken (pip install --no-deps dashscope has it)"
)
