"""Modules say what they are for, and public classes and functions what they promise."""

import ast
from pathlib import Path

import pytest

from .source import ROOT, Function, expect_none, read_package

PUBLIC = ("core", "models", "data", "optim", "metrics", "engine", "explain", "deploy")


def check_docstrings(root: Path) -> list[str]:
    """Modules without a docstring; in the library's parts also public classes and functions."""
    found = []
    for source in read_package(root):
        if not ast.get_docstring(source.tree):
            found.append(f"{source.at(1)}: the module has no docstring")
        if source.part in PUBLIC:
            found += [
                f"{source.at(node.lineno)}: {node.name} has no docstring"
                for node in source.tree.body
                if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")
                if not ast.get_docstring(node)
            ]
    return found


def test_what_is_public_says_what_it_promises():
    expect_none(check_docstrings(ROOT))


def test_the_healthy_package_passes(plant):
    assert check_docstrings(plant()) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("app/bad.py", "import os", "app/bad.py:1: the module has no docstring"),
        ("core/__init__.py", "", "core/__init__.py:1: the module has no docstring"),
        ("core/bad.py", '"""A module."""\ndef f(): ...\ndef _g(): ...', "core/bad.py:2: f has no docstring"),
        ("core/bad.py", '"""A module."""\nclass C: ...', "core/bad.py:2: C has no docstring"),
    ],
)
def test_a_missing_docstring_is_found(plant, name, text, message):
    (violation,) = check_docstrings(plant({name: text}))
    assert message in violation
