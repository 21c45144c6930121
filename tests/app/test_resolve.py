"""What a run decides for itself: the optimizer that suits what the network is made of."""

import pytest

from linnaeus.app.config import make_config
from linnaeus.app.prepare import prepare
from linnaeus.app.progress import Display
from linnaeus.app.resolve import resolve


@pytest.fixture(scope="module")
def prepared():
    config = make_config({"data": {"source": "animals", "limit": 3}})
    return config, prepare(config.data, seed=0, display=Display(quiet=True))


@pytest.mark.parametrize(
    ("name", "optimizer", "lr"),
    [
        ("lenet5", "sgd", 0.025),
        ("lenet5_modern", "sgd", 0.05),
        ("resnet18", "sgd", 0.05),
        ("resnet20", "sgd", 0.05),
        ("vit_tiny", "adamw", 1.25e-4),
        ("convnext_tiny", "adamw", 1.25e-4),
    ],
)
def test_each_family_gets_its_optimizer_and_a_rate_for_a_batch_of_64(prepared, name, optimizer, lr):
    config, images = prepared
    size = None if name.startswith("lenet") else 32
    resolved = resolve(config.replace(model={"name": name, "image_size": size}), images)
    assert (resolved.optim.name, resolved.optim.lr) == (optimizer, pytest.approx(lr))


def test_what_is_given_stays(prepared):
    config, images = prepared
    given = {"name": "adamw", "lr": 0.01, "weight_decay": 0.0, "clip_norm": 2.0}
    resolved = resolve(config.replace(model={"name": "lenet5"}, optim=given), images)
    assert {key: getattr(resolved.optim, key) for key in given} == given
