"""How others train: a plain PyTorch loop, timm's loop and fastai's, at their defaults and at their best flags.

All of them train our network on the JPEG files of class folders, with the same crops, mirroring, batch, optimizer and
label smoothing; what differs is how they decode, collate, convert and step. Defaults are float32 in contiguous memory.
The best flags on a CPU are channels last, bfloat16 where the processor computes it, a fused optimizer, and as many
worker processes as there are cores, which are kept from epoch to epoch; with `compiled` also `torch.compile`.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from linnaeus.core.device import has_bf16
from linnaeus.models import create_model

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MIN_AREA = 0.35
LONG_EPOCH = 20_000
"""Images in an epoch at least, by repeating the set: between two epochs workers would idle."""
Side = Callable[[int], float]
"""(steps) -> images a second."""
Batches = Iterator[tuple[Tensor, Tensor]]
"""(B, 3, S, S) normalised images and (B,) classes, without end."""


@dataclass(frozen=True)
class Task:
    """What all sides train.

    Attributes:
        folder: of class folders.
        size: pixels; 32 is shifted by up to 4 pixels, larger ones are random resized crops.
        best: whether flags are the best ones, else the defaults.
        compiled: whether the best flags compile the network.
    """

    network: str
    folder: Path
    size: int
    batch_size: int
    best: bool = False
    compiled: bool = False

    @property
    def classes(self) -> int:
        """K."""
        return sum(path.is_dir() for path in self.folder.iterdir())

    def model(self) -> nn.Module:
        """The network, laid out and perhaps compiled."""
        model: nn.Module = create_model(self.network, num_classes=self.classes, image_size=self.size).train()
        if self.best:
            model = model.to(memory_format=torch.channels_last)
        if self.best and self.compiled:
            model.compile()
        return model

    def autocast(self) -> Any:
        """The arithmetic of a forward pass."""
        return torch.autocast("cpu", torch.bfloat16) if self.best and has_bf16(CPU) else nullcontext()

    def laid_out(self, images: Tensor) -> Tensor:
        """Images in the network's memory format."""
        return images.contiguous(memory_format=torch.channels_last) if self.best else images


def plain(task: Task, batches: Batches | None = None) -> Side:
    """The loop of PyTorch's tutorials, from files with two workers, or from batches that are given."""
    model = task.model()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=task.best
    )
    return stepping(task, model, optimizer, nn.CrossEntropyLoss(label_smoothing=0.1), batches or image_folder(task))


def timm_loop(task: Task) -> Side:
    """timm's loader, optimizer and loss, and the step of its training script, which is not part of the package."""
    from timm.data import ImageDataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2

    small = task.size == 32
    loader = create_loader(
        ImageDataset(str(task.folder)),
        input_size=(3, task.size, task.size),
        is_training=True,
        batch_size=task.batch_size,
        train_crop_mode="rkrc" if small else None,
        scale=(MIN_AREA, 1),
        color_jitter=0.0,
        interpolation="bilinear",
        device=CPU,
        num_workers=os.cpu_count() or 1 if task.best else 1,
        persistent_workers=True,
    )
    model = task.model()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9, weight_decay=5e-4)
    return stepping(task, model, optimizer, LabelSmoothingCrossEntropy(0.1), endless(loader))


def stepping(
    task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: nn.Module, batches: Batches
) -> Side:
    """The step that both loops have in common."""

    def work(steps: int) -> float:
        count, start = 0, time.perf_counter()
        for images, targets in islice(batches, steps):
            with task.autocast():
                loss = loss_of(model(task.laid_out(images)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            count += len(images)
        return count / (time.perf_counter() - start)

    return work


def fastai_loop(task: Task) -> Side:
    """A `Learner` with its recorder, without bars. It starts workers in each epoch: the first batch is not timed."""
    from fastai.callback.channelslast import ChannelsLast
    from fastai.vision.all import (
        SGD,
        Callback,
        CancelFitException,
        CategoryBlock,
        DataBlock,
        FlipItem,
        ImageBlock,
        LabelSmoothingCrossEntropy,
        Learner,
        Normalize,
        RandomCrop,
        RandomResizedCrop,
        Resize,
        get_image_files,
        parent_label,
    )

    class Clock(Callback):
        def before_fit(self) -> None:
            self.count, self.start = -1, 0.0

        def after_batch(self) -> None:
            self.start = self.start or time.perf_counter()
            self.count += 1
            if self.count == self.steps:
                self.seconds = time.perf_counter() - self.start
                raise CancelFitException

        steps, seconds = 1, 0.0

    small = task.size == 32
    crop = [Resize(40), RandomCrop(32)] if small else [RandomResizedCrop(task.size, min_scale=MIN_AREA)]
    block = DataBlock(
        (ImageBlock, CategoryBlock),
        get_items=lambda folder: get_image_files(folder) * -(-LONG_EPOCH // len(get_image_files(folder))),
        get_y=parent_label,
        splitter=lambda items: (range(len(items)), []),
        item_tfms=[*crop, FlipItem()],
        batch_tfms=Normalize.from_stats(MEAN, STD, cuda=False),
    )
    loaders = block.dataloaders(task.folder, bs=task.batch_size, num_workers=os.cpu_count() or 1, device=CPU)
    clock = Clock()
    callbacks = [clock, *([ChannelsLast()] if task.best else [])]
    learner = Learner(loaders, task.model(), LabelSmoothingCrossEntropy(0.1), opt_func=SGD, lr=0.05, cbs=callbacks)

    def work(steps: int) -> float:
        clock.steps = steps
        with learner.no_bar(), learner.no_logging(), task.autocast():
            learner.fit(1)
        return steps * task.batch_size / clock.seconds

    return work


LOOPS: dict[str, tuple[str, Callable[[Task], Side]]] = {
    "plain loop": ("torch", plain),
    "timm": ("timm", timm_loop),
    "fastai": ("fastai", fastai_loop),
}
"""Name -> the package it needs, and how its side is made."""


def installed() -> dict[str, Callable[[Task], Side]]:
    """The loops whose packages are there; says which are not."""
    missing = [name for name, (package, _) in LOOPS.items() if importlib.util.find_spec(package) is None]
    for name in missing:
        print(f"{name} is left out: it is not installed (pip install {LOOPS[name][0]})")
    return {name: make for name, (_, make) in LOOPS.items() if name not in missing}


def image_folder(task: Task) -> Batches:
    """torchvision's way from files to batches."""
    if task.size == 32:
        steps: list[nn.Module] = [v2.Resize(32), v2.CenterCrop(32), v2.RandomCrop(32, padding=4)]
    else:
        steps = [v2.RandomResizedCrop(task.size, scale=(MIN_AREA, 1), antialias=True)]
    steps += [v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    once = ImageFolder(str(task.folder), v2.Compose(steps))
    dataset = ConcatDataset([once] * -(-LONG_EPOCH // len(once)))
    workers = os.cpu_count() or 1 if task.best else 2
    return endless(DataLoader(dataset, task.batch_size, shuffle=True, num_workers=workers, persistent_workers=True))


def endless(loader: Any) -> Batches:
    """The batches of all epochs."""
    while True:
        yield from loader
