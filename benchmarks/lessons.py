"""Attention of a packed training step on a CPU: PyTorch's kernel lesson by lesson, and padded.

    python benchmarks/lessons.py --threads 2

Forward and backward in bfloat16 of one layer of mini's decoder (9 heads of 64, 3 of keys), with
lessons of several lengths; the fastest of some calls each. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os

import processes
from processes import fastest

LENGTHS = ((130,) * 11, tuple(range(50, 150, 10)), (400, 390, 380, 370))
HEADS, KEY_HEADS, WIDTH = 9, 3, 64


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch
    from torch import Tensor
    from torch.nn.functional import scaled_dot_product_attention

    from qwen_audio_cli.engine.arena import Extent
    from qwen_audio_cli.engine.attention import Span
    from qwen_audio_cli.training.step import PackedStep

    torch.manual_seed(0)
    rows = []
    for lengths in LENGTHS:
        total = sum(lengths)
        query, key, value = (
            torch.randn(total, heads, WIDTH, dtype=torch.bfloat16, requires_grad=True)
            for heads in (HEADS, KEY_HEADS, KEY_HEADS)
        )
        stops = [sum(lengths[: n + 1]) for n in range(len(lengths))]
        spans = [
            Span(stop - length, stop, Extent(stop - length, length), None, None)
            for stop, length in zip(stops, lengths, strict=True)
        ]

        def one_by_one() -> Tensor:
            mixed = []
            for span in spans:  # noqa: B023
                own = slice(span.start, span.stop)
                q, k, v = (x[own].transpose(0, 1)[None] for x in (query, key, value))  # noqa: B023
                out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                mixed.append(out[0].transpose(0, 1))
            return torch.cat(mixed)

        def padded() -> Tensor:
            return PackedStep(spans).attend(0, query, key, value)  # noqa: B023

        times = [fastest(lambda f=attend: f().sum().backward()) for attend in (one_by_one, padded)]
        apart = (one_by_one() - padded()).abs().max().item()
        print(f"{total:5} rows in {len(lengths):2}: {times[0]:7.1f} ms, padded {times[1]:7.1f} ms")
        rows.append({"lengths": lengths, "kernel_ms": times[0], "padded_ms": times[1]})
        rows[-1] |= {"largest_difference": apart}
    machine = processes.machine()
    print(json.dumps({"benchmark": "lessons", "threads": options.threads, "rows": rows, **machine}))


if __name__ == "__main__":
    main()
