"""The average follows its closed form, settles on a constant model, copies counters and never touches the model."""

import pytest
import torch
from torch import nn

from linnaeus.optim.ema import Ema


def scalar(value: float) -> nn.Module:
    model = nn.Module()
    model.register_parameter("weight", nn.Parameter(torch.tensor([value], dtype=torch.float64)))
    return model


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_decay_warms_up_as_in_tensorflow():
    ema = Ema(scalar(0.0), 0.9)
    assert [ema.decay_at(step) for step in (0, 1, 8, 10**6)] == [1 / 10, 2 / 11, 9 / 18, 0.9]


def test_average_equals_its_closed_form():
    # With decays d_i: the sum of x_i (1 - d_i) times the product of all later d_j, and what is left of the start.
    values = [3.0, -1.0, 4.0, 1.0, -5.0]
    ema = Ema(scalar(2.0), 0.3)
    decays = [min(0.3, (1 + i) / (10 + i)) for i in range(len(values))]
    for step, value in enumerate(values):
        ema.update(scalar(value), step)
    later = [torch.tensor(decays[i:], dtype=torch.float64).prod() for i in range(len(values) + 1)]
    expected = 2.0 * later[0] + sum(x * (1 - d) * w for x, d, w in zip(values, decays, later[1:], strict=True))
    torch.testing.assert_close(ema.module.weight[0], expected, rtol=1e-14, atol=0)


def test_average_of_a_constant_model_becomes_that_model():
    ema = Ema(scalar(100.0), 0.99)
    for step in range(4000):
        ema.update(scalar(1.0), step)
    assert ema.module.weight.item() == pytest.approx(1.0, abs=1e-12)


def test_average_of_a_model_that_never_moved_is_exactly_that_model():
    model = normed()
    ema = Ema(model, 0.999)
    for step in range(5):
        ema.update(model, step)
    for name, tensor in model.state_dict().items():
        assert torch.equal(ema.module.state_dict()[name], tensor)


def test_decay_zero_copies_the_model():
    model = normed()
    ema = Ema(model, 0.0)
    nn.init.normal_(model[0].weight)
    ema.update(model, 100)
    assert torch.equal(ema.module[0].weight, model[0].weight)


def test_floating_buffers_are_averaged_and_counters_copied():
    model = normed()
    ema = Ema(model, 0.5)
    model.train()(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)) + 3)
    ema.update(model, 1000)
    torch.testing.assert_close(ema.module[1].running_mean, 0.5 * model[1].running_mean)
    torch.testing.assert_close(ema.module[1].running_var, 0.5 + 0.5 * model[1].running_var)
    assert ema.module[1].num_batches_tracked == 1


def test_the_average_is_apart_from_the_model_and_ready_to_evaluate():
    model = normed().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ema = Ema(model, 0.9)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    nn.init.zeros_(ema.module[0].weight)
    ema.update(model, 0)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_update_stays_in_the_same_memory():
    model = normed()
    ema = Ema(model, 0.9)
    before = {name: tensor.data_ptr() for name, tensor in ema.module.state_dict().items()}
    ema.update(model, 0)
    assert {name: tensor.data_ptr() for name, tensor in ema.module.state_dict().items()} == before


def test_what_a_module_replaces_is_averaged_as_it_is_now():
    model = normed()
    ema, fresh = Ema(model, 0.5), Ema(model, 0.5)
    ema.update(model, 0)
    fresh.update(model, 0)
    model[1].running_mean = torch.full((4,), 8.0)
    model[1].num_batches_tracked = torch.tensor(7)
    model[0].weight = nn.Parameter(torch.ones(4, 3))
    ema.update(model, 1000)
    expected = {name: tensor.clone() for name, tensor in fresh.module.state_dict().items()}
    for name, tensor in model.state_dict().items():
        moved = 0.5 * expected[name] + 0.5 * tensor if tensor.is_floating_point() else tensor
        torch.testing.assert_close(ema.module.state_dict()[name], moved)


def test_a_tensor_with_two_homes_is_averaged_once():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    ema = Ema(model, 0.5)
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    ema.update(model, 1000)
    torch.testing.assert_close(ema.module[1].weight, before + 0.5)
    assert ema.module[1].weight is ema.module[0].weight


def test_an_average_continues_from_its_state_dict():
    first, second = (Ema(scalar(1.0), 0.9) for _ in range(2))
    for step in range(5):
        first.update(scalar(float(step)), step)
    second.module.load_state_dict(first.module.state_dict())
    for ema in (first, second):
        ema.update(scalar(7.0), 5)
    assert torch.equal(first.module.weight, second.module.weight)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decay_out_of_range_raises(decay):
    with pytest.raises(ValueError, match="decay is"):
        Ema(scalar(0.0), decay)


def test_sixteen_bit_weights_are_refused_because_their_average_would_stand_still():
    with pytest.raises(ValueError, match=r"0.weight.*16-bit"):
        Ema(normed().bfloat16(), 0.999)
