"""Writes the man pages and the shell completions from the command line itself.

    python scripts/generate_docs.py

`tests/test_docs.py` holds the committed files to what this gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
from typer.completion import get_completion_script

from qwen_audio_cli import __version__
from qwen_audio_cli.cli import app
from qwen_audio_cli.cli.help import EXAMPLES
from qwen_audio_cli.exits import MEANINGS
from qwen_audio_cli.records import FLAGS

ROOT = Path(__file__).resolve().parent.parent
DATE = "2026-11-22"
"""Of the release; a man page has to have one."""

COMPLETIONS = {"bash": "qwa.bash", "zsh": "_qwa", "fish": "qwa.fish"}

ENVIRONMENT = {
    "NO_COLOR": "If not empty, there is no colour on standard error.",
    "TERM": "If it is 'dumb', there is neither colour nor a progress bar.",
    "HF_HOME": "Where models are fetched to; HF_HUB_CACHE names the place of models alone.",
    "HF_TOKEN": "The token to fetch gated and private models with.",
    "HF_ENDPOINT": "The hub to fetch models from: https://huggingface.co if not set.",
    "HF_HUB_OFFLINE": "If it is 1, nothing is fetched, as with --offline.",
}

OUTPUT = (
    "FILE of --output",
    "One record a line. A run locks it and appends to it. A last line that a crash has torn is "
    "cut off, and its source answered again with --resume.",
)
WEIGHTS = (
    "qwen_audio_cli/weights/",
    "In the installed package: the embedded models. 'qwa models' prints where.",
)

CACHE = (
    "~/.cache/huggingface/hub/",
    "The models that were fetched, as other programs share them; HF_HOME names another place.",
)

_ROFF = {
    "\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti",
}  # fmt: skip


def generate() -> dict[str, str]:
    """Every file by its path within the repository."""
    group: Any = typer.main.get_command(app)
    commands = dict(within(group, "qwa"))
    titles = [title(name) for name in commands]
    files = {f"man/{title(name)}.1": page(commands[name], name, titles) for name in commands}
    for shell, file in COMPLETIONS.items():
        script = get_completion_script(prog_name="qwa", complete_var="_QWA_COMPLETE", shell=shell)
        files[f"completions/{file}"] = f"{script}\n"
    return files


def within(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A command by its full name, and those below it."""
    yield name, command
    for part, below in getattr(command, "commands", {}).items():
        yield from within(below, f"{name} {part}")


def title(full_name: str) -> str:
    """What the page of a command is called."""
    return full_name.replace(" ", "-")


def page(command: Any, full_name: str, titles: list[str]) -> str:
    """The man page of a command; `titles` are those of all pages."""
    own = title(full_name)
    summary, *paragraphs = command.help.split("\n\n")
    options = [p for p in parameters(command) if p.param_type_name == "option"]
    is_group = hasattr(command, "commands")
    lines = [
        f'.TH {roff(own.upper())} 1 {DATE} "qwa {__version__}"',
        ".SH NAME",
        f"{roff(own)} \\- {roff(summary[0].lower() + summary[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {roff(full_name)}",
        roff(synopsis(command)),
        ".SH DESCRIPTION",
        roff(summary),
    ]
    for text in paragraphs:
        lines += [".PP", roff(text.replace("\n", " "))]
    if is_group:
        lines += [".SH COMMANDS", *items(commands(command))]
    lines += [".SH OPTIONS", *items(map(option, options))]
    if full_name == "qwa":
        lines += [".SH FLAGS", "What the flags of a record say:", *items(FLAGS.items())]
    lines += [".SH EXAMPLES", ".EX", *map(roff, EXAMPLES[full_name.removeprefix("qwa ")]), ".EE"]
    lines += [".SH EXIT STATUS", *items((str(int(c)), text) for c, text in MEANINGS.items())]
    members = [member for _, member in within(command, full_name)]
    lines += [".SH ENVIRONMENT", *items(environment(members).items())]
    writes = any(p.name == "output" for member in members for p in member.params)
    lines += [".SH FILES", *items([OUTPUT, WEIGHTS, CACHE] if writes else [WEIGHTS, CACHE])]
    others = [other for other in titles if other != own]
    lines += [".SH SEE ALSO", *(f".BR {roff(other)} (1)," for other in others[:-1])]
    lines += [f".BR {roff(others[-1])} (1)"]
    return "\n".join(lines) + "\n"


def parameters(command: Any) -> list[Any]:
    """A command's own parameters and its help option."""
    return list(command.get_params(typer.Context(command, **app.info.context_settings)))


def roff(text: str) -> str:
    """Text that roff prints as it is."""
    escaped = re.sub(r"[-\\'`^~]", lambda match: _ROFF[match[0]], text)
    return "\\&" + escaped if escaped.startswith(".") else escaped


def items(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list of terms and what they mean."""
    for term, text in rows:
        yield from (".TP", f".B {roff(term)}", roff(text))


def synopsis(command: Any) -> str:
    """What follows the command's name."""
    if hasattr(command, "commands"):
        return "[OPTION]... COMMAND [ARGUMENT]..."
    words = ["[OPTION]..."]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            word = parameter.metavar if parameter.required else f"[{parameter.metavar}]"
            words.append(word if parameter.nargs == 1 else f"{word}...")
    return " ".join(words)


def commands(group: Any) -> Iterator[tuple[str, str]]:
    """The commands of a group and the first sentence of their help."""
    for name, command in group.commands.items():
        yield name, command.help.split("\n\n")[0]


def option(parameter: Any) -> tuple[str, str]:
    """An option's names with its value, and its help with its default."""
    names = ", ".join(sorted(parameter.opts, key=len))
    term = names if parameter.is_flag else f"{names} {parameter.metavar}"
    default = parameter.default
    if parameter.is_flag or default is None or not parameter.show_default:
        return term, parameter.help
    return term, f"{parameter.help} The default is {default}."


def environment(commands: Iterable[Any]) -> dict[str, str]:
    """The environment variables that count for some commands, and what they do."""
    variables = {
        parameter.envvar: f"Stands in for {max(parameter.opts, key=len)}."
        for command in commands
        for parameter in command.params
        if parameter.envvar
    }
    return variables | ENVIRONMENT


if __name__ == "__main__":
    for path, content in generate().items():
        (ROOT / path).write_text(content, encoding="utf-8")
