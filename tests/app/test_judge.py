"""The metric that is chosen ranks the states, stands in the record, and is computed as its name says."""

import numpy as np
import pytest
import torch

from linnaeus.app.judge import _of_one_class, _of_several_classes
from linnaeus.app.rules import METRICS
from linnaeus.metrics.counts import Counts
from linnaeus.metrics.outputs import Outputs


def one_class() -> Counts:
    """Nine of ten images of the first class are right, and one of two of the second."""
    truths = torch.tensor([0] * 10 + [1] * 2)
    said = torch.tensor([0] * 9 + [1] + [1, 0])
    counts = Counts.zeros(2)
    counts.update(4.0 * torch.nn.functional.one_hot(said, 2), truths, torch.ones(12, dtype=torch.bool))
    return counts


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("top1", 10 / 12), ("balanced", (0.9 + 0.5) / 2), ("f1", (18 / 20 + 2 / 4) / 2)],
)
def test_the_chosen_score_ranks_and_the_loss_decides_between_equal_ones(metric, expected):
    scores, rank = _of_one_class(one_class(), metric)
    assert scores[f"val/{metric}"] == rank[0] == pytest.approx(expected)
    assert rank[1] == -scores["val/loss"]
    assert {"val/top1", "val/loss"} <= scores.keys()


def test_a_smaller_loss_ranks_higher_and_then_the_accuracy():
    scores, rank = _of_one_class(one_class(), "loss")
    assert rank == (-scores["val/loss"], scores["val/top1"])


def test_where_images_have_several_classes_f1_is_at_the_best_thresholds():
    truths = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]])
    logits = torch.tensor([[-1.0, -3.0], [-0.5, -2.0], [-2.0, -1.0], [-3.0, -4.0]])  # none above one half
    outputs = Outputs(2)
    for _ in range(3):  # of classes with few images the threshold is not chosen
        outputs.update(logits, truths, torch.ones(4, dtype=torch.bool))
    scores, rank = _of_several_classes(outputs.read(), "f1")
    assert scores["val/f1"] == rank[0] == 1.0
    assert scores["val/map"] == 1.0
    loss = np.mean(np.logaddexp(0, logits.numpy()) - logits.numpy() * truths.numpy())
    assert _of_several_classes(outputs.read(), "loss")[1] == (pytest.approx(-loss), 1.0)


def test_every_metric_that_can_be_chosen_is_computed():
    several = Outputs(2)
    several.update(torch.zeros(2, 2), torch.eye(2), torch.ones(2, dtype=torch.bool))
    for metric in METRICS["single"]:
        assert f"val/{metric}" in _of_one_class(one_class(), metric)[0]
    for metric in METRICS["multi"]:
        assert f"val/{metric}" in _of_several_classes(several.read(), metric)[0]
