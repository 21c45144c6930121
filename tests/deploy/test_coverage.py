"""Work is counted as it can be counted by hand, shares are of it, and the layer that bears it worst stands first."""

import pytest
import torch

from linnaeus.deploy.coverage import count_coverage, divergence, sensitivity, trained_layers, weighted
from linnaeus.deploy.graph import Graph

from .small import bundle, photos

MACS = {
    "c1.conv": 28 * 28 * 6 * 3 * 25,
    "c3.conv": 10 * 10 * 16 * 6 * 25,
    "c5": 400 * 120,
    "f6": 120 * 84,
    "head": 84 * 3,
}
WEIGHTS = {"c1.conv": 6 * 3 * 25, "c3.conv": 16 * 6 * 25, "c5": 400 * 120, "f6": 120 * 84, "head": 84 * 3}


@pytest.mark.parametrize(("tta", "times"), [("none", 1), ("flip", 2), ("shift", 6)])
def test_multiply_accumulates_are_those_of_the_paper(tta, times):
    layers = trained_layers(Graph(bundle(tta=tta)))
    assert {layer.name: layer.macs for layer in layers} == {name: times * macs for name, macs in MACS.items()}
    assert {layer.name: layer.weights for layer in layers} == WEIGHTS
    assert [layer.kind for layer in layers] == ["convolution"] * 2 + ["linear"] * 3


def test_a_linear_layer_works_once_for_each_token():
    from linnaeus.core.preprocess import Geometry, Preprocess
    from linnaeus.deploy.bundle import Bundle
    from linnaeus.models import create_model

    preprocess = Preprocess(Geometry(32, 32, (0.5,) * 3, (0.25,) * 3))
    model = create_model("vit_tiny", num_classes=2, image_size=32)
    of = Bundle(
        model,
        {"task": "single", "classes": ["a", "b"], "calibration": {"method": "none", "temperature": 1.0}},
        preprocess,
    )
    found = {layer.name: layer for layer in trained_layers(Graph(of))}
    tokens = (32 // 16) ** 2 + 1
    name = next(name for name in found if name.endswith("mlp.fc1"))
    assert found[name].macs == tokens * found[name].weights


def test_shares_are_of_layers_of_weights_and_of_work():
    found = count_coverage(
        trained_layers(Graph(bundle())), {"c1.conv": "int8", "c3.conv": "float", "c5": "int8 weights", "f6": "int8"}
    )
    assert found.layers == 2 / 5
    assert found.macs == (MACS["c1.conv"] + MACS["f6"]) / sum(MACS.values())
    assert found.weights == (WEIGHTS["c1.conv"] + WEIGHTS["f6"]) / sum(WEIGHTS.values())
    assert found.kept == found.weights + WEIGHTS["c5"] / sum(WEIGHTS.values())
    assert (found.convolutions, found.linears) == ((1, 2), (1, 3))
    assert found.left == ("c3.conv", "c5", "head")


@pytest.mark.parametrize("bad", MACS)
def test_a_layer_with_an_outlier_is_the_most_sensitive(bad):
    """One huge weight an output channel: the other weights are rounded to nothing beside it."""
    graph = Graph(bundle())
    layer = weighted(graph)[bad]
    images = torch.from_numpy(photos(8))
    # For an input that is 0 the outlier changes nothing but the steps: the network's answers stay.
    with torch.no_grad():
        layer.weight.flatten(1)[:, 0] = 300.0

        def without_first(module, inputs):
            inputs[0].flatten(1)[:, : inputs[0][0, 0].numel() if inputs[0].ndim == 4 else 1] = 0

        layer.register_forward_pre_hook(without_first)
    assert next(iter(sensitivity(graph, images))) == bad


def test_measuring_sensitivity_leaves_the_network_as_it_was():
    graph, images = Graph(bundle()), torch.from_numpy(photos(4))
    before, weights = graph(images), {name: layer.weight for name, layer in weighted(graph).items()}
    found = sensitivity(graph, images)
    assert found.keys() == MACS.keys()
    assert all(divergence >= 0 for divergence in found.values())
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert torch.equal(graph(images), before)
    assert all(layer.weight is weights[name] for name, layer in weighted(graph).items())


@pytest.mark.parametrize("task", ["single", "multi"])
def test_sensitivity_is_the_divergence_that_the_formula_gives(task):
    expected, found = torch.tensor([[0.7, 0.3]]), torch.tensor([[0.5, 0.5]])
    wanted = (expected * (expected / found).log()).sum()
    if task == "multi":
        wanted = (wanted + ((1 - expected) * ((1 - expected) / (1 - found)).log()).sum()) / 2
    assert divergence(expected, found, several=task == "multi") == pytest.approx(float(wanted))
