"""Training throughput, ours beside a plain PyTorch loop, timm's and fastai's, in one process, in rounds, by median.

    make bench ARGS="--only photos --networks resnet18 --rounds 3"

On folders of class folders of `make test-data`, 32-pixel images (CIFAR-10 as JPEG) and photos (hymenoptera):

- *photos*: ResNet-18, ConvNeXt-T and ViT-S at 224 pixels from JPEG files, random resized crops and mirroring. The goal,
  with bfloat16, is 2.2 times the images/s of the peers' defaults for the first and 1.6 times for the others, and never
  below their best flags;
- *small*: LeNet-5 and ResNet-20 on CIFAR-10, ours with the set in memory; the goal is 10 and 2 times the best peer. The
  same network with its images ready, in a plain loop in fp32, is a limit that no loader passes. The one decoding of the
  set into memory is not counted; the peers decode every image in every epoch;
- *loaders*: ours and the plain one without a network.

Peers (`peers.py`) run at their defaults and at their best flags; ours runs as autotune sets it, and compiled with
`--compiled`, as their best flags then do. Ratios are to the fastest peer with the same kind of flags, by round.
A turn starts with the few batches that workers have ready: take at least 12 steps. The last line of stdout is one JSON
object. Run it on a quiet machine: a foreign job on one core slows eager PyTorch several times over.
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
from peers import CPU, MIN_AREA, Side, Task, image_folder, installed, plain

from linnaeus.app.build import make_rule, make_state
from linnaeus.app.config import Config, make_config
from linnaeus.app.images import Images
from linnaeus.app.prepare import Prepared, prepare
from linnaeus.app.progress import Display
from linnaeus.app.resolve import resolve
from linnaeus.core.batch import Batch
from linnaeus.engine.autotune import candidates, choose
from linnaeus.engine.guard import compile_in_place
from linnaeus.engine.step import take_step

PHOTO_NETWORKS, SMALL_NETWORKS = ("resnet18", "convnext_tiny", "vit_small"), ("lenet5", "resnet20")
PHOTO_BATCH, BATCH, LENET_BATCH = 32, 128, 512
DEFAULTS, BEST = "defaults", "best flags"
SETTLE_SECONDS = 2.0
"""A pause before each turn: workers of the side before go on until their queues are full, and would slow this one."""
Rows = dict[str, dict[str, float]]
"""Side -> images a second, and in ours the ratios to peers."""


def ours(config: Config, prepared: Prepared, images: Images) -> Side:
    """Our engine as the configuration has it."""
    loader = images.training()
    rule = make_rule(config, images.preprocess, loader, num_classes=len(prepared.classes), task=prepared.task)
    rule = replace(rule, total_steps=10**9)
    state = make_state(config, len(prepared.classes), CPU)
    state.model.train()
    if config.train.compile:
        compile_in_place(state.model)
    batches = forever(loader.epoch)

    def work(steps: int) -> int:
        count = 0
        for batch in islice(batches, steps):
            take_step(state, batch, rule)
            count += len(batch)
        return count

    return lambda steps: rate(work, steps)


def nothing(batches: Iterator) -> Side:
    """The loader alone: each batch is taken and dropped."""

    def work(steps: int) -> int:
        return sum(len(batch if isinstance(batch, Batch) else batch[0]) for batch in islice(batches, steps))

    return lambda steps: rate(work, steps)


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


def settle(folder: Path, network: str, size: int, batch_size: int) -> tuple[Config, Prepared, Images]:
    """A run of ours on a folder of class folders: small images in memory, photos from files."""
    content = {
        "data": {"source": str(folder), "loader": "memory" if size == 32 else "files"},
        "model": {"name": network, "image_size": size},
        "augment": {"min_area": MIN_AREA},
        "train": {"batch_size": batch_size, "channels_last": False, "precision": "fp32"},
    }
    config, display = make_config(content), Display(quiet=True)
    prepared = prepare(config.data, seed=0, display=display)
    config = resolve(config, prepared)
    return config, prepared, Images(config, prepared, display)


def tuned(config: Config, prepared: Prepared, images: Images, *, compiled: bool) -> Config:
    """The configuration with what autotune measures to be fastest."""
    loader = images.training()
    batch = next(iter(loader.epoch(0)))
    model = make_state(config, len(prepared.classes), CPU).model
    rule = make_rule(config, images.preprocess, loader, num_classes=len(prepared.classes), task=prepared.task)
    best = choose(model, batch, rule, candidates(CPU, None, None)).way
    return config.replace(train={"precision": best.precision, "channels_last": best.channels_last, "compile": compiled})


def compare(sides: dict[str, Side], *, steps: int, rounds: int) -> Rows:
    """Median images a second of each side, and our median ratio to the fastest peer with each kind of flags."""
    for run in sides.values():
        run(max(2, steps // 5))  # warm-up
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            time.sleep(SETTLE_SECONDS)
            rates[name].append(sides[name](steps))
    rows: Rows = {name: {"images_per_second": round(median(values), 1)} for name, values in rates.items()}
    own = next(name for name in sides if name.startswith("linnaeus"))
    for flags in (DEFAULTS, BEST):
        peers = [name for name in sides if name.endswith(flags)]
        if peers:
            fastest = max(peers, key=lambda name: median(rates[name]))
            ratio = median(o / p for o, p in zip(rates[own], rates[fastest], strict=True))
            rows[own][f"times {fastest}"] = round(ratio, 2)
    return rows


def networks(folder: Path, task: Task, *, steps: int, rounds: int) -> Rows:
    """One network: every peer twice, ours as autotuned, and the limit where images are in memory."""
    config, prepared, images = settle(folder, task.network, task.size, task.batch_size)
    best = tuned(config, prepared, images, compiled=task.compiled)
    way = f"{best.train.precision}{', channels last' if best.train.channels_last else ''}"
    sides: dict[str, Side] = {f"linnaeus, {way}{', compiled' if task.compiled else ''}": ours(best, prepared, images)}
    for name, make in installed().items():
        sides[f"{name}, {DEFAULTS}"] = make(task)
        sides[f"{name}, {BEST}"] = make(replace(task, best=True))
    if task.size == 32:
        sides["plain loop, images ready: the limit in fp32"] = plain(task, in_memory(images))
    return compare(sides, steps=steps, rounds=rounds)


def loaders(folder: Path, *, steps: int, rounds: int) -> Rows:
    """Loaders of 32-pixel images without a network."""
    _, _, images = settle(folder, "lenet5", 32, LENET_BATCH)
    sides = {
        "linnaeus, in memory": nothing(forever(images.training().epoch)),
        f"ImageFolder + DataLoader, {DEFAULTS}": nothing(
            image_folder(Task("lenet5", folder / "train", 32, LENET_BATCH))
        ),
    }
    return compare(sides, steps=steps, rounds=rounds)


def main() -> None:
    """Runs the comparisons that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["photos", "small", "loaders"], help="one of the three comparisons")
    parser.add_argument("--networks", nargs="+", default=list(PHOTO_NETWORKS + SMALL_NETWORKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="of one turn of one side")
    parser.add_argument("--compiled", action="store_true", help="ours, and the peers at their best flags")
    arguments = parser.parse_args()
    root = Path(os.environ.get("LINNAEUS_TEST_DATA", ""))
    cifar, photos = root / "cifar10-jpeg", root / "hymenoptera"
    if not (cifar.is_dir() and photos.is_dir()):
        raise SystemExit("this needs LINNAEUS_TEST_DATA with cifar10-jpeg and hymenoptera: run `make test-data`")
    kinds = [arguments.only] if arguments.only else ["photos", "small", "loaders"]
    often = {"steps": arguments.steps, "rounds": arguments.rounds}
    results = {}
    for name in arguments.networks:
        kind, folder, size = ("small", cifar, 32) if name in SMALL_NETWORKS else ("photos", photos, 224)
        batch = PHOTO_BATCH if size == 224 else LENET_BATCH if name == "lenet5" else BATCH
        if kind in kinds:
            task = Task(name, folder / "train", size, batch, compiled=arguments.compiled)
            results[f"{name} at {size} pixels, batch {batch}"] = networks(folder, task, **often)
    if "loaders" in kinds:
        results[f"loaders alone, CIFAR-10 (JPEG), batch {LENET_BATCH}"] = loaders(cifar, **often)
    for title, rows in results.items():
        print(f"\n{title}, median of {arguments.rounds} rounds")
        for name, row in rows.items():
            ratios = "".join(f"  {value:.2f} {key}" for key, value in row.items() if key.startswith("times"))
            print(f"  {name:<46} {row['images_per_second']:>10,.0f} images/s{ratios}")
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "platform": platform.machine()}
    print(json.dumps({"machine": machine, "results": results}))


if __name__ == "__main__":
    main()
