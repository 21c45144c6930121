"""The average of weights is the mean of floats and the last of counters."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from linnaeus.optim.average import average_weights


def networks(number: int) -> list[nn.Module]:
    found = []
    for seed in range(number):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
        for _ in range(seed):
            found[-1](torch.randn(5, 3))
    return found


def test_it_equals_torchs_average_of_models():
    models = networks(4)
    reference = AveragedModel(models[0], use_buffers=True)
    for model in models:
        reference.update_parameters(model)
    averaged = average_weights(model.state_dict() for model in models)
    for name, tensor in reference.module.named_parameters():
        torch.testing.assert_close(averaged[name], tensor, rtol=1e-6, atol=1e-7)


def test_counters_are_the_last_ones_and_types_stay():
    averaged = average_weights(model.state_dict() for model in networks(3))
    assert averaged["1.num_batches_tracked"] == 2
    assert averaged["1.num_batches_tracked"].dtype == torch.int64
    assert averaged["0.weight"].dtype == torch.float32


def test_the_average_of_equal_states_is_that_state_and_shares_no_memory():
    model = networks(1)[0]
    averaged = average_weights([model.state_dict()] * 7)
    for name, tensor in model.state_dict().items():
        assert torch.equal(averaged[name], tensor)
        assert averaged[name].data_ptr() != tensor.data_ptr()


def test_states_that_do_not_fit_are_named():
    state = networks(1)[0].state_dict()
    with pytest.raises(ValueError, match=r"state 2 differs from the first in extra"):
        average_weights([state, {**state, "extra": torch.zeros(1)}])
    with pytest.raises(ValueError, match=r"state 3 differs from the first in 0.bias"):
        average_weights([state, state, {**state, "0.bias": torch.zeros(2)}])
    with pytest.raises(ValueError, match="at least one"):
        average_weights([])
