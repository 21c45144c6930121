"""Named insides of any network: what chosen modules return in a forward pass, and the gradients that come back to it.

The one way to look inside, for every family and for the networks of other libraries: names are those of
`named_modules()`, so that nothing has to be prepared in a network.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import Tensor, nn

from linnaeus.core.errors import RequestError

Hook = Callable[[nn.Module, tuple[object, ...], object], Tensor]


def names(model: nn.Module) -> list[str]:
    """What `capture` can be asked for: all modules of the model, without the model itself."""
    return [name for name, _ in model.named_modules() if name]


@contextmanager
def capture(model: nn.Module, *patterns: str, gradients: bool = False) -> Iterator[dict[str, Tensor]]:
    """Collects the outputs of modules during one forward pass inside the `with` block.

        with capture(model, "layer1", "layer4.*") as seen:
            model(images)
        seen["layer4.1"]  # what the module returned, still part of the graph of gradients, if there is one

    Later modules get a copy: an operation in place, such as torchvision's ReLU, cannot change what was seen.

    Args:
        model: not compiled: compiled code calls no module.
        patterns: names of modules, or shell patterns, where `*` stands for one level: "blocks.*" matches "blocks.0" and
            not "blocks.0.attn".
        gradients: keep the gradient of each output: after `backward`, it is in `seen[name].grad`.

    Yields:
        Name -> output, in the order of the calls. A module that is not called has no entry.

    Raises:
        RequestError: if a pattern matches nothing or the model is compiled; and out of the forward pass if a module is
            called a second time, returns something else than a tensor, or gets no gradient that it should keep.
    """
    modules = dict(model.named_modules())
    if "_orig_mod" in modules or any(module._compiled_call_impl is not None for module in modules.values()):
        raise RequestError("a compiled model cannot be looked into, since its code calls no module: capture before it")
    chosen = _choose(names(model), patterns)
    seen: dict[str, Tensor] = {}
    handles = []
    try:
        for name in chosen:
            handles.append(modules[name].register_forward_hook(_recorder(name, seen, gradients)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _choose(available: list[str], patterns: tuple[str, ...]) -> list[str]:
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in available if _matches(name, pattern)]
        if not found:
            close = get_close_matches(pattern, available, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(available[:8])} ..."
            raise RequestError(f"no module is called '{pattern}': {hint}")
        chosen |= dict.fromkeys(found)
    return list(chosen)


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _recorder(name: str, seen: dict[str, Tensor], gradients: bool) -> Hook:
    def record(_module: nn.Module, _inputs: tuple[object, ...], output: object) -> Tensor:
        if name in seen:
            raise RequestError(f"{name} is called twice: capture what is around it, in one forward pass a `with`")
        if not isinstance(output, Tensor):
            raise RequestError(f"{name} returns a {type(output).__name__} and no tensor: capture what is around it")
        if gradients:
            if not output.requires_grad:
                raise RequestError(f"no gradient comes to {name}: leave torch.no_grad(), or unfreeze what is before it")
            output.retain_grad()
        seen[name] = output
        return output.clone()

    return record
