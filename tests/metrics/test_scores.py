"""Scores equal the definitions worked out by hand, follow scikit-learn where a class is empty, and become JSON."""

import json
from dataclasses import asdict
from math import log

import numpy as np
import pytest
import torch

from linnaeus.metrics.counts import Counts
from linnaeus.metrics.intervals import wilson
from linnaeus.metrics.scores import (
    accuracy,
    balanced_accuracy,
    class_rates,
    macro_f1,
    mean_nll,
    most_confused,
    per_class,
    summarize,
    top5_accuracy,
)

# Class 2 has images and is never predicted; class 3 is predicted and has no image; class 4 has neither.
CONFUSION = [[6, 2, 0, 0, 0], [1, 8, 0, 1, 0], [0, 2, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]


def counts_of(confusion, top5=0, nll=0.0) -> Counts:
    table = torch.tensor(confusion)
    zero = torch.tensor(0)
    return Counts(table, torch.tensor(top5), torch.tensor(nll, dtype=torch.float64), table.sum(), zero)


def test_accuracy_is_the_diagonal_with_its_interval():
    assert accuracy(counts_of(CONFUSION)) == wilson(14, 20)


def test_top5_is_its_count_with_its_interval():
    assert top5_accuracy(counts_of(CONFUSION, top5=18)) == wilson(18, 20)


def test_per_class_figures_equal_those_worked_out_by_hand():
    figures = per_class(counts_of(CONFUSION))
    assert figures.precision == pytest.approx([6 / 7, 8 / 12, 0, 0, 0])
    assert figures.recall == pytest.approx([6 / 8, 8 / 10, 0, 0, 0])
    assert figures.f1 == pytest.approx([12 / 15, 16 / 22, 0, 0, 0])
    assert figures.support == [8, 10, 2, 0, 0]


def test_f1_is_the_harmonic_mean():
    precision, recall, f1 = class_rates(np.array([[3, 1], [2, 7]]))
    assert f1 == pytest.approx(2 / (1 / precision + 1 / recall))


def test_macro_average_counts_every_class_and_weighted_by_support():
    scores = summarize(counts_of(CONFUSION))
    assert scores.macro.recall == pytest.approx((0.75 + 0.8) / 5)
    assert scores.macro.f1 == pytest.approx((12 / 15 + 16 / 22) / 5)
    assert scores.weighted.precision == pytest.approx((8 * 6 / 7 + 10 * 8 / 12) / 20)
    assert scores.weighted.recall == pytest.approx(scores.top1.value)


def test_balanced_accuracy_leaves_out_classes_without_images():
    interval = balanced_accuracy(counts_of(CONFUSION))
    assert interval.value == pytest.approx((0.75 + 0.8 + 0) / 3)
    assert interval.low < interval.value < interval.high
    assert interval.n == 20


def test_balanced_accuracy_of_one_guess_for_all_is_chance():
    assert balanced_accuracy(counts_of([[90, 0], [10, 0]])).value == 0.5


def test_nll_of_uniform_logits_is_log_of_the_number_of_classes():
    counts = Counts.zeros(7)
    counts.update(torch.zeros(3, 7), torch.arange(3), torch.ones(3, dtype=torch.bool))
    assert mean_nll(counts) == pytest.approx(log(7), rel=1e-12)


def test_summary_agrees_with_the_single_functions_and_leaves_the_counts_alone():
    counts = counts_of(CONFUSION, top5=20, nll=10.0)
    scores = summarize(counts)
    assert (scores.n, scores.top1, scores.top5, scores.nll) == (20, accuracy(counts), wilson(20, 20), 0.5)
    assert (scores.balanced_accuracy, scores.per_class) == (balanced_accuracy(counts), per_class(counts))
    assert counts.confusion.tolist() == CONFUSION


def test_scores_become_json_and_back():
    plain = asdict(summarize(counts_of(CONFUSION)))
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_macro_f1_maps_stacks_of_tables():
    tables = np.stack([np.array(CONFUSION), np.eye(5, dtype=np.int64)])
    assert macro_f1(tables) == pytest.approx([(12 / 15 + 16 / 22) / 5, 1.0])


def test_most_confused_is_ordered_by_count_then_by_class():
    assert most_confused(np.array(CONFUSION), 3) == [(0, 1, 2), (2, 1, 2), (1, 0, 1)]


def test_most_confused_leaves_out_what_was_never_confused_and_its_argument_as_it_is():
    confusion = np.array(CONFUSION)
    assert len(most_confused(confusion, 100)) == 4
    assert most_confused(confusion, 0) == []
    assert confusion.tolist() == CONFUSION


def test_scores_of_nothing_and_of_nan_raise():
    with pytest.raises(ValueError, match="no image was counted"):
        summarize(Counts.zeros(3))
    counts = Counts.zeros(3)
    counts.update(torch.full((1, 3), torch.nan), torch.tensor([0]), torch.tensor([True]))
    for score in (summarize, accuracy, top5_accuracy, balanced_accuracy, mean_nll, per_class):
        with pytest.raises(ValueError, match="NaN"):
            score(counts)
