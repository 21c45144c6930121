"""The microscope changes nothing by one bit, keeps to its share of the time, and says what can be computed by hand."""

import itertools
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn

from linnaeus.core.batch import Batch
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.core.record import Recorder, read_records
from linnaeus.data.mix import Mixing, mix
from linnaeus.engine.checkpoint import load_newest, save_checkpoint
from linnaeus.engine.loss import cross_entropy
from linnaeus.engine.recompute import recompute_blocks
from linnaeus.engine.step import State, StepRule, take_step
from linnaeus.explain import microscope as module
from linnaeus.explain.microscope import Microscope, conclusions, dead_shares
from linnaeus.models import create_model
from linnaeus.models.resnet_cifar import CifarResNet
from linnaeus.models.vit import VisionTransformer
from linnaeus.optim.groups import hidden_matrices, mark_hidden, param_groups
from linnaeus.optim.optimizers import muon, optimizer_tensors, sgd

STEPS = 6
MODELS = {
    "lenet5_modern": lambda: create_model("lenet5_modern", num_classes=3, image_size=32),
    "resnet8": lambda: CifarResNet(num_classes=3, image_size=16, depth=8),
    "vit": lambda: VisionTransformer(num_classes=3, image_size=32, dim=24, depth=2, num_heads=2, drop_path=0.3),
}
ALWAYS = 1e9


def make(name: str, *, recompute: bool = False) -> tuple[State, StepRule]:
    torch.manual_seed(0)
    model = MODELS[name]()
    groups = param_groups(model, 0.01)
    hidden = mark_hidden(groups, hidden_matrices(model)) if name == "vit" else []
    optimizer = muon(hidden, lr=0.01) if hidden else sgd(groups, lr=0.05)
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.05
    if recompute:
        recompute_blocks(model)
    mixing = partial(mix, mixing=Mixing(0, 3, mixup=0.5))
    rule = StepRule(
        Preprocess(Geometry(32, 32, (0.5,) * 3, (0.5,) * 3)),
        cross_entropy,
        schedule=lambda done: 1 - done,
        total_steps=STEPS,
        seed=0,
        accumulate=2,
        clip_norm=0.5,
        mix=mixing,
    )
    return State(model, optimizer, None, torch.zeros(3, dtype=torch.float64)), rule


def batch(step: int, size: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8, generator=generator)
    return Batch.of(images, torch.arange(4) % 3, torch.arange(4))


def over(state: State, rule: StepRule, recorder: Recorder, *, share: float = ALWAYS, steps: int = STEPS) -> Microscope:
    return Microscope(
        state.model,
        state.optimizer,
        recorder,
        as_seen=lambda batch, step: rule.mix(rule.preprocess(batch.images), batch.targets, batch.valid, step)[0],
        to_pixels=lambda images: images / 2 + 0.5,
        total_steps=steps,
        share=share,
    )


def run(state: State, rule: StepRule, *, stop: int, folder=None) -> None:
    """Trains to step `stop`, under a microscope that looks whenever it may where there is a folder to write to."""
    recorder = None if folder is None else Recorder(folder, step=state.step)
    watched = None if recorder is None else over(state, rule, recorder)
    while state.step < stop:
        images = batch(state.step, state.model.image_size)
        with nullcontext() if watched is None else watched.looking(state.step, images):
            take_step(state, images, rule)
    if recorder is not None:
        recorder.close()


@pytest.mark.parametrize(("name", "recompute"), [("lenet5_modern", False), ("vit", False), ("resnet8", True)])
def test_weights_are_the_same_to_the_bit_with_and_without_it_also_when_resumed(tmp_path, name, recompute):
    plain, rule = make(name, recompute=recompute)
    run(plain, rule, stop=STEPS)
    first, rule = make(name, recompute=recompute)
    run(first, rule, stop=3, folder=tmp_path)
    save_checkpoint(tmp_path, first, keep=1)
    resumed, rule = make(name, recompute=recompute)
    load_newest(tmp_path, resumed)
    run(resumed, rule, stop=STEPS, folder=tmp_path)
    looks = [record["step"] for record in read_records(tmp_path) if "microscope/look" in record]
    assert looks == [2, 5]  # every second step: the one after each look is watched for its memory
    expected, found = plain.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    expected, found = (optimizer_tensors(state.optimizer, state.model) for state in (plain, resumed))
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in resumed.model.modules())
    assert not resumed.optimizer._optimizer_step_pre_hooks


def test_a_look_records_how_far_weights_moved_and_how_long_the_gradient_was(tmp_path):
    state, rule = make("lenet5_modern")
    recorder = Recorder(tmp_path)
    watched = over(state, rule, recorder)
    for step in range(2):
        before = {name: p.detach().clone() for name, p in state.model.named_parameters() if p.ndim > 1}
        with watched.looking(step, batch(step)):
            take_step(state, batch(step), rule)
    recorder.close()
    (look,) = read_records(tmp_path)
    after = dict(state.model.named_parameters())
    for name, old in before.items():
        ratio = float((after[name].detach() - old).norm() / old.norm())
        assert look[f"update_ratio/{name.removesuffix('.weight')}"] == pytest.approx(ratio, rel=1e-5)
    assert look["gradient_norm"] == pytest.approx(0.5, rel=1e-3)  # what the optimizer got: clipped to 0.5


class Clock:
    """Time as the test makes it pass."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Slow:
    """A record that takes its time: a histogram 5 ms, the graph 3 s."""

    def __init__(self, clock: Clock):
        self.clock, self.lines = clock, []

    def histogram(self, step, name, values):
        self.clock.now += 0.005

    def images(self, step, name, images):
        pass

    def graph(self, model, images):
        self.clock.now += 3.0

    def record(self, step, values):
        self.lines.append((step, values))


@pytest.mark.parametrize(("seconds", "steps"), [(0.01, 1500), (0.1, 600), (2.0, 400)])
def test_looking_keeps_to_two_percent_of_the_time_and_to_fifty_looks(monkeypatch, seconds, steps):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    slow = Slow(clock)
    watched = Microscope(
        model,
        optimizer,
        slow,
        as_seen=lambda batch, step: torch.ones(1, 3, 1, 2),
        to_pixels=lambda images: images,
        total_steps=steps,
    )
    for step in range(steps):
        with watched.looking(step, batch(0)):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            clock.now += seconds
    watched.close(steps)
    looks = [step for step, values in slow.lines if "microscope/look" in values]
    _, costs = slow.lines[-1]
    cost = 4 * 0.005  # weights and gradients, of a matrix and a bias
    assert costs["microscope/share"] == pytest.approx(len(looks) * cost / (clock.now - 3.0), rel=1e-6)
    assert costs["microscope/share"] <= 0.02
    assert costs["microscope/graph_seconds"] == pytest.approx(3.0)
    assert 1 < len(looks) <= 50
    assert all(later - earlier >= steps // 50 for earlier, later in itertools.pairwise(looks))
    if seconds == 2.0:
        assert len(looks) == 38  # from step 100 on, the first time that two steps are 2%, at every eighth


def test_a_run_too_short_for_its_share_gets_one_look_at_its_end(tmp_path):
    state, rule = make("lenet5_modern")
    recorder = Recorder(tmp_path)
    watched = over(state, rule, recorder, share=0.0)
    for step in range(STEPS):
        with watched.looking(step, batch(step)):
            take_step(state, batch(step), rule)
    watched.close(STEPS)
    recorder.close()
    look, costs = read_records(tmp_path)
    assert look["step"] == costs["step"] == STEPS
    assert look["microscope/look"] == 1
    assert costs["microscope/share"] > 0


class Reused(nn.Module):
    """One ReLU that is called twice, on channels of an image and on features; and dropout, which draws in training."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.drop, self.fc = (
            nn.Conv2d(1, 8, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(8, 4),
        )
        self.norm = nn.BatchNorm2d(8)
        with torch.no_grad():
            self.conv.bias[:3] = -1e4
            self.conv.bias[3:] = 1e4
            self.fc.weight.zero_()
            self.fc.bias.copy_(torch.tensor([-1.0, 1.0, 1.0, 1.0]))

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.relu(self.fc(self.drop(x)))


def test_dead_units_are_counted_at_each_call_and_counting_changes_nothing():
    model = Reused().train()
    model.drop.eval()  # a part that stands apart stays so
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    draws = torch.get_rng_state()
    found = dead_shares(model, torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0)))
    assert found == {"relu": 0.375, "relu#2": 0.25}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(draws, torch.get_rng_state())
    assert model.training
    assert model.norm.training
    assert not model.drop.training


def test_a_unit_that_wakes_for_one_image_is_alive():
    relu = nn.Sequential(nn.ReLU())
    images = -torch.ones(3, 5)
    assert dead_shares(relu, images) == {"0": 1.0}
    images[2, 1] = 0.5
    assert dead_shares(relu, images)["0"] == pytest.approx(0.8)


def look(**values: float) -> dict[str, float]:
    return {"microscope/look": 1, **values}


END = {"microscope/share": 0.014, "microscope/graph_seconds": 0.61}


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([2e-4, 3e-3], "update/weight ratios between 2e-04 and 3e-03: healthy"),
        ([2e-4, 3e-2], "update/weight ratios between 2e-04 and 3e-02: l1 changes fast, above 1e-02: try a lower --lr"),
        (
            [2e-6, 3e-3],
            "update/weight ratios between 2e-06 and 3e-03: l0 hardly changes, below 1e-04: try a higher --lr",
        ),
    ],
)
def test_update_ratios_are_judged_by_their_median_over_the_run(ratios, expected):
    usual = look(**{f"update_ratio/l{number}": ratio for number, ratio in enumerate(ratios)})
    first = look(**{"update_ratio/l0": 1.0, "update_ratio/l1": 1.0})  # the warm-up and the end do not decide
    last = look(**{"update_ratio/l0": 0.0, "update_ratio/l1": 0.0})
    assert conclusions([first, usual, last, END])[1] == expected


def test_dead_units_are_those_of_the_last_look():
    early, late = look(**{"dead/a": 0.9}), look(**{"dead/a": 0.02, "dead/b": 0.414})
    assert conclusions([early, late, END])[0].startswith("b: 41% dead units: a lower --lr")
    assert conclusions([late, early | {"dead/b": 0.5}, END])[0].startswith("a: 90% dead units, b: 50% dead units: a")
    assert conclusions([look(**{"dead/a": 0.02}), END])[0] == ("dead units: at most 2% of an activation (a): healthy")
    assert conclusions([look(), END])[0] == "dead units: none possible, this network has no ReLU"


def test_memory_and_the_cost_of_looking_are_stated():
    sizes = {"data": 700.0, "forward": 1900.4, "backward": 2100.0, "optimizer": 900.0}
    peaks = {f"memory/{phase}_mib": size for phase, size in sizes.items()}
    lower = {name: size - 50 for name, size in peaks.items()}
    assert conclusions([look(), peaks, look(), lower, END])[2] == (
        "memory at its peak, MiB: data 700, forward 1,900, backward 2,100, optimizer 900; the microscope looked "
        "2 times, for 1.4% of the time, and drew the graph in 0.6 s"
    )
    assert conclusions([{"step": 1, "train/loss": 2.0}]) == [
        "the run was too short for the microscope: no step was looked at"
    ]
