"""`qwa train`: fine-tune a model on a manifest of one's own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated

import orjson
import typer
from typer import Option

from ..api import prepare_torch
from ..errors import OutputError
from ..training.recipe import Recipe
from .console import LOG, configure
from .options import as_in_runs, expand


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeOptions:
    """How it is trained: `qwen_audio_cli.training.recipe.Recipe`, which verifies them."""

    full: Annotated[
        bool, Option("--full", help="Train all weights of the decoder, and write a whole model.")
    ] = Recipe.full
    train_encoder: Annotated[
        bool, Option("--train-encoder", help="With --full: the audio encoder, too.")
    ] = Recipe.train_encoder
    rank: Annotated[int, Option("--rank", metavar="COUNT", help="Rank of the adapters.")] = (
        Recipe.rank
    )
    alpha: Annotated[
        int, Option("--alpha", metavar="NUMBER", help="Scale of the adapters, times their rank.")
    ] = Recipe.alpha
    dropout: Annotated[
        float, Option("--dropout", metavar="SHARE", help="What adapters drop out in training.")
    ] = Recipe.dropout
    epochs: Annotated[
        float, Option("--epochs", metavar="NUMBER", help="How often each item is heard.")
    ] = Recipe.epochs
    steps: Annotated[
        int | None, Option("--steps", metavar="COUNT", help="Steps in all, in place of --epochs.")
    ] = Recipe.steps
    rows: Annotated[
        int,
        Option(
            "--rows",
            metavar="COUNT",
            help="Tokens and rows of audio (13 or 25 a second) that are computed at once.",
        ),
    ] = Recipe.rows
    accumulate: Annotated[
        int, Option("--accumulate", metavar="COUNT", help="Batches of --rows that make a step.")
    ] = Recipe.accumulate
    rate: Annotated[
        float | None,
        Option(
            "--rate",
            metavar="NUMBER",
            help="The highest learning rate; 1e-4, or 1e-5 with --full, if not given.",
        ),
    ] = Recipe.rate
    warmup: Annotated[
        float, Option("--warmup", metavar="SHARE", help="Part of the steps before the highest.")
    ] = Recipe.warmup
    weight_decay: Annotated[
        float, Option("--weight-decay", metavar="NUMBER", help="Weight decay of AdamW.")
    ] = Recipe.weight_decay
    clip: Annotated[
        float, Option("--clip", metavar="NUMBER", help="The longest gradient that is followed.")
    ] = Recipe.clip
    augment: Annotated[
        bool, Option("--augment", help="Mask parts of what is heard (SpecAugment).")
    ] = Recipe.augment
    evaluate_every: Annotated[
        int,
        Option(
            "--evaluate-every",
            metavar="STEPS",
            help="How often the dev split is heard and the state of the run is saved.",
        ),
    ] = Recipe.evaluate_every
    seed: Annotated[
        int, Option("--seed", metavar="NUMBER", help="Seed of order, adapters and masks.")
    ] = Recipe.seed


@expand
def train(
    *,
    manifest: Annotated[
        Path,
        Option(
            "--manifest",
            metavar="FILE",
            help="JSON lines with audio, target, task; language, to, question, timestamps, split.",
        ),
    ],
    output: Annotated[
        Path, Option("--output", "-o", metavar="DIR", help="Where the tuned model is written.")
    ],
    model: Annotated[str, as_in_runs("model")],
    recipe: RecipeOptions,
    resume: Annotated[
        bool, Option("--resume", help="Go on with the run in DIR, with the same options.")
    ] = False,
    revision: Annotated[str | None, as_in_runs("revision")] = None,
    offline: Annotated[bool, as_in_runs("offline")] = False,
    device: Annotated[str, as_in_runs("device")] = "auto",
    dtype: Annotated[str, as_in_runs("dtype")] = "auto",
    workers: Annotated[int, as_in_runs("workers")] = 2,
    quiet: Annotated[bool, as_in_runs("quiet")] = False,
    verbose: Annotated[bool, as_in_runs("verbose")] = False,
) -> None:
    """Fine-tune a model on recordings and what is to be written of them.

    By default a LoRA adapter is trained beside the decoder and written to DIR, for 'qwa transcribe
    --model DIR' and peft alike. Each line of the manifest is a recording (a path from where the
    manifest lies), its target, and a task of 'qwa tasks' with its options; lines whose split is dev
    are heard in between, to tell when it goes wrong. DIR gets metrics.jsonl and curve.svg, too, and
    what --resume goes on from. Standard output gets one line of JSON at the end.
    """
    configure(quiet=quiet, verbose=verbose)
    prepare_torch()
    from ..models import Wanted
    from ..training.files import require_empty
    from ..training.run import prepare

    choices = Recipe(**{field.name: getattr(recipe, field.name) for field in fields(recipe)})
    if not resume:
        require_empty(output, "--resume goes on with a run")
    training = prepare(
        Wanted(model, revision, offline),
        manifest,
        choices,
        output,
        device=device,
        dtype=dtype,
        workers=workers,
        tell=partial(LOG.info, "%s"),
    )
    _create(output)
    typer.echo(orjson.dumps(asdict(training.run(resume=resume))).decode())


def _create(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"{output}: cannot be created: {reason}") from error
