"""The recipe `cifar-speedrun` runs from images to a model that has learned, whitened by its own training images."""

import numpy as np
import pytest
import torch
from PIL import Image

from linnaeus.app.begin import begin
from linnaeus.app.config import make_config
from linnaeus.app.progress import Display
from linnaeus.app.recipes import cifar_speedrun
from linnaeus.app.train import resume, train
from linnaeus.core.errors import RequestError
from linnaeus.deploy.bundle import load_bundle

SMALL = {"model": {"options": {"whiten_bias": False, "width": 4}}, "data": {"val_share": 0.2}}
PLAIN = {"batch_size": 20, "duration": "6ep", "precision": "fp32", "channels_last": True, "autotune": False}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The recipe with a thin network, on 100 pictures of two colours under noise."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for label, name in enumerate(["warm", "cold"]):
        (folder / name).mkdir()
        colour = np.array([90, 60, 40] if label == 0 else [40, 60, 90], np.uint8)
        for number in range(50):
            pixels = draw.integers(0, 150, (32, 32, 3), dtype=np.uint8) + colour
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return cifar_speedrun(str(folder)).replace(**SMALL, train={**PLAIN, "device": "cpu"})


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    return train(config, out=tmp_path_factory.mktemp("speedrun") / "run", display=Display(quiet=True))


def test_the_network_is_measured_on_the_training_images_the_same_each_time(config):
    states = [begin(config, display=Display(quiet=True)).state() for _ in range(2)]
    whiten = states[0].model.whiten.weight
    assert torch.equal(whiten, states[1].model.whiten.weight)
    # Filters of noise would be orthonormal. Those of images are as long as 1 / deviation along their direction.
    gram = whiten.flatten(1)[:12] @ whiten.flatten(1)[:12].T
    assert not torch.allclose(gram, torch.eye(12), atol=0.1)
    assert torch.allclose(gram, gram.diag().diag(), atol=1e-3)


def test_the_average_starts_from_what_was_measured(config):
    state = begin(config.replace(optim={"ema": 0.9}), display=Display(quiet=True)).state()
    assert torch.equal(state.judged.whiten.weight, state.model.whiten.weight)


@pytest.mark.slow
def test_the_recipe_learns(run):
    assert load_bundle(run.model).about["metrics"]["top1"]["value"] > 0.9


@pytest.mark.slow
def test_a_run_resumed_from_its_beginning_is_whitened_alike(run, config, tmp_path):
    again = train(config, out=tmp_path / "run", display=Display(quiet=True))
    (again.folder / "model" / "model.json").unlink()
    for checkpoint in again.checkpoints.iterdir():
        checkpoint.unlink()
    resumed = load_bundle(resume(again.folder, display=Display(quiet=True)).model).model.state_dict()
    expected = load_bundle(run.model).model.state_dict()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in expected.items())


def test_momentum_is_for_optimizers_that_have_it():
    with pytest.raises(RequestError, match="momentum has no effect with adamw"):
        make_config({"data": {"source": "x"}, "optim": {"name": "adamw", "momentum": 0.8}})
