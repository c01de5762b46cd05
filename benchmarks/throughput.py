"""The core against transformers' `generate`, on this machine's CPU, with the same checkpoint.

    python benchmarks/throughput.py --threads 2
    python benchmarks/throughput.py --memory --shape tiny

    generate          one clip after the other, as the library's documentation shows it
    generate batched  clips sorted by length, in batches of 8 padded on the left; each runs to the
                      longest answer of the batch, and what is too long is cut off
    core              this package's engine, clips as they come, 32 in work, with the settings of
                      threads that `qwa` makes; the library's loops run with PyTorch's own

A Qwen2-Audio with random weights and the original's proportions (see qwen2_audio.py), float32,
greedy. Clips of 1-30 s; the length of each answer is drawn, the same for all systems, and no token
ends it. Each system is a process of its own, in turn; features and prompts are part of the time,
loading and a first clip are not. It ends with 1 where tokens differ from `generate`'s in more than
one clip of fifty: scores that nearly tie may. The ceiling is the work of the core, every seat taken
at all times, at the machine's measured rates. `processor_ratio` compares seconds of processor time
in place of the clock's: what counts on a machine that does other work. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import processes
from qwen2_audio import AUDIO, RATE, SHAPES, TEXT, Drawn, Shape, draw, write

from qwen_audio_cli.api import ENVIRONMENT

BATCH = 8
SEATS = 32
BARS = {"generate": 3.0, "generate batched": 1.5}
TOLERATED = 0.02
"""Share of clips whose tokens may differ."""

MEMORY_AT = (200, 2000)
Answers = Iterator[tuple[int, list[int]]]


def load(checkpoint: Path) -> tuple[Any, Any]:
    """transformers' network and processor."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    network = transformers.Qwen2AudioForConditionalGeneration.from_pretrained(checkpoint).eval()
    network.generation_config.eos_token_id = None  # no token ends an answer
    return network, processor


def generate(checkpoint: Path, size: int = 1) -> Callable[[Iterable[Drawn]], Answers]:
    """transformers, in batches of `size` clips of like length."""
    network, processor = load(checkpoint)

    def answer(clips: Iterable[Drawn]) -> Answers:
        ordered = list(clips) if size == 1 else sorted(clips, key=lambda clip: -clip.samples)
        for begin in range(0, len(ordered), size):
            batch = ordered[begin : begin + size]
            inputs = processor(
                text=[TEXT] * len(batch),
                audio=[clip.wave() for clip in batch],
                sampling_rate=RATE,
                return_tensors="pt",
                padding=True,
            )
            longest = max(clip.tokens for clip in batch)
            rows = network.generate(**inputs, max_new_tokens=longest, do_sample=False)
            for clip, row in zip(batch, rows[:, inputs.input_ids.shape[1] :], strict=True):
                yield clip.number, row[: clip.tokens].tolist()

    return answer


def generate_batched(checkpoint: Path) -> Callable[[Iterable[Drawn]], Answers]:
    """transformers, in sorted static batches."""
    return generate(checkpoint, BATCH)


def core(checkpoint: Path) -> Callable[[Iterable[Drawn]], Answers]:
    """This package's engine on the same network."""
    import torch

    from qwen_audio_cli.devices import budget_for
    from qwen_audio_cli.engine.engine import Engine
    from qwen_audio_cli.engine.request import AudioInput, Dialogue, Generate, Generated
    from qwen_audio_cli.engine.work import Work
    from qwen_audio_cli.families.transformers_model import TransformersModel

    network, processor = load(checkpoint)
    model, device = TransformersModel(network), torch.device("cpu")
    text = processor.tokenizer(TEXT).input_ids
    place = text.index(processor.tokenizer.convert_tokens_to_ids(AUDIO))

    def dialogue(frames: int, tokens: int) -> Dialogue[list[int]]:
        heard = [text[place]] * model.audio_rows(frames)
        said = yield Generate([*text[:place], *heard, *text[place + 1 :]], tokens, frozenset())
        assert isinstance(said, Generated)
        return said.tokens

    def answer(clips: Iterable[Drawn]) -> Answers:
        engine: Engine[int, list[int]] = Engine(model, device, budget_for(model, device, SEATS))
        coming = iter(clips)
        ended = False
        while not (ended and engine.idle):
            while engine.hungry and not ended:
                if (clip := next(coming, None)) is None:
                    ended = True
                    break
                features = model.features(clip.wave())
                work = dialogue(features.shape[-1], clip.tokens)
                engine.add(Work(clip.number, (AudioInput(features),), work))
            for done in engine.turn():
                if done.error:
                    raise done.error
                assert done.result is not None
                yield done.key, done.result

    return answer


SYSTEMS: dict[str, Callable[[Path], Callable[[Iterable[Drawn]], Answers]]] = {
    "generate": generate,
    "generate batched": generate_batched,
    "core": core,
}


def run(system: str, checkpoint: Path, number: int, seed: int) -> dict[str, object]:
    """Answer for all clips with one system, in this process; gives seconds and tokens."""
    import torch

    answer = SYSTEMS[system](checkpoint)
    with torch.inference_mode():
        for _ in answer(draw(1, seed + 1)):
            pass
        begun, used = time.perf_counter(), time.process_time()
        tokens = dict(answer(draw(number, seed)))
        seconds, processor = time.perf_counter() - begun, time.process_time() - used
    return {"seconds": seconds, "processor_seconds": processor, "tokens": tokens}


def memory(checkpoint: Path, at: Sequence[int], seed: int) -> dict[str, float]:
    """Resident memory in MB after so many clips have gone through one engine."""
    resident = {}
    for count, _ in enumerate(core(checkpoint)(draw(max(at), seed)), 1):
        if count in at:
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            kilobytes = next(line.split()[1] for line in lines if line.startswith("VmRSS"))
            resident[str(count)] = round(int(kilobytes) / 1e3, 1)
    return resident


def do(options: argparse.Namespace) -> object:
    """What a child process does."""
    if options.run == "write":
        return str(write(options.checkpoint, SHAPES[options.shape], options.seed))
    if options.run == "memory":
        return memory(options.checkpoint, options.memory_at, options.seed)
    return run(options.run, options.checkpoint, options.number, options.seed)


def child(*words: object) -> tuple[Any, float]:
    """Run this script for one system; gives what it prints, and its peak memory in MB."""
    ran = processes.run([sys.executable, __file__, *map(str, words)])
    return json.loads(ran.output.splitlines()[-1]), ran.peak_mb


def ceiling(shape: Shape, clips: Sequence[Drawn], threads: int) -> dict[str, float]:
    """RTFx of the core's work at this machine's measured rates."""
    import torch
    from roofline import Work, decode, encode, prefill

    from qwen_audio_cli.bench.machine import measure

    torch.set_num_threads(threads)
    rates = measure(torch.device("cpu"), torch.float32)
    phases = {"encode": Work(0), "prefill": Work(0), "decode": Work(0)}
    text = len(TEXT) - len(AUDIO)  # about: a token is a letter here
    for clip in clips:
        positions = clip.samples // (RATE // 50)
        prompt = positions // 2 + text
        phases["encode"] += encode(shape, positions)
        phases["prefill"] += prefill(shape, prompt)
        phases["decode"] += decode(shape, prompt, clip.tokens - 1, SEATS, 4)
    least = {name: work.seconds(rates.flops, rates.bandwidth) for name, work in phases.items()}
    return {
        "gflops": round(rates.flops / 1e9, 1),
        "gb_per_second": round(rates.bandwidth / 1e9, 1),
        **{f"{name}_seconds": round(seconds, 2) for name, seconds in least.items()},
        "rtfx": round(sum(clip.seconds for clip in clips) / sum(least.values()), 1),
    }


def compare(options: argparse.Namespace, checkpoint: Path) -> dict[str, Any]:
    """Run all systems in turn and print the table; gives the figures."""
    clips = list(draw(options.number, options.seed))
    audio = sum(clip.seconds for clip in clips)
    words = ("--checkpoint", checkpoint, "--number", options.number, "--seed", options.seed)
    done: dict[str, list[tuple[dict[str, Any], float]]] = {name: [] for name in options.systems}
    for number in range(options.rounds):
        for system in options.systems:
            print(f"round {number + 1}: {system}", file=sys.stderr)
            done[system].append(child("--run", system, *words))
    figures: dict[str, dict[str, Any]] = {}
    for system, rounds in done.items():
        seconds = statistics.median(answer["seconds"] for answer, _ in rounds)
        figures[system] = {
            "rtfx": round(audio / seconds, 2),
            "seconds": [round(answer["seconds"], 2) for answer, _ in rounds],
            "processor_seconds": [round(answer["processor_seconds"], 2) for answer, _ in rounds],
            "peak_mb": round(max(peak for _, peak in rounds)),
        }
    truth = done.get("generate", [({"tokens": {}}, 0.0)])[0][0]["tokens"]
    for system, row in figures.items():
        if truth:
            tokens = done[system][0][0]["tokens"]
            row["same_tokens"] = sum(tokens[number] == truth[number] for number in truth)
        if "core" in figures:
            row["core_ratio"] = round(figures["core"]["rtfx"] / row["rtfx"], 2)
            used = (min(figures[name]["processor_seconds"]) for name in (system, "core"))
            row["processor_ratio"] = round(next(used) / next(used), 2)
    return {
        "clips": len(clips),
        "audio_seconds": round(audio, 2),
        "tokens": sum(clip.tokens for clip in clips),
        "systems": figures,
        "ceiling": ceiling(SHAPES[options.shape], clips, options.threads),
    }


def show(figures: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{figures['clips']} clips, {figures['audio_seconds']} s, {figures['tokens']} tokens")
    columns = ("rtfx", "core_ratio", "processor_ratio", "same_tokens", "peak_mb")
    print(f"{'':18}" + "".join(f"{column:>16}" for column in columns))
    for system, row in figures["systems"].items():
        bar = f"   (core is to reach {BARS[system]} times this)" if system in BARS else ""
        print(f"{system:18}" + "".join(f"{row.get(column, '')!s:>16}" for column in columns) + bar)
    ceiling = figures["ceiling"]
    print(
        f"ceiling{ceiling['rtfx']:>27}   at {ceiling['gflops']} GFLOP/s and "
        f"{ceiling['gb_per_second']} GB/s: encode {ceiling['encode_seconds']} s, "
        f"prefill {ceiling['prefill_seconds']} s, decode {ceiling['decode_seconds']} s"
    )


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--shape", choices=SHAPES, default="scaled")
    parser.add_argument("--number", type=int, default=64, help="of clips")
    parser.add_argument("--seed", type=int, default=0, help="of clips and weights")
    parser.add_argument("--threads", type=int, default=2, help="that each system computes with")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="resident memory of the core instead")
    parser.add_argument("--memory-at", nargs=2, type=int, default=MEMORY_AT, metavar="CLIPS")
    parser.add_argument("--run", choices=(*SYSTEMS, "memory", "write"), help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run in ("core", "memory"):
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    if options.run:
        print(json.dumps(do(options)))
        return 0
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the children
    about = {"shape": options.shape, "threads": options.threads, "seed": options.seed}
    machine = processes.machine()
    with tempfile.TemporaryDirectory() as folder:
        child(
            "--run",
            "write",
            "--checkpoint",
            folder,
            "--shape",
            options.shape,
            "--seed",
            options.seed,
        )
        if options.memory:
            words = ("--checkpoint", folder, "--seed", options.seed, "--memory-at")
            figures, peak = child("--run", "memory", *words, *options.memory_at)
            for count, resident in figures.items():
                print(f"after {count} clips {resident} MB")
            figures = {"resident_mb": figures, "peak_mb": round(peak)}
        else:
            figures = compare(options, Path(folder))
            show(figures)
    print(json.dumps({"benchmark": "throughput", **about, **figures, "machine": machine}))
    same = [
        row["same_tokens"] for row in figures.get("systems", {}).values() if "same_tokens" in row
    ]
    return int(any(count < (1 - TOLERATED) * options.number for count in same))


if __name__ == "__main__":
    sys.exit(main())
