"""An artefact in a process that cannot import Linnaeus: what its `predict.py` makes of the golden samples."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linnaeus.deploy.formats.base import Unrunnable, first_line

SECONDS = 300
_PROGRAM = """
import json, runpy, sys
sys.modules["linnaeus"] = None  # importing it fails
from pathlib import Path
import numpy as np
from PIL import Image
folder = Path(sys.argv[1])
about = json.loads((folder / "artefact.json").read_text(encoding="utf-8"))
golden = about["golden"]["images"]
images = [np.asarray(Image.open(folder / name)) for name in golden]
images = [i.reshape(1, *i.shape[:2], -1) for i in images]
batches = images if about.get("takes") == "any" else [np.concatenate(images)]
program = runpy.run_path(str(folder / "predict.py"))
print(json.dumps(np.concatenate([program["probabilities"](batch) for batch in batches]).tolist()))
"""


def ask_standalone(folder: Path) -> NDArray[np.float32]:
    """(N, K) probabilities of the golden samples.

    Raises:
        Unrunnable: if the process fails or takes longer than `SECONDS`.
    """
    words = [sys.executable, "-I", "-W", "ignore", "-c", _PROGRAM, str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, env=dict(os.environ), check=False)
    except subprocess.TimeoutExpired:
        raise Unrunnable(f"without Linnaeus, predict.py gave no answer in {SECONDS} s") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        reason = said[-1] if said else f"it ended with {done.returncode}"
        raise Unrunnable(f"without Linnaeus, predict.py stops: {reason}")
    try:
        return np.array(json.loads(lines[-1]), np.float32)
    except ValueError as error:
        raise Unrunnable(f"without Linnaeus, predict.py gives no probabilities: {first_line(error)}") from None
