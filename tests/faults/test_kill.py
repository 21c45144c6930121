"""A run that is killed with SIGKILL, again and again, at any moment, ends in every tensor as one never stopped."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linnaeus.core.files import load_tensors

PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import small
from linnaeus.engine.step import take_step

def step(state, batch, rule):
    if state.step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    take_step(state, batch, rule)

small.go(Path(sys.argv[2]), small.make_rule(), step=step)
"""


def test_a_small_run_killed_with_sigkill_ends_the_same(tmp_path):
    from .small import STEPS, assert_same, everything, go, make_rule

    go(tmp_path / "whole", make_rule())
    words = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path / "killed")]
    number = random.randrange(1, STEPS)
    assert subprocess.run([*words, str(number)], check=False).returncode == -signal.SIGKILL
    go(tmp_path / "killed", make_rule())
    assert_same(everything(tmp_path / "killed"), everything(tmp_path / "whole"))


KILLS = 20
FEATURES = [
    *("--seed", 3, "--epochs", 60, "--batch-size", 8, "--image-size", 32),
    *("--set", "checkpoint.seconds=0.02", "--set", "optim.ema=0.9", "--set", "augment.mixup=0.4"),
    *("--set", "augment.policy=trivial", "--set", "augment.erase=0.5", "--set", "train.accumulate=2"),
    *("--set", "train.autotune=false", "--set", "train.on_nonfinite=skip"),
]
KINDS = {
    # The smallest network, for a processor that has no bfloat16 takes seconds for a step of a larger one.
    "in memory, bf16": ["--model", "lenet5_modern", "--precision", "bf16"],
    "files, workers": ["--model", "resnet20", "--precision", "fp32", "--set", "data.loader=files"],
    "compiled": ["--model", "lenet5_modern", "--set", "train.compile=true"],
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(["dark", "light"]):
        (folder / name).mkdir()
        for number in range(40):
            pixels = np.random.default_rng((label, number)).integers(0, 120, (40, 52, 3), np.uint8)
            Image.fromarray(pixels + np.uint8(99 * label)).save(folder / name / f"{number}.png")
    return folder


def steps_saved(run: Path) -> int:
    return max((int(path.stem[5:]) for path in run.glob("checkpoints/step-*")), default=0)


def live_and_die(words: list[object], run: Path, seconds: float) -> bool:
    """Starts or resumes; kills it so long after it has saved something new. Whether it was killed, and not done."""
    line = [sys.executable, "-m", "linnaeus", *map(str, words)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    before, deadline = steps_saved(run), time.monotonic() + 300
    while process.poll() is None and steps_saved(run) == before and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(seconds)
    process.kill()
    _, stderr = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), stderr
    return process.returncode != 0


@pytest.mark.slow  # more than twenty runs
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_twenty_times_ends_in_every_tensor_as_one_never_stopped(photos, tmp_path, kind):
    kills = KILLS if kind != "compiled" else 3  # each life compiles anew
    words = ["train", photos, *FEATURES, *KINDS[kind]]
    if kind == "files, workers":
        words += ["--set", "data.workers=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-m", "linnaeus", *map(str, words), "--out", str(whole)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seed = int(os.environ.get("LINNAEUS_TEST_SEED", "0"))
    moments = random.Random(seed)
    places = []
    for life in range(kills):
        again = ["resume", killed] if life else [*words, "--out", killed]
        if not live_and_die(again, killed, moments.uniform(0, 0.3)):
            break
        places.append(steps_saved(killed))
    assert len(places) == kills, f"the run was done after {len(places)} kills"
    assert len(set(places)) > kills // 2
    resumed = subprocess.run([sys.executable, "-m", "linnaeus", "resume", killed], capture_output=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("checkpoints/best.safetensors", "model/model.safetensors", max(whole.glob("checkpoints/step-*"))):
        path = Path(name).relative_to(whole) if Path(name).is_absolute() else Path(name)
        known = {"best": ("linnaeus-weights", 1), "model": ("linnaeus-model", 2)}
        kind_of_file = known.get(path.stem, ("linnaeus-checkpoint", 1))
        (left, _), (right, _) = (load_tensors(folder / path, *kind_of_file) for folder in (whole, killed))
        assert left.keys() == right.keys()
        assert not [key for key in left if not left[key].equal(right[key])], (path, places)
    assert not [path for path in (killed / "checkpoints").iterdir() if path.name.startswith(".")]


@pytest.mark.slow  # it compiles
@pytest.mark.parametrize("how", ["its cache is torn", "there is none"])
def test_a_run_whose_compiler_fails_goes_on_without(photos, tmp_path, how):
    cache, environment = tmp_path / "cache", {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    words = ["train", photos, "--model", "lenet5_modern", "--epochs", 2, "--image-size", 32, "--precision", "fp32"]
    line = [sys.executable, "-m", "linnaeus", *map(str, words), "--set", "train.compile=true", "--out"]
    if how == "there is none":
        environment["CXX"] = str(tmp_path / "no compiler")
    else:
        first = subprocess.run([*line, str(tmp_path / "first")], env=environment, capture_output=True, check=False)
        assert first.returncode == 0, first.stderr
        libraries = list(cache.rglob("*.so"))
        assert libraries, "nothing was compiled"
        for library in libraries:
            library.write_bytes(library.read_bytes()[:100])  # as a killed process leaves it
    done = subprocess.run([*line, str(tmp_path / "run")], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the network runs as it is, since compiling it failed: " in done.stderr
    assert "Traceback" not in done.stderr
