"""Everyone else's networks: `timm:NAME` and `torchvision:NAME`, with what those libraries publish for them.

A name of timm may have the tag of its weights, as in `timm:resnet18.a1_in1k`. The options of a library's own builder
are options here; `drop_path`, as our networks call it, becomes the library's name for stochastic depth.

What differs from the libraries: torchvision's builders know three channels only; for another number the first
convolution is drawn anew, by PyTorch's default.
"""

import logging
import math
import re
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.preprocess import Geometry, Interpolation
from linnaeus.models.adapted import Adapted
from linnaeus.models.download import Progress
from linnaeus.models.pretrained import Account, adapt_channels, read_state
from linnaeus.models.weights import Weights, fetch_weights

# Keywords of the libraries' factories that are no options here: they read files, make other things than classifiers, or
# are what the contract calls in_channels and image_size.
RESERVED = frozenset({"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "weights", "features_only"})
RESERVED |= {"in_chans", "img_size", "input_size"}
# What the builders were seen to raise for sizes and options that they do not take.
_BUILDERS_REFUSE = (RuntimeError, ValueError, AssertionError, TypeError, KeyError, AttributeError, IndexError)


def create_adapted(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: int | None = None,
    pretrained: bool = False,
    **options: object,
) -> Adapted:
    """Builds a network of timm or torchvision.

    Args:
        name: "timm:NAME" or "torchvision:NAME".
        num_classes: K, the number of logits.
        in_channels: C, the number of channels of an image.
        image_size: pixels; None is what the library states for it.
        pretrained: put the published weights in, see `load_published`; what was done is logged.
        options: of the library's builder; `drop_path` is the rate of stochastic depth.

    Raises:
        RequestError: for an unknown name or option, a size that the network refuses, a network that cannot be cut (see
            `Adapted`), a library that is not installed, or weights that are not published.
        EnvironmentFault: if the weights cannot be had.
    """
    library, network = _find(name)
    size = library.image_size(network) if image_size is None else image_size
    build = partial(_build, name, num_classes, in_channels, size, options)
    try:
        model = Adapted(build(), build=build, num_classes=num_classes, in_channels=in_channels, image_size=size)
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from None
    if pretrained:
        logging.getLogger("linnaeus").info("%s", load_published(model, name))
    return model


def list_adapted(pattern: str) -> list[str]:
    """The names that match a pattern such as "timm:*resnet*"; "timm:resnet" is the same.

    Names of timm with the tag of their weights are among them if the pattern has a dot: "timm:resnet18.*".

    Raises:
        RequestError: if there is no such library, or it is not installed.
    """
    prefix, _, wanted = pattern.partition(":")
    wanted = wanted if any(c in wanted for c in "*?[") else f"*{wanted}*"
    names = [name for name in _open(prefix).names() if ("." in name) == ("." in wanted)]
    return [f"{prefix}:{name}" for name in names if fnmatchcase(name, wanted)]


def published_weights(name: str) -> Weights | None:
    """The weights that the library publishes for a network, torchvision's default ones; None if there are none.

    Raises:
        RequestError: for an unknown name, or a library that is not installed.
    """
    library, network = _find(name)
    return library.weights(network)


def load_published(model: Adapted, name: str, *, progress: Progress | None = None) -> Account:
    """Puts the published weights into a network, in place.

    A head for another number of classes stays at random. The first convolution is adapted to another number of channels
    by `adapt_channels`; for another size of the image, timm adapts what depends on it, and torchvision has no way to.

    Args:
        model: what `create_adapted` made of `name`.

    Raises:
        RequestError: if there are none, or they do not fit.
        EnvironmentFault: if they cannot be had, or are damaged.
    """
    weights = published_weights(name)
    if weights is None:
        raise RequestError(f"{name} has no published weights: train it from scratch, or choose another network")
    library, network = _find(name)
    path = fetch_weights(weights, progress=progress)
    return _fit(model, library.read(network, path, model.image_size), str(weights))


class _Timm:
    drop_path = "drop_path_rate"

    def __init__(self) -> None:
        import timm

        self._timm: Any = timm

    def names(self) -> list[str]:
        plain, tagged = (self._timm.list_models(include_tags=tags) for tags in (False, True))
        return list(dict.fromkeys([*plain, *tagged]))

    def image_size(self, name: str) -> int:
        return int(self._timm.get_pretrained_cfg(name).input_size[-1])

    def weights(self, name: str) -> Weights | None:
        about = self._timm.get_pretrained_cfg(name)
        if not (about.hf_hub_id or about.url):
            return None
        source = f"hf:{about.hf_hub_id}" if about.hf_hub_id else about.url
        size = self.image_size(name)
        # `squash` and `border` crop otherwise than at the centre; a share above 1 (VOLO) enlarges instead of cropping.
        resize = max(size, math.floor(size / about.crop_pct))
        # Lanczos' filter and the like become the nearest one that we have.
        interpolation: Interpolation = "bilinear" if about.interpolation == "bilinear" else "bicubic"
        geometry = Geometry(size, resize, tuple(about.mean), tuple(about.std), interpolation)
        return Weights(source, "timm", licence=about.license or "", geometry=geometry)

    def build(self, name: str, num_classes: int, in_channels: int, image_size: int, **options: Any) -> nn.Module:
        options |= {"num_classes": num_classes, "in_chans": in_channels, **self._sizes(name, image_size)}
        network: nn.Module = self._timm.create_model(name, **options)
        return network

    def read(self, name: str, path: Path, image_size: int) -> dict[str, Tensor]:
        """Read by timm, which knows older layouts and fits positions to the size of the image."""
        sizes = self._sizes(name, image_size)
        source = {"file": str(path)}
        try:
            network = self._timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source, **sizes)
        except _BUILDERS_REFUSE as error:
            raise EnvironmentFault(f"{path} is damaged, or not what timm expects: {_first_line(error)}") from None
        state: dict[str, Tensor] = network.state_dict()
        return state

    def _sizes(self, name: str, image_size: int) -> dict[str, int]:
        return {"img_size": image_size} if self._timm.get_pretrained_cfg(name).fixed_input_size else {}


class _Torchvision:
    drop_path = "stochastic_depth_prob"

    def __init__(self) -> None:
        from torchvision import models  # type: ignore[import-untyped]

        self._models: Any = models

    def names(self) -> list[str]:
        return list(self._models.list_models(module=self._models))

    def image_size(self, name: str) -> int:
        return int(self._models.get_model_weights(name).DEFAULT.transforms().crop_size[0])

    def weights(self, name: str) -> Weights:
        default = self._models.get_model_weights(name).DEFAULT
        images = default.transforms()
        sizes = images.crop_size[0], images.resize_size[0]
        geometry = Geometry(*sizes, tuple(images.mean), tuple(images.std), images.interpolation.value)
        top1, licence = default.meta["_metrics"]["ImageNet-1K"]["acc@1"], default.meta.get("license", "BSD-3-Clause")
        digits = Path(default.url).stem.rpartition("-")[2]  # a file's name ends in the first digits of its checksum
        return Weights(default.url, "torchvision", top1, licence, geometry, digits)

    def build(self, name: str, num_classes: int, in_channels: int, image_size: int, **options: Any) -> nn.Module:
        if name.startswith("vit_"):
            options["image_size"] = image_size
        elif name.startswith("maxvit_"):
            options["input_size"] = (image_size, image_size)
        network: nn.Module = self._models.get_model(name, num_classes=num_classes, **options)
        if in_channels != 3:
            _widen_first_convolution(network, in_channels)
        return network

    def read(self, name: str, path: Path, image_size: int) -> dict[str, Tensor]:  # noqa: ARG002
        """The files of DenseNet are from a time when its layers were called norm.1 instead of norm1."""
        state = read_state(path)
        return {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)\.", r"\1\2.", key): t for key, t in state.items()}


def _open(prefix: str) -> _Timm | _Torchvision:
    if prefix == "torchvision":
        return _Torchvision()
    if prefix != "timm":
        raise RequestError(f"there is no library '{prefix}': a network's name starts with timm: or torchvision:")
    try:
        return _Timm()
    except ModuleNotFoundError as error:
        raise RequestError(f"networks of timm need {error.name}: pip install 'linnaeus[timm]'") from None


def _find(name: str) -> tuple[_Timm | _Torchvision, str]:
    prefix, _, network = name.partition(":")
    library = _open(prefix)
    names = library.names()
    if network not in names:
        close = get_close_matches(network, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"`linnaeus models '{prefix}:*'` lists what it has"
        raise RequestError(f"{prefix} has no network '{network}': {hint}")
    return library, network


def _build(name: str, num_classes: int, in_channels: int, image_size: int, options: dict[str, object]) -> nn.Module:
    """The library's own network. A function of plain values, so that a network that keeps it can be copied."""
    library, network = _find(name)
    keys = {library.drop_path if key == "drop_path" else key: key for key in options}  # the library's to the given one
    if refused := [key for key in options if key in RESERVED or key not in keys.values()]:
        raise RequestError(f"{refused[0]} cannot be an option here, or is given twice")
    own = {theirs: options[key] for theirs, key in keys.items()}
    make = partial(library.build, network, num_classes, in_channels, image_size, **own)
    try:
        try:
            return make()
        except RuntimeError:
            if torch.get_default_device().type != "meta":
                raise
            with torch.device("cpu"):  # some builders compute with values, such as RegNet's its widths
                return make().to("meta")
    except _BUILDERS_REFUSE as error:
        # A builder that sets a keyword itself gets it twice, and so has no such option.
        unknown = re.search(r"(?:unexpected|multiple values for) keyword argument '(\w+)'", str(error))
        if unknown and unknown[1] in keys:
            raise RequestError(f"it has no option {keys[unknown[1]]}") from None
        raise RequestError(f"it refuses image_size={image_size} or its options: {_first_line(error)}") from None


def _widen_first_convolution(network: nn.Module, in_channels: int) -> None:
    convolution = _first_convolution(network)[1]
    convolution.in_channels = in_channels
    shape = (convolution.out_channels, in_channels, *convolution.kernel_size)
    convolution.weight = nn.Parameter(convolution.weight.new_empty(shape))
    convolution.reset_parameters()


def _first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))


def _fit(model: Adapted, published: dict[str, Tensor], source: str) -> Account:
    """Published weights fit exactly, but for the head and the first convolution."""
    ours, theirs = model.state_dict(), model.translate(published)
    head = [key for key in ours if key.startswith("head.")]
    if any(key not in theirs or theirs[key].shape != ours[key].shape for key in head):
        theirs |= {key: ours[key] for key in head}
    else:
        head = []
    adapted = {}
    stem = f"{_first_convolution(model)[0]}.weight"
    if model.in_channels != 3 and theirs[stem].shape[1] == 3:
        theirs[stem] = adapt_channels(theirs[stem], model.in_channels)
        adapted[stem] = f"3 input channels became {model.in_channels}"
    try:
        model.load_state_dict(theirs)
    except RuntimeError as error:
        reason = shorten(str(error), 200)
        raise RequestError(f"the published weights do not fit this size and these options: {reason}") from None
    loaded = tuple(key for key in ours if key in theirs and key not in (*head, *adapted))
    return Account(source, loaded, adapted, random=tuple(head), unused=())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
