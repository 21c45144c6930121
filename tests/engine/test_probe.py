"""The fitted head is the one that scikit-learn finds, its penalty the best on held-out images, and always the same."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from linnaeus.engine.loss import binary_cross_entropy, cross_entropy
from linnaeus.engine.probe import ENOUGH, STRENGTHS, Examples, fit_head


def drawn(number, *, dim=6, classes=3, seed=0, noise=1.0):
    """Images whose class is a noisy linear function of their features."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    features = 3 + 2 * torch.randn(number, dim, generator=generator)
    logits = (features - 3) @ truth.T + noise * torch.randn(number, classes, generator=generator)
    return Examples(features, logits.argmax(1), torch.ones(number))


def fit(train, val, *, loss=cross_entropy, judge=cross_entropy, classes=3):
    return fit_head(train, val, num_classes=classes, loss=loss, judge=judge)


@pytest.mark.parametrize("number", [200, 20], ids=["more images than features", "fewer images than features"])
def test_the_head_is_the_one_that_scikit_learn_finds(number):
    train, val = drawn(number, dim=40), drawn(ENOUGH, dim=40, seed=1)
    head = fit(train, val)
    features = train.features.double().numpy()
    centre = features.mean(0)
    spread = np.sqrt(((features - centre) ** 2).mean())
    reference = LogisticRegression(C=1 / (head.strength * number), tol=1e-10, max_iter=10_000)
    reference.fit((features - centre) / spread, train.targets.numpy())
    ours = (val.features.double() @ head.weight.T + head.bias).softmax(1).numpy()
    theirs = reference.predict_proba((val.features.double().numpy() - centre) / spread)
    assert np.abs(ours - theirs).max() < 1e-3


def test_many_held_out_images_choose_alone_and_few_with_the_training_images_help():
    train, many = drawn(60, noise=3.0), drawn(ENOUGH, seed=1, noise=3.0)
    head = fit(train, many)
    logits = many.features.double() @ head.weight.T + head.bias
    nll = float(torch.nn.functional.cross_entropy(logits, many.targets))
    assert nll == pytest.approx(min(head.held_out.values()))
    assert head.held_out[head.strength] == min(head.held_out.values())

    right = Examples(
        many.features[:5], (many.features[:5].double() @ head.weight.T + head.bias).argmax(1), torch.ones(5)
    )
    few = fit(train, right)  # what a head says of five images can only become surer
    assert few.strength > STRENGTHS[-1]


def test_the_same_examples_give_the_same_bits():
    first, second = (fit(drawn(50), drawn(30, seed=1)) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)


def test_an_image_that_weighs_two_is_that_image_twice():
    train, val = drawn(40), drawn(ENOUGH, seed=1)
    weights = torch.ones(40)
    weights[:10] = 2
    twice = torch.cat([torch.arange(40), torch.arange(10)])
    heavy = fit(Examples(train.features[twice], train.targets[twice], torch.ones(50)), val)
    light = fit(Examples(train.features, train.targets, weights), val)
    assert torch.allclose(heavy.weight, light.weight, atol=1e-3 * float(heavy.weight.abs().max()))


def test_several_classes_an_image_are_heads_of_their_own():
    train, val = drawn(200), drawn(ENOUGH, seed=1)
    several = [
        Examples(e.features, torch.nn.functional.one_hot(e.targets, 3).to(torch.uint8), e.weights) for e in (train, val)
    ]
    head = fit(*several, loss=binary_cross_entropy, judge=binary_cross_entropy)
    said = (val.features.double() @ head.weight.T + head.bias) > 0
    assert (said == several[1].targets.bool()).double().mean() > 0.8


def test_class_weights_in_float32_are_taken():
    loss = partial(cross_entropy, class_weights=torch.tensor([1.0, 5.0, 1.0]))
    train, val = drawn(100, noise=3.0), drawn(ENOUGH, seed=1, noise=3.0)
    plain, weighted = fit(train, val), fit(train, val, loss=loss)
    share = [
        float(((val.features.double() @ h.weight.T + h.bias).argmax(1) == 1).double().mean()) for h in (plain, weighted)
    ]
    assert share[1] > share[0]
