"""Networks of timm and torchvision keep the contract of `Classifier` and compute what their libraries compute.

At small image sizes. The reference is always the library's own network with the same weights.
"""

import copy
import importlib.util
import pickle
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save

from linnaeus.core.classifier import Classifier
from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.preprocess import Preprocess
from linnaeus.models import adapters
from linnaeus.models.adapters import (
    create_adapted,
    list_adapted,
    load_published,
    published_weights,
)

from .reference import perturb
from .serving import good
from .serving import server as server  # a fixture

HAS_TIMM = importlib.util.find_spec("timm") is not None
SMALL = "torchvision:shufflenet_v2_x0_5"
NUM_CLASSES = 5
IMAGE_SIZE = 32
# timm's `test_` networks are small ones of its families.
NETWORKS = ["torchvision:resnet18", "timm:resnet10t", "timm:test_vit", "timm:test_convnext", "timm:test_efficientnet"]
SLOW = ["torchvision:mobilenet_v3_small", "torchvision:efficientnet_b0", "timm:vit_tiny_patch16_224"]
SLOW += ["timm:convnext_atto", "timm:tf_efficientnet_lite0", "timm:resnetv2_50"]


needs_timm = pytest.mark.skipif(not HAS_TIMM, reason="timm is not installed")


def case(name, *values, slow=False):
    """A network and what belongs to it as a parameter, skipped where its library is not installed."""
    marks = [needs_timm] * name.startswith("timm") + [pytest.mark.slow] * (slow or name in SLOW)
    return pytest.param(name, *values, marks=marks)


def build(name, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return create_adapted(name, num_classes=NUM_CLASSES, **{"image_size": IMAGE_SIZE, **options})


def library_network(name, num_classes=NUM_CLASSES, **options):
    """The library's own network, by its own factory."""
    prefix, _, network = name.partition(":")
    if prefix == "torchvision":
        return torchvision.models.get_model(network, num_classes=num_classes, **options)
    import timm

    return timm.create_model(network, num_classes=num_classes, **options)


def sized(name):
    return {"img_size": IMAGE_SIZE} if "vit" in name else {}


def random_images(batch_size=2, channels=3, image_size=IMAGE_SIZE):
    return torch.randn(batch_size, channels, image_size, image_size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNAEUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module", params=[case(name) for name in NETWORKS + SLOW])
def built(request):
    """One network for the tests of its name, which pytest runs one after the other."""
    return request.param, build(request.param)


@torch.no_grad()
def test_it_computes_what_the_library_computes(name, model):
    theirs = perturb(library_network(name, **sized(name)))
    ours = copy.deepcopy(model)
    ours.load_state_dict(ours.translate(theirs.state_dict()))
    logits, expected = ours(random_images()), theirs(random_images())
    if name == "timm:resnetv2_50":  # its last layer is a convolution, and a linear one here
        assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-5 * expected.abs().max())
    else:
        assert torch.equal(logits, expected)


@torch.no_grad()
def test_it_turns_images_into_features_and_features_into_logits(model):
    features, logits = model.features(random_images()), model(random_images())
    assert features.shape == (2, model.head.in_features)
    assert logits.shape == (2, NUM_CLASSES)
    assert torch.equal(model.head(features), logits)
    assert isinstance(model, Classifier)
    assert (model.num_classes, model.in_channels, model.image_size) == (NUM_CLASSES, 3, IMAGE_SIZE)


def test_every_parameter_gets_a_gradient(model):
    model = perturb(copy.deepcopy(model))  # some start with a scale of 0, before which no gradient gets
    model.train()(random_images(8)).square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_blocks_are_called_once_and_in_order(model):
    calls = []
    hooks = [block.register_forward_pre_hook(lambda m, _: calls.append(m)) for block in model.blocks]
    model(random_images(1))
    for hook in hooks:
        hook.remove()
    assert len(calls) > 3
    assert calls == list(model.blocks)


@torch.no_grad()
def test_the_state_dict_is_the_whole_network(name, model):
    with torch.device("meta"):
        empty = build(name).eval()
    empty.load_state_dict(model.state_dict(), assign=True)  # what it does not hold stays on the meta device
    assert torch.equal(empty(random_images()), model(random_images()))


@torch.no_grad()
def test_the_first_weights_are_those_of_the_library_by_the_same_draws(name, model):
    torch.manual_seed(0)
    theirs = library_network(name, **sized(name))
    after = torch.get_rng_state()
    expected = model.translate(theirs.state_dict())
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())
    torch.manual_seed(0)
    create_adapted(name, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE)
    assert torch.equal(torch.get_rng_state(), after)  # to find the last layer draws nothing


@torch.no_grad()
def test_init_weights_draws_all_weights_and_statistics_as_the_library_does(name, model):
    with torch.device("meta"):
        empty = build(name)
    empty.to_empty(device="cpu")
    for tensor in empty.state_dict().values():
        tensor.fill_(torch.nan if tensor.is_floating_point() else -1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        empty.init_weights()
    assert all(torch.equal(tensor, empty.state_dict()[key]) for key, tensor in build(name).state_dict().items())


@pytest.mark.slow
@torch.no_grad()
def test_it_compiles_without_a_graph_break_and_exports_for_any_batch_size(model):
    torch.compiler.reset()  # for one function, `Classifier.forward`, only so many networks are compiled
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(random_images()), model(random_images()))
    dynamic = ({0: torch.export.Dim("batch", min=1, max=64)},)
    exported = torch.export.export(model, (random_images(),), dynamic_shapes=dynamic, strict=False).module()
    for batch_size in (1, 5):
        images = random_images(batch_size)
        assert torch.allclose(exported(images), model(images), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_copy_is_a_network_of_its_own(model):
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(random_images()), model(random_images()))
        assert not {*copied.blocks} & {*model.modules()}
        assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in model.parameters()}


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", [case("torchvision:resnet18"), case("timm:resnet10t")])
def test_it_accepts_any_number_of_channels(name, channels):
    model = build(name, in_channels=channels).eval()
    images = random_images(2, channels)
    assert model(images).shape == (2, NUM_CLASSES)
    images[:, -1] += 1
    assert not torch.equal(model(images), model(random_images(2, channels)))  # and sees all of them


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("torchvision:resnet50", {"Bottleneck": 16}),
        case("torchvision:vit_b_16", {"EncoderBlock": 12}, slow=True),
        case("torchvision:convnext_tiny", {"CNBlock": 18}, slow=True),
        case("torchvision:efficientnet_b0", {"MBConv": 16}),
        case("torchvision:swin_t", {"SwinTransformerBlock": 12}, slow=True),
        ("torchvision:mobilenet_v2", {"InvertedResidual": 17}),
        ("torchvision:regnet_y_400mf", {"ResBottleneckBlock": 16}),
        ("torchvision:vgg11", {"Conv2d": 8}),
        case("timm:resnet50", {"Bottleneck": 16}, slow=True),
        case("timm:vit_small_patch16_224", {"Block": 12}, slow=True),
        case("timm:convnext_tiny", {"ConvNeXtBlock": 18}),
        case("timm:efficientnet_b0", {"DepthwiseSeparableConv": 1, "InvertedResidual": 15}, slow=True),
        case("timm:swin_tiny_patch4_window7_224", {"SwinTransformerBlock": 12}, slow=True),
        case("timm:mobilenetv3_small_100", {"DepthwiseSeparableConv": 1, "InvertedResidual": 10}, slow=True),
        case("timm:regnety_040", {"Bottleneck": 22}, slow=True),
        case("timm:mixer_s16_224", {"MixerBlock": 8}),
    ],
)
def test_the_blocks_of_known_families_are_found(name, blocks):
    with torch.device("meta"):
        model = create_adapted(name, num_classes=NUM_CLASSES)
    assert Counter(type(block).__name__ for block in model.blocks) == blocks
    inside = {part for block in model.blocks for part in list(block.modules())[1:]}
    assert not inside & {*model.blocks}


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["torchvision", case("timm")])
def test_every_network_is_cut_or_refused_in_one_line(prefix):
    """One network of each file of timm, and all of torchvision."""
    refused = {}
    for name in one_of_each_file(prefix):
        try:
            with torch.device("meta"):
                model = create_adapted(name, num_classes=NUM_CLASSES)
        except RequestError as error:
            refused[name] = str(error)
            continue
        images = torch.empty(2, 3, model.image_size, model.image_size, device="meta")
        assert model(images).shape == (2, NUM_CLASSES), name
        assert model.blocks, name
    assert not any("\n" in reason for reason in refused.values())
    assert len(refused) < 12, refused


def one_of_each_file(prefix):
    if prefix == "torchvision":
        return [name for name in list_adapted("torchvision:*") if "googlenet" not in name and "inception" not in name]
    import timm

    return [
        f"timm:{timm.list_models(module=module)[0]}" for module in timm.models.list_modules() if module != "sequencer"
    ]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision:resnet19", {}, "torchvision has no network 'resnet19': did you mean resnet1"),
        ("torchvision:qqq", {}, "`linnaeus models 'torchvision:*'` lists what it has"),
        ("keras:resnet50", {}, "there is no library 'keras'"),
        ("torchvision:resnet18", {"depth": 3}, "torchvision:resnet18: it has no option depth"),
        ("torchvision:resnet18", {"drop_path": 0.1}, "it has no option drop_path"),
        ("torchvision:swin_t", {"drop_path": 0.1}, "it has no option drop_path"),  # its builder sets the rate
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "weights cannot be an option"),
        ("torchvision:vit_b_16", {"image_size": 33}, "it refuses image_size=33"),
        ("torchvision:mobilenet_v3_small", {"image_size": 0}, "does not run on images of 3 x 0 x 0"),
        ("torchvision:squeezenet1_0", {"image_size": 224}, "SqueezeNet has no last layer to cut before"),
        case("timm:resnet10x", {}, "did you mean"),
        case("timm:resnet18.no_such_tag", {}, "timm has no network 'resnet18.no_such_tag'"),
        case("timm:resnet10t", {"depth": 3}, "timm:resnet10t: it has no option depth"),
        case("timm:resnet10t", {"in_chans": 1}, "in_chans cannot be an option"),
        case("timm:resnet10t", {"checkpoint_path": "a.pth"}, "checkpoint_path cannot be an option"),
        case("timm:resnet10t", {"drop_path": 0.1, "drop_path_rate": 0.1}, "or is given twice"),
        case("timm:deit_tiny_distilled_patch16_224", {}, "VisionTransformerDistilled has no last layer"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(name, options, message):
    with pytest.raises(RequestError) as refusal:
        build(name, **options)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for call in (build, published_weights, list_adapted):
        with pytest.raises(RequestError, match=r"pip install 'linnaeus\[timm\]'"):
            call("timm:resnet18")


def test_names_are_listed_by_pattern():
    assert list_adapted("torchvision:resnet1*") == [
        "torchvision:resnet101",
        "torchvision:resnet152",
        "torchvision:resnet18",
    ]
    assert list_adapted("torchvision:vit_h") == ["torchvision:vit_h_14"]
    assert list_adapted("torchvision:fasterrcnn*") == []
    with pytest.raises(RequestError, match="there is no library 'keras'"):
        list_adapted("keras:*")


@needs_timm
def test_tags_of_weights_are_listed_where_the_pattern_has_a_dot():
    assert {"timm:resnet18", "timm:resnet18d"} <= {*list_adapted("timm:resnet18")}
    assert {"timm:resnet18.a1_in1k", "timm:resnet18.tv_in1k"} <= {*list_adapted("timm:resnet18.*")}
    assert not {*list_adapted("timm:resnet18")} & {*list_adapted("timm:resnet18.*")}


@needs_timm
@pytest.mark.parametrize("option", ["drop_path", "drop_path_rate"])
def test_options_reach_the_builder(option):
    model = build("timm:resnet10t", **{option: 0.25})
    assert max(getattr(module, "drop_prob", None) or 0 for module in model.modules()) == 0.25


def test_drop_path_is_stochastic_depth_in_torchvision():
    with torch.device("meta"):
        model = build("torchvision:convnext_tiny", drop_path=0.3)
    rates = [module.p for module in model.modules() if type(module).__name__ == "StochasticDepth"]
    assert rates == pytest.approx([0.3 * i / 17 for i in range(18)])


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("torchvision:resnet18", 224),
        ("torchvision:inception_v3", 299),
        ("torchvision:efficientnet_v2_s", 384),
        ("torchvision:swin_v2_t", 256),
        ("torchvision:vit_b_16", 224),
    ],
)
def test_images_are_prepared_as_torchvision_does(name, size):
    geometry = published_weights(name).geometry
    assert geometry.image_size == size
    transform = torchvision.models.get_model_weights(name.partition(":")[2]).DEFAULT.transforms()
    pixels = np.random.default_rng(0).integers(0, 256, (400, 520, 3), np.uint8)
    preprocess = Preprocess(geometry)
    ours, theirs = preprocess(preprocess.fit(pixels)[None])[0], transform(Image.fromarray(pixels))
    assert (ours - theirs).abs().max() < 1.01 * preprocess.scale.max()  # one grey level: rounding


@needs_timm
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_tiny.fb_in1k", "tf_efficientnet_lite4"])
def test_images_are_prepared_as_timm_does(name):
    import timm

    config = timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    steps = {type(step).__name__: step for step in timm.data.create_transform(**config).transforms}
    geometry = published_weights(f"timm:{name}").geometry
    assert geometry.resize == steps["Resize"].size
    assert (geometry.image_size, geometry.image_size) == tuple(steps["CenterCrop"].size)
    assert geometry.mean == pytest.approx(steps["Normalize"].mean.tolist())
    assert geometry.std == pytest.approx(steps["Normalize"].std.tolist())
    assert geometry.interpolation == steps["Resize"].interpolation.value


@needs_timm
def test_what_a_geometry_cannot_say_becomes_the_nearest_that_it_can(monkeypatch):
    import timm

    about = timm.get_pretrained_cfg("resnet18")
    assert published_weights("timm:volo_d5_512").geometry.resize == 512  # published as enlarged by 1.15, not as cropped
    monkeypatch.setattr(
        timm, "get_pretrained_cfg", lambda _: replace(about, interpolation="lanczos", crop_mode="squash")
    )
    assert published_weights("timm:resnet18").geometry.interpolation == "bicubic"


def test_where_weights_come_from_is_what_the_library_says():
    weights = published_weights("torchvision:vit_h_14")
    assert weights.source == "https://download.pytorch.org/models/vit_h_14_swag-80465313.pth"
    assert weights.sha256 == "80465313"
    assert (weights.publisher, weights.top1) == ("torchvision", 88.552)
    assert "SWAG" in weights.licence
    assert published_weights("torchvision:resnet18").licence == "BSD-3-Clause"


@needs_timm
def test_weights_of_timm_are_those_of_the_tag_or_none():
    assert published_weights("timm:resnet18.a1_in1k").source == "hf:timm/resnet18.a1_in1k"
    assert published_weights("timm:gcvit_tiny").source.startswith("https://github.com/")
    assert "cc-by-nc" in published_weights("timm:convnextv2_atto").licence
    assert published_weights("timm:botnet50ts_256") is None
    assert published_weights("timm:botnet50ts_256") is None
    with pytest.raises(RequestError, match="timm:botnet50ts_256 has no published weights"):
        load_published(build("timm:resnet10t"), "timm:botnet50ts_256")


def serve(server, monkeypatch, network):
    """Serves the weights of timm's test_vit or test_resnet as the hub does."""
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    repository = published_weights(f"timm:{network.pretrained_cfg['architecture']}").source.removeprefix("hf:")
    server.replies[f"/{repository}/resolve/main/model.safetensors"] = good(save(network.state_dict()))


@needs_timm
@torch.no_grad()
def test_published_weights_of_timm_come_from_the_hub(server, monkeypatch, caplog):
    theirs = perturb(library_network("timm:test_resnet", num_classes=1000))
    serve(server, monkeypatch, theirs)
    with caplog.at_level("INFO", logger="linnaeus"):
        model = create_adapted("timm:test_resnet", num_classes=1000, image_size=IMAGE_SIZE, pretrained=True).eval()
    assert torch.equal(model(random_images()), theirs(random_images()))
    assert "weights from hf:timm/test_resnet.r160_in1k" in caplog.text
    assert "at random" not in caplog.text


@needs_timm
@torch.no_grad()
def test_another_head_and_other_channels_are_adapted_and_accounted_for(server, monkeypatch):
    theirs = perturb(library_network("timm:test_resnet", num_classes=1000))
    serve(server, monkeypatch, theirs)
    model = build("timm:test_resnet", in_channels=1).eval()
    head = model.head.weight.clone()
    account = load_published(model, "timm:test_resnet")
    assert torch.equal(model.head.weight, head)
    assert account.random == ("head.weight", "head.bias")
    assert account.adapted == {"body.conv1.0.weight": "3 input channels became 1"}
    assert {*account.loaded, *account.random, *account.adapted} == model.state_dict().keys()
    grey = random_images(2, 1)
    expected = theirs.forward_head(theirs.forward_features(grey.expand(-1, 3, -1, -1)), pre_logits=True)
    assert torch.allclose(model.features(grey), expected, rtol=1e-4, atol=1e-5 * expected.abs().max())


@needs_timm
@torch.no_grad()
def test_timm_fits_positions_to_the_size_of_the_image(server, monkeypatch):
    import timm

    published = perturb(library_network("timm:test_vit", num_classes=1000))
    serve(server, monkeypatch, published)
    model = create_adapted("timm:test_vit", num_classes=1000, image_size=48, pretrained=True).eval()
    overlay = {"state_dict": published.state_dict()}
    theirs = timm.create_model("test_vit", img_size=48, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert torch.equal(model(random_images(image_size=48)), theirs(random_images(image_size=48)))


@needs_timm
def test_a_file_that_is_not_the_network_s_is_refused(server, monkeypatch):
    theirs = library_network("timm:test_resnet", num_classes=1000)
    serve(server, monkeypatch, theirs)
    server.replies = dict.fromkeys(server.replies, good(save({"conv1.weight": torch.zeros(3)})))
    with pytest.raises(EnvironmentFault, match="damaged, or not what timm expects"):
        load_published(build("timm:test_resnet"), "timm:test_resnet")


@needs_timm
def test_without_a_network_the_answer_is_instant_and_says_what_to_fetch(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    model, start = build("timm:test_resnet"), time.perf_counter()
    with pytest.raises(EnvironmentFault, match=r"fetch http://127\.0\.0\.1:9/timm/test_resnet"):
        load_published(model, "timm:test_resnet")
    assert time.perf_counter() - start < 1


def put(monkeypatch, tmp_path, state):
    """Makes this file the one that is fetched: a published one has a checksum that no test can reproduce."""
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    monkeypatch.setattr(adapters, "fetch_weights", lambda _weights, progress: path)


@torch.no_grad()
def test_published_weights_of_torchvision(monkeypatch, tmp_path):
    theirs = perturb(library_network(SMALL, num_classes=1000))
    put(monkeypatch, tmp_path, theirs.state_dict())
    model = create_adapted(SMALL, num_classes=1000, image_size=IMAGE_SIZE, pretrained=True).eval()
    assert torch.equal(model(random_images()), theirs(random_images()))
    account = load_published(build(SMALL, in_channels=4), SMALL)
    assert account.adapted == {"body.conv1.0.weight": "3 input channels became 4"}
    assert account.random == ("head.weight", "head.bias")


def test_published_weights_that_do_not_fit_are_refused(monkeypatch, tmp_path):
    put(monkeypatch, tmp_path, {"conv1.0.weight": torch.zeros(24, 3, 3, 3)})
    with pytest.raises(RequestError, match="the published weights do not fit") as refusal:
        load_published(build(SMALL), SMALL)
    assert "\n" not in str(refusal.value)


def test_old_names_in_the_files_of_densenet_become_the_new_ones(tmp_path):
    theirs = library_network("torchvision:densenet121").state_dict()
    old = {}
    for key, tensor in theirs.items():
        for layer in ("norm1", "norm2", "conv1", "conv2"):
            if "denselayer" in key:
                key = key.replace(f".{layer}.", f".{layer[:-1]}.{layer[-1]}.")
        old[key] = tensor
    assert old.keys() != theirs.keys()
    torch.save(old, tmp_path / "old.pth")
    library, network = adapters._find("torchvision:densenet121")
    assert library.read(network, tmp_path / "old.pth", 224).keys() == theirs.keys()
