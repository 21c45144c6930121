"""What the network will see: a contact sheet of images, as evaluation shows them and as training changes them."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linnaeus.app.config import AugmentConfig, Config
from linnaeus.app.images import Images
from linnaeus.app.prepare import Prepared, image_name, prepare
from linnaeus.app.progress import Display
from linnaeus.app.resolve import resolve, starting_weights
from linnaeus.core.batch import Loader
from linnaeus.core.errors import RequestError
from linnaeus.core.files import atomic, write_text
from linnaeus.core.seed import generator
from linnaeus.data.sources import Labels
from linnaeus.data.split import ROLES
from linnaeus.report.contact_sheet import Card, contact_page, contact_picture

VERSIONS = 4
"""Augmented versions of one image: those of the first epochs."""
ENDINGS = (".html", ".png")


def show(config: Config, out: Path, *, count: int, display: Display) -> int:
    """Writes a contact sheet of `count` images of all classes and roles, by the code that training uses.

    Returns:
        How many images are on it.

    Raises:
        RequestError: if `out` is no name of a page or a picture, or settings do not fit the images.
        DataError: if the set cannot be used.
    """
    if out.suffix.lower() not in ENDINGS or not out.parent.is_dir() or out.is_dir():
        raise RequestError(f"{out}: expected the name of a file in a folder that exists, ending in .html or .png")
    weights = starting_weights(config)
    prepared = prepare(config.data, seed=config.train.seed, display=display)
    config = resolve(config, prepared, weights)
    chosen = choose(prepared.source.labels, prepared.split.roles, count, seed=config.train.seed)
    cards = _cards(config, prepared, chosen, display)
    lines = [*prepared.summary()[: len(prepared.source.labels.notes) + 1], *_in_words(config)]
    if out.suffix.lower() == ".png":
        with atomic(out) as temporary:
            temporary.write_bytes(contact_picture(cards))
    else:
        write_text(out, contact_page(config.data.source, lines, cards))
    for line in lines:
        display.say(line)
    display.show(f"{len(cards):,} images: {out}")
    return len(cards)


def choose(labels: Labels, roles: NDArray[np.str_], count: int, *, seed: int) -> NDArray[np.int64]:
    """(M,) positions of at most `count` images that have a role: in turn one of each class, drawn by the seed.

    They come in the order of the classes, and of the roles within one.
    """
    shuffled = generator(seed, "show").permutation(np.flatnonzero(roles != ""))
    numbers = np.unique(labels.targets[shuffled], axis=0, return_inverse=True)[1].reshape(-1)
    turn = np.zeros(len(shuffled), np.int64)
    for number in range(numbers.max(initial=-1) + 1):
        turn[numbers == number] = np.arange((numbers == number).sum())
    first = np.argsort(turn, kind="stable")[:count]
    role = np.array([ROLES.index(name) for name in roles[shuffled[first]]], np.int64)
    order = np.lexsort((shuffled[first], role, numbers[first]))
    taken: NDArray[np.int64] = shuffled[first][order]
    return taken


def _cards(config: Config, prepared: Prepared, chosen: NDArray[np.int64], display: Display) -> list[Card]:
    """The chosen images, through the loaders of a run that has no others."""
    config = config.replace(data={"workers": 0, "cache_gib": 0.0})
    geometry = asdict(Images(config, prepared, display).preprocess.geometry)  # also measured on all training images
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in geometry.items()}
    del settings["image_size"]
    config = config.replace(preprocess=settings)
    roles = prepared.split.roles[chosen]
    seen = _pictures(_images_of(config, prepared, chosen, display).evaluation("train"), 0)
    training = chosen[roles == "train"]
    versions: dict[int, list[NDArray[np.uint8]]] = {index: [] for index in chosen.tolist()}
    if len(training):
        loader = _images_of(config, prepared, training, display).training()
        for epoch in range(VERSIONS * config.augment.repeats):
            for index, picture in _pictures(loader, epoch).items():
                versions[index] = [*versions[index], picture][:VERSIONS]
    labels = prepared.source.labels
    return [
        Card(image_name(prepared.source, index), labels.text(index), str(role), seen[index], versions[index])
        for index, role in zip(chosen.tolist(), roles, strict=True)
        if index in seen
    ]


def _images_of(config: Config, prepared: Prepared, chosen: NDArray[np.int64], display: Display) -> Images:
    """Those of a run whose training images are the chosen ones, and that has no others."""
    roles = np.zeros_like(prepared.split.roles)
    roles[chosen] = "train"
    return Images(config, replace(prepared, split=replace(prepared.split, roles=roles)), display)


def _pictures(loader: Loader, epoch: int) -> dict[int, NDArray[np.uint8]]:
    """Position in the source -> (S, S, C) uint8, for all images of one epoch."""
    found = {}
    for batch in loader.epoch(epoch):
        pictures = batch.images.permute(0, 2, 3, 1).numpy()  # (B, C, S, S) -> (B, S, S, C)
        for slot in np.flatnonzero(batch.valid.numpy()).tolist():
            found[int(batch.index[slot])] = pictures[slot].copy()
    return found


def _in_words(config: Config) -> list[str]:
    """The size, and what training does to images, as settings that can be changed."""
    model, augment = config.model, config.augment
    changed = {
        key: value
        for key, value in augment.model_dump().items()
        if value != AugmentConfig.model_fields[key].get_default(call_default_factory=True) or key in ("crop", "flip")
    }
    settings = ", ".join(f"{key}={value}" for key, value in changed.items())
    lines = [f"{model.name} at {model.image_size} pixels, {model.in_channels} channel(s)", f"augmentation: {settings}"]
    if augment.mixes:
        lines.append("mixup and CutMix come on top of this, in each batch: they are not shown")
    return lines
