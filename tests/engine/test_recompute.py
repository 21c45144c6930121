"""Computing activations again changes memory, and no number: losses, gradients, statistics and draws are the same."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from linnaeus.core.classifier import Classifier
from linnaeus.engine.recompute import recompute_blocks
from linnaeus.models import create_model


def build(name: str, **options: float) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model(name, num_classes=3, image_size=32, **options).train()


def run(model: Classifier) -> dict[str, Tensor]:
    """Two steps' worth of loss, gradients and buffers."""
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    found = {}
    for step in range(2):
        logits = model(images)
        torch.autograd.backward(logits.square().mean())
        found[f"logits {step}"] = logits.detach()
    found |= {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**found, **dict(model.named_buffers())}


def assert_identical(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


CASES = pytest.mark.parametrize(
    ("name", "options"),
    [("resnet20", {}), ("vit_tiny", {"patch_size": 16, "drop_path": 0.3})],
    ids=["resnet20", "vit_tiny"],
)


@CASES
def test_everything_is_bit_identical_and_names_stay(name, options):
    plain, lean = build(name, **options), build(name, **options)
    recompute_blocks(lean)
    assert list(lean.state_dict()) == list(plain.state_dict())
    assert_identical(run(lean), run(plain))


@CASES
def test_a_copy_computes_with_its_own_weights(name, options):
    lean = build(name, **options)
    recompute_blocks(lean)
    copy = deepcopy(lean)
    with torch.no_grad():
        for parameter in lean.parameters():
            parameter.zero_()
    assert_identical(run(copy), run(build(name, **options)))


@CASES
def test_less_is_kept_for_the_backward_pass(name, options):
    def kept(model: Classifier) -> int:
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.zeros(4, 3, 32, 32))
        return total

    plain, lean = build(name, **options), build(name, **options)
    recompute_blocks(lean)
    assert kept(lean) < 0.5 * kept(plain)


def test_in_eval_mode_nothing_is_different():
    plain, lean = build("resnet20").eval(), build("resnet20").eval()
    recompute_blocks(lean)
    assert_identical(run(lean), run(plain))
