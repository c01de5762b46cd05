"""The application: its commands, and how it ends whatever happens."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from .. import __version__
from ..errors import QwaError
from ..exits import Exit
from . import listing, models
from .bench import bench
from .commands import COMMANDS
from .console import LOG, configure
from .help import description, epilog
from .train import train

app = typer.Typer(
    name="qwa",
    help="Audio understanding from the shell: audio files in, JSON lines out.\n\n"
    "A command chooses a task, one audio-language model answers, and every source gives one "
    "record on standard output, also one that fails. Messages go to standard error.",
    epilog=epilog("qwa"),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (*COMMANDS, train, bench, listing.tasks, listing.schema):
    _name = _command.__name__
    app.command(_name, help=description(_command), epilog=epilog(_name))(_command)
app.add_typer(models.app, name="models")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"qwa {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    _open_streams()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(Exit.TERMINATED))
    code = run(sys.argv[1:])
    _flush_streams()
    if code == Exit.INTERRUPTED or threading.active_count() > 1:
        # Every record is written already, and the interpreter's end would go wrong: a reader in
        # native code, or one that holds standard input, crashes it, and an interrupt that came
        # within exec() (as of an import) makes it raise the signal in place of the exit code.
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run the command line with these arguments; gives the exit code."""
    configure()
    try:
        app(arguments, prog_name="qwa")
    except SystemExit as stop:
        # Typer ends with 1 where the reader of an output has gone.
        if isinstance(stop.__context__, BrokenPipeError):
            return Exit.BROKEN_PIPE
        return stop.code if isinstance(stop.code, int) else Exit.OK
    except QwaError as error:
        LOG.error("%s", error)
        return error.exit
    except OSError as error:
        LOG.error("%s", error)
        return Exit.IO_ERROR
    except Exception as error:
        LOG.error("internal error: %s: %s (-v shows where)", type(error).__name__, error)
        LOG.debug("it happened here:", exc_info=error)
        return Exit.INTERNAL
    return Exit.OK


def _open_streams() -> None:
    """Open what the caller has closed of descriptors 0 to 2, so that no file takes their place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _flush_streams() -> None:
    """Leave nothing that the interpreter would complain about where a reader has gone."""
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
