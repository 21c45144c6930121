"""The weights of attention are the network's own, their gradients autograd's, and the network is not changed."""

import pytest
import torch
from torch import nn

from linnaeus.core.capture import capture
from linnaeus.core.errors import RequestError
from linnaeus.explain.attention import _look, attention_layers, rollout, weighted_attention
from linnaeus.models import create_model

SIZE, CLASSES = 32, torch.tensor([0, 2])


def make(**options):
    torch.manual_seed(0)
    return create_model("vit_tiny", num_classes=3, image_size=SIZE, patch_size=8, **options).eval()


def images():
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


class OpenAttention(nn.Module):
    """The same attention in plain products, with its weights kept."""

    def __init__(self, attention):
        super().__init__()
        self.num_heads, self.qkv, self.proj = attention.num_heads, attention.qkv, attention.proj

    def forward(self, x):
        B, N, D = x.shape  # noqa: N806
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        self.weights = (q @ k.transpose(-2, -1) / (D // self.num_heads) ** 0.5).softmax(-1)
        self.weights.retain_grad()
        return self.proj((self.weights @ v).transpose(1, 2).reshape(B, N, D))


def test_weights_and_gradients_are_those_of_plain_attention():
    seen = _look(make(), images(), CLASSES)
    plain = make()
    for block in plain.blocks:
        block.attn = OpenAttention(block.attn)
    plain(images()).gather(1, CLASSES[:, None]).sum().backward()
    assert len(seen.layers) == 12
    for layer, block in zip(seen.layers, plain.blocks, strict=True):
        assert torch.allclose(layer.weights, block.attn.weights, atol=1e-6)
        assert torch.allclose(layer.weights.sum(-1), torch.ones(()), atol=1e-5)
        expected = block.attn.weights.grad
        assert torch.allclose(layer.gradients, expected, atol=1e-4 * float(expected.abs().max()))


def test_looking_does_not_change_the_outputs():
    model = make()
    with torch.no_grad():
        before = model(images())
    with torch.enable_grad(), capture(model, "blocks.*.attn.qkv", "blocks.*.attn.proj", gradients=True):
        assert torch.equal(model(images()), before)
    weighted_attention(model, images(), CLASSES)
    with torch.no_grad():
        assert torch.equal(model(images()), before)
    assert all(p.grad is None for p in model.parameters())


def test_rollout_of_one_layer_is_half_of_its_attention():
    model = make()
    model.blocks = model.blocks[:1]
    (layer,) = _look(model, images(), None).layers
    expected = (
        layer.weights.mean(1)[:, 0, 1:].reshape(2, 4, 4) / 2
    )  # the row of the class token; the identity's part is its own
    assert torch.allclose(rollout(model, images()), expected, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"num_registers": 4}, {"pool": "avg", "class_token": False}, {"pool": "norm_avg"}], ids=str
)
def test_maps_have_the_grid_of_the_patches(options):
    model = make(**options)
    for heat in (rollout(model, images()), weighted_attention(model, images(), CLASSES)):
        assert heat.shape == (2, 4, 4)
        assert heat.isfinite().all()
        assert (heat >= 0).all()
        assert heat.std() > 0


def test_the_head_sees_the_class_token_or_all_patches():
    token = _look(make(), images(), CLASSES).share
    assert torch.equal(token[0], torch.eye(17)[0])
    mean = _look(make(pool="avg", num_registers=2), images(), CLASSES).share
    assert torch.allclose(mean[0], torch.cat([torch.zeros(3), torch.full((16,), 1 / 16)]))


def test_maps_change_when_the_weights_are_drawn_again():
    first = weighted_attention(make(), images(), CLASSES).flatten(1)
    torch.manual_seed(1)
    other = create_model("vit_tiny", num_classes=3, image_size=SIZE, patch_size=8).eval()
    second = weighted_attention(other, images(), CLASSES).flatten(1)
    for one, two in zip(first, second, strict=True):
        assert torch.corrcoef(torch.stack([one, two]))[0, 1] < 0.9


def test_another_class_has_another_map():
    model = make()
    one, two = (weighted_attention(model, images()[:1], torch.tensor([k])) for k in (0, 1))
    assert not torch.allclose(one / one.max(), two / two.max(), atol=1e-2)


def test_networks_without_readable_attention_are_refused():
    with pytest.raises(RequestError, match="no attention that can be read: choose --method occlusion"):
        rollout(create_model("resnet20", num_classes=3, image_size=32), torch.zeros(1, 3, 32, 32))
    model = make()
    model.blocks[0].attn.forward = lambda x: 2 * type(model.blocks[1].attn).forward(model.blocks[0].attn, x)
    assert attention_layers(model)[0] == "blocks.0.attn"
    rollout(model, images())  # what comes after the projection is not its matter
    model.blocks[0].attn.num_heads = 1  # as if it had computed something else
    with torch.no_grad():
        model.blocks[0].attn.forward = lambda x: model.blocks[0].attn.proj(model.blocks[0].attn.qkv(x)[..., -192:])
    with pytest.raises(RequestError, match=r"blocks\.0\.attn does more than plain self-attention"):
        rollout(model, images())
