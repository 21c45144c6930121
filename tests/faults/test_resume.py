"""A run killed with SIGKILL in the middle of an epoch and resumed ends in the weights of a run never stopped."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from linnaeus.core.files import load_tensors, save_tensors

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
    tensors, _ = load_tensors(folder / "model" / "model.safetensors", "linnaeus-model", 2)
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


@pytest.mark.slow  # whole runs; test_kill.py has a small one
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


LONG = ["--epochs", 4000, "--model", "lenet5_modern", "--image-size", 32, "--precision", "fp32", *SETTINGS]


def begin(photos, out, *words) -> subprocess.Popen[str]:
    """A long run that has saved a state."""
    line = command("train", photos, *LONG, *words, "--out", out)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and not list(out.glob("checkpoints/step-*")):
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGTERM, 143, []),
        # To the whole group, as a terminal and `timeout` do: the workers must not die of it.
        *(
            pytest.param(
                number, code, ["--set", "data.loader=files", "--set", "data.workers=2"], marks=pytest.mark.slow
            )
            for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143))
        ),
    ],
)
def test_a_signal_saves_and_prints_how_to_go_on_within_ten_seconds(photos, tmp_path, number, code, words):
    out = tmp_path / "run"
    process = begin(photos, out, *words)
    asked = time.monotonic()
    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - asked < 10
    assert process.returncode == code
    assert "stopped on request; the state is saved\nGo on with:\n  " in stderr
    assert f"resume {out}" in stderr
    assert "Traceback" not in stderr
    assert not [path for path in (out / "checkpoints").iterdir() if path.name.startswith(".")]


@pytest.mark.slow  # a whole run
def test_a_second_signal_stops_at_once_and_leaves_whole_checkpoints(photos, tmp_path):
    out = tmp_path / "run"
    process = begin(photos, out)
    os.kill(process.pid, signal.SIGSTOP)  # it finds both when it wakes
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    while process.poll() is None:
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.001)
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 143)  # between the two it may have been done
    for path in (out / "checkpoints").glob("step-*"):
        load_tensors(path, "linnaeus-checkpoint", 1)


def contents(folder) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow  # whole runs
@pytest.mark.parametrize("words", [[], ["--set", "train.on_nonfinite=rollback", "--set", "data.loader=files"]])
def test_a_run_that_was_stopped_is_verified_and_one_that_was_altered_is_not(photos, tmp_path, words):
    out = tmp_path / "run"
    process = begin(photos, out, *words, "--set", "checkpoint.seconds=0.5")
    time.sleep(3)
    process.terminate()
    process.communicate(timeout=60)
    before = contents(out)
    done = run("resume", out, "--verify", "--json")
    assert done.returncode == 0, done.stderr
    assert contents(out) == before
    found = json.loads(done.stdout)
    older, newer = sorted((out / "checkpoints").glob("step-*"))
    assert (found["first"], found["last"]) == (int(older.stem[5:]), int(newer.stem[5:]))
    tensors, about = load_tensors(newer, "linnaeus-checkpoint", 1)
    assert found["tensors"] == len(tensors) > 30
    assert found["values"] == sum(tensor.numel() for tensor in tensors.values())
    assert "again" in done.stderr
    older.unlink()  # with one alone it begins at the beginning
    assert "trained again from step 0 in" in " ".join(run("resume", out, "--verify").stdout.split())
    name = next(name for name in tensors if name.startswith("optimizer/"))
    tensors[name].view(-1)[0] += 1e-3
    save_tensors(newer, "linnaeus-checkpoint", 1, tensors, about)
    refused = run("resume", out, "--verify")
    assert refused.returncode == 1
    assert f"{name} differs by up to 0.001" in refused.stderr


@pytest.mark.slow  # whole runs; test_checkpoints.py has more damage, to small ones
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


@pytest.mark.slow  # whole runs
def test_changed_images_are_refused(photos, tmp_path):
    copy, out = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(photos, copy)
    words = ["train", copy, "--epochs", 1, "--model", "lenet5_modern", "--image-size", 32, *SETTINGS, "--out", out]
    assert run(*words).returncode == 0
    (out / "model" / "model.json").unlink()
    shutil.copy(copy / "dark" / "0.png", copy / "red" / "1.png")
    resumed = run("resume", out)
    assert resumed.returncode == 3
    assert "have changed since this run began" in resumed.stderr
