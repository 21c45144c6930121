"""Every image is counted once, also where memory is too small for a whole batch."""

import pytest
import torch

from linnaeus.core.errors import EnvironmentFault
from linnaeus.engine.evaluate import Parts, evaluate
from linnaeus.metrics.counts import Counts

from ..faults.small import CPU, Images, Tiny


def narrow(limit: int, sizes: list[int]):
    torch.manual_seed(0)
    network = Tiny().eval()

    def logits_of(images):
        sizes.append(len(images))
        if len(images) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(images.float())

    return logits_of


@pytest.mark.parametrize(("limit", "size", "notes"), [(8, 0, 0), (5, 4, 1), (3, 2, 2), (1, 1, 3)])
def test_a_batch_that_does_not_fit_is_evaluated_in_parts_with_the_same_result(limit, size, notes):
    said, sizes = [], []
    parts = Parts(said.append)
    found = evaluate(
        lambda images: parts.logits(narrow(limit, sizes), images), Images(), into=Counts.zeros(3), device=CPU
    ).read()
    expected = evaluate(narrow(8, []), Images(), into=Counts.zeros(3), device=CPU).read()
    assert torch.equal(found.confusion, expected.confusion)
    assert float(found.nll) == pytest.approx(float(expected.nll), rel=1e-6)
    assert (parts.size, len(said)) == (size, notes)
    assert sum(size > limit for size in sizes) == notes  # it is tried once, and not for every batch
    if notes:
        assert said[-1] == f"out of memory in evaluation: from here on {size} images at a time, with the same result"


def test_memory_too_small_for_one_image_is_one_line():
    with pytest.raises(EnvironmentFault, match="too small to evaluate one image: take a smaller --image-size"):
        Parts(lambda _: None).logits(narrow(0, []), torch.zeros(8, 1, 4, 4))


def test_another_error_is_not_swallowed():
    def broken(_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Parts(lambda _: None).logits(broken, torch.zeros(8, 1, 4, 4))
