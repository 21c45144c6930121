"""A file of weights fitted into a network: read without running code, renamed, adapted, and accounted for."""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from linnaeus.core.classifier import Classifier
from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.files import load_tensors
from linnaeus.models.adapted import Adapted
from linnaeus.models.download import TIMEOUT, Progress
from linnaeus.models.keys import to_ours
from linnaeus.models.vit import VisionTransformer, resize_position_embedding
from linnaeus.models.weights import BUNDLE, Weights, fetch_weights

CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training scripts keep the weights in what they save; averaged weights, which are evaluated, come first."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers put before every name: DataParallel, torch.compile, Lightning."""
DAMAGED = (
    *(SafetensorError, UnpicklingError, struct.error, EOFError, RuntimeError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError),
)
"""What the readers raise for files whose bytes were changed at random."""


@dataclass(frozen=True)
class Account:
    """What became of each tensor of a file, and of each of the network.

    Attributes:
        source: where the file is from.
        loaded: the network's tensors that were taken as they are.
        adapted: the network's tensors that were changed to fit, and how.
        random: the network's tensors that the file has nothing for: they stay as they were drawn.
        unused: the file's tensors that the network has no place for.
    """

    source: str
    loaded: tuple[str, ...]
    adapted: Mapping[str, str]
    random: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.adapted) + len(self.random)
        lines = [f"weights from {self.source}: {len(self.loaded)} of {total} tensors as they are"]
        lines += [f"  adapted: {name}: {how}" for name, how in self.adapted.items()]
        if self.random:
            lines.append(f"  left at random: {_few(self.random)}")
        if self.unused:
            lines.append(f"  not used: {_few(self.unused)}")
        return "\n".join(lines)


def load_weights(
    model: Classifier, weights: Weights, *, timeout: float = TIMEOUT, progress: Progress | None = None
) -> Account:
    """Puts trained weights into a network, in place.

    A tensor of another size is adapted where there is a rule for it: the first convolution to another number of
    channels (`adapt_channels`), the positions of a Vision Transformer to another grid of patches
    (`resize_position_embedding`). A head for another number of classes stays at random.

    Args:
        model: with its weights drawn.
        weights: from `find_weights`.
        timeout, progress: of `fetch_weights`.

    Raises:
        RequestError: if there is no such file, it holds no weights or those of another network, or there is no rule
            for the size of a tensor. The network is as it was then.
        EnvironmentFault: if the file cannot be had, or is damaged.
    """
    path = fetch_weights(weights, timeout=timeout, progress=progress)
    ours, head = model.state_dict(), f"{_name_of(model, model.head)}."
    state = to_ours(model, read_state(path))
    if isinstance(model, Adapted) and not state.keys() <= ours.keys():
        state = model.translate(state)  # the file is of the library, and not one of ours
    keeps_head = all(key in state and state[key].shape == ours[key].shape for key in ours if key.startswith(head))
    taken = [key for key in ours if key in state and (keeps_head or not key.startswith(head))]
    if all(key.startswith(head) for key in taken):
        raise RequestError(
            f"{path} has the weights of another network: its tensors are {_few(list(state))}, and those of "
            f"{type(model).__name__} are {_few(list(ours))}"
        )
    adapted = {key: _adapt(model, key, state[key]) for key in taken if state[key].shape != ours[key].shape}
    tensors = {key: adapted[key][0] if key in adapted else state[key] for key in taken}
    model.load_state_dict(tensors, strict=False)
    return Account(
        source=str(weights),
        loaded=tuple(key for key in taken if key not in adapted),
        adapted={key: how for key, (_, how) in adapted.items()},
        # A count of batches is no weight: files from before PyTorch 0.4.1 have none, and it only matters to averages.
        random=tuple(key for key in ours if key not in taken and not key.endswith("num_batches_tracked")),
        unused=tuple(key for key in state if key not in ours),
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: safetensors, or what `torch.save` writes, of which no code runs.

    Raises:
        RequestError: if it holds no state dict, or something that only its own code could read.
        EnvironmentFault: if it is damaged.
    """
    try:
        if path.suffix == ".safetensors":
            is_ours = (path.parent / "model.json").is_file()
            content: object = load_tensors(path, *BUNDLE)[0] if is_ours else load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise RequestError(
                f"{path} holds {refused[1]}, which only running its code could read: save its state dict alone"
            ) from None
        raise EnvironmentFault(f"{path} is not a file of weights, or is damaged: {error}".partition("\n")[0]) from None
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise RequestError(f"{path} holds a {type(content).__name__} without tensors: expected a state dict")
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in tensors)), ""):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _adapt(model: Classifier, key: str, tensor: Tensor) -> tuple[Tensor, str]:
    """The tensor in the size that the network has for it, and what was done."""
    wanted, found = model.state_dict()[key].shape, tensor.shape
    stem = next((f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), "")
    if key == stem and len(found) == 4 and (found[0], *found[2:]) == (wanted[0], *wanted[2:]):
        return adapt_channels(tensor, wanted[1]), f"{found[1]} input channels became {wanted[1]}"
    if isinstance(model, VisionTransformer) and key == "pos_embed" and found[-1] == wanted[-1]:
        try:
            table = resize_position_embedding(tensor, model.grid, num_prefix=model.num_prefix_positions)
        except ValueError as error:
            raise RequestError(f"{key} cannot be resized: {error}") from None
        height, width = model.grid
        return table, f"{found[1]} positions became {wanted[1]}, for {height} x {width} patches"
    raise RequestError(
        f"{key} has the size {tuple(found)} in the file, and {tuple(wanted)} in this network: build the one that the "
        "file is for, with its options and an image size that suits it"
    )


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """(O, I, h, w) -> (O, channels, h, w): the filters of a first convolution for another number of channels.

    For one channel they are summed, since a grey image has the same value in each channel. For another number they are
    repeated in turn, R G B R ..., and scaled by I / channels, so that activations keep their size. Both as timm does
    (`adapt_input_conv`), which has trained with them.
    """
    given = weight.shape[1]
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))  # a file may hold half precision
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, torch.arange(channels) % given] * (given / channels)


def _name_of(model: nn.Module, module: nn.Module) -> str:
    name: str = next(name for name, other in model.named_modules() if other is module)
    return name


def _few(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
