"""Tuned weights bear the rounding to 8 bits better, are plain weights, and come out the same each time."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from linnaeus.core.errors import NotFinite
from linnaeus.deploy import qat
from linnaeus.deploy.coverage import weighted
from linnaeus.deploy.graph import Graph
from linnaeus.deploy.qat import BATCH, EPOCHS, STEPS, Images, count_steps, harm, tune, tuned

from .small import bundle, photos


def uneven(task="single", tta="none"):
    """A network that bears rounding badly: one weight an output channel is far larger, and the others get few steps."""
    graph = Graph(bundle(task=task, tta=tta))
    with torch.no_grad():
        for layer in weighted(graph).values():
            layer.weight.flatten(1)[:, 0] *= 8
    return graph


def images(graph, count=128):
    training, apart = torch.from_numpy(photos(count, seed=5)), torch.from_numpy(photos(64, seed=6))
    with torch.no_grad():
        return Images(training, training[:32], apart, graph(apart))


def weights(graph):
    return {name: tensor.clone() for name, tensor in graph.state_dict().items()}


@pytest.mark.parametrize("task", ["single", "multi"])
def test_rounding_harms_a_tuned_network_less_than_half_as_much(task):
    graph = uneven(task)
    seen = images(graph)
    made, tuning = tuned(graph, seen)
    assert tuning.taken
    assert made is not graph
    assert tuning.after < tuning.before / 2
    assert harm(made, seen.ranges, seen.apart, seen.expected) == tuning.after


def test_weights_come_back_plain_and_changed_and_the_network_as_it_was():
    graph = uneven()
    before, kinds = weights(graph), [type(module) for module in graph.modules()]
    made, _ = tune(graph, images(graph).training)
    assert [type(module) for module in made.modules()] == kinds
    assert not any(parametrize.is_parametrized(module) for module in made.modules())
    assert not any(module._forward_pre_hooks for module in made.modules())
    assert not any(parameter.requires_grad for parameter in made.parameters())
    after = weights(made)
    assert after.keys() == before.keys()
    for name, layer in weighted(made).items():
        moved = (layer.weight - weighted(graph)[name].weight).abs()
        assert moved.max() > 0
        # Not rounded: of the 255 values that there could be in a channel there are more.
        assert max(len(row.unique()) for row in layer.weight.flatten(1)) == layer.weight[0].numel()
    untouched = [name for name in before if not name.endswith((".weight", ".bias"))]
    assert untouched
    assert all(torch.equal(before[name], after[name]) for name in untouched)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(graph).items())


def test_two_times_give_the_same_weights_and_another_seed_others():
    graph = uneven()
    training = images(graph).training
    first, again, other = (weights(tune(graph, training, seed=seed)[0]) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["network.head.weight"], other["network.head.weight"])


def test_weights_that_are_no_better_are_not_taken(monkeypatch):
    monkeypatch.setattr(qat, "RATE", 30.0)  # destroys what was learned
    graph = uneven()
    before = weights(graph)
    made, tuning = tuned(graph, images(graph))
    assert made is graph
    assert not tuning.taken
    assert tuning.after > tuning.before
    assert "the network's own weights are kept" in tuning.in_words()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(graph).items())


def test_what_is_no_number_stops_it_and_names_the_step(monkeypatch):
    monkeypatch.setattr(qat, "_loss", lambda expected, found, *, several: found.sum() * float("nan"))
    graph = uneven()
    with pytest.raises(NotFinite, match="at step 0: export without --qat"):
        tune(graph, images(graph).training)


@pytest.mark.parametrize(("number", "steps"), [(1, EPOCHS), (BATCH, EPOCHS), (BATCH + 1, 2 * EPOCHS), (10**6, STEPS)])
def test_steps_are_bounded_and_counted_before_they_are_taken(number, steps):
    assert count_steps(number) == steps


def test_each_step_is_told_and_every_image_is_seen_in_every_epoch(monkeypatch):
    seen, told, graph = [], [], uneven()
    right = qat._batches
    monkeypatch.setattr(qat, "_batches", lambda *words: (seen.append(batch) or batch for batch in right(*words)))
    _, steps = tune(graph, images(graph, 40).training, advance=told.append)
    assert told == [1] * steps
    assert steps == count_steps(40)
    assert sorted(torch.cat(seen).tolist()) == sorted([*range(40)] * EPOCHS)
    assert not torch.equal(seen[0], seen[steps // EPOCHS])


def test_harm_is_that_of_the_rounding_by_hand():
    """One layer of which all is known: inputs on 255 steps of the range, weights on 127 of the largest."""

    class One(nn.Module):
        several = False

        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(nn.Linear(2, 2, bias=False))
            self.network[0].weight.data = torch.tensor([[9.0, 3.0], [-7.0, 2.01]])

        def calibrated(self, x):
            return self.network(x)

        def forward(self, x):
            return self.calibrated(x).softmax(1)

    graph, x = One(), torch.tensor([[0.123, 2.0], [-1.0, 0.777]])
    with torch.no_grad():
        expected = graph(x)
        step = 3.0 / 255
        rounded = (x / step).round() * step
        weight = graph.network[0].weight
        unit = weight.abs().amax(1, keepdim=True) / 127
        found = (rounded @ ((weight / unit).round() * unit).T).softmax(1)
        by_hand = float((expected * (expected / found).log()).sum(1).mean())
    assert by_hand > 0
    assert harm(graph, x, x, expected) == pytest.approx(by_hand, rel=1e-2)


def test_views_of_an_image_are_tuned_together():
    graph = uneven(tta="flip")
    assert tuned(graph, images(graph, 64))[1].taken
