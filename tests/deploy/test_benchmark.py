"""Ways are timed in turns, a slower one is seen to be slower, and a start is that of a new process."""

import os
import time
from functools import partial

import pytest
import torch

from linnaeus.core.errors import EnvironmentFault
from linnaeus.deploy import benchmark
from linnaeus.deploy.benchmark import ROUNDS, Timing, measure_start, noise, time_in_turns


def sleeps(images, seconds):
    time.sleep(seconds)
    return torch.zeros(len(images), 2)


def sleeping():
    return partial(sleeps, seconds=0.0)


def dying():
    os._exit(7)


def failing():
    raise ValueError("the runtime is broken")


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


def test_a_start_is_that_of_a_new_process():
    found = measure_start(sleeping, (2, 1, 4, 4), os.getpid)
    assert found.peak != os.getpid()
    assert found.seconds > 0.05


def test_a_process_that_dies_is_one_line():
    with pytest.raises(EnvironmentFault, match="ended with 7"):
        measure_start(dying, (2, 1, 4, 4), os.getpid)


def test_a_process_that_fails_tells_why_and_nothing_else_is_heard_of_it(capfd):
    with pytest.raises(EnvironmentFault, match="ended with 1: ValueError: the runtime is broken"):
        measure_start(failing, (2, 1, 4, 4), os.getpid)
    assert capfd.readouterr() == ("", "")
