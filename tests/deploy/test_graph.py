"""The graph that is exported computes what the bundle computes: bytes of an image in, calibrated probabilities out."""

import numpy as np
import pytest
import torch
from torch import nn

from linnaeus.deploy.graph import MOST, Graph, capture
from linnaeus.deploy.views import NUM_VIEWS
from linnaeus.metrics.calibrate import Calibration

from .small import SHARP, VECTOR, bundle, photos, probabilities


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("calibration", [SHARP, VECTOR, Calibration().to_json()], ids=["one", "vector", "none"])
@pytest.mark.parametrize("tta", NUM_VIEWS)
def test_it_gives_the_bundles_probabilities(task, channels, calibration, tta):
    of, images = bundle(task=task, channels=channels, calibration=calibration, tta=tta), photos(5, channels)
    found = Graph(of)(torch.from_numpy(images)).numpy()
    assert found.dtype == np.float32
    assert np.abs(found - probabilities(of, images)).max() < 1e-5


def test_batch_normalisation_is_folded_and_the_bundle_keeps_its_own():
    of = bundle()
    before = probabilities(of, photos(3))
    graph = Graph(of)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in graph.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in of.model.modules())
    assert np.array_equal(probabilities(of, photos(3)), before)
    assert not any(parameter.requires_grad for parameter in graph.parameters())


def test_a_narrowed_copy_computes_in_its_type_and_leaves_the_original():
    graph, images = Graph(bundle()), torch.from_numpy(photos(8))
    narrow = graph.narrowed(torch.bfloat16)
    assert {parameter.dtype for parameter in narrow.network.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in graph.network.parameters()} == {torch.float32}
    found, expected = narrow(images), graph(images)
    assert found.dtype == torch.float32
    assert 1e-4 < (found - expected).abs().max() < 0.05


@pytest.mark.parametrize("tta", NUM_VIEWS)
def test_each_layer_is_called_once_however_many_views_there_are(tta):
    """Quantizers see the first call of a layer, and leave others in floating point."""
    graph, calls = Graph(bundle(tta=tta)), []
    graph.network.c3.conv.register_forward_hook(lambda *_: calls.append(1))
    graph(graph.example(2))
    assert len(calls) == 1


def test_a_capture_takes_as_many_images_as_it_was_made_for():
    graph, images = Graph(bundle()), torch.from_numpy(photos(33))
    anything, four = capture(graph, None).module(), capture(graph, 4).module()
    for number in (1, 2, 33):
        torch.testing.assert_close(anything(images[:number]), graph(images[:number]))
    torch.testing.assert_close(four(images[:4]), graph(images[:4]))
    with pytest.raises(AssertionError, match="== 4"):
        four(images[:5])
    with pytest.raises(AssertionError, match=str(MOST)):
        anything(graph.example(1).repeat(MOST + 1, 1, 1, 1))
