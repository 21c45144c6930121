"""Each setting of optimizer, schedule and loss has its effect on what is built; nonsense is refused before training."""

from pathlib import Path

import numpy as np
import pytest
import torch

from linnaeus.app.build import make_rule, make_state
from linnaeus.app.config import Config, make_config
from linnaeus.app.images import Images
from linnaeus.app.prepare import Prepared, prepare
from linnaeus.app.progress import Display
from linnaeus.app.resolve import resolve
from linnaeus.core.batch import Batch
from linnaeus.core.errors import RequestError
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.deploy.bundle import Bundle
from linnaeus.engine.checkpoint import load_newest, save_checkpoint
from linnaeus.engine.loss import binary_cross_entropy, cross_entropy, distill, focal, one_against_all
from linnaeus.engine.step import State, StepRule, take_step
from linnaeus.models import create_model
from linnaeus.optim.muon import Muon

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def animals() -> Prepared:
    config = make_config({"data": {"source": "animals", "limit": 12}})
    return prepare(config.data, seed=0, display=Display(quiet=True))


@pytest.fixture
def unequal(animals, monkeypatch) -> Prepared:
    """The first class has a quarter of the training images of the others."""
    roles = animals.split.roles.copy()
    own = np.flatnonzero((animals.source.labels.targets == 0) & (roles == "train"))
    roles[own[len(own) // 4 :]] = ""
    split = type(animals.split)(roles, {}, ())
    return Prepared(animals.source, animals.audit, animals.diagnosis, {}, split)


def settle(prepared: Prepared, **sections: dict) -> Config:
    sections.setdefault("model", {"name": "lenet5_modern"})
    config = make_config({"data": {"source": "animals", "limit": 12}, **sections})
    return resolve(config, prepared).replace(train={"channels_last": False, "precision": "fp32"})


class Loader:
    num_images, num_batches = 80, 10

    def epoch(self, epoch, start=0):
        raise NotImplementedError


def rule_of(config: Config, task: str = "single") -> StepRule:
    geometry = Geometry(config.model.image_size, config.model.image_size, (0.5,), (0.5,))
    return make_rule(config, Preprocess(geometry), Loader(), num_classes=10, task=task)


def batch(config: Config) -> Batch:
    size, generator = config.model.image_size, torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (8, config.model.in_channels, size, size), dtype=torch.uint8, generator=generator)
    return Batch.of(images, torch.arange(8), torch.arange(8))


def three_logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    return logits, torch.tensor([0, 4, 9]), torch.tensor([True, True, True])


def test_muon_takes_the_kernels_of_the_blocks(animals):
    config = settle(animals, optim={"name": "muon"}, model={"name": "resnet20"})
    state = make_state(config, 10, CPU)
    assert isinstance(state.optimizer, Muon)
    hidden = {name for group in state.optimizer.param_groups if group["hidden"] for name in group["param_names"]}
    assert "layer1.0.conv1.weight" in hidden
    assert not {"conv1.weight", "fc.weight", "bn1.weight"} & hidden


def test_layer_decay_lowers_the_rate_from_layer_to_layer(animals):
    config = settle(animals, optim={"layer_decay": 0.5, "lr": 0.1}, model={"name": "resnet20"})
    state = make_state(config, 10, CPU)
    rates = {name: group["initial_lr"] for group in state.optimizer.param_groups for name in group["param_names"]}
    assert (rates["fc.weight"], rates["fc.bias"]) == (0.1, 0.1)
    assert rates["layer3.2.conv1.weight"] == pytest.approx(0.05)
    assert rates["conv1.weight"] == pytest.approx(0.1 * 0.5**10)
    take_step(state, batch(config), rule_of(config))
    shares = [group["lr"] / group["initial_lr"] for group in state.optimizer.param_groups]
    assert shares == pytest.approx([shares[0]] * len(shares))


@pytest.mark.parametrize(
    ("schedule", "options", "progress", "height"),
    [
        ("cosine_restarts", {"t_0": "5ep", "t_mult": 1}, 0.55, 1.0),
        ("cosine_restarts", {"t_0": "50st", "t_mult": 1}, 0.3, 0.5),
        ("step", {"milestones": ["6ep", "90%"], "gamma": 0.5}, 0.95, 0.25),
        ("trapezoid", {"cooldown": "4ep"}, 0.9, 0.25),
        ("polynomial", {"power": 3}, 0.525, 0.125),
        ("one_cycle", {"start": 0.5}, 0.0, 0.5),
    ],
)
def test_options_of_a_schedule_are_durations_of_this_run(animals, schedule, options, progress, height):
    optim = {"schedule": schedule, "schedule_options": options, "warmup": 0.05}
    config = settle(animals, optim=optim, train={"duration": "10ep", "batch_size": 8})
    assert rule_of(config).schedule(progress) == pytest.approx(height)


def test_warm_up_may_be_a_duration(animals):
    config = settle(animals, optim={"warmup": "20st"}, train={"duration": "10ep", "batch_size": 8})
    assert rule_of(config).schedule(0.1) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda *x: cross_entropy(*x, label_smoothing=0.1)),
        ({"loss": "bce", "label_smoothing": 0.0}, one_against_all),
        ({"loss": "focal", "loss_options": {"gamma": 1.0}}, lambda *x: focal(*x, gamma=1.0, label_smoothing=0.1)),
    ],
)
def test_the_loss_is_the_one_that_was_named(animals, options, expected):
    rule = rule_of(settle(animals, train=options))
    assert rule.loss(*three_logits()) == expected(*three_logits())


def test_images_of_several_classes_have_binary_cross_entropy(animals):
    rule = rule_of(settle(animals, train={"label_smoothing": 0.0}), task="multi")
    assert rule.loss(*three_logits()) == binary_cross_entropy(*three_logits())


def test_class_weights_count_rare_classes_more_and_are_written_down_by_name(unequal):
    labels = unequal.source.labels
    counts = np.bincount(labels.targets[unequal.split.indices("train")])
    assert counts[0] < counts[1]
    for how in ("balanced", "effective"):
        config = settle(unequal, train={"class_weights": how, "label_smoothing": 0.0})
        weights = config.train.class_weights
        assert list(weights) == list(labels.classes)
        assert weights[labels.classes[0]] > weights[labels.classes[1]]
        logits, targets, valid = three_logits()
        expected = sum(
            weights[labels.classes[c]] * cross_entropy(logits[[i]], targets[[i]], valid[[i]])
            for i, c in enumerate(targets.tolist())
        )
        torch.testing.assert_close(rule_of(config).loss(logits, targets, valid), expected)
    own = settle(unequal, train={"class_weights": {labels.classes[3]: 2.0}}).train.class_weights
    assert list(own.values()) == [1, 1, 1, 2, 1, 1, 1, 1, 1, 1]


def test_logit_adjustment_lifts_the_logits_of_frequent_classes_in_the_loss(unequal):
    config = settle(unequal, train={"logit_adjustment": 1.0, "label_smoothing": 0.0})
    counts = np.bincount(unequal.source.labels.targets[unequal.split.indices("train")])
    shares = torch.tensor(counts / counts.sum(), dtype=torch.float32)
    logits, targets, valid = three_logits()
    expected = cross_entropy(logits + shares.log(), targets, valid)
    torch.testing.assert_close(rule_of(config).loss(logits, targets, valid), expected)


def test_recomputing_changes_the_memory_of_a_step_and_not_its_result(animals):
    config = settle(animals, model={"name": "resnet20"}, optim={"ema": 0.9})
    results = []
    for recompute in (False, True):
        chosen = config.replace(train={"recompute": recompute})
        state = make_state(chosen, 10, CPU)
        passes = 0

        def count(*_) -> None:
            nonlocal passes
            passes += 1

        state.model.blocks[0].conv1.register_forward_hook(count)
        take_step(state, batch(config), rule_of(chosen))
        assert passes == 1 + recompute
        results.append(
            {**state.model.state_dict(), **{f"ema.{n}": t for n, t in state.ema.module.state_dict().items()}}
        )
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def steps(state: State, config: Config, number: int) -> None:
    for _ in range(number):
        take_step(state, batch(config), rule_of(config))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_all_but_the_head_stand_still_while_frozen_and_move_afterwards(animals, optimizer):
    optim = {"name": optimizer, "freeze": 0.5, "weight_decay": 0.1, "layer_decay": 0.9}
    config = settle(animals, optim=optim, train={"duration": "4st"}, model={"name": "resnet20"})
    state = make_state(config, 10, CPU)

    def moved() -> set[bool]:
        before = {name: parameter.detach().clone() for name, parameter in state.model.named_parameters()}
        take_step(state, batch(config), rule_of(config))
        return {torch.equal(before[n], p) == n.startswith("fc.") for n, p in state.model.named_parameters()}

    assert moved() == {False}
    assert moved() == {False}
    assert moved() == {True, False}


def test_a_teacher_sees_the_images_as_its_own_preprocessing_would_and_adds_its_share(animals, monkeypatch):
    geometry = Geometry(28, 28, (0.2,), (0.3,))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        teacher = create_model("lenet5_modern", num_classes=10, in_channels=1, image_size=28)
    about = {"classes": animals.classes, "task": "single", "calibration": {"method": "none", "temperature": 1.0}}
    bundle = Bundle(teacher, about, Preprocess(geometry))
    monkeypatch.setattr("linnaeus.app.rules.load_bundle", lambda _: bundle)
    plain = settle(animals, train={"label_smoothing": 0.0})
    config = settle(animals, train={"label_smoothing": 0.0, "teacher": "t", "teacher_weight": 0.3, "temperature": 2.0})
    states = [make_state(config, 10, CPU) for _ in range(2)]
    with torch.no_grad():
        said = teacher(Preprocess(geometry)(batch(config).images))
        logits = states[0].model.train()(Preprocess(Geometry(28, 28, (0.5,), (0.5,)))(batch(config).images))
    take_step(states[1], batch(config), rule_of(config))
    valid = batch(config).valid
    expected = 0.7 * rule_of(plain).loss(logits, batch(config).targets, valid)
    expected += 0.3 * distill(logits, said, valid, temperature=2.0)
    assert float(states[1].sums[0]) == pytest.approx(float(expected), rel=1e-4)
    bundle.classes = ("cat", "dog")
    with pytest.raises(RequestError, match="knows other classes"):
        settle(animals, train={"teacher": "t"})


def test_a_balanced_order_reaches_training(unequal):
    config = settle(unequal, data={"balance": True, "source": "animals", "limit": 12})
    loader = Images(config, unequal, Display(quiet=True)).training()
    seen = torch.cat([part.targets for part in loader.epoch(0)]).bincount()
    assert seen.max() - seen.min() <= 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_run_goes_on_bit_for_bit_from_a_checkpoint(unequal, optimizer, tmp_path: Path):
    config = settle(
        unequal,
        model={"name": "resnet20"},
        optim={
            "name": optimizer,
            "layer_decay": 0.8,
            "schedule": "cosine_restarts",
            "schedule_options": {"t_0": "3st"},
            "ema": 0.9,
        },
        train={
            "duration": "20st",
            "recompute": True,
            "loss": "focal",
            "class_weights": "balanced",
        },
        augment={"mixup": 0.4},
    )
    whole, stopped, resumed = (make_state(config, 10, CPU) for _ in range(3))
    steps(whole, config, 4)
    steps(stopped, config, 2)
    save_checkpoint(tmp_path, stopped, keep=1)
    load_newest(tmp_path, resumed)
    steps(resumed, config, 2)
    for left, right in ((whole.model, resumed.model), (whole.ema.module, resumed.ema.module)):
        assert all(torch.equal(t, right.state_dict()[name]) for name, t in left.state_dict().items())


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optim": {"schedule_options": {"t_0": "1ep"}}}, "schedule_options.t_0 is unknown; known here: nothing"),
        ({"optim": {"schedule": "step", "schedule_options": {"steps": 3}}}, "known here: milestones, gamma"),
        ({"optim": {"schedule": "cosine_restarts", "schedule_options": {"t_0": 10}}}, "t_0 is 10: expected a duration"),
        ({"optim": {"schedule": "step", "schedule_options": {"milestones": "5ep"}}}, "expected durations such as"),
        ({"optim": {"schedule": "step", "schedule_options": {"gamma": "5ep"}}}, "gamma is '5ep': expected a number"),
        ({"optim": {"schedule": "cosine_restarts", "schedule_options": {"t_0": "30ep"}}}, "t_0 is 1.5 of the run"),
        ({"optim": {"schedule": "constant", "floor": 0.1}}, "optim.schedule=constant: floor is 0.1"),
        ({"optim": {"warmup": "20ep"}}, "optim.warmup=20ep leaves nothing of a run of"),
        ({"optim": {"warmup": 1.0}}, "optim.warmup: expected a share"),
        ({"optim": {"warmup": "soon"}}, "'soon' is not a duration"),
        ({"train": {"loss_options": {"gamma": 2.0}}}, "loss_options.gamma is unknown; known here: nothing"),
        ({"train": {"loss": "focal", "loss_options": {"gamma": -2.0}}}, "train.loss=focal: gamma is -2"),
        ({"train": {"logit_adjustment": 1.0, "loss": "bce"}}, "needs train.loss=cross_entropy"),
        ({"train": {"class_shares": {"cat": 1.0}}}, "class_shares has no effect without logit_adjustment"),
        ({"train": {"logit_adjustment": 1.0, "class_shares": {"unicorn": 1.0}}}, "names 'unicorn', which is no class"),
        ({"train": {"class_weights": {"unicorn": 1.0}}}, "names 'unicorn', which is no class"),
        ({"train": {"temperature": 2.0}}, "no effect without teacher"),
        ({"train": {"teacher": "nowhere"}}, "holds no finished model"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_setting_named(animals, sections, message):
    with pytest.raises(RequestError, match=message):
        settle(animals, **sections)


def test_weights_must_be_positive_and_shares_whole(animals):
    name = animals.source.labels.classes[0]
    with pytest.raises(RequestError, match=f"'{name}' is -1.0; expected a positive number"):
        settle(animals, train={"class_weights": {name: -1.0}})
    with pytest.raises(RequestError, match="must name every class"):
        settle(animals, train={"logit_adjustment": 1.0, "class_shares": {name: 1.0}})


def test_a_loss_for_one_class_is_refused_where_there_are_several(animals):
    with pytest.raises(RequestError, match="is for images of one class"):
        rule_of(settle(animals, train={"loss": "cross_entropy"}), task="multi")
