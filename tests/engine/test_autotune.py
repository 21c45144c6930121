"""What is fastest and right is chosen, by measuring; nothing is tried that cannot pay."""

import time
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from linnaeus.core.batch import Batch
from linnaeus.core.errors import EnvironmentFault
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.engine import autotune
from linnaeus.engine.autotune import Choice, Way, candidates, choose, consider_compiling, disagreement, time_steps
from linnaeus.engine.loss import cross_entropy
from linnaeus.engine.step import State, StepRule
from linnaeus.models import create_model
from linnaeus.optim.groups import param_groups
from linnaeus.optim.optimizers import sgd

CPU = torch.device("cpu")
PLAIN, BF16 = Way("fp32", False), Way("bf16", False)
COMPILED = PLAIN._replace(compiled=True)


def noted(text: str) -> None:
    assert text.startswith("trying the network compiled")


def batch(size: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (size, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return Batch.of(images, torch.arange(size) % 5, torch.arange(size))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("lenet5", num_classes=5, in_channels=1, image_size=28)


@pytest.fixture
def rule() -> StepRule:
    preprocess = Preprocess(Geometry(28, 28, (0.5,), (0.5,)))
    return StepRule(preprocess, partial(cross_entropy, label_smoothing=0.1), lambda p: 1.0, total_steps=5, seed=0)


def measured(monkeypatch, seconds: dict[Way, float], losses: dict[Way, float] | None = None, cost: float = 0.0):
    """Every pass takes these seconds and has this loss; the first one of a compiled network takes `cost`."""
    first = [True]

    def take(_model, part, _rule, way):
        found = torch.full((len(part),), (losses or {}).get(way, 1.0))
        if way.compiled and first[0]:
            first[0] = False
            return cost, found
        return seconds[way], found

    monkeypatch.setattr(autotune, "_pass", take)


def test_what_is_given_is_kept_and_the_plainest_comes_first():
    assert candidates(CPU, "fp32", None) == [PLAIN, Way("fp32", True)]
    assert candidates(CPU, "bf16", True) == [Way("bf16", True)]
    assert candidates(CPU, None, False)[0] == PLAIN


@pytest.mark.parametrize(
    ("seconds", "losses", "best"),
    [
        ({PLAIN: 1.0, BF16: 0.5}, {}, BF16),
        ({PLAIN: 1.0, BF16: 0.97}, {}, PLAIN),  # noise must not decide
        ({PLAIN: 1.0, BF16: 0.5}, {BF16: 1.06}, PLAIN),
        ({PLAIN: 1.0, BF16: 0.5}, {BF16: 1.04}, BF16),
        ({PLAIN: 1.0, BF16: 0.5}, {BF16: float("nan")}, PLAIN),
    ],
)
def test_the_fastest_way_is_taken_if_it_is_clearly_faster_and_its_loss_agrees(
    monkeypatch, model, rule, seconds, losses, best
):
    measured(monkeypatch, seconds, losses)
    choice = choose(model, batch(), rule, [PLAIN, BF16])
    assert choice.way == best
    assert choice.seconds == {str(way): value for way, value in seconds.items()}
    assert (str(BF16) in choice.rejected) == (not abs(losses.get(BF16, 1.0) - 1) <= 0.05)


def test_what_differs_by_chance_agrees_and_what_differs_by_rule_does_not():
    generator = torch.Generator().manual_seed(0)
    plain = torch.rand(32, generator=generator) * 3
    noise = torch.randn(32, generator=generator)
    assert disagreement(plain, plain) == ""
    assert disagreement(plain + 0.3 * (noise - noise.mean()) + 0.12, plain) == ""  # 8% more, and no more than chance
    assert disagreement(plain + 0.12, plain) != ""  # 8% more of every image
    assert disagreement(plain[torch.randperm(32, generator=generator)], plain) != ""  # those of other images
    assert disagreement(plain + torch.where(noise > 2, torch.inf, 0.0), plain) != ""
    assert disagreement(plain + torch.where(noise > 2, torch.nan, 0.0), plain) != ""


def test_what_is_dropped_is_the_same_for_all_ways(rule):
    torch.manual_seed(0)
    model = create_model("resnet20", num_classes=5, in_channels=1, image_size=32, drop_path=0.5)
    images = Batch.of(torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8), torch.arange(4), torch.arange(4))
    state = torch.get_rng_state()
    first, second = (autotune._pass(model.train(), images, rule, PLAIN)[1] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_measuring_leaves_the_network_as_it_was(model, rule):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    choice = choose(model, batch(), rule, candidates(CPU, "fp32", None))
    assert 1 <= choice.images <= 16
    assert all(seconds > 0 for seconds in choice.seconds.values())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def short_of_memory(monkeypatch, fits):
    """A pass fails where `fits(way, images)` is false."""
    real = autotune._pass

    def take(model, part, rule, way):
        if not fits(way, len(part)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(model, part, rule, way)

    monkeypatch.setattr(autotune, "_pass", take)


def test_a_way_for_which_memory_is_too_small_is_not_used(monkeypatch, model, rule):
    last = Way("fp32", True)
    short_of_memory(monkeypatch, lambda way, images: way != last)
    choice = choose(model, batch(), rule, [PLAIN, last])
    assert choice.way == PLAIN
    assert choice.rejected == {str(last): "out of memory"}
    assert list(choice.seconds) == [str(PLAIN)]


def test_fewer_images_are_measured_where_memory_is_too_small_for_a_batch(monkeypatch, model, rule):
    short_of_memory(monkeypatch, lambda way, images: images <= 3)
    assert choose(model, batch(), rule, candidates(CPU, "fp32", None)).images <= 3
    short_of_memory(monkeypatch, lambda way, images: False)
    with pytest.raises(EnvironmentFault, match=r"too small for 1 image\(s\) at a time"):
        choose(model, batch(), rule, [PLAIN])


def test_a_compiled_network_for_which_memory_is_too_small_is_not_used(monkeypatch, model, rule):
    short_of_memory(monkeypatch, lambda way, images: not way.compiled)
    monkeypatch.setattr(autotune, "compile_in_place", lambda _: None)
    choice = consider_compiling(model, batch(), rule, Choice(PLAIN, 16, {}, {}), training=2000.0, note=noted)
    assert choice.way == PLAIN
    assert choice.why == "not compiled: compiling failed: CUDA out of memory. Tried to allocate 2.00 GiB."


def test_compiling_is_not_tried_where_the_run_is_too_short_for_it(monkeypatch, model, rule):
    monkeypatch.setattr(autotune, "compile_in_place", lambda _: pytest.fail("was compiled"))
    choice = consider_compiling(model, batch(), rule, Choice(PLAIN, 16, {}, {}), training=600.0, note=noted)
    assert choice.way == PLAIN
    assert choice.why == "not compiled: training takes 600 s, and compiling about 75 s"


@pytest.mark.parametrize(
    ("seconds", "cost", "way", "why"),
    [
        (0.7, 50.0, COMPILED, "compiling saves 600 s of 2,000 s of training and takes 100 s"),
        (0.96, 50.0, PLAIN, "not compiled: compiling saves 80 s of 2,000 s of training and takes 100 s"),
        (0.7, 400.0, PLAIN, "not compiled: compiling saves 600 s of 2,000 s of training and takes 800 s"),
        (1.1, 50.0, PLAIN, "not compiled: compiling saves -200 s of 2,000 s of training and takes 100 s"),
    ],
)
def test_compiling_is_chosen_where_it_pays_back_within_the_run(monkeypatch, model, rule, seconds, cost, way, why):
    measured(monkeypatch, {PLAIN: 1.0, COMPILED: seconds}, cost=cost)
    monkeypatch.setattr(autotune, "compile_in_place", lambda _: None)
    choice = consider_compiling(model, batch(), rule, Choice(PLAIN, 16, {}, {}), training=2000.0, note=noted)
    assert (choice.way, choice.why) == (way, why)
    assert choice.seconds == {str(PLAIN): 1.0, str(COMPILED): seconds}


def test_compiled_code_with_another_loss_is_not_used(monkeypatch, model, rule):
    measured(monkeypatch, {PLAIN: 1.0, COMPILED: 0.1}, {COMPILED: 1.2}, cost=1.0)
    monkeypatch.setattr(autotune, "compile_in_place", lambda _: None)
    choice = consider_compiling(model, batch(), rule, Choice(PLAIN, 16, {}, {}), training=2000.0, note=noted)
    assert choice.way == PLAIN
    assert choice.rejected == {"fp32, channels first, compiled": "loss 1.2000 against 1.0000, image by image ± 0.0000"}


def test_a_compiler_that_fails_is_said_and_not_used(monkeypatch, model, rule):
    def broken(copy):
        copy._compiled_call_impl = fail

    def fail(*_):
        raise RuntimeError("no C++ compiler found\nand two pages more")

    monkeypatch.setattr(autotune, "compile_in_place", broken)
    choice = consider_compiling(model, batch(), rule, Choice(PLAIN, 16, {}, {}), training=2000.0, note=noted)
    assert choice.way == PLAIN
    assert choice.why == "not compiled: compiling failed: no C++ compiler found"


@pytest.mark.slow  # compiles for some ten seconds
def test_a_real_network_is_compiled_and_timed_and_not_changed(model, rule):
    names, notes = list(model.state_dict()), []
    choice = consider_compiling(model, batch(), rule, Choice(PLAIN, 16, {}, {}), training=1e9, note=notes.append)
    assert len(notes) == 1
    assert choice.seconds[str(COMPILED)] > 0
    assert "of 1,000,000,000 s of training" in choice.why
    assert list(model.state_dict()) == names
    assert model._compiled_call_impl is None


class Slow:
    """Three batches an epoch, each of which takes its time."""

    num_images, num_batches = 48, 3

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for _ in range(start, self.num_batches):
            time.sleep(0.02)
            yield batch()


def test_steps_are_timed_with_the_wait_for_their_batches_and_change_no_weight(model, rule):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = sgd(param_groups(model, 0.0), lr=0.1)
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.1
    state = State(model, optimizer, None, torch.zeros(3, dtype=torch.float64))
    speed = time_steps(state, Slow(), rule, device=CPU, limit=0.3)
    assert state.step > rule.total_steps  # more than the run has is no hindrance
    assert speed.step > 0.02
    assert 0.02 / speed.step == pytest.approx(speed.wait, abs=0.25)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
