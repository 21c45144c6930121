"""The deliverable of a run: weights, and all that is needed to use them, in one folder of safetensors and JSON.

| file | content |
|---|---|
| `model.safetensors` | the weights |
| `model.json` | task, architecture, classes, preprocessing, calibration, thresholds, metrics, licence |
| `README.md` | the model card |
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linnaeus.core.classifier import Classifier
from linnaeus.core.errors import DataError, EnvironmentFault, RequestError
from linnaeus.core.files import load_tensors, read_json, save_tensors, write_json, write_text
from linnaeus.core.preprocess import Preprocess
from linnaeus.core.runtime import Task
from linnaeus.data.decode import ImageLike, UnreadableImage, load_image
from linnaeus.models import create_model

KIND, VERSION = "linnaeus-model", 1


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        label: the most probable class; where an image may have several, those of `labels` as a cell of a table, such as
            `cat|dog`, or "" for none; and "" where the image could not be read.
        probability: of the most probable class, in [0, 1].
        top: (class, probability) pairs, the most probable first.
        error: why the image could not be read, or "".
        labels: (class, probability) pairs, the most probable first: the one class of the image; or, where it may have
            several, all whose probability reaches the threshold of the class, perhaps none.
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    error: str = ""
    labels: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Row:
    """What a classifier makes of one image: the prediction, and the numbers behind it.

    Attributes:
        embedding: (D,) float32 on the CPU, what the head classifies; None where the image could not be read.
        probabilities: (K,) float32 on the CPU, as of a `Runtime`; None where the image could not be read.
    """

    prediction: Prediction
    embedding: Tensor | None = None
    probabilities: Tensor | None = None


class Bundle:
    """A trained classifier with its preprocessing, class names and calibration. A `Runtime`."""

    def __init__(self, model: Classifier, about: Mapping[str, Any], preprocess: Preprocess) -> None:
        """`about` is the content of `model.json`."""
        self.model = model.eval()
        self.about = about
        self.preprocess = preprocess.eval()
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.task: Task = about["task"]
        self._temperature = float(about["calibration"]["temperature"])
        self._thresholds = torch.tensor(about["thresholds"], dtype=torch.float64) if self.task == "multi" else None

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.model.parameters()).device

    @property
    def embedding_size(self) -> int:
        """D, the length of an embedding, found by computing one."""
        size = self.preprocess.geometry.image_size
        blank = torch.zeros(1, self.preprocess.channels, size, size, dtype=torch.uint8)
        return self._embeddings_and_logits(blank)[0].shape[1]

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
        """(B, C, S, S) uint8, as `preprocess.fit` makes them -> (B, K) float32 on the CPU.

        Each is in [0, 1]. Where an image has exactly one class, a row sums to 1.
        """
        return self._activate(self.logits(images)).cpu()

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
        return (row.prediction for row in self.rows(images, top=top, batch_size=batch_size))

    def rows(self, images: Iterable[ImageLike], *, top: int = 5, batch_size: int = 32) -> Iterator[Row]:
        """As `stream`, with the embeddings and all probabilities, of the same forward pass."""
        source = iter(images)
        while chunk := list(islice(source, batch_size)):
            fitted = [_try_fit(self.preprocess, image) for image in chunk]
            good = [image for image in fitted if isinstance(image, Tensor)]
            computed = iter(self._rows(torch.stack(good), top) if good else ())
            for image in fitted:
                yield next(computed) if isinstance(image, Tensor) else Row(_failed(image))

    def embed(self, images: Sequence[ImageLike], *, batch_size: int = 32) -> Tensor:
        """(N, D) float32 on the CPU: what the head classifies, one row for each image, in order.

        Args:
            images: paths, PIL images, or (H, W, C) uint8 arrays.
            batch_size: images at once.

        Raises:
            DataError: if an image cannot be read.
        """
        embeddings = torch.empty(len(images), self.embedding_size)
        for number, row in enumerate(self.rows(images, top=1, batch_size=batch_size)):
            if row.embedding is None:
                image = images[number]
                name = image if isinstance(image, str | PathLike) else f"number {number}"
                raise DataError(f"image {name} {row.prediction.error}")
            embeddings[number] = row.embedding
        return embeddings

    @torch.inference_mode()
    def _embeddings_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) uint8 -> (B, D) and (B, K) float32; the network's own forward pass, with its middle seen."""
        features = self.model.features(self.preprocess(images.to(self.device)))
        return features.float(), self.model.head(features).float() / self._temperature

    def _activate(self, logits: Tensor) -> Tensor:
        return logits.softmax(1) if self.task == "single" else logits.sigmoid()

    def _rows(self, images: Tensor, top: int) -> Iterator[Row]:
        embeddings, logits = self._embeddings_and_logits(images)
        for embedding, probabilities in zip(embeddings.cpu(), self._activate(logits).cpu(), strict=True):
            yield Row(self._prediction(probabilities, top), embedding, probabilities)

    def _prediction(self, probabilities: Tensor, top: int) -> Prediction:
        values, indices = probabilities.topk(min(top, len(self.classes)))
        pairs = tuple((self.classes[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True))
        labels = pairs[:1] if self._thresholds is None else self._above(probabilities, self._thresholds)
        return Prediction("|".join(name for name, _ in labels), pairs[0][1], pairs, labels=labels)

    def _above(self, probabilities: Tensor, thresholds: Tensor) -> tuple[tuple[str, float], ...]:
        """The classes that reach their thresholds, the most probable first."""
        values = probabilities.tolist()
        said = (probabilities.double() >= thresholds).nonzero()[:, 0].tolist()
        return tuple((self.classes[k], values[k]) for k in sorted(said, key=lambda k: (-values[k], k)))


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
