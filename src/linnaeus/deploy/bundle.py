"""The deliverable of a run: weights, and all that is needed to use them, in one folder of safetensors and JSON.

| file | content |
|---|---|
| `model.safetensors` | the weights |
| `model.json` | task, architecture, classes, preprocessing, calibration, thresholds, confidence, metrics, licence |
| `README.md` | the model card, from the report of the run |
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linnaeus.core.classifier import Classifier
from linnaeus.core.device import at_once
from linnaeus.core.errors import DataError, EnvironmentFault, RequestError
from linnaeus.core.files import load_tensors, read_json, save_tensors, write_json
from linnaeus.core.preprocess import Preprocess
from linnaeus.data.decode import ImageLike
from linnaeus.deploy.labelling import Labelling, read_rows
from linnaeus.deploy.prediction import Prediction, Row
from linnaeus.deploy.views import average_views
from linnaeus.metrics.calibrate import Calibration
from linnaeus.metrics.novelty import familiarity
from linnaeus.models import create_model

KIND, VERSION = "linnaeus-model", 2  # 2: vector scaling, thresholds of confidence, several views of an image


class Bundle:
    """A trained classifier with its preprocessing, class names, calibration and views of an image. A `Runtime`."""

    def __init__(self, model: Classifier, about: Mapping[str, Any], preprocess: Preprocess) -> None:
        """`about` is the content of `model.json`."""
        self.model = model.eval()
        self.about = about
        self.preprocess = preprocess.eval()
        self.labelling = Labelling(about)
        self.classes, self.task = self.labelling.classes, self.labelling.task
        self.calibration = Calibration.from_json(about["calibration"])
        self.tta: str = about.get("tta", {"views": "none"})["views"]

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
        """Moves the network, and lays its weights out as a CPU convolves fastest; returns itself."""
        layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
        self.model.to(device).to(memory_format=layout)
        self.preprocess.to(device)
        return self

    @torch.inference_mode()
    def uncalibrated(self, images: Tensor) -> Tensor:
        """(B, C, S, S) uint8, as `preprocess.fit` makes them -> (B, K) float32 logits as the network gives them.

        Where the model looks at several views of an image (`deploy/views.py`), the mean of theirs.
        """
        return average_views(self.model, self.preprocess(images.to(self.device)), self.tta)

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """(B, C, S, S) uint8, as `preprocess.fit` makes them -> (B, K) float32, calibrated."""
        return self.calibration.apply(self.uncalibrated(images))

    def probabilities(self, images: Tensor) -> Tensor:
        """(B, C, S, S) uint8, as `preprocess.fit` makes them -> (B, K) float32 on the CPU.

        Each is in [0, 1]. Where an image has exactly one class, a row sums to 1.
        """
        return self.labelling.activate(self.logits(images)).cpu()

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
        return read_rows(images, self.preprocess, partial(self._rows, top=top), batch_size=batch_size)

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
        """(B, C, S, S) uint8 -> (B, D) of the image itself and (B, K) of all its views, float32, not calibrated."""
        prepared = self.preprocess(images.to(self.device))
        features = self.model.features(prepared)

        def logits_of(view: Tensor) -> Tensor:
            logits: Tensor = self.model.head(features if view is prepared else self.model.features(view))
            return logits

        return features.float(), average_views(logits_of, prepared, self.tta)

    def _rows(self, images: Tensor, top: int) -> Iterator[Row]:
        images = images.contiguous().to(self.device)
        parts = map(self._embeddings_and_logits, torch.split(images, at_once(images)))
        embeddings, raw = map(torch.cat, zip(*parts, strict=True))
        familiar = familiarity(raw, several=self.task == "multi").cpu()
        probabilities = self.labelling.activate(self.calibration.apply(raw)).cpu()
        predictions = self.labelling.predictions(probabilities, familiar, top)
        yield from map(Row, predictions, embeddings.cpu(), probabilities)


def save_bundle(folder: Path, bundle: Bundle) -> None:
    """Writes weights and description; `model.json` last, so that a folder that has it can be used."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / "model.safetensors", KIND, VERSION, bundle.model.state_dict(), bundle.about["architecture"])
    write_json(folder / "model.json", KIND, VERSION, bundle.about)


def load_bundle(folder: Path) -> Bundle:
    """Reads a folder that `save_bundle` wrote, or the folder of a run that holds one as `model/`.

    Raises:
        RequestError: if there is no bundle.
        EnvironmentFault: if it is damaged, newer than this Linnaeus, or no longer prepares images as it did.
    """
    folder = _model_folder(folder)
    about = read_about(folder)
    tensors, _ = load_tensors(folder / "model.safetensors", KIND, VERSION)
    model = build_model(about["architecture"])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise EnvironmentFault(f"{folder}: the weights do not fit the architecture: {error}") from None
    return Bundle(model, about, Preprocess.from_json(about["preprocess"]))


def read_about(folder: Path) -> dict[str, Any]:
    """The content of `model.json` of a folder as `load_bundle` takes it. Raises what that raises."""
    return read_json(_model_folder(folder) / "model.json", KIND, VERSION)


def _model_folder(folder: Path) -> Path:
    found = folder / "model" if (folder / "model" / "model.json").is_file() else folder
    if not (found / "model.json").is_file():
        raise RequestError(
            f"{folder} holds no finished model: expected the folder of a run, or of a model (model.json)"
        )
    return found


def build_model(architecture: Mapping[str, Any]) -> Classifier:
    """The network that `model.json` describes under "architecture", with weights at random."""
    return create_model(
        architecture["name"],
        num_classes=architecture["num_classes"],
        in_channels=architecture["in_channels"],
        image_size=architecture["image_size"],
        **architecture["options"],
    )
