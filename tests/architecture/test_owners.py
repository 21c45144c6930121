"""Each third-party package is imported only by the files that own it."""

import ast
import sys
from pathlib import Path

import pytest

from .source import PACKAGE, ROOT, Source, expect_none, is_within, read_package

# A package, or a part of one, and the folders and files that may use it. The longest name that fits decides.
OWNERS: dict[str, tuple[str, ...]] = {
    "numpy": ("core/", "models/", "data/", "optim/", "metrics/", "engine/", "explain/", "deploy/", "report/", "app/"),
    "torch": ("core/", "models/", "data/", "optim/", "metrics/", "engine/", "explain/", "deploy/", "report/", "app/"),
    "torch.distributed": ("core/dist.py", "engine/parallel.py"),  # applied from outside: networks do not know of it
    "torch.utils.tensorboard": ("core/record.py",),
    "tensorboard": ("core/record.py",),
    "safetensors": ("core/files.py", "models/pretrained.py"),
    "huggingface_hub": ("models/download.py",),
    "torchvision": ("data/", "models/adapters.py"),
    "timm": ("models/adapters.py",),
    "pyarrow": ("data/sources/", "data/pack.py"),
    "datasets": ("data/sources/hub.py",),
    "fsspec": ("data/sources/remote.py",),
    "aiohttp": ("data/sources/remote.py",),  # only for its errors, as the next
    "botocore": ("data/sources/remote.py",),
    "cleanlab": ("data/suspects.py",),
    "captum": ("explain/attribution.py",),
    "optuna": ("app/search.py",),
    "onnx": ("deploy/formats/onnx.py",),
    "onnxruntime": ("deploy/formats/onnx.py",),
    "openvino": ("deploy/formats/openvino.py",),
    "nncf": ("deploy/formats/openvino.py",),
    "torchao": ("deploy/formats/",),
    "executorch": ("deploy/formats/executorch.py",),
    "coremltools": ("deploy/formats/coreml.py",),
    "scipy": ("metrics/",),  # quantiles, roots and minima
    "simplejpeg": ("data/fast.py",),
    "cv2": ("data/fast.py",),
    # The one decoder, its fast path and what undoes it, pictures in reports, the demo's images.
    "PIL": ("data/decode.py", "data/fast.py", "data/encode.py", "report/", "app/demo.py"),
    "matplotlib": ("report/",),
    "pydantic": ("app/",),
    "yaml": ("app/",),
    "rich": ("app/", "cli/", "report/"),
    "typer": ("cli/",),
    "click": ("cli/",),
}
# Slow to import, and most runs of most functions do not need them: imported inside the function that does.
LATE = (
    *("torch.utils.tensorboard", "tensorboard", "huggingface_hub", "timm", "pyarrow", "datasets", "cleanlab", "scipy"),
    *("fsspec", "cv2", "simplejpeg", "optuna", "captum"),
    *("onnx", "onnxruntime", "openvino", "nncf", "torchao", "executorch", "coremltools"),
)


def check_owners(root: Path) -> list[str]:
    """Uses of a third-party package outside the files that own it."""
    found = set()
    for source in read_package(root):
        for line, name in _uses(source):
            owned = max((key for key in OWNERS if is_within(name, key)), key=len, default=None)
            if owned is None:
                found.add(f"{source.at(line)}: '{name.split('.')[0]}' has no owner in {Path(__file__).name}")
            elif not source.name.startswith(OWNERS[owned]):
                found.add(f"{source.at(line)}: '{owned}' belongs to {', '.join(OWNERS[owned])}")
    return sorted(found)


def _uses(source: Source) -> list[tuple[int, str]]:
    """Third-party imports, and parts of what is imported, as in `torch.distributed.barrier()`."""
    parts = [
        (node.lineno, name)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and (name := source.dotted(node)) in OWNERS
    ]
    imports = [(imported.line, imported.target) for imported in source.imports]
    own = (*sys.stdlib_module_names, PACKAGE)
    return [(line, name) for line, name in imports + parts if name.split(".")[0] not in own]


def check_late(root: Path) -> list[str]:
    """Slow packages that are imported with the file."""
    return [
        f"{source.at(imported.line)}: import '{imported.target}' inside the function that needs it"
        for source in read_package(root)
        for imported in source.imports
        if not imported.nested and any(imported.within(late) for late in LATE)
    ]


def test_packages_are_used_only_by_their_owners():
    expect_none(check_owners(ROOT))


def test_slow_packages_are_imported_late():
    expect_none(check_late(ROOT))


def test_the_healthy_package_passes(plant):
    assert check_owners(plant()) == []
    assert check_late(plant()) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("engine/bad.py", "from rich.table import Table", "'rich' belongs to app/, cli/, report/"),
        ("app/bad.py", "import click", "'click' belongs to cli/"),
        ("app/bad.py", "from PIL import Image", "'PIL' belongs to data/decode.py"),
        ("app/bad.py", "import typer", "app/bad.py:1: 'typer' belongs to cli/"),
        ("core/bad.py", "def f():\n    from pydantic import Field", "core/bad.py:2: 'pydantic' belongs to app/"),
        ("core/bad.py", "import safetensors.torch", "'safetensors' belongs to core/files.py"),
        ("models/bad.py", "from torchvision.models import resnet18", "'torchvision' belongs to data/, models/adapters"),
        ("models/bad.py", "def f():\n    import timm", "bad.py:2: 'timm' belongs to models/adapters.py"),
        ("models/bad.py", "from torch import distributed", "'torch.distributed' belongs to core/dist.py"),
        ("models/bad.py", "import torch as t\nt.distributed.barrier()", "bad.py:2: 'torch.distributed' belongs to"),
        ("data/bad.py", "from torch.utils.tensorboard import SummaryWriter", "'torch.utils.tensorboard' belongs to"),
        ("data/bad.py", "from PIL.Image import Image", "'PIL' belongs to data/decode.py"),
        ("cli/bad.py", "import torch", "'torch' belongs to core/"),
        ("app/bad.py", "import requests", "'requests' has no owner"),
    ],
)
def test_a_use_by_somebody_else_is_found(plant, name, text, message):
    (violation,) = check_owners(plant({name: text}))
    assert message in violation


def test_a_slow_package_imported_with_the_file_is_found(plant):
    (violation,) = check_late(plant({"core/record.py": "from torch.utils.tensorboard import SummaryWriter"}))
    assert "inside the function" in violation
