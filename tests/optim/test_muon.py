"""Muon equals torch's where torch has it, orthogonalises kernels as matrices, and leaves the rest to AdamW."""

import pytest
import torch
from torch import Tensor, nn

from linnaeus.optim.groups import mark_hidden, param_groups
from linnaeus.optim.muon import Muon, orthogonalize


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (12, 5)])
def test_singular_values_come_near_one_and_the_singular_vectors_stay(shape):
    matrices = noise(3, *shape)
    result = orthogonalize(matrices)
    for before, after in zip(matrices, result, strict=True):
        u, values, v = torch.linalg.svd(before, full_matrices=False)
        inner = u.T @ after @ v.T  # diagonal where the singular vectors are the same
        clear = values > 0.05 * values.max()
        assert ((inner.diagonal() > 0.6) & (inner.diagonal() < 1.3))[clear].all()
        assert (inner - inner.diagonal().diag()).abs().max() < 0.05


def test_matrices_of_a_batch_do_not_depend_on_each_other_and_zeros_stay():
    matrices = torch.cat([noise(2, 6, 4), torch.zeros(1, 6, 4)])
    result = orthogonalize(matrices)
    torch.testing.assert_close(result[:1], orthogonalize(matrices[:1]), rtol=1e-2, atol=1e-2)
    assert (result[2] == 0).all()


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_steps_are_those_of_torchs_muon(shape):
    ours, theirs = (nn.Parameter(noise(*shape)) for _ in range(2))
    muon = Muon([{"params": [ours], "weight_decay": 0.1, "hidden": True}], lr=0.02, momentum=0.9)
    reference = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    start = ours.detach().clone()
    for step in range(4):
        ours.grad = noise(*shape, seed=step + 1)
        theirs.grad = ours.grad.clone()
        muon.step()
        reference.step()
    # Torch rounds to bfloat16, which has 8 bits.
    assert (ours - theirs).norm() < 0.02 * (ours - start).norm()


def test_a_convolution_steps_as_the_matrix_of_its_kernels():
    kernels, matrix = nn.Parameter(noise(6, 3, 2, 2)), nn.Parameter(noise(6, 3, 2, 2).flatten(1))
    for step in range(3):
        kernels.grad = noise(6, 3, 2, 2, seed=step)
        matrix.grad = kernels.grad.flatten(1)
        for parameter in (kernels, matrix):
            optimizer = Muon([{"params": [parameter], "hidden": True}], lr=0.1)
            optimizer.step()
    assert torch.equal(kernels.flatten(1), matrix)


def test_an_update_has_the_size_of_adamws():
    weight = nn.Parameter(torch.zeros(64, 48))
    weight.grad = 1e3 * noise(64, 48)
    Muon([{"params": [weight], "hidden": True}], lr=1.0).step()
    assert weight.detach().pow(2).mean().sqrt() == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize("fused", [False, True])
def test_what_is_not_hidden_steps_as_in_adamw(fused):
    ours, theirs = (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    muon = Muon(mark_hidden(param_groups(ours, 0.1), {"0.weight"}), lr=0.01, betas=(0.8, 0.9), fused=fused)
    adamw = torch.optim.AdamW(param_groups(theirs, 0.1), lr=0.01, betas=(0.8, 0.9), fused=fused)
    for step in range(3):
        for number, (left, right) in enumerate(zip(ours.parameters(), theirs.parameters(), strict=True)):
            left.grad = noise(*left.shape, seed=10 * step + number)
            right.grad = left.grad.clone()
        muon.step()
        adamw.step()
    for (name, left), right in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(left, right) == (name != "0.weight"), name


def test_groups_without_a_hidden_matrix_and_hidden_vectors_are_refused():
    model = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="no hidden matrices"):
        Muon(param_groups(model, 0.1), lr=0.1)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Muon(mark_hidden(param_groups(model, 0.1), {"weight", "bias"}), lr=0.1)
