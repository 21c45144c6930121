"""Layer 4: words into calls. Nothing here imports torch until a command runs, so that help is instant."""

import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable

import typer

from linnaeus import __version__
from linnaeus.cli.data import data_app
from linnaeus.cli.explain import explain
from linnaeus.cli.export import export
from linnaeus.cli.inspect import demo, doctor, models
from linnaeus.cli.recipes import recipes
from linnaeus.cli.report import report
from linnaeus.cli.train import resume, train
from linnaeus.cli.tune import tune
from linnaeus.cli.use import benchmark, evaluate, predict
from linnaeus.core.errors import EnvironmentFault, LinnaeusError, one_line
from linnaeus.core.memory import keep_freed_memory

app = typer.Typer(
    name="linnaeus",
    help="From a folder of images to a verified, deployed classifier.",
    epilog="Start with:  linnaeus demo   or   linnaeus train PHOTOS, a folder with one folder a class.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (doctor, train, resume, tune, evaluate, predict, explain, export, benchmark, report, models, demo):
    app.command()(command)
app.add_typer(data_app)
app.add_typer(recipes, name="recipes")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"linnaeus {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """From a folder of images to a verified, deployed classifier."""


def main() -> None:
    """The program: runs a command, and turns every error into one line and an exit code."""
    # Pillow warns of oddities in files; what matters of them becomes a finding.
    warnings.filterwarnings("ignore", module="PIL")
    keep_freed_memory()
    try:
        app()
    except LinnaeusError as error:
        _leave(str(error), error.exit_code, getattr(error, "__notes__", ()))
    except KeyboardInterrupt:
        _leave("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output has gone
        sys.exit(0)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _leave(f"{error.strerror or error}{where}", EnvironmentFault.exit_code)
    except Exception as error:  # the outermost boundary: a bug of ours, explained and kept for a report
        _leave(f"this is a bug in Linnaeus ({type(error).__name__}: {error}). Please report {_write_trace()}", 4)


def _leave(message: str, code: int, notes: Iterable[str] = ()) -> None:
    """Ends with a message in one line; notes, such as the command that goes on, follow as they are."""
    for line in (f"error: {one_line(message)}", *notes):
        typer.echo(line, err=True)
    sys.exit(code)


def _write_trace() -> str:
    with tempfile.NamedTemporaryFile("w", prefix="linnaeus-", suffix=".log", delete=False) as file:
        traceback.print_exc(file=file)
    return file.name
