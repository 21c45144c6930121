"""Looking on while a network works, without keeping or changing what passes.

`core/capture.py` keeps outputs, and refuses a module that is called twice, as the ReLUs of torchvision's ResNets are.
Here every call is seen, and only what the watcher makes of it is kept: no tensor lives longer than without it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

See = Callable[[str, list[Tensor]], None]
"""(name of a module, its tensors) -> None. The name of the whole network is ""."""


@contextmanager
def watch(
    modules: Iterable[tuple[str, nn.Module]], *, before: See | None = None, after: See | None = None
) -> Iterator[None]:
    """Calls `before` with the inputs and `after` with the outputs of every call of the modules inside the block."""
    handles: list[RemovableHandle] = []
    try:
        for name, module in modules:
            if before is not None:
                handles.append(module.register_forward_pre_hook(_seeing_inputs(name, before)))
            if after is not None:
                handles.append(module.register_forward_hook(_seeing_outputs(name, after)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensors_in(value: object) -> list[Tensor]:
    """The tensors of an input or output: one, or those of a tuple, a list or a dict, however nested."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in tensors_in(part)]
    return []


def _seeing_inputs(name: str, see: See) -> Callable[[nn.Module, tuple[object, ...]], None]:
    def hook(_module: nn.Module, inputs: tuple[object, ...]) -> None:
        see(name, tensors_in(inputs))

    return hook


def _seeing_outputs(name: str, see: See) -> Callable[[nn.Module, tuple[object, ...], object], None]:
    def hook(_module: nn.Module, _inputs: tuple[object, ...], output: object) -> None:
        see(name, tensors_in(output))

    return hook
