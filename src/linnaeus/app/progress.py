"""Progress for people, on stderr: bars on a terminal, plain lines anywhere else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

Advance = Callable[[int], None]


class Display:
    """Where a workflow speaks to a person. Results go to stdout by `show`, all else to stderr."""

    def __init__(self, *, quiet: bool = False, results: bool = True) -> None:
        """`quiet` silences everything; `results=False` keeps stdout free, for a caller that prints JSON there."""
        self.stderr = Console(stderr=True, quiet=quiet, highlight=False)
        self.stdout = Console(quiet=quiet or not results, highlight=False)

    def say(self, text: str) -> None:
        """One line about the work."""
        self.stderr.print(text, markup=False, soft_wrap=True)

    def show(self, result: str | Table) -> None:
        """A result: text or a table."""
        if isinstance(result, str):
            self.stdout.print(result, markup=False, soft_wrap=True)
        else:
            self.stdout.print(result)

    @contextmanager
    def bar(self, what: str, total: int, *, unit: str = "images") -> Iterator[Advance]:
        """A bar with an ETA for a stage of known length; the block gets the function that advances it, from any thread.

        Of the unit "bytes", MB and GB are shown.
        """
        amount = (DownloadColumn(),) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
        columns = (*_COLUMNS, *amount, TimeRemainingColumn())
        with Progress(*columns, console=self.stderr, transient=True, disable=not self.stderr.is_terminal) as progress:
            task = progress.add_task(what, total=total)
            yield lambda amount: progress.advance(task, amount)

    @contextmanager
    def training(self, total_steps: int, done: int) -> Iterator[Callable[[int, str, str], None]]:
        """The bar of a training run; the block gets a function of (step, what, numbers)."""
        columns = (
            *_COLUMNS,
            TextColumn("{task.percentage:3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
        )
        with Progress(*columns, console=self.stderr, transient=True, disable=not self.stderr.is_terminal) as progress:
            task = progress.add_task("training", total=total_steps, completed=done, numbers="")
            yield lambda step, what, numbers: progress.update(task, completed=step, description=what, numbers=numbers)


_COLUMNS: tuple[ProgressColumn, ...] = (TextColumn("{task.description}"), BarColumn())
