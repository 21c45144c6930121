"""No code swallows unknown errors, asks an object what it is, finds code by name, or runs code that it was given."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .source import ROOT, Source, expect_none, read_package

# A call, and what to do instead.
CALLS = {
    "hasattr": "declare it",
    "eval": "write it out",
    "exec": "write it out",
    "print": "a library does not print; app and cli have a console",
    "__import__": "import it",
    "importlib.import_module": "import it",
    "pickle.load": "code in a pickle runs when it is read; use core/files.py",
    "pickle.loads": "code in a pickle runs when it is read; use core/files.py",
    "pickle.Unpickler": "code in a pickle runs when it is read; use core/files.py",
    "torch.load": "code in a pickle runs when it is read; use core/files.py",
}
BROAD = ("Exception", "BaseException")
# The outermost boundary, which turns an unknown error into exit code 4 and a line to report.
BOUNDARY = "cli/__init__.py"

# (file, what): the reason. An entry that is no longer needed fails.
ALLOWED: dict[tuple[str, str], str] = {
    ("__init__.py", "importlib.import_module"): "the public names are imported when first used, from a literal dict",
    ("models/pretrained.py", "torch.load"): "weights are often .pth; weights_only=True runs no code of theirs",
}
NONE: dict[tuple[str, str], str] = {}


def find(source: Source) -> Iterator[tuple[int, str, str]]:
    """(line, what, what to do instead) of everything forbidden in a file."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield node.lineno, "bare except", "name what can go wrong"
            elif _is_broad(node.type) and source.name != BOUNDARY:
                yield node.lineno, "except Exception", "name what can go wrong"
        elif isinstance(node, ast.Call):
            name = source.dotted(node.func)
            if name in CALLS:
                yield node.lineno, name, CALLS[name]
            elif name == "contextlib.suppress" and any(_is_broad(argument) for argument in node.args):
                yield node.lineno, "except Exception", "name what can go wrong"
            elif name == "getattr" and _looks_up_in_module(source, node):
                yield node.lineno, "getattr on a module", "write a dict of the names that are meant"


def _is_broad(node: ast.expr) -> bool:
    return any(isinstance(name, ast.Name) and name.id in BROAD for name in getattr(node, "elts", [node]))


def _looks_up_in_module(source: Source, call: ast.Call) -> bool:
    """Whether it is `getattr(module, name)` with a computed name: of an import, whose name is not that of a class."""
    if len(call.args) < 2 or isinstance(call.args[1], ast.Constant):
        return False
    name = source.dotted(call.args[0])
    imported = {target for _, target in (imported.binding for imported in source.imports)}
    is_imported = name is not None and any(f"{name}.".startswith(f"{target}.") for target in imported)
    return is_imported and not name.split(".")[-1][:1].isupper()


def check_forbidden(root: Path, allowed: Mapping[tuple[str, str], str] = NONE) -> list[str]:
    """What is forbidden and not allowed, and which allowances are no longer needed."""
    found = []
    needed = set()
    for source in read_package(root):
        for line, what, instead in find(source):
            needed.add((source.name, what))
            if (source.name, what) not in allowed:
                found.append(f"{source.at(line)}: {what}: {instead}")
    return found + [f"{name}: the allowance for '{what}' is no longer needed" for name, what in {*allowed} - needed]


def test_nothing_forbidden_is_used():
    expect_none(check_forbidden(ROOT, ALLOWED))


def test_every_allowance_has_a_reason():
    assert all(ALLOWED.values())


def test_the_healthy_package_passes(plant):
    assert check_forbidden(plant(), {}) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("try:\n    pass\nexcept Exception:\n    pass", "core/bad.py:3: except Exception"),
        ("try:\n    pass\nexcept (OSError, BaseException) as error:\n    raise", "core/bad.py:3: except Exception"),
        ("try:\n    pass\nexcept:\n    pass", "core/bad.py:3: bare except"),
        ("from contextlib import suppress\nwith suppress(Exception):\n    pass", "core/bad.py:2: except Exception"),
        ("hasattr(x, 'a')", "hasattr: declare it"),
        ("eval('1')", "eval"),
        ("exec('1')", "exec"),
        ("print(1)", "print"),
        ("import pickle as p\np.load(file)", "core/bad.py:2: pickle.load"),
        ("from pickle import loads\nloads(b'')", "pickle.loads"),
        ("import torch\ntorch.load('a.pt', weights_only=True)", "torch.load"),
        ("from importlib import import_module\nimport_module(name)", "importlib.import_module"),
        ("import torch\ngetattr(torch.optim, name)", "getattr on a module"),
        ("from torchvision import models as m\ngetattr(m, f'resnet{depth}')", "getattr on a module"),
    ],
)
def test_what_is_forbidden_is_found(plant, text, message):
    (violation,) = check_forbidden(plant({"core/bad.py": text}), {})
    assert message in violation


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "try:\n    pass\nexcept (OSError, ValueError):\n    pass",
        "getattr(self, field.name)",
        "from linnaeus.core.batch import Batch\ngetattr(Batch, name)",
        "import torch\ngetattr(torch, 'bfloat16')",
    ],
)
def test_what_only_looks_similar_passes(plant, text):
    assert check_forbidden(plant({"core/good.py": text}), {}) == []


def test_an_allowance_covers_one_file_and_must_be_needed(plant):
    root = plant({"cli/a.py": "eval('1')", "cli/b.py": "eval('1')"})
    (violation,) = check_forbidden(root, {("cli/a.py", "eval"): "a test"})
    assert "cli/b.py" in violation
    assert (
        "no longer needed"
        in check_forbidden(plant({"cli/b.py": "", "cli/a.py": ""}), {("cli/a.py", "eval"): "a test"})[0]
    )


def test_only_the_outermost_boundary_may_catch_everything(plant):
    text = "try:\n    pass\nexcept Exception:\n    pass\n"
    assert check_forbidden(plant({"cli/__init__.py": text}), {}) == []
    (violation,) = check_forbidden(plant({"cli/__init__.py": text.replace(" Exception", "")}), {})
    assert "cli/__init__.py:3: bare except" in violation
    (violation,) = check_forbidden(plant({"cli/__init__.py": "", "cli/run.py": text}), {})
    assert "cli/run.py:3: except Exception" in violation
