"""The Vision Transformer is timm's to the last option, and torchvision's: the same names, logits and gradients.

Weights are drawn anew before each comparison. Depth is cut to two blocks where the width is what matters; the published
networks as a whole are marked slow, and their names and shapes are compared on the meta device.
"""

import math

import pytest
import torch
import torchvision
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from linnaeus.core.errors import RequestError
from linnaeus.models import create_model
from linnaeus.models.keys import to_ours
from linnaeus.models.layers import DropPath
from linnaeus.models.vit import (
    Attention,
    Block,
    LayerScale,
    Mlp,
    PatchEmbed,
    VisionTransformer,
    attention_backend,
    resize_position_embedding,
    vit_base,
    vit_large,
    vit_small,
    vit_tiny,
)

from .reference import assert_same_logits, perturb

TINY = {"dim": 192, "depth": 2, "num_heads": 3}
TIMM_NAMES = {
    "image_size": "img_size",
    "dim": "embed_dim",
    "num_registers": "reg_tokens",
    "layer_scale": "init_values",
    "drop_path": "drop_path_rate",
}
# timm's name, our variant, and its options beside the patch size, which stands in the name.
PUBLISHED = {
    "vit_tiny_patch16_224": (vit_tiny, {}),
    "vit_tiny_patch16_384": (vit_tiny, {"image_size": 384}),
    "vit_small_patch32_224": (vit_small, {}),
    "vit_small_patch16_224": (vit_small, {}),
    "vit_small_patch8_224": (vit_small, {}),
    "vit_base_patch32_224": (vit_base, {}),
    "vit_base_patch16_224": (vit_base, {}),
    "vit_base_patch8_224": (vit_base, {}),
    "vit_large_patch32_224": (vit_large, {}),
    "vit_large_patch16_224": (vit_large, {}),
    "vit_large_patch14_224": (vit_large, {}),
    "deit3_small_patch16_224": (vit_small, {"layer_scale": 1e-6, "prefix_positions": False}),
    "vit_small_patch14_dinov2": (vit_small, {"layer_scale": 1e-5, "image_size": 518}),
    "vit_small_patch14_reg4_dinov2": (
        vit_small,
        {"layer_scale": 1e-5, "image_size": 518, "num_registers": 4, "prefix_positions": False},
    ),
    "vit_base_patch16_reg4_gap_256": (
        vit_base,
        {"pool": "avg", "class_token": False, "num_registers": 4, "prefix_positions": False, "image_size": 256},
    ),
    "vit_base_patch16_siglip_gap_224": (vit_base, {"pool": "norm_avg", "class_token": False}),
    "eva_large_patch14_196": (vit_large, {"pool": "avg", "image_size": 196}),
}


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm", reason="timm is not installed: it is in the group dev")


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def build(constructor=VisionTransformer, **options):
    """A network without weights, on the meta device."""
    with torch.device("meta"):
        return constructor(num_classes=5, **options)


def small(**options):
    return VisionTransformer(num_classes=5, image_size=32, patch_size=8, dim=24, depth=3, num_heads=2, **options)


def build_timm(timm, *, pool="token", prefix_positions=True, **options):
    """timm's network with our options, for images of any size, with weights that `perturb` has drawn."""
    options = {TIMM_NAMES.get(name, name): value for name, value in options.items()}
    options |= {"global_pool": pool.removeprefix("norm_"), "no_embed_class": not prefix_positions}
    options |= {"fc_norm": False} if pool == "norm_avg" else {}
    with torch.device("meta"):
        model = timm.models.VisionTransformer(num_classes=5, dynamic_img_size=True, **options)
    return perturb(model.to_empty(device="cpu"))


def with_weights_of(theirs, ours):
    """Our network, on the CPU, with a copy of their weights; a name or a shape that differs is an error."""
    ours = ours.to_empty(device="cpu").eval()
    ours.load_state_dict(theirs.state_dict())
    return ours


@torch.no_grad()
def difference(ours, theirs, height, width):
    """The largest difference of logits, as a part of the largest logit."""
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    expected = theirs(images)
    assert expected.std() > 1e-3, "the reference's logits are degenerate: the comparison would say nothing"
    return ((ours(images) - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("variant", [vit_tiny, vit_small, vit_base, vit_large], ids=["tiny", "small", "base", "large"])
def test_every_width_equals_timm(timm, variant):
    options = {**variant.keywords, "depth": 2, "image_size": 64}
    theirs = build_timm(timm, **options)
    ours = with_weights_of(theirs, build(**options))
    assert difference(ours, theirs, 64, 64) < 1e-5
    assert difference(ours, theirs, 96, 96) < 1e-5


@pytest.mark.parametrize(("patch_size", "image_size", "other_size"), [(8, 40, 24), (14, 42, 70), (32, 96, 160)])
def test_every_patch_size_equals_timm(timm, patch_size, image_size, other_size):
    options = {**TINY, "image_size": image_size, "patch_size": patch_size}
    theirs = build_timm(timm, **options)
    ours = with_weights_of(theirs, build(**options))
    assert difference(ours, theirs, image_size, image_size) < 1e-5
    assert difference(ours, theirs, other_size, other_size) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"pool": "avg"},
        {"pool": "norm_avg"},
        {"pool": "avg", "class_token": False},
        {"pool": "norm_avg", "class_token": False},
        {"num_registers": 4},
        {"num_registers": 1, "pool": "avg"},
        {"num_registers": 4, "pool": "avg", "class_token": False},
        {"prefix_positions": False},
        {"num_registers": 4, "prefix_positions": False},
        {"num_registers": 4, "prefix_positions": False, "pool": "avg", "class_token": False},
        {"layer_scale": 1e-5},
        {"layer_scale": 1e-5, "num_registers": 4, "prefix_positions": False, "pool": "norm_avg"},
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items()),
)
def test_every_option_equals_timm(timm, options):
    options = {**TINY, "image_size": 64, **options}
    theirs = build_timm(timm, **options)
    ours = with_weights_of(theirs, build(**options))
    assert difference(ours, theirs, 64, 64) < 1e-5
    assert difference(ours, theirs, 80, 80) < 1e-5


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (32, 128), (16, 16)])
def test_images_that_are_not_square_equal_timm(timm, height, width):
    """32x128 has as many patches as the network's own 64x64: only the shape of the grid tells them apart."""
    theirs = build_timm(timm, **TINY, image_size=64, num_registers=2)
    ours = with_weights_of(theirs, build(**TINY, image_size=64, num_registers=2))
    assert difference(ours, theirs, height, width) < 1e-5


@pytest.mark.parametrize("image_size", [384, 160])
@pytest.mark.parametrize("options", [{}, {"num_registers": 4, "prefix_positions": False}], ids=["plain", "registers"])
def test_weights_trained_at_224_give_timms_logits_at_other_sizes(timm, options, image_size):
    """Both ways: the network of 224 with larger images, and a network built for them that loads its weights."""
    trained = build_timm(timm, **TINY, **options)
    theirs = build_timm(timm, **TINY, **options, image_size=image_size)
    theirs.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(trained.state_dict(), theirs))

    ours = with_weights_of(trained, build(**TINY, **options))
    assert difference(ours, theirs, image_size, image_size) < 1e-5

    rebuilt = build(**TINY, **options, image_size=image_size).to_empty(device="cpu").eval()
    state = ours.state_dict()
    num_prefix = rebuilt.num_prefix_positions
    state["pos_embed"] = resize_position_embedding(state["pos_embed"], rebuilt.grid, num_prefix=num_prefix)
    rebuilt.load_state_dict(state)
    assert difference(rebuilt, theirs, image_size, image_size) < 1e-5


def published(timm, name):
    """timm's network and ours of that name, on the meta device."""
    constructor, options = PUBLISHED[name]
    patch_size = int(name.split("patch")[1].split("_")[0])
    with torch.device("meta"):
        theirs = timm.create_model(name, pretrained=False, num_classes=5).eval()
    return theirs, build(constructor, patch_size=patch_size, **options)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_has_our_names_and_shapes(timm, name):
    theirs, ours = (
        {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} for model in published(timm, name)
    )
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_as_a_whole_has_our_logits(timm, name):
    theirs, ours = published(timm, name)
    perturb(theirs.to_empty(device="cpu"))
    ours = with_weights_of(theirs, ours)
    assert difference(ours, theirs, ours.image_size, ours.image_size) < 1e-5


@pytest.mark.parametrize("options", [{}, {"pool": "avg", "num_registers": 4}], ids=["token", "avg with registers"])
@pytest.mark.parametrize("image_size", [64, 80])
def test_gradients_in_training_equal_timm(timm, image_size, options):
    """With stochastic depth: the draws are the same for the same seed. At 80 the positions are resized on the way."""
    options = {**TINY, "image_size": 64, "layer_scale": 0.1, "drop_path": 0.5, **options}
    theirs = build_timm(timm, **options)
    ours = with_weights_of(theirs, build(**options))
    images = torch.randn(4, 3, image_size, image_size)
    for model in (ours, theirs):
        torch.manual_seed(3)
        model.train()(images).square().sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = expected[name].grad.abs().max()
        assert scale > 0, name
        assert (parameter.grad - expected[name].grad).abs().max() < 1e-5 * scale, name


@pytest.mark.parametrize(("image_size", "patch_size"), [(64, 16), (96, 32)])
def test_vit_equals_torchvision(image_size, patch_size):
    theirs = torchvision.models.VisionTransformer(
        image_size=image_size,
        patch_size=patch_size,
        num_layers=4,
        num_heads=6,
        hidden_dim=192,
        mlp_dim=768,
        num_classes=5,
    )
    perturb(theirs)
    ours = VisionTransformer(num_classes=5, image_size=image_size, patch_size=patch_size, dim=192, depth=4, num_heads=6)
    ours.load_state_dict(to_ours(ours, theirs.state_dict()))
    assert_same_logits(ours.eval(), theirs, image_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("grid", [(24, 24), (10, 10), (7, 7), (9, 31), (28, 7)])
@pytest.mark.parametrize("num_prefix", [0, 1, 5])
def test_resized_positions_are_timms(timm, grid, num_prefix, dtype):
    """timm interpolates in float32, whatever the type; we keep float64, and so differ by float32's rounding there."""
    table = torch.randn(1, num_prefix + 14 * 14, 8, dtype=dtype)
    expected = timm.layers.resample_abs_pos_embed(table, grid, num_prefix_tokens=num_prefix)
    resized = resize_position_embedding(table, grid, num_prefix=num_prefix)
    assert resized.dtype == dtype
    if dtype == torch.float64:
        assert torch.allclose(resized, expected, rtol=0, atol=1e-5)
    else:
        assert torch.equal(resized, expected)


def test_positions_for_their_own_grid_are_left_alone():
    table = torch.randn(1, 1 + 4 * 4, 8)
    assert resize_position_embedding(table, (4, 4), num_prefix=1) is table


def test_a_constant_table_stays_constant_and_its_prefix_untouched():
    table = torch.cat([torch.randn(1, 2, 8), torch.full((1, 9, 8), 0.25)], dim=1)
    resized = resize_position_embedding(table, (5, 2), num_prefix=2)
    assert torch.equal(resized[:, :2], table[:, :2])
    assert torch.allclose(resized[:, 2:], torch.full((1, 10, 8), 0.25))


@pytest.mark.parametrize(("rows", "num_prefix"), [(197, 0), (200, 1), (1, 1)])
def test_positions_without_a_square_grid_are_refused(rows, num_prefix):
    with pytest.raises(ValueError, match=rf"{rows} rows, and less num_prefix={num_prefix} they are no square grid"):
        resize_position_embedding(torch.zeros(1, rows, 8), (4, 4), num_prefix=num_prefix)


@torch.no_grad()
def test_a_network_compiles_without_a_graph_break_at_another_image_size():
    torch._dynamo.reset()  # what other tests compiled of the same code counts towards a limit
    model, images = small(num_registers=2).eval(), torch.randn(2, 3, 40, 24)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(images), model(images))


@torch.no_grad()
def test_a_network_exports_for_any_batch_size_at_another_image_size():
    model = small(pool="avg", num_registers=2, class_token=False).eval()
    images = torch.randn(5, 3, 40, 24)
    dynamic = ({0: torch.export.Dim("batch", min=1, max=64)},)
    exported = torch.export.export(model, (images[:2],), dynamic_shapes=dynamic).module()
    for batch_size in (1, 2, 5):
        assert torch.allclose(exported(images[:batch_size]), model(images[:batch_size]), rtol=1e-4, atol=1e-5)


LAYERS = {
    "PatchEmbed": (lambda: PatchEmbed(patch_size=2, in_channels=2, dim=3), (2, 2, 2, 4)),
    "Attention": (lambda: Attention(4, num_heads=2), (2, 5, 4)),
    "Mlp": (lambda: Mlp(3), (2, 4, 3)),
    "LayerScale": (lambda: LayerScale(4, initial=0.1), (2, 3, 4)),
    "DropPath": (lambda: DropPath(0.5), (6, 2, 3)),
    "Block": (lambda: Block(3, num_heads=1, layer_scale=0.1, drop_path=0.5), (3, 2, 3)),
}


def as_function(layer, shape):
    """The layer as a function of its input and all its parameters, in float64 with its draws frozen; and arguments."""
    layer = layer.double().train()
    shapes = {name: p.shape for name, p in layer.named_parameters()}
    arguments = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in (shape, *shapes.values())]

    def function(x, *parameters):
        torch.manual_seed(0)
        return functional_call(layer, dict(zip(shapes, parameters, strict=True)), (x,))

    return function, arguments


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_of_a_layer_is_exact(name):
    make, shape = LAYERS[name]
    assert torch.autograd.gradcheck(*as_function(make(), shape))


def test_the_frozen_draw_of_the_block_drops_some_samples_and_keeps_others():
    """Else its gradcheck would have looked at one side only."""
    make, shape = LAYERS["Block"]
    function, (x, *parameters) = as_function(make(), shape)
    changed = (function(x, *parameters) - x).flatten(1).abs().amax(dim=1) > 0
    assert changed.any()
    assert not changed.all()


def test_the_gradient_of_resized_positions_is_exact():
    table = torch.randn(1, 1 + 3 * 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda table: resize_position_embedding(table, (2, 5), num_prefix=1), table)


def test_attention_has_a_second_derivative_with_plain_matrix_products():
    function, arguments = as_function(Attention(2, num_heads=2), (1, 3, 2))
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(function, arguments)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attention_on_the_cpu_is_seen_to_be_fused(dtype):
    assert attention_backend(small().to(dtype), torch.randn(1, 3, 32, 32, dtype=dtype)) == "flash_attention_for_cpu"


def test_the_backend_that_is_seen_is_the_one_that_ran():
    images = torch.randn(1, 3, 32, 32)
    with sdpa_kernel(SDPBackend.MATH):
        assert attention_backend(small(), images) == "attention_math"


def test_two_backends_in_one_network_are_both_seen():
    class PlainProducts(nn.Module):
        def forward(self, x):
            with sdpa_kernel(SDPBackend.MATH):
                return Attention(24, num_heads=2)(x)

    model = nn.Sequential(Attention(24, num_heads=2), PlainProducts())
    assert attention_backend(model, torch.randn(1, 4, 24)) == "attention_math, flash_attention_for_cpu"


def test_a_network_without_attention_has_no_backend():
    with pytest.raises(ValueError, match="Linear made no call of scaled_dot_product_attention"):
        attention_backend(nn.Linear(3, 3), torch.randn(1, 3))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, {"flash_attention", "cudnn_attention"}),
        (torch.float16, {"flash_attention", "cudnn_attention"}),
        (torch.float32, {"efficient_attention"}),
        (torch.float64, {"attention_math"}),
    ],
)
def test_attention_on_cuda_is_seen_to_be_fused_but_for_float64(dtype, expected):
    model = VisionTransformer(num_classes=5, image_size=64, **TINY).to("cuda", dtype)
    assert attention_backend(model, torch.randn(2, 3, 64, 64, device="cuda", dtype=dtype)) in expected


@pytest.fixture(scope="module")
def fresh():
    """A network with everything that can have weights, each of them nan before `init_weights`."""
    with torch.device("meta"):
        model = VisionTransformer(
            num_classes=256, image_size=128, dim=256, depth=1, num_heads=4, num_registers=8, layer_scale=0.1
        )
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.fill_(torch.nan)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model.init_weights()
    return model


def kolmogorov_smirnov(one, other):
    """The distance between the distributions of two samples of one size, in units of its scale for equal ones."""
    one, other = one.flatten().sort().values, other.flatten().sort().values
    n = len(one)
    at = one[:: max(n // 1000, 1)].contiguous()
    below = [torch.searchsorted(sample, at, right=True) / n for sample in (one, other)]
    return (below[0] - below[1]).abs().max().item() * math.sqrt(n / 2)


def test_the_first_weights_have_the_distribution_of_timms(timm, fresh):
    """Equal distributions exceed 2.4 twice in 100 000 comparisons; the smallest matrix at std 0.022 gives 4."""
    theirs = timm.models.VisionTransformer(
        num_classes=256, img_size=128, embed_dim=256, depth=1, num_heads=4, reg_tokens=8, init_values=0.1
    ).state_dict()
    state = fresh.state_dict()
    assert list(state) == list(theirs)
    for key, tensor in state.items():
        if theirs[key].unique().numel() == 1:
            assert torch.equal(tensor, theirs[key]), key
        else:
            assert kolmogorov_smirnov(tensor, theirs[key]) < 2.4, key


def test_linear_weights_and_positions_are_normal_with_std_0_02_and_not_truncated(fresh):
    matrices = [module.weight for module in fresh.modules() if isinstance(module, nn.Linear)]
    assert len(matrices) == 4 + 1
    for tensor in (*matrices, fresh.pos_embed):
        standard_error = 0.02 / tensor.numel() ** 0.5
        assert abs(tensor.mean().item()) < 4 * standard_error
        assert abs(tensor.std().item() - 0.02) < 4 * standard_error / 2**0.5
        assert tensor.abs().max() > 3 * 0.02


def test_the_patch_projection_is_uniform_within_one_by_the_root_of_its_inputs(fresh):
    bound = (3 * 16 * 16) ** -0.5
    for tensor in fresh.patch_embed.proj.parameters():
        assert 0.95 * bound < tensor.abs().max() <= bound
        assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_tokens_start_almost_at_zero_and_biases_norms_and_factors_where_they_should(fresh):
    for token in (fresh.cls_token, fresh.reg_token):
        assert token.std().item() == pytest.approx(1e-6, rel=0.2)
    for module in fresh.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            assert not module.bias.any()
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
        if isinstance(module, LayerScale):
            assert (module.gamma == 0.1).all()


@torch.no_grad()
def test_the_three_poolings_see_the_token_and_the_patches():
    images, outputs = torch.randn(2, 3, 32, 32), []
    token, average, norm_first = (perturb(small(pool=pool, num_registers=2)) for pool in ("token", "avg", "norm_avg"))
    for model in (token, average, norm_first):
        model.blocks[-1].register_forward_hook(lambda _m, _i, output: outputs.append(output))
    features = token.features(images), average.features(images), norm_first.features(images)
    assert torch.allclose(features[0], token.norm(outputs[0][:, 0]), atol=1e-6)
    assert torch.allclose(features[1], average.fc_norm(outputs[1][:, 3:].mean(1)), atol=1e-6)
    assert torch.allclose(features[2], norm_first.norm(outputs[2])[:, 3:].mean(1), atol=1e-6)


@torch.no_grad()
def test_layer_scale_starts_a_vit_near_the_identity():
    block = small(layer_scale=1e-5).blocks[0]
    x = torch.randn(2, 17, 24)
    assert set(dict(block.named_parameters())) >= {"ls1.gamma", "ls2.gamma"}
    assert torch.allclose(block(x), x, atol=1e-3)
    assert not torch.equal(block(x), x)


def test_an_unknown_option_of_a_vit_is_refused_with_the_valid_ones():
    valid = "patch_size, pool, class_token, num_registers, prefix_positions, layer_scale, drop_path"
    with pytest.raises(RequestError, match=rf"vit_tiny has no option dropout: its options are {valid}$"):
        create_model("vit_tiny", num_classes=5, dropout=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_path": 1.0}, "drop_path is 1.0"),
        ({"pool": "max"}, "pool='max', expected 'token', 'avg' or 'norm_avg'"),
        ({"class_token": False}, "pool='token' needs the class token: choose class_token=True, or pool='avg'"),
        ({"num_registers": -1}, "num_registers is -1, expected at least 0"),
        ({"pool": "avg", "class_token": False, "prefix_positions": False}, "prefix_positions=False has no effect"),
        ({"patch_size": 0}, "patch_size is 0, expected at least 1, such as the published 8, 14, 16 or 32"),
        ({"image_size": 100}, "images are 100x100 .*, and 100 is not a multiple of patch_size=16: choose 96 or 112"),
        ({"image_size": 8}, "8 is not a multiple of patch_size=16: choose 16 or 32 pixels, or another patch_size"),
        ({"patch_size": 14, "image_size": 160}, "160 is not a multiple of patch_size=14: choose 154 or 168"),
    ],
)
def test_a_value_that_cannot_work_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(vit_tiny, **options)


@pytest.mark.parametrize(("height", "width", "wrong", "good"), [(32, 44, 44, "40 or 48"), (7, 32, 7, "8 or 16")])
def test_images_whose_last_patches_would_be_cut_off_are_refused(height, width, wrong, good):
    message = f"images are {height}x{width} pixels, and {wrong} is not a multiple of patch_size=8: choose {good}"
    with pytest.raises(ValueError, match=message):
        small()(torch.randn(1, 3, height, width))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="dim=24 is not a multiple of num_heads=5"):
        build(dim=24, depth=1, num_heads=5)
