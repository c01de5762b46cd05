"""`qwa models`: which models there are and which are here; `qwa models pull` fetches one."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer import Argument

from ..models import MODELS, ModelCard, Wanted, fetch
from ..tasks import COMMANDS, TASKS
from .console import configure
from .help import description, epilog
from .listing import Json, print_json, print_table
from .options import as_in_runs, starting

COLUMNS = ("name", "family", "parameters", "memory", "longest", "commands", "present", "source")


def models(context: typer.Context, *, json: Json = False) -> None:
    """List the models, and which of them are on this machine.

    MEMORY is what the weights take in 16 bits each, LONGEST the longest clip that is heard at once:
    longer audio is cut. What is not PRESENT is fetched from SOURCE when it is first used, or by
    'qwa models pull'; what has no SOURCE comes with this package alone. 'qwa tasks' tells at which
    tasks of its COMMANDS a model is experimental.
    """
    if context.invoked_subcommand is not None:
        return
    rows = [_row(card) for card in MODELS if card.offered]
    if json:
        print_json(rows)
    else:
        print_table([row | _shown(row) for row in rows], COLUMNS)


def pull(
    *,
    name: Annotated[
        str,
        Argument(
            metavar="NAME",
            hidden=True,
            autocompletion=starting([card.alias for card in MODELS if card.directory is None]),
        ),
    ],
    revision: Annotated[str | None, as_in_runs("revision")] = None,
    quiet: Annotated[bool, as_in_runs("quiet")] = False,
    verbose: Annotated[bool, as_in_runs("verbose")] = False,
) -> None:
    """Fetch a model, or what is new of it, and print its directory.

    NAME is a model of 'qwa models', or a name on the Hugging Face hub, as org/name. It goes into
    the hub's cache (HF_HOME); what an interruption leaves is not fetched again.
    """
    configure(quiet=quiet, verbose=verbose)
    typer.echo(fetch(Wanted(name, revision)))


app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)
app.callback(help=description(models), epilog=epilog("models"))(models)
app.command("pull", help=description(pull), epilog=epilog("models pull"))(pull)


def _row(card: ModelCard) -> dict[str, Any]:
    able = [task for task in TASKS.values() if card.family in task.families]
    directory = card.find()
    return {
        "name": card.alias,
        "family": card.family,
        "parameters": card.parameters * 1_000_000,
        "memory": card.memory,
        "longest": card.window,
        "commands": [name for name in COMMANDS if any(task.command == name for task in able)],
        "tasks": [task.name for task in able],
        "experimental": [task.name for task in able if card.family in task.experimental],
        "present": directory is not None,
        "source": card.source or None,
        "path": None if directory is None else str(directory),
    }


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """The same for people to read."""
    return {
        "parameters": f"{row['parameters'] / 1e6:,.0f} M",
        "memory": f"{row['memory'] / 1e9:.1f} GB",
        "longest": f"{row['longest']:g} s",
        "present": "yes" if row["present"] else "no",
    }
