"""`recipes` and `recipes show`."""

from typing import Annotated

import typer

recipes = typer.Typer(invoke_without_command=True)


@recipes.callback()
def list_recipes(context: typer.Context) -> None:
    """List the recipes: complete configurations with their hardware, time and expected result.

    Examples:

      linnaeus recipes

      linnaeus recipes show cifar-resnet18 > mine.yaml

      linnaeus train cifar10 --recipe cifar-resnet18
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table

    from linnaeus.app.recipes import RECIPES, recipe_facts

    table = Table(show_lines=True)
    for column in ("name", "what", "hardware and time", "expected"):
        table.add_column(column, overflow="fold")
    for name in RECIPES:
        facts = recipe_facts(name)
        table.add_row(name, facts["What"], f"{facts['Hardware']}; {facts['Time']}", facts["Expected"])
    Console().print(table)


@recipes.command()
def show(name: Annotated[str, typer.Argument(help="A name of `linnaeus recipes`.")]) -> None:
    """Print a recipe as a complete file of settings, to be changed and given to `linnaeus train DATA --config`.

    Example:

      linnaeus recipes show cifar-resnet18 > mine.yaml
    """
    from linnaeus.app.recipes import recipe_file

    typer.echo(recipe_file(name), nl=False)
