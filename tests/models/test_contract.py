"""Every network in MODELS keeps the contract of `Classifier`, at 32x32 pixels, which every family accepts.

Networks of more than 40 million parameters are marked slow, and most of those that differ from another in size alone;
each family has smaller ones.
"""

import copy
from itertools import combinations

import pytest
import torch
from torch import nn

from linnaeus.core.classifier import Classifier
from linnaeus.models import MODELS, create_model

NUM_CLASSES = 5
IMAGE_SIZE = 32
SLOW = {"resnet101", "resnet152", "wide_resnet50_2", "vit_base", "vit_large"}
SLOW |= {"convnext_small", "convnext_base", "convnext_large", "efficientnet_lite1", "efficientnet_lite2"}
SLOW |= {"convnextv2_femto", "convnextv2_pico", "convnextv2_nano", "convnextv2_tiny", "convnextv2_base"}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS]
ONE_OF_EACH_KIND = ["lenet5", "lenet5_modern", "resnet18", "resnet20", "airbench94", "vit_tiny", "convnextv2_atto"]
ONE_OF_EACH_KIND += ["efficientnet_lite0", pytest.param("convnext_tiny", marks=pytest.mark.slow)]
# Of the papers, in pixels. Of the others it is 224.
DEFAULT_SIZES = {"efficientnet_lite1": 240, "efficientnet_lite2": 260, "lenet5": 32, "lenet5_modern": 32}
DEFAULT_SIZES |= dict.fromkeys(["airbench94", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"], 32)


def build(name, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return create_model(name, num_classes=NUM_CLASSES, **{"image_size": IMAGE_SIZE, **options})


def random_images(batch_size=2, channels=3):
    shape = (batch_size, channels, IMAGE_SIZE, IMAGE_SIZE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def drawn(module):
    """Matrices and kernels: the parameters with more than one dimension, but for those that start as one fixed thing:
    at 0 (in a GRN), or as the identity (in airbench94)."""
    return [p for p in module.parameters() if p.ndim > 1 and p.any() and not is_identity(p)]


def is_identity(parameter):
    return parameter.ndim == 4 and torch.equal(parameter, nn.init.dirac_(torch.empty_like(parameter)))


@pytest.fixture(scope="module", params=NAMES)
def built(request):
    """One network for the tests of its name, which pytest runs one after the other."""
    return request.param, build(request.param)


@torch.no_grad()
def test_it_turns_images_into_features_and_features_into_logits(model):
    images = random_images()
    features, logits = model.features(images), model(images)
    assert features.ndim == 2
    assert logits.shape == (2, NUM_CLASSES)
    assert torch.equal(model.head(features), logits)
    assert logits.isfinite().all()


def test_it_says_what_it_is(model):
    assert isinstance(model, Classifier)
    assert (model.num_classes, model.in_channels, model.image_size) == (NUM_CLASSES, 3, IMAGE_SIZE)
    assert model.head.out_features == NUM_CLASSES


def test_every_parameter_gets_a_gradient(model):
    model.train()(random_images(4)).square().sum().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    not_finite = [key for key, p in model.named_parameters() if not p.grad.isfinite().all()]
    model.zero_grad()
    assert (without, not_finite) == ([], [])


@torch.no_grad()
def test_no_module_is_called_twice_and_blocks_are_called_in_order(model):
    calls = []
    hooks = [m.register_forward_pre_hook(lambda m, _: calls.append(m)) for m in model.modules()]
    model(random_images(1))
    for hook in hooks:
        hook.remove()
    assert len(calls) == len(set(calls))
    assert [m for m in calls if m in set(model.blocks)] == list(model.blocks)


@torch.no_grad()
def test_images_are_left_as_they_are(model):
    images = random_images()
    model(images)
    assert torch.equal(images, random_images())


def test_no_two_blocks_start_alike(model):
    matrices = [drawn(block) for block in model.blocks]
    for one, other in combinations(matrices, 2):
        assert not any(a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=False))


@torch.no_grad()
def test_in_evaluation_an_image_does_not_depend_on_its_batch(model):
    images = random_images(3)
    together = model(images)
    alone = torch.cat([model(image[None]) for image in images])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-4 * together.abs().max().item())


@torch.no_grad()
def test_the_state_dict_is_the_whole_network(name, model):
    with torch.device("meta"):
        empty = build(name).eval()
    empty.load_state_dict(model.state_dict(), assign=True)  # what it does not hold stays on the meta device
    assert torch.equal(empty(random_images()), model(random_images()))


@torch.no_grad()
def test_it_works_in_double_precision(name, model):
    with torch.device("meta"):
        double = build(name).eval().to(torch.float64).to_empty(device="cpu")
    double.load_state_dict(model.state_dict())
    logits, expected = double(random_images().double()), model(random_images())
    assert logits.dtype == torch.float64
    assert torch.allclose(logits.float(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@torch.no_grad()
def test_init_weights_sets_all_weights_and_statistics(name):
    with torch.device("meta"):
        empty = build(name)
    empty.to_empty(device="cpu")
    for tensor in empty.state_dict().values():
        tensor.fill_(torch.nan if tensor.is_floating_point() else -1)
    with torch.random.fork_rng():
        empty.init_weights()
    missed = [k for k, t in empty.state_dict().items() if not t.isfinite().all() or (t.ndim == 0 and t < 0)]
    assert missed == []


def test_the_seed_determines_the_first_weights(name, model):
    again = dict(build(name).named_parameters())
    assert all(torch.equal(again[key], p) for key, p in model.named_parameters())


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_another_seed_gives_other_weights(name):
    one, other = build(name, seed=0), build(name, seed=1)
    assert all(not torch.equal(p, q) for p, q in zip(drawn(one), drawn(other), strict=True))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_it_accepts_any_number_of_channels(name, channels):
    with torch.device("meta"):
        model = build(name, in_channels=channels)
        logits = model(torch.empty(2, channels, IMAGE_SIZE, IMAGE_SIZE))
    assert logits.shape == (2, NUM_CLASSES)


@pytest.mark.parametrize("name", MODELS)
def test_without_a_size_it_has_the_default_one_of_its_paper(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=NUM_CLASSES)
    assert model.image_size == DEFAULT_SIZES.get(name, 224)


@torch.no_grad()
@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_it_compiles_without_a_graph_break(name):
    model = build(name).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(random_images()), model(random_images()))


@torch.no_grad()
@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_it_exports_for_any_batch_size(name, strict):
    model = build(name).eval()
    dynamic = ({0: torch.export.Dim("batch", min=1, max=64)},)
    exported = torch.export.export(model, (random_images(),), dynamic_shapes=dynamic, strict=strict).module()
    for batch_size in (1, 2, 5):
        images = random_images(batch_size)
        assert torch.allclose(exported(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_copy_is_a_network_of_its_own(name):
    model = build(name).eval()
    copied = copy.deepcopy(model)
    assert torch.equal(copied(random_images()), model(random_images()))
    assert not {*copied.blocks} & {*model.modules()}
    assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in model.parameters()}
