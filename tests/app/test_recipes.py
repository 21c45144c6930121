"""Every recipe is complete, says what it needs and gives, and its network, optimizer, schedule and loss can be made."""

import subprocess
import sys
from functools import partial

import pytest
import torch

from linnaeus.app.build import make_rule, make_state
from linnaeus.app.config import Config, make_config
from linnaeus.app.recipes import FACTS, PLACEHOLDER, RECIPES, find_recipe, recipe_facts, recipe_file
from linnaeus.app.settings import gather, read_config_file
from linnaeus.core.errors import RequestError
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.engine.step import StepRule

every = pytest.mark.parametrize("name", list(RECIPES))


class Loader:
    num_images, num_batches = 1_281_167, 1252

    def epoch(self, epoch, start=0):
        raise NotImplementedError


def rule_of(config: Config) -> StepRule:
    preprocess = Preprocess(Geometry(224, 224, (0.5,) * 3, (0.5,) * 3))
    return make_rule(config, preprocess, Loader(), num_classes=10, task="single")


@every
def test_a_recipe_says_command_hardware_time_and_result(name):
    facts = recipe_facts(name)
    assert set(facts) == {"What", *FACTS}
    assert f"--recipe {name}" in facts["Command"]
    assert "not yet run" in facts["Expected"] or ("±" in facts["Expected"] and "seeds (`make " in facts["Expected"])
    assert facts["What"].endswith((".", ":"))


@every
def test_a_recipe_can_be_built_and_its_rate_is_positive_and_never_above_its_own(name):
    config = RECIPES[name](PLACEHOLDER)
    if config.optim.name is None:  # left to the family of the network, whichever it is
        config = config.replace(optim={"name": "sgd", "lr": 0.1, "weight_decay": 0.0})
    with torch.device("meta"):
        state = make_state(config, 10, torch.device("meta"))
    rule = rule_of(config)
    heights = [rule.schedule((step + 0.5) / 1000) for step in range(1000)]
    assert 0 < min(heights) <= max(heights) <= 1
    assert max(heights) > 0.99
    assert all(group["initial_lr"] <= config.optim.lr for group in state.optimizer.param_groups)
    loss = rule.loss(torch.zeros(2, 10), torch.tensor([1, 2]), torch.tensor([True, True]))
    assert loss > 0


@every
def test_the_printed_file_is_the_recipe(name, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_file(name))
    assert make_config(read_config_file(path)) == RECIPES[name](PLACEHOLDER)
    assert "# Command: linnaeus train" in path.read_text()


def test_the_tutorials_augmentation_and_schedule_are_those_of_its_text():
    config = RECIPES["tutorial-resnet"]("imagenet/")
    assert config.preprocess.mean == [0.485, 0.456, 0.406]
    assert config.preprocess.std == [0.229, 0.224, 0.225]
    augment = config.augment
    assert (augment.crop, augment.min_area, augment.flip, augment.policy) == ("resized", 0.08, True, "jitter")
    assert augment.policy_options == {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
    assert config.optim.lr * config.optim.floor == pytest.approx(1e-6)
    schedule = rule_of(config).schedule
    warmup, total = 100, 70 * Loader.num_batches
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=2, eta_min=1e-6)
    for step in (100, 5000, 12_519, 12_619, 12_621, 40_000, 87_000):
        restarts.step((step - warmup) / Loader.num_batches)
        assert 0.1 * schedule(step / total) == pytest.approx(restarts.get_last_lr()[0], abs=1e-9)
    assert schedule(50 / total) == pytest.approx(0.5)


def test_what_is_said_besides_a_recipe_wins():
    start = partial(RECIPES["cifar-resnet18"], "cifar10")
    flags = {"optim.lr": 0.3, "train.duration": None}
    content = gather(None, flags, ["model.options.drop_path=0.1"], recipe=start().model_dump())
    changed = make_config(content)
    assert (changed.optim.lr, changed.train.duration) == (0.3, "200ep")
    assert changed.model.options == {"stem": "small", "drop_path": 0.1}
    assert changed.augment == start().augment


def test_an_unknown_recipe_is_refused_with_the_nearest_name():
    with pytest.raises(RequestError, match="did you mean 'cifar-resnet18'"):
        find_recipe("cifar_resnet18")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "linnaeus", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_the_commands_list_show_and_refuse():
    listed = run("recipes")
    assert listed.returncode == 0, listed.stderr
    assert all(name in listed.stdout for name in ("tutorial-resnet", "fine-grained"))
    assert run("recipes", "show", "fine-grained").stdout == recipe_file("fine-grained")
    both = run("train", "animals", "--recipe", "scratch-small", "--config", "x.yaml")
    assert (both.returncode, "give one of them" in both.stderr) == (2, True)
    missing = run("recipes", "show", "nothing")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: there is no recipe named 'nothing'")
