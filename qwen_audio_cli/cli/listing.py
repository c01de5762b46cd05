"""The commands that only tell what there is: the tasks, and the schema of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
import typer

from ..models import MODELS, ModelCard
from ..schema import SCHEMA
from ..tasks import DEFAULTS, FAMILIES, TASKS, Task, able_families, marked

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def tasks(*, json: Json = False) -> None:
    """List the tasks, their tags, and the models here that can.

    No model is chosen for a task at which it is experimental: only --model can name it.
    """
    here = [card for card in MODELS if card.find() is not None]
    tasks = TASKS.values()
    if json:
        print_json([_task(task, here) for task in tasks])
    else:
        rows = [_task(task, here) | _marked(task, here) for task in tasks]
        print_table(rows, ("name", "command", "models", "families", "title", "tags"))


def schema() -> None:
    """Print the JSON Schema that every record keeps to."""
    typer.echo(orjson.dumps(SCHEMA, option=orjson.OPT_INDENT_2).decode())


def _task(task: Task, here: Sequence[ModelCard]) -> dict[str, Any]:
    question = "QUESTION" if task.tag == "question" and task.question is None else None
    return {
        "name": task.name,
        "command": task.command,
        "default": DEFAULTS[task.command] == task.name,
        "title": task.title,
        "tags": str(task.tags(question=question)),
        "families": [family for family in FAMILIES if family in task.families],
        "experimental": [family for family in FAMILIES if family in task.experimental],
        "models": [card.alias for card in here if card.family in task.families],
        "labels": list(task.labels),
    }


def _marked(task: Task, here: Sequence[ModelCard]) -> dict[str, list[str]]:
    """Families and models as people read them."""
    able = [card for card in here if card.family in task.families]
    return {
        "families": able_families([task]),
        "models": [marked(card.alias, card.family, [task]) for card in able],
    }


def print_json(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as one JSON object a line."""
    for row in rows:
        typer.echo(orjson.dumps(row).decode())


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print rows below a heading, their columns aligned."""
    cells = [[column.upper() for column in columns]]
    cells += [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(padded).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value) or "-"
    return str(value or "-")
