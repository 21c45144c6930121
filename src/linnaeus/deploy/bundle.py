"""The deliverable of a run: weights, and all that is needed to use them, in one folder of safetensors and JSON.

| file | content |
|---|---|
| `model.safetensors` | the weights |
| `model.json` | architecture, classes, preprocessing with fingerprint, calibration, metrics, licence |
| `README.md` | the model card |
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linnaeus.core.classifier import Classifier
from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.files import load_tensors, read_json, save_tensors, write_json, write_text
from linnaeus.core.preprocess import Preprocess
from linnaeus.data.decode import ImageLike, UnreadableImage, load_image
from linnaeus.models import create_model

KIND, VERSION = "linnaeus-model", 1


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        label: the most probable class, or "" where the image could not be read.
        probability: of that class, in [0, 1].
        top: (class, probability) pairs, the most probable first.
        error: why the image could not be read, or "".
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    error: str = ""


class Bundle:
    """A trained classifier with its preprocessing, class names and calibration. A `Runtime`."""

    def __init__(self, model: Classifier, about: Mapping[str, Any], preprocess: Preprocess) -> None:
        """`about` is the content of `model.json`."""
        self.model = model.eval()
        self.about = about
        self.preprocess = preprocess.eval()
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self._temperature = float(about["calibration"]["temperature"])

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.model.parameters()).device

    def to(self, device: torch.device) -> "Bundle":
        """Moves the network; returns itself."""
        self.model.to(device)
        self.preprocess.to(device)
        return self

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """(B, C, S, S) uint8, as `preprocess.fit` makes them -> (B, K) float32 logits divided by the temperature."""
        logits: Tensor = self.model(self.preprocess(images.to(self.device))).float() / self._temperature
        return logits

    def probabilities(self, images: Tensor) -> Tensor:
        """(B, C, S, S) uint8, as `preprocess.fit` makes them -> (B, K) float32 on the CPU, rows summing to 1."""
        return self.logits(images).softmax(1).cpu()

    def predict(self, images: Sequence[ImageLike], *, top: int = 5, batch_size: int = 32) -> list[Prediction]:
        """Classifies images, one prediction for each, in order.

        Args:
            images: paths, PIL images, or (H, W, C) uint8 arrays.
            top: how many classes to name.
            batch_size: images at once.
        """
        return list(self.stream(images, top=top, batch_size=batch_size))

    def stream(self, images: Iterable[ImageLike], *, top: int = 5, batch_size: int = 32) -> Iterator[Prediction]:
        """As `predict`, a batch at a time. An image that cannot be read yields a prediction with its `error`."""
        source = iter(images)
        while chunk := list(islice(source, batch_size)):
            fitted = [_try_fit(self.preprocess, image) for image in chunk]
            good = [image for image in fitted if isinstance(image, Tensor)]
            rows = iter(self.probabilities(torch.stack(good)) if good else ())
            for image in fitted:
                yield self._prediction(next(rows), top) if isinstance(image, Tensor) else _failed(image)

    def _prediction(self, probabilities: Tensor, top: int) -> Prediction:
        values, indices = probabilities.topk(min(top, len(self.classes)))
        pairs = tuple((self.classes[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True))
        return Prediction(pairs[0][0], pairs[0][1], pairs)


def save_bundle(folder: Path, bundle: Bundle, card: str) -> None:
    """Writes the folder's three files; `model.json` last, so that a folder that has it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / "model.safetensors", KIND, VERSION, bundle.model.state_dict(), bundle.about["architecture"])
    write_text(folder / "README.md", card)
    write_json(folder / "model.json", KIND, VERSION, bundle.about)


def load_bundle(folder: Path) -> Bundle:
    """Reads a folder that `save_bundle` wrote, or the folder of a run that holds one as `model/`.

    Raises:
        RequestError: if there is no bundle.
        EnvironmentFault: if it is damaged, newer than this Linnaeus, or no longer prepares images as it did.
    """
    if (folder / "model" / "model.json").is_file():
        folder = folder / "model"
    if not (folder / "model.json").is_file():
        raise RequestError(
            f"{folder} holds no finished model: expected the folder of a run, or of a model (model.json)"
        )
    about = read_json(folder / "model.json", KIND, VERSION)
    tensors, _ = load_tensors(folder / "model.safetensors", KIND, VERSION)
    model = build_model(about["architecture"])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise EnvironmentFault(f"{folder}: the weights do not fit the architecture: {error}") from None
    return Bundle(model, about, Preprocess.from_json(about["preprocess"]))


def build_model(architecture: Mapping[str, Any]) -> Classifier:
    """The network that `model.json` describes under "architecture", with weights at random."""
    return create_model(
        architecture["name"],
        num_classes=architecture["num_classes"],
        in_channels=architecture["in_channels"],
        image_size=architecture["image_size"],
        **architecture["options"],
    )


def _try_fit(preprocess: Preprocess, image: ImageLike) -> Tensor | str:
    """The prepared image, or the reason why there is none."""
    try:
        return preprocess.fit(load_image(image))
    except UnreadableImage as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _failed(reason: str) -> Prediction:
    return Prediction("", 0.0, (), reason)
