"""The commands and their options are a fixed set: everything else is `--set section.key=value` or `--config`.

A new option is a decision: who needs it, which recipe uses it, and why `--set` is not enough. Then it is added here.
"""

from collections.abc import Mapping
from typing import Any

import typer

from .source import expect_none

COLUMNS = ("--path-column", "--label-column", "--split-column")
FROZEN: dict[str, set[str]] = {
    "linnaeus": {"--version"},
    "linnaeus demo": set(),
    "linnaeus train": {
        "DATA",
        *("--model", "--duration", "--epochs", "--batch-size", "--lr", "--image-size", "--seed", "--out"),
        *(
            "--weights",
            "--device",
            "--precision",
            "--recipe",
            "--teacher",
            "--set",
            "--config",
            "--json",
            "--microscope",
            "--dry-run",
            "--no-autotune",
        ),
        *COLUMNS,
    },
    "linnaeus doctor": {"DATA", "--page", *COLUMNS, "--json"},
    "linnaeus resume": {"RUN", "--verify", "--json"},
    "linnaeus tune": {
        *("DATA", "--duration", "--trials", "--space", "--model", "--weights", "--out", *COLUMNS),
        *("--recipe", "--config", "--set", "--json"),
    },
    "linnaeus evaluate": {"RUN", "DATA", "--split", "--robustness", *COLUMNS, "--device", "--json"},
    "linnaeus explain": {"RUN", "IMAGES", "--method", "--class", "--out", "--device", "--json"},
    "linnaeus predict": {"RUN", "IMAGES", "--format", "--top", "--embeddings", "--min-accuracy", "--device"},
    "linnaeus export": {
        "RUN",
        "--to",
        "--batch",
        "--input",
        "--data",
        "--max-drop",
        "--min-agreement",
        "--qat",
        "--json",
    },
    "linnaeus benchmark": {"PATHS", "--profile", "--device", "--json"},
    "linnaeus report": {"RUNS", "--page", "--device", "--json"},
    "linnaeus models": {"PATTERN"},
    "linnaeus recipes": set(),
    "linnaeus recipes show": {"NAME"},
    "linnaeus data": set(),
    "linnaeus data pack": {
        *("DATA", "OUT", "--format", "--shard-size", "--max-side", "--quality", "--json"),
        *COLUMNS,
    },
    "linnaeus data split": {"DATA", "OUT", "--val-share", "--test-share", "--seed", *COLUMNS, "--json"},
    "linnaeus data show": {"DATA", "OUT", "--images", *COLUMNS, "--set"},
}


def options(command: Any, name: str) -> dict[str, set[str]]:
    """The options, and in capitals the arguments, of a command and of all below it; `--help` goes without saying."""
    own: set[str] = set()
    for parameter in command.params:
        is_argument = parameter.param_type_name == "argument"
        own |= {parameter.name.upper()} if is_argument else {*parameter.opts, *parameter.secondary_opts}
    found = {name: own - {"--help"}}
    for child, below in getattr(command, "commands", {}).items():
        found |= options(below, f"{name} {child}")
    return found


def check_options(found: Mapping[str, set[str]], frozen: Mapping[str, set[str]] = FROZEN) -> list[str]:
    """Where the commands differ from the frozen ones."""
    new = [f"{name}: new command" for name in sorted(found.keys() - frozen.keys())]
    gone = [f"{name}: the command is gone" for name in sorted(frozen.keys() - found.keys())]
    for name in sorted(found.keys() & frozen.keys()):
        new += [f"{name}: new option {option}" for option in sorted(found[name] - frozen[name])]
        gone += [f"{name}: option {option} is gone" for option in sorted(frozen[name] - found[name])]
    return new + gone


def test_commands_and_options_are_the_frozen_ones():
    from linnaeus.cli import app

    expect_none(check_options(options(typer.main.get_command(app), "linnaeus")))


def test_a_change_of_commands_or_options_is_found():
    small = typer.Typer(add_completion=False)
    group = typer.Typer()
    small.add_typer(group, name="data")

    @small.command()
    def train(data: str, fast: bool = False, json: bool = typer.Option(False, "--json", "-j")) -> None: ...

    @group.command()
    def show(path: str) -> None: ...

    found = options(typer.main.get_command(small), "linnaeus")
    assert found == {
        "linnaeus": set(),
        "linnaeus train": {"DATA", "--fast", "--no-fast", "--json", "-j"},
        "linnaeus data": set(),
        "linnaeus data show": {"PATH"},
    }
    frozen = {**found, "linnaeus train": {"DATA", "--json", "-j", "--slow"}, "linnaeus demo": set()}
    del frozen["linnaeus data show"]
    assert check_options(found, frozen) == [
        "linnaeus data show: new command",
        "linnaeus train: new option --fast",
        "linnaeus train: new option --no-fast",
        "linnaeus demo: the command is gone",
        "linnaeus train: option --slow is gone",
    ]
