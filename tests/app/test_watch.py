"""A run under the microscope is the same run; one whose loss is not finite says which step and which module did it."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import linnaeus
from linnaeus.core.errors import NotFinite
from linnaeus.core.files import load_tensors
from linnaeus.core.record import read_records
from linnaeus.explain.nonfinite import replay

SETTINGS = {"train": {"device": "cpu", "precision": "fp32", "channels_last": True, "batch_size": 8}}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """`train(out, section={...})` trains a small network on 60 small pictures, for two epochs."""
    folder = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate(["dark", "light"]):
        (folder / name).mkdir()
        for number in range(30):
            pixels = np.random.default_rng((label, number)).integers(0, 120, (28, 28), np.uint8) + np.uint8(120 * label)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")

    def run(out, **sections):
        settings = {**SETTINGS, **sections}
        return linnaeus.train(folder, model="lenet5_modern", duration="2ep", out=out, settings=settings)

    return run


def test_a_run_under_the_microscope_has_the_same_weights_and_says_what_was_seen(train, tmp_path, capsys):
    plain = train(tmp_path / "plain")
    seen = train(tmp_path / "seen", record={"microscope": True})
    expected, found = (load_tensors(run.model / "model.safetensors", "linnaeus-model", 2)[0] for run in (plain, seen))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    events = EventAccumulator(str(seen.folder / "tensorboard")).Reload()
    assert {"weights/head.weight", "gradients/head.weight", "gradients/c1.conv.weight"} <= {
        *events.Tags()["histograms"]
    }
    assert events.Tags()["images"] == ["images"]
    assert events.Tags()["graph"]
    assert {"update_ratio/head", "dead/act5", "microscope/share"} <= {*events.Tags()["scalars"]}
    assert not EventAccumulator(str(plain.folder / "tensorboard")).Reload().Tags()["histograms"]
    told = capsys.readouterr().err
    assert "dead units" in told
    assert "update/weight ratios between" in told
    assert "the microscope looked 1 times" in told
    assert not any("microscope/share" in record for record in read_records(plain.folder))


def test_a_loss_that_is_not_finite_names_step_and_module_and_leaves_the_step_for_replay(train, tmp_path):
    with pytest.raises(NotFinite) as caught:
        train(tmp_path / "run", optim={"lr": 1e12, "warmup": 0.0, "clip_norm": 0.0})
    message = str(caught.value)
    assert "\n" not in message
    assert "What helps most often: a lower --lr than 1e+12, or optim.clip_norm=1" in message
    step, path = re.search(r"In step (\d+), .* Saved for replay: (\S+)\. ", message).groups()
    assert 1 < int(step) <= 12
    again = replay(path)
    assert again.step == int(step)
    assert again.found == again.recorded
    assert str(again.recorded) in message
    assert all(tensor.isfinite().all() for tensor in again.model.state_dict().values())
    names = [line.split(",")[0] for line in (tmp_path / "run" / "data" / "index.csv").read_text().splitlines()[1:]]
    assert all(0 <= place < len(names) for place in again.batch.index.tolist())


def test_a_run_that_cannot_be_repeated_to_the_fault_still_says_what_helps(train, tmp_path, monkeypatch):
    from linnaeus.engine import train as loop

    def fail(*_):
        raise NotFinite("the loss is nan at or shortly before step 9")

    monkeypatch.setattr(loop, "epoch_scores", fail)
    with pytest.raises(NotFinite, match=r"do not repeat exactly\. What helps most often: a lower --lr than 0\.05"):
        train(tmp_path / "run", optim={"lr": 0.05})
