"""Files, functions and lists of parameters stay short enough to be read at one look."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .source import ROOT, Function, docstring_lines, expect_none, read_package

LIMITS = {"lines of a file": 300, "lines of a function": 40, "parameters": 7}

# The training loop is one screen; read as a whole it is clearer than in pieces.
LOOP = {("lines of a function", "engine/train.py:train"): 80}
# (what, where): (its own limit, the reason). An exception that is no longer needed fails.
EXCEPTIONS: dict[tuple[str, str], tuple[int, str]] = {
    ("lines of a function", "cli/train.py:train"): (60, "most of it is the signature that Typer reads"),
    ("lines of a function", "cli/export.py:export"): (55, "most of it is the signature that Typer reads"),
    ("parameters", "app/api.py:train"): (8, "linnaeus.train, all but the data by keyword"),
}
NONE: dict[tuple[str, str], tuple[int, str]] = {}


def measure(root: Path) -> Iterator[tuple[str, str, str, int]]:
    """(what, where, place, size) of everything that has a limit; docstrings and decorators do not count."""
    for source in read_package(root):
        yield "lines of a file", source.name, source.at(1), len(source.text.splitlines())
        for name, node in source.functions:
            where, place = f"{source.name}:{name}", source.at(node.lineno)
            lines = (node.end_lineno or 0) - node.lineno + 1 - docstring_lines(node)
            yield "lines of a function", where, place, lines
            # Typer makes options from parameters; a network's constructor lists the hyper-parameters of its paper.
            if source.part != "cli" and not (source.part == "models" and node.name == "__init__"):
                yield "parameters", where, place, _count_parameters(node)


def _count_parameters(node: Function) -> int:
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def check_sizes(root: Path, exceptions: Mapping[tuple[str, str], tuple[int, str]] = NONE) -> list[str]:
    """What is too long, and which exceptions are no longer needed."""
    found = []
    needed = set()
    for what, where, place, size in measure(root):
        usual = LOOP.get((what, where), LIMITS[what])
        limit, _ = exceptions.get((what, where), (usual, ""))
        if size > limit:
            found.append(f"{place}: {where} has {size} {what}, and the limit is {limit}; split it")
        if size > usual:
            needed.add((what, where))
    return found + [f"{where}: the exception for {what} is no longer needed" for what, where in {*exceptions} - needed]


def test_everything_is_short():
    expect_none(check_sizes(ROOT, EXCEPTIONS))


def test_every_exception_has_a_reason():
    assert all(reason for _, reason in EXCEPTIONS.values())


def test_the_healthy_package_passes(plant):
    assert check_sizes(plant(), {}) == []


DOCSTRING = '    """' + "More.\n" * 50 + '    """\n'
BODY = "    pass\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n" * 301, "core/bad.py has 301 lines of a file, and the limit is 300"),
        ("@decorated(\n1)\ndef f():\n" + DOCSTRING + BODY * 40, "core/bad.py:f has 41 lines of a function"),
        ("class C:\n  async def f(self):\n" + BODY * 40, "core/bad.py:C.f has 41 lines of a function"),
        ("if 1:\n  def f():\n" + BODY * 40, "core/bad.py:f has 41 lines of a function"),
        ("def f():\n  def g():\n" + BODY * 39, "core/bad.py:f has 41 lines of a function"),
        ("def f(a, b, /, c, d, *args, e, f, g, h, **more): ...", "has 8 parameters, and the limit is 7"),
        ("class C:\n  def f(self, a, b, c, d, e, f, g, h): ...", "C.f has 8 parameters"),
    ],
)
def test_what_is_too_long_is_found(plant, text, message):
    (violation,) = check_sizes(plant({"core/bad.py": text}), {})
    assert message in violation


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("core/good.py", "\n" * 300),
        ("core/good.py", "@decorated(\n1)\ndef f():\n" + DOCSTRING + BODY * 39),
        ("core/good.py", "class C:\n  def f(self, a, b, c, d, e, f, g): ..."),
        ("cli/good.py", "def f(a, b, c, d, e, f, g, h): ..."),
    ],
)
def test_what_is_at_its_limit_passes(plant, name, text):
    assert check_sizes(plant({name: text}), {}) == []


def test_an_exception_has_a_limit_of_its_own_and_must_be_needed(plant):
    root = plant({"core/long.py": "\n" * 310})
    where = ("lines of a file", "core/long.py")
    assert check_sizes(root, {where: (310, "a table")}) == []
    assert "the limit is 305" in check_sizes(root, {where: (305, "a table")})[0]
    assert "no longer needed" in check_sizes(plant({"core/long.py": ""}), {where: (310, "a table")})[0]


def test_the_training_loop_may_have_80_lines(plant):
    assert check_sizes(plant({"engine/train.py": "def train():\n" + BODY * 79}), {}) == []
    (violation,) = check_sizes(plant({"engine/train.py": "def train():\n" + BODY * 80}), {})
    assert "has 81 lines of a function, and the limit is 80" in violation
