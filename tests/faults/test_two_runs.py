"""A run folder belongs to one process at a time, whatever becomes of that process, and it may be moved."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from linnaeus.app.run import LOCK, Run, check_free, create_run, locked
from linnaeus.core.errors import RequestError
from linnaeus.core.files import load_tensors

HOLD = """
    import os, sys, time
    from pathlib import Path
    from linnaeus.app.run import Run, locked

    with locked(Run(Path(sys.argv[1]))):
        if os.fork() == 0:  # as a worker, which lives on when its parent is killed
            time.sleep(60)
            os._exit(0)
        print("locked", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that works on `tmp_path`."""
    words = [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        os.killpg(process.pid, signal.SIGKILL)  # with what was forked from it


def test_a_second_process_is_refused_and_told_of_the_first_until_that_is_killed(holder, tmp_path):
    run = Run(tmp_path)
    with pytest.raises(RequestError, match=f"in use by process {holder.pid} on "), locked(run):
        pass
    holder.kill()
    holder.wait()
    with locked(run):  # at once, though the process that was forked from it lives on
        assert str(holder.pid) not in (tmp_path / LOCK).read_text()


def test_a_folder_that_holds_nothing_but_the_lock_is_free(tmp_path):
    with locked(create_run(tmp_path / "run", "photos")):
        pass
    check_free(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(RequestError, match="exists already"):
        check_free(tmp_path / "run")


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "linnaeus", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(["dark", "light"]):
        (folder / name).mkdir()
        for number in range(30):
            pixels = np.random.default_rng((label, number)).integers(0, 120, (32, 32, 3), np.uint8) + np.uint8(
                99 * label
            )
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.slow  # whole runs
def test_of_two_runs_with_one_folder_one_is_refused(photos, tmp_path):
    words = [
        "train",
        photos,
        "--model",
        "lenet5_modern",
        "--epochs",
        60,
        "--precision",
        "fp32",
        "--out",
        tmp_path / "run",
    ]
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: command(*words), range(2)))
    codes = sorted(process.returncode for process in done)
    assert codes == [0, 2], [process.stderr for process in done]
    refused = next(process for process in done if process.returncode == 2)
    assert "in use by process" in refused.stderr or "exists already" in refused.stderr


@pytest.mark.slow  # whole runs
def test_two_resumes_of_one_run_and_a_run_that_was_moved(photos, tmp_path):
    words = ["train", photos, "--model", "lenet5_modern", "--epochs", 3, "--precision", "fp32", "--out"]
    assert command(*words, tmp_path / "whole").returncode == 0
    assert command(*words, tmp_path / "run").returncode == 0
    shutil.rmtree(tmp_path / "run" / "model")
    max((tmp_path / "run" / "checkpoints").glob("step-*")).unlink()  # as if it had been killed in the third epoch
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    (tmp_path / "run").rename(moved)
    with locked(Run(moved)):
        refused = command("resume", moved)
    assert refused.returncode == 2
    assert "in use by process" in refused.stderr
    assert refused.stderr.strip().count("\n") == 0
    elsewhere = photos.rename(photos.with_name("moved photos"))
    lost = command("resume", moved)
    assert lost.returncode == 2
    assert f"write their new place into data.source of {moved / 'config.json'}" in lost.stderr
    config = moved / "config.json"
    config.write_text(config.read_text().replace(str(photos), str(elsewhere)))
    resumed = command("resume", moved)
    elsewhere.rename(photos)
    assert resumed.returncode == 0, resumed.stderr
    (left, _), (right, _) = (
        load_tensors(folder / "model" / "model.safetensors", "linnaeus-model", 2)
        for folder in (moved, tmp_path / "whole")
    )
    assert all(left[name].equal(right[name]) for name in right)
