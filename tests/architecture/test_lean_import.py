"""Importing the package and printing help load nothing heavy: `linnaeus --help` answers at once."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "torchvision", "PIL", "pydantic", "tensorboard", "matplotlib")

RUN_HELP = """
import runpy, sys
sys.argv = ["linnaeus", "--help"]
try:
    runpy.run_module("linnaeus", run_name="__main__", alter_sys=True)
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def heavy_modules(code: str) -> list[str]:
    """Which heavy packages a fresh interpreter has loaded after `code`."""
    report = f"import sys\nprint('loaded:', *[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("code", ["import linnaeus", "import linnaeus.cli", RUN_HELP], ids=["package", "cli", "help"])
def test_nothing_heavy_is_loaded(code):
    assert heavy_modules(code) == []


def test_a_heavy_import_is_found():
    assert heavy_modules("import numpy") == ["numpy"]
