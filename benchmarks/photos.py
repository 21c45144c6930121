"""Time to a good classifier on few photos: the recipes `probe` and `finetune` beside other ways from the same weights.

All sides have EfficientNet-Lite0 with the same ImageNet weights and a new head, the same training and test images, and
the same number of threads, each run in a process of its own, in turns. The time is that of the whole process, from its
start to the score. What each side does:

    probe, finetune   `linnaeus train`, which checks the images, carves val from train, and writes a run
    timm              timm's train.py at its defaults, by its public API: its loader, optimizer and schedule, 4 epochs
    timm-fast         the same in channels last, and in bfloat16 where the processor computes in it
    torch             torchvision's transforms and ImageFolder, AdamW and a cosine, 4 epochs; channels last

The peers train on all images that are not test, the recipes on those without val. Accuracies are compared by a paired
bootstrap over test images, of the mean over seeds.

    make bench BENCH=photos                                    # two data sets, five seeds
    make bench BENCH=photos ARGS="--seeds 1 --data flowers5"
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import nn

RECIPES = ("probe", "finetune")
PEERS = ("timm", "timm-fast", "torch")
EPOCHS, SIZE = 4, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESAMPLES = 10_000


def main() -> None:
    """Prints a table a data set, and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["hymenoptera", "flowers5"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sides", nargs="+", default=[*RECIPES, *PEERS], choices=[*RECIPES, *PEERS])
    parser.add_argument("--peer", nargs=3, metavar=("SIDE", "FOLDER", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peer:
        side, folder, seed = given.peer
        print(json.dumps(run_peer(side, Path(folder), int(seed))))
        return
    found = {name: compare(name, given.sides, given.seeds) for name in given.data}
    print(json.dumps(found))


def compare(name: str, sides: list[str], seeds: int) -> dict[str, Any]:
    """Runs all sides on one data set and prints them."""
    photos = Path(os.environ.get("LINNAEUS_TEST_DATA", "")) / name
    if not photos.is_dir():
        raise SystemExit(f"this needs LINNAEUS_TEST_DATA/{name}: run `make test-data`")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    right: dict[str, list[dict[str, bool]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as scratch:
        folder = lay_out(photos, Path(scratch) / "photos")
        for seed in range(seeds):
            for side in sides:
                began = time.perf_counter()
                answers = (run_recipe if side in RECIPES else start_peer)(side, folder, seed)
                seconds[side].append(answers.pop("seconds", time.perf_counter() - began))
                right[side].append(answers["right"])
    print(f"\n{name}: {len(next(iter(right.values()))[0])} test images, {seeds} seed(s), {os.cpu_count()} cores")
    result = {side: summary(seconds[side], right[side]) for side in sides}
    peers = [side for side in sides if side in PEERS]
    best = max(peers, key=lambda side: result[side]["accuracy"], default=None)
    for side in sides:
        line = (
            f"{side:<10} {result[side]['accuracy']:.1%} ± {result[side]['std']:.1%}   {result[side]['seconds']:.0f} s"
        )
        if best and side in RECIPES:
            low, high = bootstrap(right[side], right[best])
            result[side] |= {"peer": best, "gain": [low, high]}
            share = result[side]["seconds"] / result[best]["seconds"]
            line += f"   against {best}: {low:+.1%} to {high:+.1%} (95%), {share:.2f} of its time"
        print(line)
    return result


def lay_out(photos: Path, folder: Path) -> Path:
    """Links to the photos as train/ and test/: the given val/ as the test, or the test that `linnaeus train` carves."""
    roles = {}
    if (photos / "val").is_dir():
        roles = {path: {"train": "train", "val": "test"}[path.parts[-3]] for path in sorted(photos.glob("*/*/*"))}
    else:
        from linnaeus.app.config import make_config
        from linnaeus.app.prepare import prepare
        from linnaeus.app.progress import Display

        config = make_config({"data": {"source": str(photos)}})
        prepared = prepare(config.data, seed=0, display=Display(quiet=True))
        for index, role in enumerate(prepared.split.roles.tolist()):
            if role:
                roles[photos / prepared.source.name(index)] = "test" if role == "test" else "train"
    for path, role in roles.items():
        place = folder / role / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path)
    return folder


def run_recipe(side: str, folder: Path, seed: int) -> dict[str, Any]:
    """Trains by a recipe; the seconds that took, and then, not timed, which test images are right."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        words = [sys.executable, "-m", "linnaeus", "train", folder, "--recipe", side, "--seed", seed, "--out", out]
        began = time.perf_counter()
        subprocess.run([*map(str, words)], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        words = [sys.executable, "-m", "linnaeus", "predict", out, folder / "test", "--format", "csv"]
        said = subprocess.run([*map(str, words)], check=True, capture_output=True, text=True).stdout
    rows = csv.DictReader(said.splitlines())
    return {
        "seconds": seconds,
        "right": {Path(row["image"]).name: row["label"] == Path(row["image"]).parts[-2] for row in rows},
    }


def start_peer(side: str, folder: Path, seed: int) -> dict[str, Any]:
    """A peer in a process of its own."""
    words = [sys.executable, __file__, "--peer", side, str(folder), str(seed)]
    answers: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return answers


def run_peer(side: str, folder: Path, seed: int) -> dict[str, Any]:
    """Which test images are right after training."""
    torch.manual_seed(seed)
    right = train_torch(folder) if side == "torch" else train_timm(folder, fast=side == "timm-fast")
    names = [path.name for path in sorted((folder / "test").glob("*/*"))]
    return {"right": dict(zip(names, right, strict=True))}


def network(folder: Path) -> nn.Module:
    """EfficientNet-Lite0 with its weights, and a new head for the classes of the folder."""
    from linnaeus.models import create_model

    return create_model("efficientnet_lite0", num_classes=len(list((folder / "train").iterdir())), pretrained=True)


def train_timm(folder: Path, *, fast: bool) -> list[bool]:
    """As timm's train.py with its defaults of 2026-11 (timm 1.0.31), but for the number of epochs."""
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    from linnaeus.core.device import autocast, has_bf16

    cpu = torch.device("cpu")
    precision = "bf16" if fast and has_bf16(cpu) else "fp32"
    layout = torch.channels_last if fast else torch.contiguous_format
    common = {"input_size": (3, SIZE, SIZE), "mean": MEAN, "std": STD, "use_prefetcher": False, "device": cpu}
    common |= {"num_workers": 2, "interpolation": "bicubic", "crop_pct": 0.875}
    training, testing = (create_dataset("", root=str(folder / role)) for role in ("train", "test"))
    loader = create_loader(training, batch_size=128, is_training=True, color_jitter=0.4, **common)
    model = network(folder).to(memory_format=layout)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1 * 128 / 256, weight_decay=2e-5, momentum=0.9)
    schedule, epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=EPOCHS, warmup_epochs=5, warmup_lr=1e-5, min_lr=0.0
    )
    loss_of = LabelSmoothingCrossEntropy(0.1)
    for epoch in range(epochs):
        model.train()
        for images, targets in loader:
            with autocast(cpu, precision):
                logits = model(images.to(memory_format=layout))
            optimizer.zero_grad()
            loss_of(logits.float(), targets).backward()
            optimizer.step()
        schedule.step(epoch + 1)
    return correct(model, create_loader(testing, batch_size=128, is_training=False, **common), layout)


def train_torch(folder: Path) -> list[bool]:
    """A plain loop: torchvision's usual transforms, AdamW at 3e-4 with a cosine, batches of 32."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    normalise = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    augment = transforms.Compose([transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), *normalise])
    centre = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(SIZE), *normalise])
    training = datasets.ImageFolder(str(folder / "train"), augment)
    loader = DataLoader(training, batch_size=32, shuffle=True, num_workers=2)
    model = network(folder).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    for _ in range(EPOCHS):
        model.train()
        for images, targets in loader:
            loss = nn.functional.cross_entropy(model(images.to(memory_format=torch.channels_last)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    testing = DataLoader(datasets.ImageFolder(str(folder / "test"), centre), batch_size=64, num_workers=2)
    return correct(model, testing, torch.channels_last)


@torch.inference_mode()
def correct(model: nn.Module, loader: Any, layout: torch.memory_format) -> list[bool]:
    """Which images are right, in the order of the loader."""
    model.eval()
    parts = [model(images.to(memory_format=layout)).argmax(1) == targets for images, targets in loader]
    found: list[bool] = torch.cat(parts).tolist()
    return found


def summary(seconds: list[float], right: list[dict[str, bool]]) -> dict[str, Any]:
    """Mean and std of the accuracy over seeds, and the mean time."""
    accuracies = [mean(answers.values()) for answers in right]
    spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
    return {"accuracy": mean(accuracies), "std": spread, "seconds": mean(seconds), "accuracies": accuracies}


def bootstrap(ours: list[dict[str, bool]], theirs: list[dict[str, bool]]) -> tuple[float, float]:
    """95% interval of the gain in accuracy: test images drawn again, the same on both sides, all seeds with them."""
    names = sorted(ours[0])
    gains = np.mean([[o[n] - t[n] for n in names] for o, t in zip(ours, theirs, strict=True)], axis=0)
    picks = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    low, high = np.quantile(gains[picks].mean(1), [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
