"""A step is the textbook step, however it is cut into micro-batches."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from linnaeus.core.batch import Batch
from linnaeus.core.errors import VerdictError
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.engine.evaluate import evaluate
from linnaeus.engine.loss import binary_cross_entropy, cross_entropy
from linnaeus.engine.step import State, StepRule, f1, take_step, top1
from linnaeus.engine.train import epoch_scores
from linnaeus.metrics.counts import Counts
from linnaeus.models import create_model
from linnaeus.optim.groups import param_groups
from linnaeus.optim.optimizers import sgd


def parts(name: str = "lenet5") -> tuple[State, StepRule]:
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, in_channels=1, image_size=28)
    optimizer = sgd(param_groups(model, 0.0), lr=0.1)
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.1
    preprocess = Preprocess(Geometry(28, 28, (0.5,), (0.5,)))
    loss = partial(cross_entropy, label_smoothing=0.1)
    rule = StepRule(preprocess, loss, schedule=lambda p: 1.0, total_steps=10, seed=0)
    return State(model, optimizer, None, torch.zeros(3, dtype=torch.float64)), rule


def batch(size: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (size, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return Batch.of(images, torch.arange(size) % 5, torch.arange(size))


def test_one_step_is_that_of_plain_pytorch():
    state, rule = parts()
    plain, _ = parts()
    take_step(state, batch(), rule)
    optimizer = torch.optim.SGD(plain.model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    logits = plain.model((batch().images / 255 - 0.5) / 0.5)
    loss = F.cross_entropy(logits, batch().targets, label_smoothing=0.1)
    torch.autograd.backward(loss)
    optimizer.step()
    for ours, theirs in zip(state.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert state.sums[0] / state.sums[2] == pytest.approx(float(loss.detach()), abs=1e-5)


@pytest.mark.parametrize("accumulate", [2, 5, 12])
def test_micro_batches_and_padding_do_not_change_the_step(accumulate):
    whole, rule = parts()
    cut, _ = parts()
    take_step(whole, batch(), rule)
    take_step(cut, batch().pad(16), StepRule(**{**vars(rule), "accumulate": accumulate}))
    for ours, theirs in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(whole.sums, cut.sums, rtol=1e-6, atol=0.0)


def several() -> tuple[State, StepRule, Batch]:
    """A step on images of several classes, one of them with none."""
    state, rule = parts()
    rule = StepRule(**{**vars(rule), "loss": binary_cross_entropy, "measure": "f1"})
    targets = (torch.rand(12, 5, generator=torch.Generator().manual_seed(2)) < 0.4).to(torch.uint8)
    targets[3] = 0
    return state, rule, Batch.of(batch().images, targets, torch.arange(12))


def test_a_step_on_images_of_several_classes_is_that_of_plain_pytorch_however_it_is_cut():
    plain, _, whole = several()
    logits = plain.model((whole.images / 255 - 0.5) / 0.5)
    loss = F.binary_cross_entropy_with_logits(logits, whole.targets.float())
    torch.autograd.backward(loss)
    torch.optim.SGD(plain.model.parameters(), lr=0.1, momentum=0.9, nesterov=True).step()
    for accumulate in (1, 5):
        state, rule, images = several()
        take_step(state, images.pad(16), StepRule(**{**vars(rule), "accumulate": accumulate}))
        for ours, theirs in zip(state.model.parameters(), plain.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
        scores = epoch_scores(state, rule)
        assert scores.keys() == {"train/loss", "train/f1", "train/lr"}
        assert scores["train/loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
        assert scores["train/f1"] == pytest.approx(float(f1(logits, whole.targets).mean()), abs=1e-6)


def test_f1_of_an_image_counts_its_own_labels_and_none_for_none_is_right():
    logits = torch.tensor([[1.0, 1.0, -1.0], [-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0], [2.0, -2.0, 2.0]])
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.4, 1.0]])
    assert f1(logits, targets).tolist() == [0.5, 1.0, 0.0, 1.0]


def test_top1_of_a_mixed_image_asks_for_the_class_it_shows_most_of():
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    assert top1(logits, torch.tensor([[0.6, 0.4], [0.3, 0.7]])).tolist() == [1.0, 0.0]
    assert top1(logits, torch.tensor([0, 1])).tolist() == [1.0, 0.0]


def test_a_clipped_step_is_no_longer_than_the_norm_allows():
    state, rule = parts()
    before = [p.detach().clone() for p in state.model.parameters()]
    take_step(state, batch(), StepRule(**{**vars(rule), "clip_norm": 1e-3}))
    moved = sum(float((p - b).detach().pow(2).sum()) for p, b in zip(state.model.parameters(), before, strict=True))
    assert moved**0.5 <= 0.1 * 1.9 * 1e-3 * 1.001  # lr x Nesterov's first step x norm


def test_a_loss_that_is_not_finite_stops_with_the_step_named():
    state, rule = parts()
    with torch.no_grad():
        state.model.head.bias.fill_(float("nan"))
    take_step(state, batch(), rule)
    with pytest.raises(VerdictError, match="step 1"):
        epoch_scores(state, rule)


@pytest.mark.parametrize("size", [1, 5, 12, 50])
def test_evaluation_does_not_depend_on_the_batch_size(size):
    state, rule = parts()

    class Loader:
        num_images, num_batches = 12, -(-12 // size)

        def epoch(self, epoch, start=0):
            whole = batch()
            for first in range(0, 12, size):
                rows = slice(first, first + size)
                yield Batch(*(t[rows] for t in vars(whole).values())).pad(size)

    logits_of = lambda images: state.model(rule.preprocess(images))  # noqa: E731
    counts = evaluate(logits_of, Loader(), into=Counts.zeros(5), device=torch.device("cpu"))
    assert int(counts.n) == 12
    truth = batch().targets
    with torch.no_grad():
        logits = logits_of(batch().images)
    assert int(counts.confusion.diagonal().sum()) == int((logits.argmax(1) == truth).sum())
    assert float(counts.nll) == pytest.approx(float(F.cross_entropy(logits, truth, reduction="sum")), rel=1e-5)
