"""A run killed with SIGKILL in the middle of an epoch and resumed ends in the weights of a run never stopped."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from linnaeus.core.files import load_tensors

SETTINGS = [
    "--seed",
    "3",
    "--set",
    "checkpoint.seconds=0",
    "--set",
    "optim.ema=0.9",
    "--set",
    "train.label_smoothing=0.1",
    "--set",
    "augment.policy=trivial",
    "--set",
    "augment.alternate_flips=true",
    "--set",
    "augment.repeats=2",
    "--set",
    "augment.erase=0.5",
    "--set",
    "augment.mixup=0.4",
    "--set",
    "augment.cutmix=1.0",
]


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "linnaeus", *map(str, words)]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=300, check=False)


def kill_when(words: list[object], checkpoints, step: int, number: int) -> subprocess.Popen[str]:
    """Starts a run and signals it as soon as a checkpoint of at least `step` is on disk."""
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        saved = [int(path.stem.removeprefix("step-")) for path in checkpoints.glob("step-*.safetensors")]
        if max(saved, default=0) >= step:
            os.kill(process.pid, number)
            break
        time.sleep(0.002)
    process.communicate(timeout=100)
    return process


def weights(folder) -> dict[str, np.ndarray]:
    tensors, _ = load_tensors(folder / "model" / "model.safetensors", "linnaeus-model", 1)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(["dark", "light", "red"]):
        (folder / name).mkdir()
        for number in range(40):
            pixels = np.random.default_rng((label, number)).integers(0, 120, (40, 52, 3), np.uint8)
            pixels += np.array([[0, 0, 0], [120, 120, 120], [120, 0, 0]][label], np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        ["--model", "lenet5_modern", "--precision", "fp32", "--set", "train.accumulate=2"],
        ["--model", "resnet20", "--precision", "bf16", "--set", "data.loader=files", "--set", "data.workers=2"],
    ],
    ids=["in memory", "files, workers, bf16"],
)
def test_a_killed_and_resumed_run_is_bit_identical(photos, tmp_path, kind):
    words = ["train", photos, "--epochs", 4, "--batch-size", 8, "--image-size", 32, *SETTINGS, *kind]
    words += ["--set", "train.channels_last=true"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(*words, "--out", whole).returncode == 0
    process = kill_when([*words, "--out", killed], killed / "checkpoints", step=16, number=signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    newest = max(path.stem for path in (killed / "checkpoints").glob("step-*"))
    assert 16 <= int(newest.removeprefix("step-")) < 44
    resumed = run("resume", killed)
    assert resumed.returncode == 0, resumed.stderr
    expected, found = weights(whole), weights(killed)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_sigterm_saves_and_prints_how_to_go_on(photos, tmp_path):
    out = tmp_path / "run"
    words = ["train", photos, "--epochs", 400, "--model", "lenet5_modern", "--image-size", 32, "--out", out, *SETTINGS]
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(out.glob("checkpoints/step-*")):
        time.sleep(0.01)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert f"resume {out}" in stderr
    assert "Traceback" not in stderr


def test_a_damaged_checkpoint_is_passed_over(photos, tmp_path):
    out = tmp_path / "run"
    words = ["train", photos, "--epochs", 2, "--model", "lenet5_modern", "--image-size", 32, *SETTINGS, "--out", out]
    assert run(*words).returncode == 0
    assert run("resume", out).returncode == 2  # finished: nothing to resume
    (out / "model" / "model.json").unlink()
    newest = max((out / "checkpoints").glob("step-*"))
    newest.write_bytes(newest.read_bytes()[:-10])
    resumed = run("resume", out)
    assert resumed.returncode == 0, resumed.stderr
    assert f"passed over: {newest} is damaged" in " ".join(resumed.stderr.split())


def test_changed_images_are_refused(photos, tmp_path):
    import shutil

    copy, out = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(photos, copy)
    words = ["train", copy, "--epochs", 1, "--model", "lenet5_modern", "--image-size", 32, *SETTINGS, "--out", out]
    assert run(*words).returncode == 0
    (out / "model" / "model.json").unlink()
    shutil.copy(copy / "dark" / "0.png", copy / "red" / "1.png")
    resumed = run("resume", out)
    assert resumed.returncode == 3
    assert "have changed since this run began" in resumed.stderr
