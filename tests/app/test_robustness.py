"""Robustness is measured on the same versions each time, matches plain prediction, and is kept in the run."""

import json

import numpy as np
import pytest
import torch

from linnaeus.app.config import make_config
from linnaeus.app.evaluate import evaluate
from linnaeus.app.progress import Display
from linnaeus.app.robustness import KIND, VERSION, make_versions, measure_robustness
from linnaeus.app.train import train
from linnaeus.core.files import read_json
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.data.corrupt import CORRUPTIONS
from linnaeus.data.sources import Columns, open_source
from linnaeus.deploy.bundle import load_bundle
from linnaeus.metrics.robustness import Robustness

from .dots import draw_dots

QUIET = Display(quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that tells dark images from light ones."""
    folder = tmp_path_factory.mktemp("robustness")
    (folder / "dots").mkdir()
    draw_dots(folder / "dots", 40)
    settings = {
        "data": {"source": str(folder / "dots"), "workers": 0},
        "model": {"name": "lenet5_modern"},
        "train": {"duration": "6ep", "batch_size": 16, "autotune": False, "device": "cpu"},
    }
    return train(make_config(settings), out=folder / "run", display=QUIET)


def test_it_is_kept_in_the_run_and_is_the_same_each_time(trained):
    first, second = (
        evaluate(trained.folder, None, split=None, device="cpu", display=QUIET, robustness=True).robustness
        for _ in range(2)
    )
    assert first == second
    content = read_json(trained.folder / "evaluation" / "robustness.json", KIND, VERSION)
    assert Robustness.from_json(content) == first
    assert {entry.name for entry in first.corruptions} == CORRUPTIONS.keys() - {"greyscale", "colour_cast"}
    assert [entry.name for entry in first.sensitivities] == ["resize", "jpeg", "crop"]


def test_what_tells_the_classes_apart_is_what_costs(trained):
    """Light against dark: light that is gone costs, a shift does not."""
    result = evaluate(trained.folder, None, split=None, device="cpu", display=QUIET, robustness=True)
    found = {entry.name: entry for entry in result.robustness.corruptions}
    assert result.robustness.clean.value == result.scores.top1.value == 1
    assert found["darkness"].change.high < 0
    assert found["shift"].change.value == 0
    assert json.dumps(result.to_json(), allow_nan=False)
    assert any("On spoiled images" in str(table.title) for table in result.tables())


def test_not_asked_for_is_not_measured(trained):
    assert evaluate(trained.folder, None, split=None, device="cpu", display=QUIET).robustness is None


def test_a_limit_draws_a_subset_and_says_so(trained):
    bundle = load_bundle(trained.folder)
    source = open_source(str(trained.folder.parent / "dots"), Columns())
    usable = np.arange(len(source.labels))
    found = measure_robustness(bundle, source, usable, images="images", display=QUIET, limit=10)
    assert found.images == "10 of the 80 images"
    assert found.clean.n == 10


def test_versions_are_what_the_network_would_see():
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    preprocess = Preprocess(Geometry(32, 36, (0.5,) * 3, (0.25,) * 3))
    versions = dict(make_versions(pixels, preprocess, turn=0, index=0))
    clean = versions["clean", "", ""]
    assert torch.equal(clean, preprocess.fit(pixels))
    assert torch.equal(versions["flip", "", ""], clean.flip(-1))
    assert ("resize", "", "bilinear") not in versions  # its own
    assert all(image.shape == (3, 32, 32) and image.dtype == torch.uint8 for image in versions.values())
    assert sum(key[0] == "corrupt" for key in versions) == len(CORRUPTIONS)
    for done in ("resize", "jpeg", "crop"):
        others = [image for key, image in versions.items() if key[0] == done]
        assert len(others) >= 3
        assert sum(torch.equal(image, clean) for image in others) <= 1  # a crop may be its own
