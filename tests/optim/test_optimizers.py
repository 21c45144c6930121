"""Optimizers equal their equations, fused or not, and continue bit for bit from their tensors in a safetensors file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from linnaeus.optim.groups import Groups, mark_hidden, param_groups
from linnaeus.optim.optimizers import OPTIMIZERS, adamw, can_fuse, load_optimizer_tensors, optimizer_tensors, sgd

both = pytest.mark.parametrize("name", list(OPTIMIZERS))
either = pytest.mark.parametrize("fused", [False, True])


def network(memory_format: torch.memory_format = torch.contiguous_format) -> nn.Module:
    # ReLU before the norm: right before a norm a bias has no gradient but rounding, which Adam would amplify.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(54, 4))
    return model.to(memory_format=memory_format)


def groups_for(name: str, model: nn.Module, weight_decay: float) -> Groups:
    groups = param_groups(model, weight_decay)
    return mark_hidden(groups, {"0.weight"}) if name == "muon" else groups


def build(name: str, model: nn.Module, fused: bool | None = None) -> Optimizer:
    return OPTIMIZERS[name](groups_for(name, model, 0.1), lr=0.05, fused=fused)


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        images = torch.randn(5, 3, 5, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_identical(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


@either
def test_sgd_equals_nesterov_momentum_written_out(fused):
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optimizer = sgd([{"params": [weight], "weight_decay": 0.1}], lr=0.5, momentum=0.8, fused=fused)
    expected, velocity = weight.detach().clone(), torch.zeros(1, 2)
    for step in range(4):
        weight.grad = torch.full((1, 2), float(step + 1))
        slope = weight.grad + 0.1 * expected
        velocity = 0.8 * velocity + slope
        expected = expected - 0.5 * (slope + 0.8 * velocity)
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected)


@either
def test_adamw_equals_its_equations_written_out(fused):
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optimizer = adamw([{"params": [weight], "weight_decay": 0.1}], lr=0.5, betas=(0.8, 0.9), eps=1e-6, fused=fused)
    expected, mean, square = weight.detach().clone(), torch.zeros(1, 2), torch.zeros(1, 2)
    for step in range(1, 5):
        weight.grad = torch.full((1, 2), float(step))
        mean = 0.8 * mean + 0.2 * weight.grad
        square = 0.9 * square + 0.1 * weight.grad**2
        direction = mean / (1 - 0.8**step) / ((square / (1 - 0.9**step)).sqrt() + 1e-6)
        expected = expected * (1 - 0.5 * 0.1) - 0.5 * direction
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected)


@both
def test_fused_and_plain_agree(name):
    results = []
    for fused in (True, False):
        model = network()
        train(model, build(name, model, fused), range(6))
        results.append(weights(model))
    # Tolerance: rounding in another order. Nothing more may differ.
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@both
def test_fused_is_the_default_where_it_exists(name):
    assert build(name, network()).defaults["fused"] is True


def test_what_has_no_fused_kernel_is_not_fused():
    assert can_fuse([{"params": [torch.zeros(2, dtype=torch.bfloat16)]}])
    assert not can_fuse([{"params": [torch.zeros(2)]}, {"params": [torch.zeros(2, device="meta")]}])
    assert not can_fuse([{"params": [torch.zeros(2, dtype=torch.complex64)]}])


def test_keys_are_parameter_name_and_state_key():
    model = network()
    optimizer = build("sgd", model)
    train(model, optimizer, range(1))
    names = [name for name, _ in model.named_parameters()]
    assert sorted(optimizer_tensors(optimizer, model)) == sorted(f"{name}/momentum_buffer" for name in names)
    optimizer = build("adamw", model)
    train(model, optimizer, range(3))
    tensors = optimizer_tensors(optimizer, model)
    assert {key for key in tensors if key.startswith("4.bias/")} == {
        f"4.bias/{k}" for k in ("exp_avg", "exp_avg_sq", "step")
    }
    assert tensors["4.bias/step"].shape == ()
    assert tensors["4.bias/step"] == 3


@both
@either
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_steps_after_a_safetensors_file_are_bit_identical(name, fused, memory_format, tmp_path: Path):
    model = network(memory_format)
    optimizer = build(name, model, fused)
    train(model, optimizer, range(3))
    save_file(optimizer_tensors(optimizer, model), tmp_path / "optimizer.safetensors")
    other = network(memory_format)
    other.load_state_dict(weights(model))
    restored = build(name, other, fused)
    load_optimizer_tensors(restored, other, load_file(tmp_path / "optimizer.safetensors"))
    assert_identical(optimizer_tensors(restored, other), optimizer_tensors(optimizer, model))
    train(model, optimizer, range(3, 8))
    train(other, restored, range(3, 8))
    assert_identical(weights(other), weights(model))


@both
def test_state_saved_fused_continues_plain(name):
    model = network()
    optimizer = build(name, model, fused=True)
    train(model, optimizer, range(3))
    other = network()
    other.load_state_dict(weights(model))
    restored = build(name, other, fused=False)
    load_optimizer_tensors(restored, other, optimizer_tensors(optimizer, model))
    train(model, optimizer, range(3, 6))
    train(other, restored, range(3, 6))
    torch.testing.assert_close(weights(other), weights(model), rtol=1e-4, atol=1e-6)


@both
def test_a_restored_optimizer_does_not_alias_the_tensors(name):
    model = network()
    optimizer = build(name, model)
    train(model, optimizer, range(2))
    tensors = {key: value.clone() for key, value in optimizer_tensors(optimizer, model).items()}
    before = {key: value.clone() for key, value in tensors.items()}
    load_optimizer_tensors(optimizer, model, tensors)
    train(model, optimizer, range(2, 4))
    assert_identical(tensors, before)


@both
def test_hyper_parameters_are_left_as_they_were_built(name):
    model = network()
    optimizer = build(name, model)
    train(model, optimizer, range(1))
    tensors = optimizer_tensors(optimizer, model)
    other = OPTIMIZERS[name](groups_for(name, model, 0.3), lr=0.7)
    load_optimizer_tensors(other, model, tensors)
    assert sorted({group["weight_decay"] for group in other.param_groups}) == [0.0, 0.3]
    assert {group["lr"] for group in other.param_groups} == {0.7}


@both
def test_before_the_first_step_there_is_no_state_and_loading_none_starts_afresh(name):
    model, other = network(), network()
    optimizer, stepped = build(name, model), build(name, other)
    assert optimizer_tensors(optimizer, model) == {}
    train(other, stepped, range(2))
    load_optimizer_tensors(stepped, other, {})
    other.load_state_dict(weights(model))
    train(model, optimizer, range(2))
    train(other, stepped, range(2))
    assert_identical(weights(other), weights(model))


@both
def test_unknown_missing_and_misshapen_tensors_are_named_and_nothing_is_loaded(name):
    model = network()
    optimizer = build(name, model)
    train(model, optimizer, range(2))
    tensors = {key: value.clone() for key, value in optimizer_tensors(optimizer, model).items()}
    missing = {key: value for key, value in tensors.items() if not key.startswith("0.bias")}
    key = next(key for key, value in tensors.items() if key.startswith("4.weight") and value.ndim)
    for wrong, message in (
        (tensors | {"5.weight/exp_avg": torch.zeros(1)}, r"1 \(5.weight/exp_avg\) unknown"),
        (missing, r"\(0.bias/"),
        (tensors | {key: torch.zeros(1)}, f"{key} has the shape"),
    ):
        with pytest.raises(ValueError, match=message):
            load_optimizer_tensors(optimizer, model, wrong)
    assert_identical(optimizer_tensors(optimizer, model), tensors)


@both
def test_the_state_of_another_optimizer_is_refused(name):
    model = network()
    optimizer = build(name, model)
    train(model, optimizer, range(1))
    for other in OPTIMIZERS.keys() - {name}:
        with pytest.raises(ValueError, match="another optimizer"):
            load_optimizer_tensors(build(other, model), model, optimizer_tensors(optimizer, model))


@both
def test_a_parameter_that_no_gradient_reaches_is_named_before_it_spoils_a_checkpoint(name):
    model = network()
    model.register_parameter("unused", nn.Parameter(torch.zeros(2, 2)))
    optimizer = build(name, model)
    train(model, optimizer, range(1))
    with pytest.raises(ValueError, match=r"unused/.*freeze"):
        optimizer_tensors(optimizer, model)


def test_an_optimizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="not of this model"):
        optimizer_tensors(build("sgd", network()), network())
