"""A package's files as syntax trees: what the rules in this folder look at."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

PACKAGE = "linnaeus"
REPOSITORY = Path(__file__).parents[2]
ROOT = REPOSITORY / "src" / PACKAGE

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One imported thing.

    Attributes:
        target: its dotted path, "torch.utils.data.Dataset" for `from torch.utils.data import Dataset`.
        binding: the name it gets in the file, and the dotted path that this name stands for.
        nested: whether it stands inside a function, and so happens late.
        typing: whether it stands under `if TYPE_CHECKING:`, and so never happens.
    """

    line: int
    target: str
    binding: tuple[str, str]
    nested: bool
    typing: bool

    def within(self, module: str) -> bool:
        """Whether the target is `module` or a part of it."""
        return is_within(self.target, module)


@dataclass(frozen=True)
class Source:
    """One file; `name` is its path in the package, such as "engine/train.py"."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text, self.name)

    @property
    def part(self) -> str:
        """The folder below the package, or for a file beside them its own stem."""
        return self.name.split("/")[0].removesuffix(".py")

    def at(self, line: int) -> str:
        """A place in it, as an editor finds it."""
        return f"src/{PACKAGE}/{self.name}:{line}"

    @cached_property
    def imports(self) -> list[Import]:
        """All imports, with relative ones resolved."""
        nested = {id(node) for _, function in self.functions for node in ast.walk(function)}
        typing = {id(node) for block in ast.walk(self.tree) if _is_typing_block(block) for node in ast.walk(block)}
        found = []
        for node in ast.walk(self.tree):
            where = (id(node) in nested, id(node) in typing)
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.split(".")[0]
                    binding = (alias.asname, alias.name) if alias.asname else (first, first)
                    found.append(Import(node.lineno, alias.name, binding, *where))
            elif isinstance(node, ast.ImportFrom):
                module = self._resolve(node)
                for alias in node.names:
                    target = module if alias.name == "*" else f"{module}.{alias.name}"
                    found.append(Import(node.lineno, target, (alias.asname or alias.name, target), *where))
        return found

    @cached_property
    def functions(self) -> list[tuple[str, Function]]:
        """Every function and method with its qualified name, "Recorder.close"."""
        return [(name, node) for name, node in _definitions(self.tree, "") if isinstance(node, Function)]

    def dotted(self, node: ast.expr) -> str | None:
        """The full path that an expression such as `nn.functional.relu` names, if it is a name and its attributes."""
        if isinstance(node, ast.Name):
            return self._bindings.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            value = self.dotted(node.value)
            return value and f"{value}.{node.attr}"
        return None

    @cached_property
    def _bindings(self) -> dict[str, str]:
        return dict(imported.binding for imported in self.imports)

    def _resolve(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        folder = [PACKAGE, *self.name.split("/")[:-1]]
        return ".".join([*folder[: len(folder) - node.level + 1], *filter(None, [node.module])])


def read_package(root: Path) -> list[Source]:
    """All Python files of the package at `root`."""
    paths = sorted(root.rglob("*.py"))
    assert paths, f"there are no Python files in {root}"
    return [Source(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def expect_none(violations: list[str]) -> None:
    """Fails with one line for each violation."""
    if violations:
        pytest.fail("\n".join(violations), pytrace=False)


def is_within(name: str, module: str) -> bool:
    """Whether the dotted `name` is `module` or a part of it."""
    return name == module or name.startswith(f"{module}.")


def docstring_lines(node: ast.Module | ast.ClassDef | Function) -> int:
    """How many lines its docstring takes."""
    if ast.get_docstring(node) is None:
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            yield f"{prefix}{child.name}", child
            yield from _definitions(child, f"{prefix}{child.name}.")
        else:
            yield from _definitions(child, prefix)


def _is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
