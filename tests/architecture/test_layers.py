"""A file imports only from lower layers or from its own folder, and importing the package imports nothing."""

from pathlib import Path

import pytest

from .source import PACKAGE, ROOT, Source, expect_none, is_within, read_package

LAYERS = {
    "core": 0,
    **dict.fromkeys(("models", "data", "optim", "metrics"), 1),
    **dict.fromkeys(("engine", "explain", "deploy", "report"), 2),
    "app": 3,
    "cli": 4,
    "__main__": 5,
}
# The engine knows no network and no data set: what it needs of them is handed in.
APART = {("engine", "models"), ("engine", "data")}
# What the package's `__init__.py` may import at its top: small parts of the standard library, for lazy exports.
LEAN = ("__future__", "importlib", "typing")


def check_layers(root: Path) -> list[str]:
    """Imports that go up, sideways, or from the engine to a network or a data set."""
    return [violation for source in read_package(root) if source.name != "__init__.py" for violation in _upward(source)]


def _upward(source: Source) -> list[str]:
    if source.part not in LAYERS:
        return [f"{source.at(1)}: '{source.part}' is in no layer"]
    found = []
    for imported in source.imports:
        if not imported.within(PACKAGE) or imported.target == f"{PACKAGE}.__version__":
            continue
        part = imported.target.removeprefix(PACKAGE).lstrip(".").split(".")[0]
        if part not in LAYERS:
            found.append(f"{source.at(imported.line)}: import '{imported.target}' from the file that defines it")
        elif part != source.part and LAYERS[part] >= LAYERS[source.part]:
            found.append(
                f"{source.at(imported.line)}: {source.part} (layer {LAYERS[source.part]}) may not import {part} "
                f"(layer {LAYERS[part]}); let app hand it in, or declare a protocol in core"
            )
        elif (source.part, part) in APART:
            found.append(f"{source.at(imported.line)}: {source.part} may not import {part}; let app hand it in")
    return found


def check_package_import(root: Path) -> list[str]:
    """Imports that happen as soon as somebody writes `import linnaeus`."""
    return [
        f"{source.at(imported.line)}: '{imported.target}' is imported with the package; load it on first use"
        for source in read_package(root)
        if source.name == "__init__.py"
        for imported in source.imports
        if not (imported.nested or imported.typing or any(is_within(imported.target, lean) for lean in LEAN))
    ]


def test_files_import_from_lower_layers_or_their_own_folder():
    expect_none(check_layers(ROOT))


def test_importing_the_package_imports_nothing():
    expect_none(check_package_import(ROOT))


def test_the_healthy_package_passes(plant):
    assert check_layers(plant()) == []
    assert check_package_import(plant()) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("core/bad.py", "from linnaeus.models import MODELS", "bad.py:1: core (layer 0) may not import models"),
        ("data/bad.py", "import linnaeus.optim.ema", "data (layer 1) may not import optim (layer 1)"),
        ("data/bad.py", "from ..models import lenet", "data (layer 1) may not import models"),
        ("data/sources/bad.py", "from ...app.config import Config", "data (layer 1) may not import app"),
        ("data/sources/__init__.py", "from ...app.config import Config", "data (layer 1) may not import app"),
        ("report/bad.py", "from .. import deploy", "report (layer 2) may not import deploy"),
        ("deploy/bad.py", "def f():\n    from linnaeus.engine import train", "bad.py:2: deploy (layer 2) may not"),
        ("engine/bad.py", "from linnaeus import models", "engine may not import models"),
        ("engine/bad.py", "from linnaeus.data.loader import Loader", "engine may not import data"),
        ("app/bad.py", "from linnaeus import create_model", "from the file that defines it"),
        ("app/bad.py", "import linnaeus", "from the file that defines it"),
        ("utils/bad.py", "", "'utils' is in no layer"),
        ("helpers.py", "", "'helpers' is in no layer"),
    ],
)
def test_a_forbidden_import_is_found(plant, name, text, message):
    (violation,) = check_layers(plant({name: text}))
    assert message in violation


def test_an_eager_import_of_the_package_is_found(plant):
    text = "import torch\nfrom .app.train import train\ndef f():\n    import numpy\n"
    assert len(check_package_import(plant({"__init__.py": text}))) == 2
