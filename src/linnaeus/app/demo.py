"""The main job on the embedded images: train, evaluate, predict, and what to try next."""

import time

import numpy as np
from PIL import Image
from rich.table import Table

from linnaeus.app.config import make_config
from linnaeus.app.prepare import read_roles
from linnaeus.app.progress import Display
from linnaeus.app.run import Run, command_line
from linnaeus.app.train import train
from linnaeus.core.record import read_records
from linnaeus.data.sources import open_source
from linnaeus.deploy.bundle import load_bundle

SETTINGS = {
    "data": {"source": "animals"},
    "model": {"name": "lenet5_modern"},
    # Two pixels of shift: the silhouettes fill their 28 pixels.
    "augment": {"padding": 2},
    "train": {"duration": "25ep", "batch_size": 64},
}


def demo(display: Display) -> Run:
    """Trains LeNet-5 on ten kinds of animal silhouettes, in about a minute on two cores."""
    start = time.monotonic()
    display.say("Linnaeus demo: ten kinds of animals, 10,000 silhouettes from the package animal-shape-mnist (MIT)")
    run = train(make_config(SETTINGS), display=display)
    samples = _write_samples(run)
    display.show(_table(run, samples))
    speeds = [record["train/images_per_second"] for record in read_records(run.folder)]
    display.show(
        f"Trained at {np.median(speeds):,.0f} images/s (median over epochs); {time.monotonic() - start:.0f} s in all.\n"
        f"Run folder: {run.folder}"
    )
    display.show(
        "Try next:\n"
        f"  {command_line('predict', run.folder, run.folder / 'samples')}\n"
        f"  {command_line('evaluate', run.folder)}\n"
        f"  {command_line('train', 'path/to/your/photos')}"
    )
    return run


def _write_samples(run: Run) -> list[str]:
    """Saves the first test image of each of six classes as PNG; returns their file names."""
    source = open_source("animals")
    bundle = load_bundle(run.folder)
    roles, _ = read_roles(run.data, source)
    names = []
    (run.folder / "samples").mkdir()
    for label in bundle.classes[::2] + bundle.classes[-1:]:
        own = np.flatnonzero(source.labels.targets == source.labels.classes.index(label)).tolist()
        index = next(i for i in own if roles[i] == "test")
        name = f"{source.name(index)}.png"
        Image.fromarray(source.decode(source.read(index))[:, :, 0]).save(run.folder / "samples" / name)
        names.append(name)
    return names


def _table(run: Run, names: list[str]) -> Table:
    table = Table(title="Six test images", title_justify="left")
    for column in ("image", "taken for", "probability"):
        table.add_column(column)
    predictions = load_bundle(run.folder).predict([run.folder / "samples" / name for name in names])
    for name, prediction in zip(names, predictions, strict=True):
        table.add_row(name, prediction.label, f"{prediction.probability:.1%}")
    return table
