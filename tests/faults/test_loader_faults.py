"""What happens to a training whose files vanish, whose workers are killed, or whose cache cannot be kept."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linnaeus.core.record import read_records


@pytest.fixture
def photos(tmp_path):
    for label, name in enumerate(["dark", "light"]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(40):
            pixels = np.random.default_rng((label, number)).integers(0, 120, (40, 52, 3), np.uint8) + 120 * label
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{number}.jpg")
    return tmp_path / "photos"


def words(photos: Path, *more: object) -> list[str]:
    settings = ["--epochs", 3, "--batch-size", 8, "--image-size", 32, "--model", "lenet5_modern", "--precision", "fp32"]
    settings += ["--set", "data.loader=files", "--set", "train.channels_last=false", *more]
    return [
        sys.executable,
        "-m",
        "linnaeus",
        "train",
        str(photos),
        "--out",
        str(photos.parent / "run"),
        *map(str, settings),
    ]


def environment(photos: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "LINNAEUS_CACHE": str(photos.parent / "cache"), **more}


def start(photos: Path, *more: object, **variables: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words(photos, *more), env=environment(photos, **variables), **pipes)


def run(photos: Path, *command: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "linnaeus", *map(str, command)]
    return subprocess.run(call, env=environment(photos), capture_output=True, text=True, timeout=100, check=False)


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[1]


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in tasks]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds worker processes in /proc")
def test_a_killed_worker_is_one_line_and_the_run_can_be_resumed(photos):
    more = ["--set", "data.workers=2", "--set", "checkpoint.seconds=0", "--epochs", 30]
    process, out = start(photos, *more), photos.parent / "run"
    wait_for(lambda: len(list(out.glob("checkpoints/step-*"))) >= 2, process)
    os.kill(workers_of(process)[-1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 4, stderr
    assert "Traceback" not in stderr
    (line,) = (line for line in stderr.splitlines() if line.startswith("error:"))
    assert "a process that decodes images was killed" in line
    assert f"resume {out}" in stderr
    resumed = run(photos, "resume", out)
    assert resumed.returncode == 0, resumed.stderr
    assert len(read_records(out)) == 30


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_files_that_vanish_in_training_are_counted_and_named(photos, workers):
    process, out = (
        start(photos, "--set", f"data.workers={workers}", "--set", "data.cache_gib=0", "--epochs", 40),
        photos.parent / "run",
    )
    wait_for(lambda: (out / "metrics.jsonl").exists() and read_records(out), process)
    with (out / "data" / "index.csv").open() as file:
        roles = {row["name"]: row["role"] for row in csv.DictReader(file)}
    deleted, cut = (next(name for name, role in roles.items() if role == kind) for kind in ("train", "val"))
    (photos / deleted).unlink()
    (photos / cut).write_bytes((photos / cut).read_bytes()[:500])
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    missing = [record["data/missing"] for record in read_records(out)]
    assert missing[0] == 0
    assert missing[-1] == 2
    text = " ".join(stderr.split())
    assert "left out, since they could no longer be read: 2 of 80 images" in text
    assert f"{deleted} (No such file or directory)" in text
    assert re.search(re.escape(cut) + r" \(.*truncated", text)
    model = json.loads((out / "model" / "model.json").read_text())
    assert model["metrics"]["n"] == sum(role == "test" for role in roles.values())


@pytest.mark.slow
def test_a_folder_that_is_gone_stops_the_run_in_one_line_and_it_goes_on_when_it_is_back(photos):
    process, out = (
        start(photos, "--set", "data.workers=1", "--set", "data.cache_gib=0", "--epochs", 60),
        photos.parent / "run",
    )
    wait_for(lambda: (out / "metrics.jsonl").exists() and read_records(out), process)
    photos.rename(photos.parent / "away")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 3, stderr
    assert "images in a row cannot be read any more" in stderr
    (photos.parent / "away").rename(photos)
    resumed = run(photos, "resume", out)
    assert resumed.returncode == 0, resumed.stderr
    assert len(read_records(out)) == 60


@pytest.mark.slow
def test_a_missing_library_is_one_line(photos):
    # A package that cannot be imported stands for one that is not installed.
    code = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'cv2' else f(n, *a)\n"
    code += "from linnaeus.cli import main; main()"
    call = [sys.executable, "-c", code, *words(photos, "--set", "data.decoder=fast")[3:]]
    done = subprocess.run(call, env=environment(photos), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: data.decoder=fast needs simplejpeg and OpenCV, and they are not installed: "
        "pip install 'linnaeus[fast-data]'"
    )


@pytest.mark.slow
def test_training_ends_well_where_the_cache_cannot_be_written(photos):
    (photos.parent / "cache").mkdir()
    (photos.parent / "cache" / "images").write_text("not a folder")
    process = start(photos, "--set", "data.workers=1")
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    assert "decoded images are not kept" in stderr


@pytest.mark.slow
def test_a_cache_that_is_warm_or_absent_changes_no_weight(photos):
    weights = []
    for setting in ("data.cache_gib=1", "data.cache_gib=1", "data.cache_gib=0"):
        process = start(photos, "--set", "data.workers=1", "--set", setting, OMP_NUM_THREADS="1")
        _, stderr = process.communicate(timeout=100)
        assert process.returncode == 0, stderr
        assert ("decoded images are kept in" in stderr) == setting.endswith("1")
        weights.append((photos.parent / "run" / "model" / "model.safetensors").read_bytes())
        shutil.rmtree(photos.parent / "run")
    assert weights[0][-100_000:] == weights[1][-100_000:] == weights[2][-100_000:]
