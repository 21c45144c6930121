"""`Counts` holds sums: equal to a loop over the images, blind to batch size, padding and ranks, and deaf to no NaN."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from linnaeus.metrics.counts import Counts

NUM_CLASSES = 7


@pytest.fixture
def images() -> tuple[Tensor, Tensor, Tensor]:
    """23 images: logits, targets, valid."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(23, NUM_CLASSES, generator=generator)
    targets = torch.randint(NUM_CLASSES, (23,), generator=generator)
    return logits, targets, torch.rand(23, generator=generator) < 0.8


def counted(logits: Tensor, targets: Tensor, valid: Tensor | None = None, batch_size: int = 100) -> Counts:
    counts = Counts.zeros(logits.shape[1])
    valid = torch.ones_like(targets, dtype=torch.bool) if valid is None else valid
    for start in range(0, len(logits), batch_size):
        batch = slice(start, start + batch_size)
        counts.update(logits[batch], targets[batch], valid[batch])
    return counts


def assert_equal(left: Counts, right: Counts) -> None:
    for field in fields(Counts):
        ours, theirs = getattr(left, field.name), getattr(right, field.name)
        # Integers are equal; a float64 sum may differ in its last bits, by the order of its terms.
        torch.testing.assert_close(ours, theirs, rtol=1e-14 if field.name == "nll" else 0, atol=0)


def test_counts_equal_a_loop_over_the_images(images):
    logits, targets, valid = images
    confusion = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.int64)
    top5, nll = 0, 0.0
    for row, target, counts in zip(logits.double(), targets, valid, strict=True):
        if counts:
            confusion[target, row.argmax()] += 1
            top5 += int(target in row.topk(5).indices)
            nll -= float(row[target] - row.exp().sum().log())
    ours = counted(*images).read()
    assert torch.equal(ours.confusion, confusion)
    assert int(ours.top5) == top5
    assert float(ours.nll) == pytest.approx(nll, rel=1e-12)
    assert int(ours.n) == int(valid.sum())


@pytest.mark.parametrize("batch_size", [1, 2, 5, 23])
def test_batch_size_does_not_show(images, batch_size):
    assert_equal(counted(*images, batch_size=batch_size), counted(*images))


def test_padding_is_not_counted_whatever_it_holds(images):
    logits, targets, valid = images
    garbage_logits = torch.where(valid[:, None], logits, torch.nan)
    garbage_targets = torch.where(valid, targets, -1)
    assert_equal(counted(garbage_logits, garbage_targets, valid), counted(logits[valid], targets[valid]))


def test_sum_of_two_ranks_equals_one_process(images):
    first, second = (tuple(part[rank::2] for part in images) for rank in range(2))
    assert_equal(counted(*first) + counted(*second), counted(*images))


def test_addition_leaves_its_operands_alone(images):
    counts = counted(*images)
    doubled = counts + counts
    assert_equal(counts, counted(*images))
    assert torch.equal(doubled.confusion, 2 * counts.confusion)


def test_map_applies_to_every_sum(images):
    counts = counted(*images)
    assert_equal(counts.map(lambda tensor: tensor * 2), counts + counts)


@pytest.mark.parametrize("num_classes", [1, 3, 5])
def test_with_at_most_five_classes_the_truth_is_always_among_the_top_five(num_classes):
    logits = torch.randn(20, num_classes, generator=torch.Generator().manual_seed(1))
    counts = counted(logits, torch.arange(20) % num_classes).read()
    assert counts.top5 == counts.n == 20


def test_equal_logits_are_ranked_by_class_index():
    counts = counted(torch.zeros(NUM_CLASSES, NUM_CLASSES), torch.arange(NUM_CLASSES)).read()
    assert counts.confusion.sum(dim=0).tolist() == [NUM_CLASSES, 0, 0, 0, 0, 0, 0]
    assert counts.top5 == 5


def test_likelihood_of_extreme_logits_is_exact():
    counts = counted(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), torch.tensor([1, 1])).read()
    assert float(counts.nll) == 1e4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_precision_is_summed_in_float64(images, dtype):
    logits, targets, _ = images
    expected = F.cross_entropy(logits.to(dtype).double(), targets, reduction="sum")
    torch.testing.assert_close(counted(logits.to(dtype), targets).read().nll, expected, rtol=1e-13, atol=0)


def test_a_million_small_terms_are_not_rounded_away():
    logits, targets = torch.zeros(10_000, 2), torch.zeros(10_000, dtype=torch.int64)
    counts = counted(logits, targets)
    for _ in range(7):  # 10,000 * 2**7 images
        counts = counts + counts
    assert float(counts.read().nll / counts.n) == pytest.approx(0.6931471805599453, rel=1e-12)


def test_gradients_are_not_kept(images):
    logits, targets, valid = images
    counts = counted(logits.clone().requires_grad_(), targets, valid)
    assert not counts.nll.requires_grad


def test_counting_works_in_inference_mode(images):
    with torch.inference_mode():
        counts = counted(*images)
    assert_equal(counts, counted(*images))


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_nonfinite_logits_are_named_on_reading(images, poison):
    logits, targets, _ = images
    logits[3, 2] = poison
    counts = counted(logits, targets, batch_size=4) + counted(logits[:1], targets[:1])
    with pytest.raises(ValueError, match="logits of 1 of 24 images hold NaN or infinite"):
        counts.read()


def test_reading_nothing_raises():
    with pytest.raises(ValueError, match="no image was counted"):
        Counts.zeros(3).read()


@pytest.mark.parametrize(
    ("logits", "targets", "valid", "name"),
    [
        (torch.zeros(2, 4), torch.zeros(2).long(), torch.ones(2).bool(), "logits"),
        (torch.zeros(2, 3).long(), torch.zeros(2).long(), torch.ones(2).bool(), "logits"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2).bool(), "targets"),
        (torch.zeros(2, 3), torch.zeros(1).long(), torch.ones(2).bool(), "targets"),
        (torch.zeros(2, 3), torch.zeros(2).long(), torch.ones(2), "valid"),
    ],
)
def test_wrong_shapes_and_dtypes_are_named(logits, targets, valid, name):
    with pytest.raises(ValueError, match=f"{name} are"):
        Counts.zeros(3).update(logits, targets, valid)


def test_a_valid_target_out_of_range_raises():
    with pytest.raises(IndexError):
        counted(torch.zeros(2, 3), torch.tensor([0, 3]))


def test_counts_of_different_classes_do_not_add():
    with pytest.raises(ValueError, match="3 and 4 classes"):
        Counts.zeros(3) + Counts.zeros(4)


def test_no_classes_raise():
    with pytest.raises(ValueError, match="num_classes is 0"):
        Counts.zeros(0)
