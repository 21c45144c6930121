"""The recipe `cifar-speedrun` beside the published airbench94, in turns, over seeds, on CIFAR-10 as JPEG.

    make bench BENCH=speedrun                                       # hours on 2 cores; may be stopped and started again
    make bench BENCH=speedrun ARGS="--images 2000 --epochs 2"       # a small trial, which says nothing of the method

The published method is that of `airbench.py`, in plain PyTorch: SGD with Lookahead for 9.9 epochs as in the paper, or
Muon for 8 as in the author's later record. Both sides train and test on the same files. The published one computes in
bfloat16 where the device does; ours is the command that a person would give, which finds that out. The clock of the
published side runs from images in memory to the accuracy on test, with its six views of each image. Ours runs from the
command to the finished model: it reads the images, measures what is fastest, validates in every epoch, saves, tests;
and it learns from 2% fewer images, which are its validation set. Not counted is the audit of the files, once for all.

A finished run is a line of a file, and is not run again. The last line of stdout is one JSON object. The mean ratio of
times has a 95% interval by Student's t on its logarithms, a pair for each seed.
"""

import argparse
import csv
import json
import math
import os
import random
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from airbench import EPOCHS, Images, run
from PIL import Image

from linnaeus.app.prepare import prepare
from linnaeus.app.progress import Display
from linnaeus.app.recipes import cifar_speedrun
from linnaeus.app.train import train
from linnaeus.core.device import describe, has_bf16, pick
from linnaeus.deploy.bundle import load_bundle

OURS = "linnaeus"
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Half of a 95% interval in standard errors of a mean, by the number of values."""
Line = dict[str, Any]
"""One finished run."""


def write_table(root: Path, to: Path, images: int | None, seed: int = 0) -> int:
    """Names the files of both sides, as many of each class, and a fifth as many for test; the number for training."""
    draw, count = random.Random(seed), 0
    with to.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for split, share in (("train", 10), ("test", 50)):
            for folder in sorted(path for path in (root / split).iterdir() if path.is_dir()):
                paths = sorted(folder.iterdir())
                chosen = paths if images is None else draw.sample(paths, min(len(paths), images // share))
                rows.writerows([path, folder.name, split] for path in chosen)
                count += len(chosen) if split == "train" else 0
    return count


def read_images(table: Path, split: str, device: torch.device) -> Images:
    """The images of one split, decoded."""
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    classes = sorted({row["label"] for row in rows})
    pixels = np.stack([np.asarray(Image.open(row["path"]).convert("RGB")) for row in rows])
    labels = torch.tensor([classes.index(row["label"]) for row in rows])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device), labels.to(device))


def published(train_set: Images, test_set: Images, optimizer: str, epochs: float, seed: int) -> Line:
    """One run of the published method."""
    bf16 = has_bf16(train_set.pixels.device)
    outcome = run(train_set, test_set, optimizer=optimizer, epochs=epochs, seed=seed, bf16=bf16)
    plain, seconds = outcome.accuracy_plain, outcome.seconds
    return {"accuracy": outcome.accuracy, "accuracy_plain": plain, "seconds": seconds, "bf16": bf16}


def ours(table: Path, duration: str | None, seed: int) -> Line:
    """One run of the recipe."""
    config = cifar_speedrun(str(table))
    config = config.replace(train={"seed": seed, **({"duration": duration} if duration else {})})
    prepare(config.data, seed=seed, display=Display(quiet=True))  # the audit is remembered
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        made = train(config, out=Path(folder, "run"), display=Display(quiet=True))
        seconds = time.perf_counter() - start
        chosen, about = made.read_config().train, load_bundle(made.model).about
        way = {"bf16": chosen.precision == "bf16", "compile": bool(chosen.compile)}
    return {"accuracy": about["metrics"]["top1"]["value"], "seconds": seconds, **way}


def finished(path: Path) -> list[Line]:
    """The runs that the file holds; a line that was cut short is none."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines():
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def run_all(table: Path, arguments: argparse.Namespace, setting: Line) -> list[Line]:
    """Every side with every seed, in turns, but for what the file holds already; the lines of this setting."""
    device = pick("auto")
    train_set, test_set = (read_images(table, split, device) for split in ("train", "test"))
    done = [line for line in finished(arguments.out) if {key: line.get(key) for key in setting} == setting]
    for seed in range(arguments.seeds):
        turn = seed % (len(arguments.against) + 1)
        sides = [*arguments.against, OURS]
        for side in sides[turn:] + sides[:turn]:
            if any((line["side"], line["seed"]) == (side, seed) for line in done):
                continue
            if side == OURS:
                result = ours(table, f"{arguments.epochs}ep" if arguments.epochs else None, seed)
            else:
                result = published(train_set, test_set, side, arguments.epochs or EPOCHS[side], seed)
            line = {"side": side, "seed": seed, **result, **setting}
            with arguments.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name_of(side)}, seed {seed}: {result['accuracy']:.2%} in {result['seconds']:,.0f} s", flush=True)
            done.append(line)
    return [line for line in done if line["seed"] < arguments.seeds]


def name_of(side: str) -> str:
    """The side in words."""
    return side if side == OURS else f"airbench94, {side}"


def report(lines: list[Line], against: list[str]) -> Line:
    """Prints mean and deviation of each side, and our time over theirs; returns the same."""
    found: Line = {}
    for side in [*against, OURS]:
        own = [line for line in lines if line["side"] == side]
        scores, seconds = ([line[key] for line in own] for key in ("accuracy", "seconds"))
        spread = f" ± {stdev(scores):.2%}" if len(own) > 1 else ""
        print(f"{name_of(side):<18} {mean(scores):.2%}{spread}, {mean(seconds):,.0f} s, n = {len(own)}")
        found[side] = {"accuracy": mean(scores), "seconds": mean(seconds), "n": len(own)}
    mine = {line["seed"]: line for line in lines if line["side"] == OURS}
    for side in against:
        pairs = [(mine[line["seed"]], line) for line in lines if line["side"] == side]
        ratio, low, high = mean_ratio([a["seconds"] / b["seconds"] for a, b in pairs])
        gain = mean(a["accuracy"] - b["accuracy"] for a, b in pairs)
        print(f"against {name_of(side)}: {ratio:.2f} of its time ({low:.2f} to {high:.2f}), accuracy {gain:+.2%}")
        found[side] |= {"ratio": ratio, "low": low, "high": high, "gain": gain}
    return found


def mean_ratio(ratios: list[float]) -> tuple[float, float, float]:
    """The geometric mean and the ends of its 95% interval, which without a second run are infinitely far apart."""
    logs = [math.log(ratio) for ratio in ratios]
    middle = mean(logs)
    half = T_95[len(logs)] * stdev(logs) / len(logs) ** 0.5 if len(logs) > 1 else math.inf
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def main() -> None:
    """Runs what is missing, and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, max(T_95) + 1), metavar="1..10")
    parser.add_argument("--epochs", type=float, help="of every side, for a trial; by default each side's own")
    parser.add_argument("--images", type=int, help="to train on, for a trial; by default all 50,000")
    parser.add_argument("--against", nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--out", type=Path, default=Path("speedrun.jsonl"), help="one finished run a line")
    arguments = parser.parse_args()
    root = Path(os.environ.get("LINNAEUS_TEST_DATA", "")) / "cifar10-jpeg"
    if not root.is_dir():
        raise SystemExit("the benchmark needs LINNAEUS_TEST_DATA/cifar10-jpeg: run `make test-data`")
    if arguments.images is not None and arguments.images < 500:
        raise SystemExit(f"--images is {arguments.images}: expected at least 500, 50 of each class")
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "images.csv")
        count = write_table(root, table, arguments.images)
        machine = {"device": describe(pick("auto")), "torch": torch.__version__}
        setting = {"images": count, "epochs": arguments.epochs, **machine}
        lines = run_all(table, arguments, setting)
    print(json.dumps({"setting": setting, "sides": report(lines, arguments.against)}))


if __name__ == "__main__":
    main()
