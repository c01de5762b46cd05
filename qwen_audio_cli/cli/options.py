"""The options that every answering command has, each declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from typer import Argument, Option

from ..api import DEVICE_MAPS, ORDERS, Qwa
from ..errors import UsageError
from ..languages import LANGUAGES
from ..models import ALIGNER, MODELS
from ..records import FLAGS
from .given import parse_context

SHOW_TAGS = "show"
"""The value of `--tags` that prints the sequence instead of running."""


def expand(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the fields of each of its parameters that is a dataclass as its own."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in groups:
            keyword = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(annotation=hints[name], kind=keyword))
            continue
        annotations = get_type_hints(groups[name], include_extras=True)
        parameters.extend(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=annotations[field.name],
            )
            for field in fields(groups[name])
        )

    @wraps(function)
    def command(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        function(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


# --- what the shell completes -------------------------------------------------------------------


def starting(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """Complete one of these words."""
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


def _flags(incomplete: str) -> list[str]:
    """Complete the last name of a list."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + flag for flag in FLAGS if flag.startswith(last)]


# --- the options --------------------------------------------------------------------------------

# Typer would print the Python type of an argument, so the command's description tells of it.
Sources = Annotated[list[str] | None, Argument(metavar="SOURCE", hidden=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """What shapes an answer, in every command."""

    language: Annotated[
        str | None,
        Option(
            "--language",
            "-l",
            metavar="LANGUAGE",
            autocompletion=starting(LANGUAGES),
            help="The language that is spoken, by code or English name; detected if not given.",
        ),
    ] = None
    tags: Annotated[
        str | None,
        Option(
            "--tags",
            metavar="show|TAGS",
            help="'show' prints the sequence of hierarchical tags that the run would give the "
            "model; anything else is a sequence to give it instead.",
        ),
    ] = None
    temperature: Annotated[
        float, Option("--temperature", metavar="NUMBER", help="Sample; 0 takes the likeliest.")
    ] = 0.0
    seed: Annotated[int, Option("--seed", metavar="NUMBER", help="Seed of sampling.")] = 0
    max_tokens: Annotated[
        int | None,
        Option("--max-tokens", metavar="COUNT", help="Bound the answer about each clip."),
    ] = None
    context: Annotated[
        str,
        Option(
            "--context",
            metavar="TEXT|@FILE",
            show_default=False,
            help="Names and terms that may be spoken, for models that take them.",
        ),
    ] = ""
    no_vad: Annotated[
        bool, Option("--no-vad", help="Hear everything, not only where somebody speaks.")
    ] = False

    @property
    def show_tags(self) -> bool:
        """Whether the tags are asked for, not a run."""
        return self.tags == SHOW_TAGS

    def values(self) -> dict[str, Any]:
        """These options as `qwen_audio_cli.options.Options` takes them. Raises UsageError."""
        return {
            "language": self.language,
            "tags": None if self.show_tags else self.tags,
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "context": parse_context(self.context),
            "vad": not self.no_vad,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run goes about its work, in every command."""

    model: Annotated[
        str | None,
        Option(
            "--model",
            "-m",
            metavar="NAME|PATH",
            envvar="QWA_MODEL",
            show_envvar=True,
            autocompletion=starting([card.alias for card in MODELS if card.offered]),
            help="A model of 'qwa models', the directory of a checkpoint or of an adapter to one, "
            "or a name on the Hugging Face hub, as org/name; the best embedded model if not given. "
            "What is not on this machine is fetched.",
        ),
    ] = None
    revision: Annotated[
        str | None,
        Option("--revision", metavar="REVISION", help="A model's branch, tag or commit."),
    ] = None
    offline: Annotated[
        bool, Option("--offline", help="Fetch nothing: a model is on this machine or refused.")
    ] = False
    aligner: Annotated[
        str | None,
        Option(
            "--aligner",
            metavar="NAME|PATH",
            autocompletion=starting([ALIGNER]),
            help="The forced aligner that Qwen3-ASR asks when words are spoken; "
            f"{ALIGNER} if that is on this machine.",
        ),
    ] = None
    device: Annotated[
        str,
        Option(
            "--device",
            metavar="DEVICE",
            envvar="QWA_DEVICE",
            show_envvar=True,
            autocompletion=starting(("auto", "cpu", "cuda", "mps")),
            help="auto, cpu, cuda, cuda:1, mps.",
        ),
    ] = "auto"
    devices: Annotated[
        str | None,
        Option(
            "--devices",
            metavar="LIST",
            help="Several devices, as 0,1 or cpu,cpu: a process for each, sharing the sources.",
        ),
    ] = None
    device_map: Annotated[
        str | None,
        Option(
            "--device-map",
            metavar="HOW",
            autocompletion=starting(DEVICE_MAPS),
            help="Spread a model that is too large for one device over all: "
            f"{', '.join(DEVICE_MAPS)}.",
        ),
    ] = None
    dtype: Annotated[
        str,
        Option(
            "--dtype",
            metavar="TYPE",
            autocompletion=starting(("auto", "float32", "bfloat16", "float16")),
            help="auto, float32, bfloat16 or float16.",
        ),
    ] = "auto"
    batch: Annotated[
        int | None,
        Option(
            "--batch",
            metavar="COUNT",
            min=1,
            help="Clips to answer at once; what suits the device if not given.",
        ),
    ] = Qwa.batch
    workers: Annotated[
        int, Option("--workers", metavar="COUNT", min=1, help="Threads that decode audio.")
    ] = Qwa.workers
    full_window: Annotated[
        bool,
        Option("--full-window", help="Encode each clip at the model's whole window: slower."),
    ] = False
    deterministic: Annotated[
        bool,
        Option(
            "--deterministic",
            help="Answers equal to the last bit, whatever the batch: slower; on a CPU they are "
            "so by default.",
        ),
    ] = False
    order: Annotated[
        str,
        Option(
            "--order",
            metavar="ORDER",
            autocompletion=starting(ORDERS),
            help="Records come as soon as they are complete (completion), or in the order of the "
            "sources (input).",
        ),
    ] = Qwa.order
    recursive: Annotated[
        bool, Option("--recursive", "-r", help="Search directories downwards, not one level only.")
    ] = False
    files_from: Annotated[
        str | None,
        Option(
            "--files-from",
            metavar="LIST",
            help="Read names of further sources from a file, or from standard input (-): one a "
            "line.",
        ),
    ] = None
    null: Annotated[
        bool, Option("--null", "-0", help="Names in LIST end with NUL, not with a newline.")
    ] = False
    output: Annotated[
        Path,
        Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default=False,
            help="Append the records to a file instead of writing them to standard output.",
        ),
    ] = Path("-")
    resume: Annotated[
        bool, Option("--resume", help="Leave out what FILE (-o) has a record of already.")
    ] = False
    fail_on_flag: Annotated[
        str | None,
        Option(
            "--fail-on-flag",
            metavar="FLAG[,FLAG...]",
            autocompletion=_flags,
            help=f"Exit with 5 if a record has one of these flags: {', '.join(FLAGS)}.",
        ),
    ] = None
    quiet: Annotated[
        bool, Option("--quiet", "-q", help="No progress and no summary, only what fails.")
    ] = False
    verbose: Annotated[
        bool, Option("--verbose", "-v", help="Say more on standard error; show tracebacks.")
    ] = False
    no_color: Annotated[
        bool, Option("--no-color", help="No colour on standard error; as NO_COLOR.")
    ] = False

    @property
    def to_stdout(self) -> bool:
        """Whether records go to standard output."""
        return self.output == Path("-")

    def failing_flags(self) -> frozenset[str]:
        """The flags of `--fail-on-flag`. Raises UsageError for one that is not known."""
        if self.fail_on_flag is None:
            return frozenset()
        flags = frozenset(name.strip() for name in self.fail_on_flag.split(","))
        if unknown := sorted(flags - FLAGS.keys()):
            raise UsageError(
                f"--fail-on-flag: unknown flag '{unknown[0]}'; known are {', '.join(FLAGS)}"
            )
        return flags


def as_in_runs(name: str) -> Any:
    """An option as the commands that answer for audio declare it."""
    return get_type_hints(RunOptions, include_extras=True)[name].__metadata__[0]
