"""A head fitted before the first step: judged like any state, bit-identical after a kill, and alone where asked for."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import linnaeus
from linnaeus.app import head_start
from linnaeus.app.config import make_config
from linnaeus.app.progress import Display
from linnaeus.app.recipes import RECIPES, over_finetune
from linnaeus.app.settings import gather
from linnaeus.app.train import resume, train
from linnaeus.core.errors import Interrupted, RequestError
from linnaeus.core.files import load_tensors
from linnaeus.core.record import read_records
from linnaeus.engine.checkpoint import save_checkpoint
from linnaeus.models import create_model

QUIET = Display(quiet=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(["dark", "light"]):
        (folder / name).mkdir()
        for number in range(20):
            pixels = np.random.default_rng((label, number)).integers(0, 180, (40, 52, 3), np.uint8) + 60 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(9)
    path = tmp_path_factory.mktemp("weights") / "resnet20.pth"
    torch.save(create_model("resnet20", num_classes=10).state_dict(), path)
    return path


def configured(photos, weights, **changes):
    settings = {"duration": "3st", "batch_size": 8, "precision": "fp32", "channels_last": False, "head_start": True}
    content = {
        "data": {"source": str(photos), "workers": 0},
        "model": {"name": "resnet20", "image_size": 32, "weights": str(weights)},
        "train": {**settings, **changes.pop("train", {})},
        "checkpoint": {"seconds": 0, "keep": 99},
    }
    return make_config({**content, **changes})


def model_of(run):
    return linnaeus.load(run.model).model.state_dict()


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def tuned(photos, weights, tmp_path_factory):
    """A run that was never stopped, with its folder as a kill would have left it after each time that it saved."""
    out = tmp_path_factory.mktemp("tuned") / "run"

    def save(folder, state, **options):
        path = save_checkpoint(folder, state, **options)
        shutil.copytree(out, out.parent / f"saved-{len(list(out.parent.glob('saved-*')))}")
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("linnaeus.app.train.save_checkpoint", save)
        patch.setattr("linnaeus.engine.train.save_checkpoint", save)
        return train(configured(photos, weights, optim={"ema": 0.5}), out=out, display=QUIET)


def test_the_head_is_evaluated_before_the_first_step_and_recorded(tuned):
    first, *later = read_records(tuned.folder)
    assert first["step"] == 0
    assert {"val/top1", "val/loss"} <= first.keys()
    assert not any(name.startswith("train/") for name in first)
    assert later[-1]["step"] == 3
    state, _ = load_tensors(tuned.checkpoints / "step-000000000.safetensors", "linnaeus-checkpoint", 1)
    assert state["model/fc.weight"].any()
    assert torch.equal(state["model/fc.weight"], state["ema/fc.weight"])
    assert not list(tuned.checkpoints.glob("features-*"))


def test_a_run_killed_before_its_first_state_ends_in_the_same_bits(tuned, tmp_path):
    killed = shutil.copytree(tuned.folder.parent / "saved-0", tmp_path / "killed")
    shutil.rmtree(killed / "checkpoints")
    (killed / "checkpoints").mkdir()
    assert equal(model_of(resume(killed, display=QUIET)), model_of(tuned))


# The head is saved, and saved again with its score; a step is done.
@pytest.mark.parametrize("saves", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_run_ends_in_the_same_bits(tuned, tmp_path, saves):
    killed = shutil.copytree(tuned.folder.parent / f"saved-{saves}", tmp_path / "killed")
    assert not (killed / "model").exists()
    assert equal(model_of(resume(killed, display=QUIET)), model_of(tuned))


def test_a_run_killed_while_it_fits_computes_no_features_again(photos, weights, tmp_path, monkeypatch):
    config = configured(photos, weights, train={"duration": "0ep"})
    whole = train(config, out=tmp_path / "whole", display=QUIET)

    def killed(*_, **__):
        raise Interrupted("stopped on request", 15)

    with monkeypatch.context() as patch:
        patch.setattr(head_start, "fit_head", killed)
        with pytest.raises(Interrupted):
            train(config, out=tmp_path / "run", display=QUIET)
    monkeypatch.setattr(head_start, "_compute", killed)
    assert equal(model_of(resume(tmp_path / "run", display=QUIET)), model_of(whole))


def test_a_run_of_no_epochs_fits_the_head_and_changes_nothing_else(photos, weights, tmp_path):
    run = train(configured(photos, weights, train={"duration": "0ep"}), out=tmp_path / "run", display=QUIET)
    delivered, given = model_of(run), torch.load(weights)
    assert all(torch.equal(delivered[name], given[name]) for name in given if not name.startswith("fc."))
    assert [line["step"] for line in read_records(run.folder)] == [0]
    with pytest.raises(RequestError, match="is finished"):
        resume(run.folder, display=QUIET)


def test_training_that_only_harms_delivers_the_head(photos, weights, tmp_path):
    probe = train(configured(photos, weights, train={"duration": "0ep"}), out=tmp_path / "probe", display=QUIET)
    # The labels are easy for the head; steps of this size leave nothing of the network.
    harmed = configured(photos, weights, optim={"name": "sgd", "lr": 30.0, "clip_norm": 0.0, "warmup": 0.0})
    run = train(harmed, out=tmp_path / "run", display=QUIET)
    assert equal(model_of(run), model_of(probe))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optim": {"ema": 0.9}}, "optim.ema has no effect in a run of 0 epochs"),
        ({"augment": {"mixup": 0.2}}, "augment.mixup has no effect in a run of 0 epochs"),
        ({"train": {"accumulate": 2}}, "train.accumulate has no effect in a run of 0 epochs"),
    ],
)
def test_settings_that_mean_nothing_without_steps_are_refused(photos, weights, tmp_path, changes, said):
    more = {"train": {"duration": "0ep", **changes.pop("train", {})}, **changes}
    with pytest.raises(RequestError, match=said):
        train(configured(photos, weights, **more), out=tmp_path / "run", display=QUIET)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_fitted_is_refused():
    data = {"data": {"source": "x"}}
    with pytest.raises(RequestError, match="nothing would be learned"):
        make_config({**data, "train": {"duration": "0ep"}})
    with pytest.raises(RequestError, match="give --weights as well"):
        make_config({**data, "train": {"head_start": True}})


def test_trained_weights_without_a_recipe_begin_as_finetune_and_what_is_said_wins():
    usual = RECIPES["finetune"]("photos/")
    flags = {"data.source": "photos/", "model.weights": "default", "model.name": "resnet18", "optim.lr": 0.01}
    found = make_config(gather(None, flags, ["train.label_smoothing=0.0"]))
    assert (found.model.name, found.optim.lr, found.train.label_smoothing) == ("resnet18", 0.01, 0.0)
    assert found.train.head_start
    assert found.train.duration == usual.train.duration
    assert found.augment == usual.augment
    assert "train" not in over_finetune({"data": {"source": "photos/"}})
    assert not make_config(gather(None, flags, [], recipe=RECIPES["fine-grained"]("x").model_dump())).train.head_start
