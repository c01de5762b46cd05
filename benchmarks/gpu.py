"""Qwen2-Audio-7B's shape on one CUDA device, each phase beside the roofline of that device.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --tiny --device cpu

Weights are random and made on the device. First encoder, prompts and decoding are timed by
themselves, in batches as the engine runs them. Then the engine answers for many clips at once: as
it is without its two means against waiting for the host, with the lookahead, and with CUDA graphs
too. The clips are one of 30 s over and over, its features computed beforehand, and every answer has
100 tokens; decoding files and computing features are not part of this.

The roofline is computed from the shape (roofline.py) with the rates of the device, measured by a
large matrix product and a large read unless they are given. `busy` is the share of a run's time in
which kernels ran, seen by torch's profiler in a run of its own, which it slows down: at least that.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import processes
import roofline
import torch
from qwen2_audio import FULL, TINY, Drawn, Shape, config, randomise
from torch import Tensor

from qwen_audio_cli.bench.machine import Rates, measure, peak_memory, synchronise
from qwen_audio_cli.devices import budget_for
from qwen_audio_cli.engine.arena import Arena
from qwen_audio_cli.engine.attention import backend_for
from qwen_audio_cli.engine.engine import Engine, Manner
from qwen_audio_cli.engine.graphs import DecodeGraphs
from qwen_audio_cli.engine.request import AudioInput, Dialogue, Generate, Generated
from qwen_audio_cli.engine.runner import ROWS, Feed, Runner
from qwen_audio_cli.engine.work import Work
from qwen_audio_cli.families.transformers_model import TransformersModel

SECONDS = 30.0
TEXT_TOKENS = 40
"""Of a prompt, beside the audio's: about what the instruct format takes."""

ENCODED = 16
"""Clips that share a call of the encoder, as on a large GPU."""

PROMPT_TOKENS = 16_384
"""Tokens of prompts that share a step, likewise."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A network on its device, and the clip that it hears."""

    shape: Shape
    model: TransformersModel
    device: torch.device
    features: Tensor
    prompt: list[int]
    tokens: int
    seats: int

    @property
    def size(self) -> int:
        """Bytes of a number in the cache."""
        return self.model.cache.dtype.itemsize


def network(shape: Shape, device: torch.device, dtype: torch.dtype) -> TransformersModel:
    """The network with random weights."""
    from transformers import Qwen2AudioForConditionalGeneration

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            made = Qwen2AudioForConditionalGeneration(config(shape, shape.vocabulary - 1))
    finally:
        torch.set_default_dtype(before)
    randomise(made, seed=0)
    return TransformersModel(made)


def prepare(options: argparse.Namespace) -> Setting:
    """What is measured."""
    device = torch.device(options.device)
    shape = TINY if options.tiny else FULL
    model = network(shape, device, getattr(torch, options.dtype))
    features = model.features(Drawn(0, int(SECONDS * 16_000), options.tokens).wave())
    audio = [model.audio_token] * model.audio_rows(features.shape[-1])
    half = range(1, 1 + TEXT_TOKENS // 2)
    return Setting(
        shape, model, device, features, [*half, *audio, *half], options.tokens, options.seats
    )


# --- phases -------------------------------------------------------------------------------------


@torch.inference_mode()
def phases(setting: Setting, rates: Rates, *, graphs: bool) -> dict[str, dict[str, float]]:
    """Milliseconds a clip of encoder, prompts and decoding, and the least by the roofline."""
    shape, model, device, seats = setting.shape, setting.model, setting.device, setting.seats
    positions = setting.features.shape[-1] // 2
    prompt, tokens = len(setting.prompt), setting.tokens
    count = min(ENCODED, seats)
    batch = torch.stack([setting.features] * count).to(device)
    encoding, memories = timed(
        device, lambda: model.encode(batch, [batch.shape[-1]] * count), again=2
    )
    arena = Arena(model.cache, seats * (prompt + tokens + 1))
    last = torch.zeros(seats, dtype=torch.long, device=device)
    backend = backend_for(device, model.cache.dtype)
    decode_graphs = DecodeGraphs(model, arena, last) if graphs else None
    runner = Runner(model, arena, backend, ROWS, decode_graphs)
    context = model.open([memories[0]], False)
    feeds = [
        Feed(arena.open(prompt + tokens + 1), context, setting.prompt, seat)
        for seat in range(seats)
    ]
    together = max(1, PROMPT_TOKENS // prompt)
    runner.run(feeds[:together], last)  # to warm up
    for feed in feeds[:together]:
        feed.extent.length = 0
    packs = [feeds[i : i + together] for i in range(0, seats, together)]
    prefilling, _ = timed(device, lambda: [runner.run(pack, last) for pack in packs])
    following = [Feed(feed.extent, context, None, feed.seat) for feed in feeds]
    runner.run(following, last)  # to warm up, and to capture
    decoding, _ = timed(device, lambda: [runner.run(following, last) for _ in range(tokens - 1)])
    work = {
        "encode": (encoding / count, roofline.encode(shape, positions)),
        "prefill": (prefilling / seats, roofline.prefill(shape, prompt)),
        "decode": (
            decoding / seats,
            roofline.decode(shape, prompt + 1, tokens - 1, seats, setting.size),
        ),
    }
    return {
        name: phase(seconds, least.seconds(rates.flops, rates.bandwidth))
        for name, (seconds, least) in work.items()
    }


def phase(seconds: float, least: float) -> dict[str, float]:
    """The figures of a phase."""
    return {"ms": 1000 * seconds, "least_ms": 1000 * least, "share": least / seconds}


def timed(device: torch.device, work: Any, again: int = 1) -> tuple[float, Any]:
    """Seconds that the last of `again` calls takes to its end on the device, and what it gives."""
    for _ in range(again):
        synchronise(device)
        begun = time.perf_counter()
        result = work()
        synchronise(device)
    return time.perf_counter() - begun, result


# --- the engine ---------------------------------------------------------------------------------


def works(setting: Setting, number: int) -> Iterator[Work[int, list[int]]]:
    """The same clip so many times, with a question of its own each."""

    def dialogue(mark: int) -> Dialogue[list[int]]:
        prompt = [*setting.prompt[:-1], mark]
        said = yield Generate(prompt, setting.tokens, frozenset())
        assert isinstance(said, Generated)
        return said.tokens

    for key in range(number):
        mark = key % (setting.shape.vocabulary - 1)
        yield Work(key, (AudioInput(setting.features),), dialogue(mark))


def answer(setting: Setting, manner: Manner, number: int) -> tuple[float, dict[int, list[int]]]:
    """Seconds that the engine takes for so many clips, and their tokens."""
    budget = budget_for(setting.model, setting.device, setting.seats)
    engine: Engine[int, list[int]] = Engine(setting.model, setting.device, budget, manner)
    coming = list(works(setting, number))[::-1]
    tokens: dict[int, list[int]] = {}
    synchronise(setting.device)
    begun = time.perf_counter()
    while coming or not engine.idle:
        while coming and engine.hungry:
            engine.add(coming.pop())
        for done in engine.turn():
            if done.error:
                raise done.error
            assert done.result is not None
            tokens[done.key] = done.result
    synchronise(setting.device)
    return time.perf_counter() - begun, tokens


def busy(setting: Setting, manner: Manner, number: int) -> float | None:
    """The share of a run's time in which kernels run; None on a CPU."""
    if setting.device.type != "cuda":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        seconds, _ = answer(setting, manner, number)
    kernels = sorted(
        (event.time_range.start, event.time_range.end)
        for event in seen.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    return covered(kernels) / 1e6 / seconds


def covered(stretches: Sequence[tuple[float, float]]) -> float:
    """The length that stretches, in order of their begins, cover together."""
    total, end = 0.0, float("-inf")
    for start, stop in stretches:
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def manners(device: torch.device) -> dict[str, Manner]:
    """How the engine is run."""
    chosen = {"eager": Manner(), "lookahead": Manner(lookahead=True)}
    if device.type == "cuda":
        chosen["lookahead, graphs"] = Manner(lookahead=True, graphs=True)
    return chosen


def run(setting: Setting, number: int) -> dict[str, dict[str, Any]]:
    """Let the engine answer in each manner; a short run first, to warm up."""
    figures: dict[str, dict[str, Any]] = {}
    truth: dict[int, list[int]] = {}
    for name, manner in manners(setting.device).items():
        print(f"engine: {name}", file=sys.stderr)
        answer(setting, manner, min(number, 2 * setting.seats))
        seconds, tokens = answer(setting, manner, number)
        truth = truth or tokens
        figures[name] = {
            "rtfx": number * SECONDS / seconds,
            "seconds": seconds,
            "tokens_per_second": sum(map(len, tokens.values())) / seconds,
            "busy": busy(setting, manner, min(number, 2 * setting.seats)),
            "same_tokens": sum(tokens[key] == truth[key] for key in truth),
        }
    return figures


def show(report: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"{'':18}{'ms a clip':>12}{'at least':>12}{'reached':>12}")
    for name, row in report["phases"].items():
        print(f"{name:18}{row['ms']:12.3f}{row['least_ms']:12.3f}{row['share']:12.1%}")
    print(f"{'':18}{'rtfx':>12}{'tokens/s':>12}{'busy':>12}{'same tokens':>14}")
    for name, row in report["engine"].items():
        share = "" if row["busy"] is None else f"{row['busy']:.1%}"
        print(
            f"{name:18}{row['rtfx']:12.1f}{row['tokens_per_second']:12.0f}{share:>12}"
            f"{row['same_tokens']:>14}"
        )
    bound = report["bound_rtfx"]
    print(f"{'phases in turn':18}{bound['in_turn']:12.1f}   at most, by the roofline")
    print(f"{'perfect overlap':18}{bound['overlap']:12.1f}")


def bounds(setting: Setting, rates: Rates) -> dict[str, float]:
    """RTFx by the roofline: phases in turn, and memory reads hidden behind computing."""
    prompt, shape = len(setting.prompt), setting.shape
    parts = [
        roofline.encode(shape, setting.features.shape[-1] // 2),
        roofline.prefill(shape, prompt),
        roofline.decode(shape, prompt + 1, setting.tokens - 1, setting.seats, setting.size),
    ]
    in_turn = sum(part.seconds(rates.flops, rates.bandwidth) for part in parts)
    together = sum(parts, roofline.Work(0)).seconds(rates.flops, rates.bandwidth)
    return {"in_turn": SECONDS / in_turn, "overlap": SECONDS / together}


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny layers: shows that it runs")
    parser.add_argument("--dtype", help="bfloat16 on CUDA, float32 elsewhere if not given")
    parser.add_argument("--seats", type=int, help="clips in work (192, tiny: 4)")
    parser.add_argument("--number", type=int, help="of clips (768, tiny: 8)")
    parser.add_argument("--tokens", type=int, help="of an answer (100, tiny: 10)")
    parser.add_argument("--tflops", type=float, help="of the device, instead of measuring")
    parser.add_argument("--gb-per-second", type=float, help="of the device, instead of measuring")
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        sys.exit("no CUDA device; --tiny --device cpu runs the same code anywhere")
    options.dtype = options.dtype or ("bfloat16" if cuda else "float32")
    usual = {"seats": (192, 4), "number": (768, 8), "tokens": (100, 10)}
    for name, (full, tiny) in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, tiny if options.tiny else full)
    setting = prepare(options)
    measured = measure(setting.device, getattr(torch, options.dtype))
    rates = Rates(
        options.tflops * 1e12 if options.tflops else measured.flops,
        options.gb_per_second * 1e9 if options.gb_per_second else measured.bandwidth,
    )
    report: dict[str, Any] = {
        "phases": phases(setting, rates, graphs=cuda),
        "engine": run(setting, options.number),
        "bound_rtfx": bounds(setting, rates),
        "rates": {"tflops": rates.flops / 1e12, "gb_per_second": rates.bandwidth / 1e9},
    }
    memory, device_memory = peak_memory(setting.device)
    show(report)
    held = "" if device_memory is None else f", {device_memory / 1e9:.1f} GB of the device's"
    print(f"memory at most: {memory / 1e9:.1f} GB{held}")
    about = {key: vars(options)[key] for key in ("tiny", "dtype", "seats", "number", "tokens")}
    name = torch.cuda.get_device_name(setting.device) if cuda else "cpu"
    report |= {"device": name, "peak_bytes": memory, "device_peak_bytes": device_memory}
    print(json.dumps({"benchmark": "gpu", **about, **report, "machine": processes.machine()}))


if __name__ == "__main__":
    main()
