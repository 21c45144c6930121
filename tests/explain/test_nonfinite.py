"""The first to return or send back a number that is not finite is named, and its step can be made again."""

import pytest
import torch
from torch import nn

from linnaeus.core.batch import Batch
from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.explain.nonfinite import Culprit, find_culprit, replay, save_step
from linnaeus.models import create_model


class Log(nn.Module):
    def forward(self, x):
        return x.log()


class Root(nn.Module):
    """Finite at zero, and with a gradient that is not."""

    def forward(self, x):
        return x.sqrt()


def chain(middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), middle, nn.Linear(4, 2))


def images(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1))


def take(model: nn.Module, *, loss=lambda logits: logits.sum(), lr: float = 0.1, parts: int = 1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def step() -> None:
        for part in images().tensor_split(parts):
            torch.autograd.backward(loss(model(part)))
        optimizer.step()

    return step


def test_the_first_module_to_return_infinity_is_named_with_its_inputs():
    model = chain(Log())
    hidden = model[:2](images()).detach()
    zeros = int((hidden == 0).sum())
    culprit = find_culprit(model, take(model)).culprit
    assert (culprit.module, culprit.phase) == ("2", "forward")
    assert f"{zeros} of 24 values not finite, given (6, 4) between 0 and {float(hidden.max()):.3g}," in culprit.what


def test_the_module_that_sends_back_infinity_is_named():
    model = chain(Root())
    evidence = find_culprit(model, take(model))
    assert (evidence.culprit.module, evidence.culprit.phase) == ("2", "backward")
    assert "sent back (6, 4)" in evidence.culprit.what
    assert torch.equal(evidence.gradient, torch.ones(6, 2))
    assert torch.equal(evidence.images, images())


def test_a_parameter_whose_gradient_alone_is_not_finite_leads_to_its_module():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return x + self.weight.sqrt()

    model = chain(Weighted())
    culprit = find_culprit(model, take(model)).culprit
    assert (culprit.module, culprit.phase) == ("2", "backward")
    assert "gave 2.weight the gradient (4,) with 4 of 4 values not finite, given (6, 4) between 0" in culprit.what


def test_what_is_done_between_modules_is_placed_by_its_neighbour():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last((0 * self.first(x)).sqrt())

    model = Between()
    culprit = find_culprit(model, take(model)).culprit
    assert (culprit.module, culprit.phase) == ("what follows first", "backward")


def test_a_loss_that_sends_back_nan_is_named():
    model = chain(nn.Identity())
    evidence = find_culprit(model, take(model, loss=lambda logits: (logits * 0).sqrt().sum()))
    assert (evidence.culprit.module, evidence.culprit.phase) == ("the loss", "backward")
    assert "given logits (6, 2) between" in evidence.culprit.what
    assert evidence.gradient.isnan().any()


def test_statistics_that_overflow_lead_to_their_module():
    model = chain(nn.BatchNorm1d(4))
    with torch.no_grad():
        model[0].weight.mul_(1e25)  # finite outputs, whose variance is not
    culprit = find_culprit(model, take(model)).culprit
    assert (culprit.module, culprit.phase) == ("2", "forward")
    assert culprit.what.startswith("made its running_var (4,) with 4 of 4 values not finite, given (6, 4) between 0")


def test_an_update_that_is_too_long_is_the_optimizers():
    model = chain(nn.Identity())
    culprit = find_culprit(model, take(model, lr=float("inf"))).culprit
    assert (culprit.module, culprit.phase) == ("the optimizer", "optimizer")
    assert "made 0.weight not finite" in culprit.what


def test_a_step_in_which_all_is_finite_has_no_culprit_and_leaves_no_hooks():
    model = chain(nn.Identity())
    assert find_culprit(model, take(model)).culprit is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any(parameter._backward_hooks for parameter in model.parameters())


def test_the_micro_batch_that_went_wrong_is_the_one_that_is_kept():
    class Picky(nn.Module):
        def forward(self, x):
            return x / (x.shape[0] - 1)  # infinite for a part of one image

    model = chain(Picky())
    evidence = find_culprit(model, take(model, parts=4))  # of 2, 2, 1 and 1 images
    assert evidence.culprit.module == "2"
    assert torch.equal(evidence.images, images()[4:5])
    assert evidence.gradient.shape == (1, 2)


def saved(folder, *, weight: float) -> tuple[torch.Tensor, Culprit]:
    """A step of a network with dropout and batch normalisation, one of whose weights is not finite or very large."""
    torch.manual_seed(0)
    model = create_model("resnet20", num_classes=3, image_size=16)
    with torch.no_grad():
        model.layer2[0].conv2.weight[0, 0, 0, 0] = weight
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    given = (pixels / 255).to(memory_format=torch.channels_last)
    evidence = find_culprit(model.train(), lambda: torch.autograd.backward(model(given).sum()))
    about = {
        "architecture": {"name": "resnet20", "num_classes": 3, "in_channels": 3, "image_size": 16, "options": {}},
        "precision": "fp32",
        "channels_last": False,
        "step": 7,
    }
    batch = Batch.of(pixels, torch.tensor([0, 1, 2, 0]), torch.tensor([5, 3, 9, 1]))
    save_step(folder / "nonfinite" / "step-7.safetensors", evidence, before, batch, about)
    return given, evidence.culprit


def test_a_saved_step_goes_wrong_again_in_the_same_place(tmp_path):
    given, culprit = saved(tmp_path, weight=float("inf"))
    assert culprit.module == "layer2.0.conv2"
    draws = torch.get_rng_state()
    again = replay(tmp_path / "nonfinite" / "step-7.safetensors")
    assert again.recorded == again.found == culprit
    assert again.step == 7
    assert torch.equal(again.images, given)
    assert again.batch.index.tolist() == [5, 3, 9, 1]
    assert torch.equal(draws, torch.get_rng_state())
    assert again.model.training
    assert torch.isinf(again.model.layer2[0].conv2.weight).sum() == 1
    assert int(again.model.bn1.num_batches_tracked) == 0  # as it was before the step


def test_a_file_that_is_damaged_or_none_is_refused_in_one_line(tmp_path):
    saved(tmp_path, weight=float("nan"))
    path = tmp_path / "nonfinite" / "step-7.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(EnvironmentFault, match="damaged"):
        replay(path)
    with pytest.raises(RequestError, match="does not exist"):
        replay(tmp_path / "absent.safetensors")
