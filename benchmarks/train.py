"""Training throughput, ours beside a plain PyTorch loop, in one process, in rounds, by median.

On folders of class folders of `make test-data`, 32-pixel images (CIFAR-10 as JPEG) and photos (hymenoptera):

- *network-bound*: ResNet-20 on CIFAR-10; the plain loop in fp32 with the images already decoded in memory, so that it
  loses nothing to its loader, against our engine with `--precision fp32` and with what autotune chooses;
- *loader-bound*: LeNet-5 at 32 pixels, on CIFAR-10 and on photos; `ImageFolder` + transforms +
  `DataLoader(num_workers=2)` + the same network, against our engine with the set in memory. The same network with its
  images ready is the limit of either. The one decoding of the set into memory is not counted; the plain side decodes
  every image in every epoch;
- *loaders alone*: the same two without a network.

The last line of stdout is one JSON object. Run it on a quiet machine: a foreign job on one core slows eager PyTorch
several times over, and both sides unevenly.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from linnaeus.app.build import make_rule, make_state
from linnaeus.app.config import Config, make_config
from linnaeus.app.images import Images
from linnaeus.app.prepare import Prepared, prepare
from linnaeus.app.progress import Display
from linnaeus.app.resolve import resolve
from linnaeus.core.batch import Batch
from linnaeus.engine.autotune import candidates, choose
from linnaeus.engine.step import take_step
from linnaeus.models import create_model

DEVICE = torch.device("cpu")
BATCH, LENET_BATCH = 128, 512
SETTLE_SECONDS = 2.0
"""A pause before each turn: workers of the side before go on until their queues are full, and would slow this one."""
Side = Callable[[int], float]
"""(steps) -> images a second."""
Rows = dict[str, dict[str, float]]
"""Side -> images a second, and the ratio to the first side."""


def ours(config: Config, prepared: Prepared, images: Images) -> Side:
    """Our engine with the whole set in memory."""
    loader = images.training()
    rule = make_rule(config, images.preprocess, loader, num_classes=len(prepared.classes), task=prepared.task)
    rule = replace(rule, total_steps=10**9)
    state = make_state(config, len(prepared.classes), DEVICE)
    state.model.train()
    batches = forever(loader.epoch)

    def work(steps: int) -> int:
        count = 0
        for batch in islice(batches, steps):
            take_step(state, batch, rule)
            count += len(batch)
        return count

    return lambda steps: rate(work, steps)


def plain(name: str, batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> Side:
    """The loop of the PyTorch tutorials: SGD with momentum, fp32, channels first."""
    model = create_model(name, num_classes=10, image_size=32).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)

    def work(steps: int) -> int:
        count = 0
        for images, targets in islice(batches, steps):
            optimizer.zero_grad()
            loss = loss_of(model(images), targets)
            loss.backward()
            optimizer.step()
            count += len(images)
        return count

    return lambda steps: rate(work, steps)


def nothing(batches: Iterator) -> Side:
    """The loader alone: each batch is taken and dropped."""

    def work(steps: int) -> int:
        return sum(len(batch if isinstance(batch, Batch) else batch[0]) for batch in islice(batches, steps))

    return lambda steps: rate(work, steps)


def image_folder(folder: Path, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """torchvision's way from JPEG files to batches of 32 pixels, with two workers."""
    steps = [
        v2.Resize(32),
        v2.CenterCrop(32),
        v2.RandomCrop(32, padding=4),
        v2.RandomHorizontalFlip(),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ]
    transforms = v2.Compose([*steps, v2.Normalize([0.49, 0.48, 0.45], [0.25, 0.24, 0.26])])
    once = ImageFolder(str(folder), transforms)  # Resize and CenterCrop hand on an image that has its size
    dataset = ConcatDataset([once] * -(-20_000 // len(once)))  # a long epoch: between two, the workers would idle
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=2, persistent_workers=True)
    while True:
        yield from loader


def in_memory(images: Images) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Our images, decoded, augmented and normalised beforehand: the plain loop has nothing to do but the network."""
    ready = [(images.preprocess(b.images).contiguous(), b.targets) for b in islice(images.training().epoch(0), 8)]
    while True:
        yield from ready


def forever(epoch: Callable[[int], Iterator]) -> Iterator:
    """The batches of all epochs."""
    number = 0
    while True:
        yield from epoch(number)
        number += 1


def rate(work: Callable[[int], int], steps: int) -> float:
    """Images a second of work that returns how many images it did."""
    start = time.perf_counter()
    count = work(steps)
    return count / (time.perf_counter() - start)


def settle(data: str, model: str, **train: object) -> tuple[Config, Prepared]:
    """The complete configuration and the images of a run at 32 pixels."""
    content = {"data": {"source": data, "loader": "memory"}, "model": {"name": model, "image_size": 32}}
    config = make_config({**content, "train": {"batch_size": BATCH, "channels_last": False, **train}})
    prepared = prepare(config.data, seed=0, display=Display(quiet=True))
    return resolve(config, prepared), prepared


def tuned(config: Config, prepared: Prepared, images: Images) -> Config:
    """The configuration with what autotune measures to be fastest."""
    loader = images.training()
    batch = next(iter(loader.epoch(0)))
    model = make_state(config, len(prepared.classes), DEVICE).model
    rule = make_rule(config, images.preprocess, loader, num_classes=len(prepared.classes), task=prepared.task)
    best = choose(model, batch, rule, candidates(DEVICE, None, None)).way
    return config.replace(train={"precision": best.precision, "channels_last": best.channels_last})


def compare(sides: dict[str, Side], *, steps: int, rounds: int) -> Rows:
    """Median images a second of each side, and its median ratio to the first side in the same round."""
    for run in sides.values():
        run(max(2, steps // 5))  # warm-up
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            time.sleep(SETTLE_SECONDS)
            rates[name].append(sides[name](steps))
    first = next(iter(rates.values()))
    return {
        name: {
            "images_per_second": round(median(values), 1),
            "ratio": round(median(v / f for v, f in zip(values, first, strict=True)), 2),
        }
        for name, values in rates.items()
    }


def network_bound(folder: Path, network: str, rounds: int) -> Rows:
    """ResNet-20 or another network: the plain loop, our engine in fp32, and our engine as autotune sets it."""
    config, prepared = settle(str(folder), network, precision="fp32")
    images = Images(config, prepared, Display(quiet=True))
    best = tuned(config, prepared, images)
    sides = {
        "plain loop, fp32": plain(network, in_memory(images)),
        "linnaeus, fp32": ours(config, prepared, images),
        f"linnaeus, autotuned: {way(best)}": ours(best, prepared, images),
    }
    return compare(sides, steps=12, rounds=rounds)


def loader_bound(folder: Path, rounds: int, batch_size: int) -> Rows:
    """LeNet-5 on files, on the set in memory, and on batches that are ready."""
    config, prepared, images = small(folder, batch_size)
    best = tuned(config, prepared, images)
    sides = {
        "ImageFolder + DataLoader(num_workers=2)": plain("lenet5", image_folder(folder / "train", batch_size)),
        f"linnaeus, in memory: {way(best)}": ours(best, prepared, images),
        "plain loop, fp32, images ready: the limit": plain("lenet5", in_memory(images)),
    }
    return compare(sides, steps=40, rounds=rounds)


def loaders(folder: Path, rounds: int) -> Rows:
    """The loaders of `loader_bound` without a network."""
    _, _, images = small(folder, LENET_BATCH)
    sides = {
        "ImageFolder + DataLoader(num_workers=2)": nothing(image_folder(folder / "train", LENET_BATCH)),
        "linnaeus, in memory": nothing(forever(images.training().epoch)),
    }
    return compare(sides, steps=40, rounds=rounds)


def small(folder: Path, batch_size: int) -> tuple[Config, Prepared, Images]:
    """A folder of images at LeNet's 32 pixels, in memory."""
    config, prepared = settle(str(folder), "lenet5", batch_size=batch_size)
    return config, prepared, Images(config, prepared, Display(quiet=True))


def way(config: Config) -> str:
    """How the network is computed, in words."""
    return f"{config.train.precision}{', channels last' if config.train.channels_last else ''}"


def main() -> None:
    """Runs all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--network", default="resnet20", help="the network of the first comparison")
    arguments = parser.parse_args()
    root = os.environ.get("LINNAEUS_TEST_DATA")
    folder = Path(root or "") / "cifar10-jpeg"
    if root is None or not folder.is_dir():
        raise SystemExit("the benchmark needs LINNAEUS_TEST_DATA/cifar10-jpeg: run `make test-data`")

    rounds = arguments.rounds
    results = {
        f"{arguments.network} on CIFAR-10 (JPEG), batch {BATCH}": network_bound(folder, arguments.network, rounds),
        f"lenet5 on CIFAR-10 (JPEG), batch {LENET_BATCH}": loader_bound(folder, rounds, LENET_BATCH),
        f"loaders alone, CIFAR-10 (JPEG), batch {LENET_BATCH}": loaders(folder, rounds),
    }
    if (photos := Path(root) / "hymenoptera").is_dir():
        results[f"lenet5 on photos (hymenoptera), batch {BATCH}"] = loader_bound(photos, rounds, BATCH)
    for title, rows in results.items():
        print(f"\n{title}, median of {rounds} rounds")
        for name, row in rows.items():
            print(f"  {name:<42} {row['images_per_second']:>10,.0f} images/s  {row['ratio']:>6.2f}x")
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "platform": platform.machine()}
    print(json.dumps({"machine": machine, "results": results}))


if __name__ == "__main__":
    main()
