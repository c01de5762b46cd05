"""The options that some commands have, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from typer import Context, Option

from ..tasks import COMMANDS, DEFAULTS, TASKS
from .given import parse_labels


def _tasks(context: Context, incomplete: str) -> list[str]:
    return [
        task.name
        for task in TASKS.values()
        if task.command == context.info_name and task.name.startswith(incomplete)
    ]


def _commands_and_tasks(incomplete: str) -> list[str]:
    """Complete the last COMMAND[:TASK] of a list."""
    before, comma, last = incomplete.rpartition(",")
    named = [*COMMANDS, *(f"{task.command}:{task.name}" for task in TASKS.values())]
    return [before + comma + name for name in named if name.startswith(last)]


def task_option(command: str) -> Any:
    """`--task` of a command, its help naming the tasks there are."""
    default = DEFAULTS[command]
    others = [t.name for t in TASKS.values() if t.command == command and t.name != default]
    names = ", ".join([f"{default} (default)", *others])
    return Option("--task", metavar="TASK", autocompletion=_tasks, help=f"One of: {names}.")


Tasks = Annotated[
    list[str] | None,
    Option(
        "--tasks",
        "-t",
        metavar="COMMAND[:TASK],...",
        autocompletion=_commands_and_tasks,
        help="What to do: subcommands, each with its default task or a given one.",
    ),
]
Questions = Annotated[
    list[str] | None,
    Option("--question", metavar="QUESTION", help="Ask this, too; may be given several times."),
]
Timestamps = Annotated[bool, Option("--timestamps", help="Say when each word is spoken, too.")]
To = Annotated[
    str | None,
    Option("--to", metavar="LANGUAGE", help="The language to write: English if not given."),
]
Style = Annotated[
    str | None,
    Option("--style", metavar="STYLE", help="The output instruction, as caption_audiocaps."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """How labels are scored, in every command that does."""

    labels: Annotated[
        str | None,
        Option(
            "--labels",
            metavar="A,B,C|@FILE",
            help="Labels to choose from instead of the task's own; a file has one a line.",
        ),
    ] = None
    top_k: Annotated[
        int | None,
        Option("--top-k", metavar="COUNT", min=1, help="Keep the likeliest labels only."),
    ] = None
    threshold: Annotated[
        float,
        Option(
            "--threshold",
            metavar="PROBABILITY",
            help="Drop labels below it; a record without any is flagged 'abstained'.",
        ),
    ] = 0.0
    free: Annotated[
        bool, Option("--free", help="Let the model write an answer instead of scoring labels.")
    ] = False

    def values(self) -> dict[str, Any]:
        """These options as `qwen_audio_cli.options.Options` takes them. Raises UsageError."""
        return {
            "labels": parse_labels(self.labels),
            "top_k": self.top_k,
            "threshold": self.threshold,
            "free": self.free,
        }
