"""Any network as a `Classifier`: cut before its last linear layer, which becomes the head.

Nothing is assumed of the network but that it turns images into logits. Where to cut is seen in a forward pass on the
meta device, which computes shapes and no values: the network must return the very tensor that one of its linear layers
returned. A network that does something else at its end, such as to average two heads, is refused.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from linnaeus.core.classifier import Classifier
from linnaeus.core.errors import RequestError

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# What torch and the networks of timm and torchvision were seen to raise for images that do not suit them.
_NETWORKS_FAIL = (RuntimeError, ValueError, AssertionError, TypeError, IndexError, ZeroDivisionError)


class Adapted(Classifier):
    """A network of another library.

    Its parameters keep their names, below `body.`; those of its last layer, say `fc.weight`, are called `head.weight`
    (see `translate`). A 1x1 convolution of pooled features as the last layer becomes the linear layer that it equals.

    Args:
        network: turns (B, C, S, S) images into (B, K) logits. It is taken apart.
        build: makes such a network anew, with freshly drawn weights.
        num_classes: K.
        in_channels: C.
        image_size: S, pixels.

    Raises:
        RequestError: if the network does not run on such images, or ends in something else than a linear layer.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        build: Callable[[], nn.Module],
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self._build = build
        self._last, last, order = _find_last(network, (2, in_channels, image_size, image_size), num_classes)
        self._block_names = find_blocks(network, last, order)
        self.head = network.get_submodule(last)
        network.set_submodule(self._last, nn.Flatten())  # leaves (B, D) as it is; makes (B, D, 1, 1) such
        self.body = network

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images)
        return features

    @property
    def blocks(self) -> Sequence[nn.Module]:  # type: ignore[override]
        """See `find_blocks`."""
        return [self.body.get_submodule(name) for name in self._block_names]

    def init_weights(self) -> None:
        """As the library does: the network is built anew, and its weights and statistics are taken."""
        with torch.device("cpu"):
            network = self._build()
        fresh = self.translate(dict(chain(network.named_parameters(), network.named_buffers())))
        with torch.no_grad():
            for name, tensor in chain(self.named_parameters(), self.named_buffers()):
                tensor.copy_(fresh[name])

    def translate(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a public file, under the names and in the shapes that they have here.

        Args:
            state: name -> tensor, as the library names them.
        """
        head = f"{self._last}."
        return {
            f"head.{name.removeprefix(head)}" if name.startswith(head) else f"body.{name}": (
                tensor.flatten(1) if name == f"{head}weight" else tensor  # (K, D, 1, 1) -> (K, D)
            )
            for name, tensor in state.items()
        }


def find_blocks(network: nn.Module, last: str, order: Sequence[str]) -> list[str]:
    """The repeated blocks of a network, found by structure, as there is no name that all libraries use.

    A block is a module with at least two layers that have weights and that stands in a row: in a Sequential, ModuleList
    or ModuleDict, or beside another one of its class. A module that holds rows of its own is a stage, and its blocks
    count instead. Where there are no such rows (VGG, AlexNet), the convolutions do, and without those the layers.

    Args:
        network: of any kind.
        last: name of its last layer, which is in no block.
        order: names of the modules in the order in which the network first calls them.

    Returns:
        Names, in the order of the forward pass.
    """
    found = set(_blocks_below(network, "", last))
    if not found:
        layers = {name: module for name, module in network.named_modules() if _count_layers(module) == 1}
        leaves = {name: module for name, module in layers.items() if not any(module.children()) and name != last}
        found = {name for name, module in leaves.items() if isinstance(module, nn.Conv2d)} or {*leaves}
    return [name for name in order if name in found]


def _blocks_below(module: nn.Module, name: str, last: str) -> Iterator[str]:
    children = list(_composite_children(module, name))
    classes = Counter(type(child) for _, child, _ in children)
    for path, child, in_container in children:
        if _is_stage(child, in_container) or f"{last}.".startswith(f"{path}."):
            yield from _blocks_below(child, path, last)
        elif in_container or classes[type(child)] > 1:
            yield path


def _is_stage(module: nn.Module, in_container: bool) -> bool:
    """Whether the module holds rows: of one class in a container, or, being no member of a row, of children alike."""
    children = list(_composite_children(module, ""))
    rows = Counter(type(child) for _, child, contained in children if contained)
    alike = len(children) > 1 and len({type(child) for _, child, _ in children}) == 1
    return any(count > 1 for count in rows.values()) or (alike and not in_container)


def _composite_children(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module, bool]]:
    """(name, child, whether it is in a container) of children with two layers or more; containers are looked into."""
    for key, child in module.named_children():
        path = f"{name}.{key}".lstrip(".")
        if isinstance(child, CONTAINERS):
            yield from _composite_children(child, path)
        elif _count_layers(child) > 1:
            yield path, child, isinstance(module, CONTAINERS)


def _count_layers(module: nn.Module) -> int:
    """How many modules within it have weights of their own: tensors of two or more dimensions, which excludes norms."""
    return sum(any(p.ndim > 1 for p in part.parameters(recurse=False)) for part in module.modules())


def _find_last(network: nn.Module, shape: tuple[int, ...], num_classes: int) -> tuple[str, str, list[str]]:
    """Where to cut.

    Returns:
        The library's name of the last layer; the name of the linear layer that does its work; and the names of all
        modules in the order of their calls.
    """
    calls = _dry_run(network, shape, training=False)
    name = last = _linear_at_the_end(network, calls, num_classes)
    if not last and (name := _convolution_at_the_end(network, calls, num_classes)):
        network.set_submodule(name, nn.Sequential(nn.Flatten(), _as_linear(network.get_submodule(name))))
        calls, last = _dry_run(network, shape, training=False), f"{name}.1"
    runs = (calls, _dry_run(network, shape, training=True))
    if not last or any(_linear_at_the_end(network, run, num_classes) != last for run in runs):
        raise RequestError(
            f"{type(network).__name__} has no last layer to cut before: what it returns is not what one linear layer "
            "returned (it may have auxiliary outputs, two heads, or a pooling at its end)"
        )
    return name, last, list(calls)


def _dry_run(network: nn.Module, shape: tuple[int, ...], *, training: bool) -> dict[str, object]:
    """What each module returns for images of this shape, in the order of the calls; the network itself is called ""."""
    names = {module: name for name, module in network.named_modules()}
    returned: dict[str, object] = {}

    def note(module: nn.Module, _: object, output: object) -> None:
        returned[names[module]] = output

    hooks = [module.register_forward_hook(note) for module in names]
    tensors = {name: tensor.to("meta") for name, tensor in chain(network.named_parameters(), network.named_buffers())}
    was_training = network.training
    try:
        with torch.no_grad():
            functional_call(network.train(training), tensors, (torch.empty(shape, device="meta"),))
    except _NETWORKS_FAIL as error:
        reason = str(error).partition("\n")[0]
        raise RequestError(
            f"{type(network).__name__} does not run on images of {' x '.join(map(str, shape[1:]))}: {reason}"
        ) from None
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return returned


def _linear_at_the_end(network: nn.Module, returned: Mapping[str, object], num_classes: int) -> str:
    """Name of the linear layer whose output, the very tensor, is that of the network; "" where there is none."""
    linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    found = (name for name, value in returned.items() if value is returned[""] and name in linear)
    return next((name for name in found if linear[name].out_features == num_classes), "")


def _convolution_at_the_end(network: nn.Module, returned: Mapping[str, object], num_classes: int) -> str:
    """Name of the last convolution, if it makes (B, K, 1, 1) logits by a 1x1 kernel; "" if it does not."""
    called = {name: network.get_submodule(name) for name in returned}
    name = [name for name, module in called.items() if isinstance(module, nn.Conv2d)][-1:]
    match [(called[n], returned[n]) for n in name]:
        case [(nn.Conv2d(kernel_size=(1, 1), groups=1), Tensor(shape=(_, k, 1, 1)))] if k == num_classes:
            return name[0]
    return ""


def _as_linear(convolution: nn.Module) -> nn.Linear:
    """The linear layer that equals a 1x1 convolution of a (B, D, 1, 1) tensor; it takes over the weights."""
    assert isinstance(convolution, nn.Conv2d)
    linear = nn.Linear(convolution.in_channels, convolution.out_channels, convolution.bias is not None, device="meta")
    linear.weight = nn.Parameter(convolution.weight.detach().flatten(1))  # (K, D, 1, 1) -> (K, D)
    if convolution.bias is not None:
        linear.bias = nn.Parameter(convolution.bias.detach())
    return linear
