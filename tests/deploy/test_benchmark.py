"""Ways are timed in turns, a slower one is seen to be slower, and a start is that of a new process."""

import subprocess
import sys
import time
from functools import partial

import torch

from linnaeus.deploy import benchmark
from linnaeus.deploy.benchmark import ROUNDS, Timing, noise, time_in_turns


def sleeps(images, seconds):
    time.sleep(seconds)
    return torch.zeros(len(images), 2)


def test_a_slower_way_is_slower_in_every_round(monkeypatch):
    monkeypatch.setattr(benchmark, "ROUND_SECONDS", 0.0)
    done = []
    ways = {"fast": partial(sleeps, seconds=0.0005), "slow": partial(sleeps, seconds=0.005)}
    found = time_in_turns(ways, noise((2, 1, 4, 4)), (1, 2), advance=done.append)
    assert sum(done) == ROUNDS * 2 * 2
    assert min(found["fast"].speedups(found["slow"], 1)) > 1
    assert found["slow"].latency(0.5) >= 0.005
    assert sum(map(len, found["slow"].calls[1])) > 100


def test_percentiles_and_rates_are_those_of_all_calls():
    timing = Timing({1: [[0.001] * 50, [0.002] * 50], 4: [[0.5, 0.5]]})
    assert timing.latency(0.5) == 0.001
    assert timing.latency(0.99) == 0.002
    assert timing.throughput(4) == 8


# In a process of its own, as a command is: in one that thousands of tests have run in, starting another one ended it.
PROGRAM = """
import os
import sys
from linnaeus.core.errors import EnvironmentFault
from linnaeus.deploy.benchmark import measure_start

def sleeping():
    return answer

def answer(images):
    return images.float()

def dying():
    os._exit(7)

def failing():
    raise ValueError("the runtime is broken")

if __name__ == "__main__":
    try:
        found = measure_start(globals()[sys.argv[1]], (2, 1, 4, 4), os.getpid)
        print(found.peak != os.getpid(), found.seconds > 0.05)
    except EnvironmentFault as error:
        print(error)
"""


def start(tmp_path, way):
    """What is printed of starting it, and what else is heard."""
    (tmp_path / "program.py").write_text(PROGRAM)
    words = [sys.executable, tmp_path / "program.py", way]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip(), done.stderr


def test_a_start_is_that_of_a_new_process(tmp_path):
    assert start(tmp_path, "sleeping") == ("True True", "")


def test_a_process_that_dies_is_one_line(tmp_path):
    assert start(tmp_path, "dying")[0].endswith("ended with 7")


def test_a_process_that_fails_tells_why_and_nothing_else_is_heard_of_it(tmp_path):
    said, heard = start(tmp_path, "failing")
    assert said.endswith("ended with 1: ValueError: the runtime is broken")
    assert heard == ""
