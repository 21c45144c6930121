"""What the training engine costs beside the network and the images: its share of a step of 5 ms.

    make bench BENCH=overhead

The same batches, preprocessing, network, loss and optimizer in the engine's loop and in a bare loop, in turns. The
network is next to nothing (one linear layer on the mean colour), so that what is left is the loops: the difference of
their medians, microseconds a step, is what the engine adds for the learning rate, for seeds that make a resume exact,
for the sums of the record, and for looking at the clock and for signals. The goal is less than 2% of 5 ms, 100
microseconds. The last line of stdout is one JSON object.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from linnaeus.core.batch import Batch
from linnaeus.core.classifier import Classifier
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.engine.loss import cross_entropy
from linnaeus.engine.step import State, StepRule
from linnaeus.engine.train import Outlet, train
from linnaeus.optim.groups import param_groups
from linnaeus.optim.optimizers import sgd
from linnaeus.optim.schedule import cosine

STEP = 5e-3
"""Seconds of the step whose share is stated."""
BATCH, SIZE = 8, 8
CPU = torch.device("cpu")


class MeanColour(Classifier):
    """One linear layer on the mean of the image: the least that can learn."""

    num_classes, in_channels, image_size = 10, 3, SIZE

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)
        self.blocks = nn.ModuleList()

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3)."""
        return images.mean((2, 3))


class SameBatch:
    """A loader that costs nothing."""

    def __init__(self, steps: int) -> None:
        self.num_images, self.num_batches = steps * BATCH, steps
        images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
        self.batch = Batch.of(images, torch.arange(BATCH) % 10, torch.arange(BATCH))

    def epoch(self, _: int, start: int = 0) -> Iterator[Batch]:
        """The same batch again and again."""
        return repeat(self.batch, self.num_batches - start)


def rule_of(steps: int) -> StepRule:
    """An ordinary rule."""
    preprocess = Preprocess(Geometry(SIZE, SIZE, (0.5,) * 3, (0.25,) * 3))
    loss, schedule = partial(cross_entropy, label_smoothing=0.1), partial(cosine, warmup=0.05)
    return StepRule(preprocess, loss, schedule, total_steps=steps, seed=0)


def made() -> tuple[MeanColour, torch.optim.Optimizer]:
    """A network and its optimizer."""
    model = MeanColour()
    optimizer = sgd(param_groups(model, 1e-4), lr=0.01)
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.01
    return model, optimizer


def by_engine(loader: SameBatch) -> float:
    """Seconds a step of the engine's loop; saving and evaluating, once an epoch, are not counted."""
    model, optimizer = made()
    state = State(model, optimizer, None, torch.zeros(3, dtype=torch.float64))
    end = 0.0

    def evaluate(_: State) -> tuple[dict[str, float], tuple[float, float]]:
        nonlocal end
        end = time.perf_counter()
        return {}, (0.0, 0.0)

    with tempfile.TemporaryDirectory() as folder:
        outlet = Outlet(Path(folder), record=lambda *_: None, show=lambda *_: None)
        start = time.perf_counter()
        train(state, loader, rule_of(loader.num_batches), device=CPU, evaluate=evaluate, outlet=outlet)
    return (end - start) / loader.num_batches


def by_hand(loader: SameBatch) -> float:
    """Seconds a step of a bare loop with the same parts."""
    model, optimizer = made()
    rule = rule_of(loader.num_batches)
    start = time.perf_counter()
    for batch in loader.epoch(0):
        logits = model(rule.preprocess(batch.images))
        (rule.loss(logits, batch.targets, batch.valid) / len(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - start) / loader.num_batches


def main() -> None:
    """Prints the difference, and its share of the step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loader = SameBatch(arguments.steps)
    times: dict[str, list[float]] = {"engine": [], "bare": []}
    for _ in range(arguments.rounds):
        times["engine"].append(by_engine(loader))
        times["bare"].append(by_hand(loader))
    middle = {name: median(values) for name, values in times.items()}
    added = middle["engine"] - middle["bare"]
    print(", ".join(f"{name} {1e6 * value:.0f} µs a step" for name, value in middle.items()))
    print(f"the engine adds {1e6 * added:.0f} µs: {added / STEP:.1%} of a step of {1000 * STEP:.0f} ms")
    seconds = {name: round(value, 7) for name, value in middle.items()}
    print(json.dumps({"torch": torch.__version__, "seconds_a_step": seconds, "share_of_5_ms": round(added / STEP, 4)}))


if __name__ == "__main__":
    main()
