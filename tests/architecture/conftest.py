"""A small healthy package, for the rules to be tried on: a rule that cannot fail proves nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

HEALTHY = {
    "__init__.py": '''
        """The package."""
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from linnaeus.app.train import train
    ''',
    "__main__.py": '"""Runs the commands."""\nfrom linnaeus.cli import main\nmain()\n',
    "core/__init__.py": '"""Contracts."""\n',
    "core/files.py": '"""Files."""\nimport json\nimport torch\nfrom safetensors.torch import save_file\n',
    "core/record.py": '''
        """Records."""
        from .files import write_text

        def open_board(folder):
            """Opens it."""
            from torch.utils.tensorboard import SummaryWriter
            return SummaryWriter(folder)
    ''',
    "models/lenet.py": '''
        """LeNet."""
        from torch import nn
        from linnaeus.core.files import load_tensors

        class LeNet(nn.Module):
            """The network."""
            def __init__(self, *, a, b, c, d, e, f, g, h):
                self.eval()
    ''',
    "data/decode.py": '"""Decodes."""\nfrom PIL import Image\nfrom ..core import files\n',
    "engine/train.py": '"""Trains."""\nfrom linnaeus.core.files import write_text\nfrom linnaeus.optim import ema\n',
    "app/train.py": '"""The job."""\nimport pydantic\nfrom linnaeus import __version__, data, engine, models\n',
    "cli/__init__.py": '"""Words."""\nimport typer\n\ndef main():\n    from linnaeus.app.train import train\n',
}


@pytest.fixture
def plant(tmp_path: Path) -> Callable[..., Path]:
    """`plant({"core/bad.py": "..."})` writes the healthy package with these files added, and gives its root."""

    def write(files: Mapping[str, str] | None = None) -> Path:
        root = tmp_path / "linnaeus"
        for name, text in {**HEALTHY, **(files or {})}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(dedent(text), encoding="utf-8")
        return root

    return write
