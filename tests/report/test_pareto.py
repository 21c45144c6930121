"""The plot of accuracy against latency shows every way, and tells those that no other beats in both."""

import xml.etree.ElementTree as ElementTree

import pytest

from linnaeus.metrics.intervals import wilson
from linnaeus.report.pareto import Dot, pareto_plot, unbeaten

FAST, MIDDLE, GOOD, SLOW = (
    Dot("onnx:int8", 0.001, wilson(90, 100)),
    Dot("onnx:f32", 0.002, wilson(89, 100)),
    Dot("compiled", 0.003, wilson(92, 100)),
    Dot("eager", 0.009, wilson(92, 100)),
)


def test_a_way_that_is_slower_and_no_better_is_beaten():
    assert unbeaten([SLOW, GOOD, MIDDLE, FAST]) == [FAST, GOOD]


def test_of_two_as_fast_the_more_accurate_is_left():
    assert unbeaten([Dot("worse", 0.001, wilson(80, 100)), FAST]) == [FAST]


def test_the_plot_names_all_ways_and_those_without_an_accuracy(tmp_path):
    path = tmp_path / "plot.svg"
    pareto_plot(path, [SLOW, FAST], title="lenet5", without=["eager bf16"])
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    text = path.read_text()
    assert all(name in text for name in ("1  onnx:int8", "2  eager", "eager bf16: accuracy not measured"))


@pytest.mark.parametrize("seconds", [1e-6, 9.9e-5, 1e-4, 0.1])
@pytest.mark.parametrize("times", [None, 1.0, 1.0000001, 1.02])
def test_one_way_alone_and_ways_as_fast_as_each_other_can_be_drawn(tmp_path, seconds, times):
    dots = [Dot("eager", seconds, wilson(90, 100))]
    dots += [] if times is None else [Dot("onnx:f32", times * seconds, wilson(90, 100))]
    pareto_plot(tmp_path / "plot.svg", dots, title="lenet5")  # warnings are errors
    assert "nan" not in (tmp_path / "plot.svg").read_text().lower()
