"""A run small enough to be taken hundreds of times: a network with everything that has a state, a loader, an outlet."""

from pathlib import Path

import torch
from torch import Tensor, nn

from linnaeus.core.batch import Batch
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.engine.checkpoint import BEST, load_newest, load_weights, read_checkpoint
from linnaeus.engine.loss import cross_entropy
from linnaeus.engine.step import State, StepRule, take_step
from linnaeus.engine.train import Outlet, train
from linnaeus.optim.ema import Ema
from linnaeus.optim.groups import param_groups
from linnaeus.optim.optimizers import OPTIMIZERS

CPU = torch.device("cpu")
EPOCHS, BATCHES, SIZE = 3, 6, 8
STEPS = EPOCHS * BATCHES


class Tiny(nn.Module):
    """(B, 1, 4, 4) -> (B, 3): BatchNorm has statistics, dropout draws."""

    num_classes, image_size, in_channels, blocks = 3, 4, 1, ()

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class Images:
    """Batches that depend on their number alone."""

    num_images, num_batches = BATCHES * SIZE, BATCHES

    def epoch(self, epoch, start=0):
        for number in range(start, BATCHES):
            generator = torch.Generator().manual_seed(1000 * epoch + number)
            images = torch.randint(0, 256, (SIZE, 1, 4, 4), dtype=torch.uint8, generator=generator)
            yield Batch.of(images, torch.randint(0, 3, (SIZE,), generator=generator), torch.arange(SIZE))


def make_state(optimizer: str = "sgd", kind: type[Tiny] = Tiny) -> State:
    torch.manual_seed(0)
    model = kind()
    made = OPTIMIZERS[optimizer](param_groups(model, 0.01), lr=0.1)
    for group in made.param_groups:
        group["initial_lr"] = 0.1
    return State(model, made, Ema(model, 0.9), torch.zeros(3, dtype=torch.float64))


def make_rule(**changes) -> StepRule:
    preprocess = Preprocess(Geometry(4, 4, (0.5,), (0.5,)))
    content = {"loss": cross_entropy, "schedule": lambda p: 1 - p, "total_steps": STEPS, "seed": 0, **changes}
    return StepRule(preprocess, **content)


def evaluate(state: State):
    network = state.judged.eval()
    with torch.no_grad():
        images = torch.linspace(-1, 1, 16 * SIZE).view(SIZE, 1, 4, 4)
        loss = float(network(images).square().mean())
    return {"val/loss": loss}, (loss, -loss)


def go(
    folder: Path, rule: StepRule, *, state=None, step=take_step, judge=evaluate, stop=lambda: 0, seconds=0.0, **more
):
    """Takes up a run in `folder`, where there is one, and trains to its end; the final state."""
    folder.mkdir(exist_ok=True)
    state = state or make_state()
    if list(folder.glob("step-*")):
        load_newest(folder, state)
    nothing = lambda *_: None  # noqa: E731
    outlet = Outlet(folder, nothing, nothing, stop, save_seconds=seconds, look_seconds=more.pop("look", 0.0), **more)
    train(state, Images(), rule, device=CPU, evaluate=judge, outlet=outlet, step=step)
    return state


def everything(folder: Path) -> dict[str, object]:
    """All that the last checkpoint and the best weights of a run hold, to be compared with `assert_same`."""
    tensors, about = read_checkpoint(max(folder.glob("step-*")))
    best = load_weights(folder / BEST)
    return {**tensors, **{f"best/{name}": tensor for name, tensor in best.items()}, "about": about}


def assert_same(left: dict[str, object], right: dict[str, object]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, right[name]), name
        else:
            assert value == right[name], name
