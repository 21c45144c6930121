"""Images a second of loaders alone, ours beside torchvision's, timm's and fastai's, in one run, in rounds, by median.

    make bench BENCH=loader ARGS="--rounds 7"

- *photos*: JPEG files like ImageNet's, a random resized crop of 35% to 100% of the area to 224 pixels, mirrored half of
  the time. Ours without a cache, in the first epoch, which fills a new cache, and in the later ones; each with and
  without `linnaeus[fast-data]`. The audit, which reads every image once before training, is not counted.
- *32 pixels*: CIFAR-10 as JPEG. Ours keeps the set decoded in memory, shifts and mirrors it; decoding it once is not
  counted. torchvision decodes, shifts and mirrors in every epoch, timm decodes, and fastai decodes and mirrors.

Ours is what a training run uses, built as it is there. Every side hands over shuffled batches of uint8, or with
`--output float32` normalised ones, as a network takes them. With `--workers 0` all is done in one process and one
thread: images a second of one core. A ratio is the median over the rounds of our rate and the rate of the fastest peer,
the one with the highest median. A side whose package is missing is left out, with a line. The last line of stdout is
one JSON object. Run it on a quiet machine.
"""

import argparse
import importlib.util
import io
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from linnaeus.app.config import make_config
from linnaeus.app.images import Images
from linnaeus.app.prepare import prepare
from linnaeus.app.progress import Display
from linnaeus.app.resolve import resolve
from linnaeus.core.files import user_cache
from linnaeus.data.fast import DecoderName, FastPath, best_decoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MIN_AREA = 0.35
SETTLE_SECONDS = 1.0
"""A pause before each turn: workers of the side before go on until their queues are full, and would slow this one."""
PEERS = ("torchvision", "timm", "fastai")
Epoch = Callable[[int], Iterable[Any]]
"""Number of the epoch -> its batches: a tensor of images, or a tuple that starts with one."""
IMAGENET_PIXELS, IMAGENET_QUALITY = 470 * 390, 98
CACHE_GIB = 8
CLASSES = 10


@dataclass(frozen=True)
class Settings:
    """What all sides have in common.

    Attributes:
        output: "uint8" or "float32".
    """

    folder: Path
    size: int
    batch_size: int
    workers: int
    output: str

    @property
    def loader(self) -> dict[str, Any]:
        """Keywords of PyTorch's `DataLoader`."""
        return {"batch_size": self.batch_size, "num_workers": self.workers, "persistent_workers": self.workers > 0}


def torchvision_side(settings: Settings) -> Epoch:
    """`ImageFolder`, transforms v2 and `DataLoader`, as the references of torchvision have it."""
    if settings.size == 32:
        steps: list[torch.nn.Module] = [v2.RandomCrop(32, padding=4)]
    else:
        steps = [v2.RandomResizedCrop(settings.size, scale=(MIN_AREA, 1), antialias=True)]
    steps += [v2.RandomHorizontalFlip(), v2.ToImage()]
    if settings.output == "float32":
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    loader = DataLoader(ImageFolder(str(settings.folder), v2.Compose(steps)), shuffle=True, **settings.loader)
    return lambda _: loader


def timm_side(settings: Settings) -> Epoch:
    """`create_loader` with its own collation, which hands over uint8 and normalises afterwards."""
    from timm.data import ImageDataset, create_loader

    loader = create_loader(
        ImageDataset(str(settings.folder)),
        input_size=(3, settings.size, settings.size),
        is_training=True,
        no_aug=settings.size == 32,
        scale=(MIN_AREA, 1),
        color_jitter=None,
        interpolation="bilinear",
        device=torch.device("cpu"),
        batch_size=settings.batch_size,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
    )
    return lambda _: loader if settings.output == "float32" else loader.loader


def fastai_side(settings: Settings) -> Epoch:
    """A `DataBlock` whose transforms work on items, which is fastest on a CPU."""
    from fastai.vision.all import (
        CategoryBlock,
        DataBlock,
        FlipItem,
        IntToFloatTensor,
        Normalize,
        PILImage,
        RandomResizedCrop,
        ToTensor,
        TransformBlock,
        get_image_files,
        imagenet_stats,
        parent_label,
    )

    crop = [] if settings.size == 32 else [RandomResizedCrop(settings.size, min_scale=MIN_AREA)]
    floats = [IntToFloatTensor(), Normalize.from_stats(*imagenet_stats, cuda=False)]
    block = DataBlock(
        (TransformBlock(PILImage.create), CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=lambda items: (range(len(items)), []),
        item_tfms=[*crop, FlipItem(), ToTensor()],
        batch_tfms=floats if settings.output == "float32" else None,
    )
    loaders = block.dataloaders(
        settings.folder,
        bs=settings.batch_size,
        num_workers=settings.workers,
        device=torch.device("cpu"),
        drop_last=False,
    )
    return lambda _: loaders.train


class Ours:
    """Our loaders of one folder, as a run has them.

    The images are in one folder a class, with enough in each to carve val and test; all are trained on here.
    """

    def __init__(self, settings: Settings, **data: object) -> None:
        """`data`: further settings of `DataConfig`."""
        self.settings, display = settings, Display(quiet=True)
        content = {
            "data": {"source": str(settings.folder), "workers": settings.workers, **data},
            "model": {"name": "lenet5" if settings.size == 32 else "resnet18", "image_size": settings.size},
            "augment": {"min_area": MIN_AREA},
            "train": {"batch_size": settings.batch_size},
        }
        config = make_config(content)
        prepared = prepare(config.data, seed=0, display=display)
        prepared.split.roles[:] = "train"
        self.images = Images(resolve(config, prepared), prepared, display)

    def epochs(self) -> Epoch:
        """Every turn is one more epoch of one run."""
        loader = self.images.training()
        return self._normalised(lambda number: (batch.images for batch in loader.epoch(number)))

    def _normalised(self, epoch: Epoch) -> Epoch:
        """The same batches, made what the network takes where that is asked for."""
        return (
            (lambda number: map(self.images.preprocess, epoch(number))) if self.settings.output == "float32" else epoch
        )


def first_epoch(settings: Settings, decoder: DecoderName) -> Epoch:
    """Every turn is the first epoch of a new run, which fills a cache of its own."""

    def epoch(number: int) -> Iterable[Tensor]:
        shutil.rmtree(user_cache("images"), ignore_errors=True)  # sides that have one open keep it
        return Ours(settings, decoder=decoder, cache_gib=CACHE_GIB).epochs()(number)

    return epoch


def peers(settings: Settings) -> dict[str, Epoch]:
    """The sides that are not ours, as far as they are installed."""
    makers = {"torchvision": torchvision_side, "timm": timm_side, "fastai": fastai_side}
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    for name in missing:
        print(f"{name} is left out: it is not installed")
    return {name: make(settings) for name, make in makers.items() if name not in missing}


def decoders() -> list[DecoderName]:
    """Pillow, and the fast one where it is installed."""
    return list(dict.fromkeys(["pillow", best_decoder()]))


def reading_sides(settings: Settings) -> dict[str, Epoch]:
    """All sides on photos, but those that fill a cache."""
    sides = peers(settings)
    for decoder in decoders():
        sides[f"linnaeus, {decoder}, no cache"] = Ours(settings, decoder=decoder, cache_gib=0).epochs()
        sides[f"linnaeus, {decoder}, later epochs"] = Ours(settings, decoder=decoder, cache_gib=CACHE_GIB).epochs()
    return sides


def filling_sides(settings: Settings) -> dict[str, Epoch]:
    """First epochs that fill a cache, compared apart: the system goes on writing to the disk in the turn after."""
    filling = {f"linnaeus, {decoder}, filling its cache": first_epoch(settings, decoder) for decoder in decoders()}
    return {**peers(settings), **filling}


def gather(folder: Path, to: Path, *, like_imagenet: bool) -> Path:
    """The photos of a folder in a few classes, so that each has enough of them; maybe at ImageNet's mean size."""
    for number, path in enumerate(sorted(folder.rglob("*.*"))):
        target = to / f"class{number % CLASSES}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not like_imagenet:
            shutil.copy(path, target)
            continue
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        scale = (IMAGENET_PIXELS / (image.width * image.height)) ** 0.5
        resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        resized.save(target, "JPEG", quality=IMAGENET_QUALITY)
    return to


def rate(epoch: Epoch, number: int, clock: Callable[[], float]) -> float:
    """Images a second of one epoch, each batch taken and dropped; what a side tidies up afterwards does not count."""
    batches = epoch(number)
    start = stop = clock()
    count = 0
    for batch in batches:
        count += len(batch if isinstance(batch, Tensor) else batch[0])
        stop = clock()
    return count / (stop - start)


def compare(sides: dict[str, Epoch], rounds: int, clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """Median images a second of each side, and its ratio to the fastest peer in the same round."""
    for epoch in sides.values():
        rate(epoch, 0, clock)  # warm-up
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            time.sleep(SETTLE_SECONDS)
            rates[name].append(rate(sides[name], number, clock))
    fastest = max((name for name in sides if name in PEERS), key=lambda name: median(rates[name]))
    return {
        name: {
            "images_per_second": round(median(values), 1),
            "ratio": round(median(v / f for v, f in zip(values, rates[fastest], strict=True)), 2),
        }
        for name, values in rates.items()
    }


def main() -> None:
    """Runs both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 measures one core")
    parser.add_argument("--output", choices=["uint8", "float32"], default="uint8")
    parser.add_argument("--photos", default="imagenet-sample-1000", help="a folder of LINNAEUS_TEST_DATA")
    parser.add_argument("--as-they-are", action="store_true", help="do not make the photos 470 x 390 pixels and 110 KB")
    parser.add_argument("--small", default="cifar10-jpeg/test", help="the folder of 32-pixel images")
    parser.add_argument("--processor-time", action="store_true", help="for a machine that is not quiet; no workers")
    arguments = parser.parse_args()
    root = Path(os.environ.get("LINNAEUS_TEST_DATA", ""))
    if not (root / arguments.photos).is_dir():
        raise SystemExit(f"the benchmark needs LINNAEUS_TEST_DATA/{arguments.photos}: run `make test-data`")
    if arguments.processor_time and arguments.workers:
        raise SystemExit("--processor-time does not see worker processes: use --workers 0")
    if not arguments.workers:
        torch.set_num_threads(1)
    clock = time.process_time if arguments.processor_time else time.perf_counter

    with tempfile.TemporaryDirectory() as name:
        os.environ["LINNAEUS_CACHE"] = f"{name}/cache"
        photos = gather(root / arguments.photos, Path(name, "photos"), like_imagenet=not arguments.as_they_are)
        size = mean(path.stat().st_size for path in photos.rglob("*.*"))
        photo, small = (
            Settings(folder, size, batch, arguments.workers, arguments.output)
            for folder, size, batch in ((photos, 224, 64), (root / arguments.small, 32, 512))
        )
        title = f"photos of {size / 1000:.0f} KB"
        compared = {
            title: compare(reading_sides(photo), arguments.rounds, clock),
            f"{title}, first epoch": compare(filling_sides(photo), arguments.rounds, clock),
        }
        if small.folder.is_dir():
            sides = {**peers(small), "linnaeus, in memory": Ours(small).epochs()}
            compared["32 pixels"] = compare(sides, arguments.rounds, clock)
    for title, rows in compared.items():
        print(f"\n{title}, {arguments.output}, workers {arguments.workers}, median of {arguments.rounds} rounds")
        for side, row in rows.items():
            print(f"  {side:<46} {row['images_per_second']:>10,.0f} images/s  {row['ratio']:>6.2f}x")
    machine = {"torch": torch.__version__, "cores": os.cpu_count(), "platform": platform.machine()}
    print(json.dumps({"machine": {**machine, "path": FastPath(best_decoder()).describe()}, "results": compared}))


if __name__ == "__main__":
    main()
