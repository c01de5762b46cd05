"""What packing a matrix for the CPU's products gains, by the number of rows.

    python benchmarks/packed.py --threads 2

The embedded Whisper's shapes: `nn.Linear` beside `PackedLinear` with the same weights, the fastest
of many calls each, in float32 and bfloat16. Also tells for which row counts a row's result differs,
in any bit, from that of the same row among 64. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os

import processes
from processes import fastest

SHAPES = ((512, 512), (512, 2048), (2048, 512), (512, 51_865))
ROWS = (4, 16, 64, 280, 1200)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    from qwen_audio_cli.families.packed import PackedLinear

    torch.manual_seed(0)
    rows: list[dict[str, object]] = []
    print(f"{'type':10}{'in':>6}{'out':>7}{'rows':>6}{'plain ms':>10}{'packed ms':>11}{'ratio':>7}")
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            for inward, outward in SHAPES:
                plain = torch.nn.Linear(inward, outward).to(dtype)
                packed = PackedLinear(plain.weight, plain.bias)
                many = torch.randn(1200, inward).to(dtype)
                for count in ROWS:
                    x = many[:count].contiguous()
                    times = fastest(lambda: plain(x)), fastest(lambda: packed(x))  # noqa: B023
                    name, ratio = str(dtype).removeprefix("torch."), times[0] / times[1]
                    sizes = f"{inward:6}{outward:7}{count:6}"
                    print(f"{name:10}{sizes}{times[0]:10.3f}{times[1]:11.3f}{ratio:7.2f}")
                    rows.append({"type": name, "shape": [inward, outward], "rows": count})
                    rows[-1] |= {"plain_ms": round(times[0], 3), "packed_ms": round(times[1], 3)}
                expected = packed(many[:64])
                odd = [n for n in range(1, 64) if not torch.equal(packed(many[:n]), expected[:n])]
                print(f"{name:10}{inward:6}{outward:7}  row counts that differ: {odd or 'none'}")
                rows.append({"type": name, "shape": [inward, outward], "differing_rows": odd})
    machine = processes.machine()
    print(json.dumps({"benchmark": "packed", "threads": options.threads, "rows": rows, **machine}))


if __name__ == "__main__":
    main()
