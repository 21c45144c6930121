"""`Outputs` keeps what evaluation shows it, blind to batch size and padding, and hands back finite numbers alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from linnaeus.metrics.outputs import Outputs


@pytest.fixture
def images() -> tuple[Tensor, Tensor, Tensor]:
    """23 images of 4 classes: logits, targets as a loader has them, valid."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(23, 4, generator=generator)
    targets = (torch.rand(23, 4, generator=generator) < 0.3).to(torch.uint8)
    return logits, targets, torch.rand(23, generator=generator) < 0.8


def kept(logits: Tensor, targets: Tensor, valid: Tensor, batch_size: int = 100) -> Outputs:
    outputs = Outputs(4)
    for start in range(0, len(logits), batch_size):
        rows = slice(start, start + batch_size)
        outputs.update(logits[rows], targets[rows], valid[rows])
    return outputs


@pytest.mark.parametrize("batch_size", [1, 5, 23])
def test_all_valid_images_come_back_in_order_whatever_the_batch_size(images, batch_size):
    logits, targets, valid = images
    judged = kept(*images, batch_size=batch_size).read()
    assert np.array_equal(judged.logits, logits[valid].numpy())
    assert np.array_equal(judged.truths, targets[valid].bool().numpy())
    assert np.array_equal(judged.probabilities, logits[valid].sigmoid().numpy())


def test_padding_may_hold_anything(images):
    logits, targets, valid = images
    poisoned = torch.where(valid[:, None], logits, torch.nan)
    assert np.array_equal(kept(poisoned, targets, valid).read().logits, kept(*images).read().logits)


def test_the_outputs_of_two_ranks_are_those_of_one(images):
    first, second = (tuple(part[rows] for part in images) for rows in (slice(0, 10), slice(10, 23)))
    together = (kept(*first) + kept(*second)).read()
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(together, kept(*images).read(), strict=True))


def test_half_precision_is_kept_as_it_is(images):
    logits, targets, valid = images
    judged = kept(logits.bfloat16(), targets, valid).read()
    assert np.array_equal(judged.logits, logits.bfloat16().float()[valid].numpy())


def test_gradients_are_not_kept(images):
    logits, targets, valid = images
    judged = kept(logits.clone().requires_grad_(), targets, valid).read()
    assert np.array_equal(judged.logits, kept(logits, targets, valid).read().logits)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nonfinite_logits_are_counted_on_reading(images, poison):
    logits, targets, _ = images
    logits[3, 2] = poison
    with pytest.raises(ValueError, match="logits of 1 of 23 images hold NaN or infinite"):
        kept(logits, targets, torch.ones(23, dtype=torch.bool), batch_size=4).read()


def test_reading_nothing_raises(images):
    logits, targets, valid = images
    for outputs in (Outputs(4), kept(logits, targets, torch.zeros_like(valid))):
        with pytest.raises(ValueError, match="no image was counted"):
            outputs.read()


@pytest.mark.parametrize(
    ("logits", "targets", "valid", "name"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(2).bool(), "logits are"),
        (torch.zeros(2, 4).long(), torch.zeros(2, 4), torch.ones(2).bool(), "logits are"),
        (torch.zeros(2, 4), torch.zeros(2).long(), torch.ones(2).bool(), "targets are"),
        (torch.zeros(2, 4), torch.zeros(2, 4), torch.ones(2), "valid is"),
    ],
)
def test_wrong_shapes_and_dtypes_are_named(logits, targets, valid, name):
    with pytest.raises(ValueError, match=name):
        Outputs(4).update(logits, targets, valid)


def test_outputs_of_different_classes_do_not_add():
    with pytest.raises(ValueError, match="4 and 5 classes"):
        Outputs(4) + Outputs(5)
