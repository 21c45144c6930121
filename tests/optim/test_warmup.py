"""`GradualWarmup` rises on a line from the fraction it was given, then hands over to the other scheduler."""

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    ReduceLROnPlateau,
    StepLR,
)

from linnaeus.optim.warmup import GradualWarmup

AFTER = {
    "restarts": lambda o: CosineAnnealingWarmRestarts(o, T_0=10, T_mult=2, eta_min=1e-6),
    "cosine": lambda o: CosineAnnealingLR(o, T_max=40),
    "steps": lambda o: StepLR(o, 10),
    "exponential": lambda o: ExponentialLR(o, 0.9),
}


def optimizer() -> SGD:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.02)]
    return SGD(groups, lr=0.1)


def warmed(after=None, multiplier: float = 1 / 100, total_epoch: int = 8) -> tuple[SGD, GradualWarmup]:
    built = optimizer()
    scheduler = after and after(built)
    return built, GradualWarmup(built, multiplier=multiplier, total_epoch=total_epoch, after_scheduler=scheduler)


def walk(built: SGD, scheduler, steps: int) -> list[list[float]]:
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in built.param_groups])
        assert scheduler.get_last_lr() == found[-1]
        built.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("after", list(AFTER.values()), ids=list(AFTER))
def test_it_is_a_line_and_then_the_other_scheduler_from_its_own_beginning(after):
    plain = optimizer()
    expected = walk(plain, after(plain), 50)
    found = walk(*warmed(after), 58)
    base = [0.1, 0.02]
    assert found[:8] == [pytest.approx([b * (0.01 + 0.99 * step / 8) for b in base], rel=1e-12) for step in range(8)]
    assert found[8:] == [pytest.approx(rates, rel=1e-12) for rates in expected]


def test_without_a_scheduler_after_it_the_base_rate_stays():
    assert walk(*warmed(), 12)[8:] == [[0.1, 0.02]] * 4


@pytest.mark.parametrize("stop", [3, 8, 9, 30])
def test_it_goes_on_from_its_state(stop):
    whole = walk(*warmed(AFTER["cosine"]), 50)
    first, scheduler = warmed(AFTER["cosine"])
    walk(first, scheduler, stop)
    second, restored = warmed(AFTER["cosine"])
    restored.load_state_dict(scheduler.state_dict())
    second.load_state_dict(first.state_dict())
    assert walk(second, restored, 50 - stop) == whole[stop:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multiplier": 1.0}, "multiplier is"),
        ({"multiplier": -0.1}, "multiplier is"),
        ({"total_epoch": 0}, "total_epoch"),
    ],
)
def test_arguments_out_of_range_raise(options, message):
    with pytest.raises(ValueError, match=message):
        warmed(**options)


def test_a_scheduler_of_another_optimizer_and_one_that_needs_a_metric_are_refused():
    with pytest.raises(ValueError, match="another optimizer"):
        warmed(lambda _: StepLR(optimizer(), 3))
    with pytest.raises(ValueError, match="needs a metric"):
        warmed(ReduceLROnPlateau)


def test_the_epoch_that_torch_no_longer_takes_is_refused():
    with pytest.raises(ValueError, match="epoch is 3"):
        warmed()[1].step(3)
