"""Which parameters decay, and how fast each layer learns."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from linnaeus.core.classifier import Classifier

Groups = list[dict[str, Any]]

# Learned per token, position or channel, like a bias, and kept as tensors of two or more dimensions only to broadcast.
# Each is the last part of a parameter's dotted name: our names and timm's, then torchvision's.
UNDECAYED = frozenset({"cls_token", "reg_token", "dist_token", "pos_embed"})
UNDECAYED |= {"class_token", "pos_embedding", "layer_scale", "relative_position_bias_table"}
UNDECAYED |= {"gamma", "beta"}  # of global response normalisation, (1, 1, 1, C)


def param_groups(model: nn.Module, weight_decay: float) -> Groups:
    """Two groups for an optimizer: weights that decay, then those that do not. Either may be empty.

    Matrices and kernels (ndim >= 2) decay. Biases, the scales of norms and layers (ndim < 2), tokens and position
    embeddings do not: pulling them to zero limits no capacity. Frozen parameters are in no group.

    Names stand under `param_names`, the key that torch's optimizers themselves keep. Handing torch (name, tensor) pairs
    would set it too, but then it refuses an empty group.

    Returns:
        Dicts with `params` and `param_names` (in the same order: that of the model) and `weight_decay`.

    Raises:
        ValueError: weight_decay is negative, or no parameter is trainable.
    """
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay is {weight_decay}: expected a number of at least 0")
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise ValueError("every parameter is frozen: set requires_grad of at least one, usually the head's")
    decayed = {name: p for name, p in trainable.items() if p.ndim >= 2 and not _is_undecayed(name)}
    others = {name: p for name, p in trainable.items() if p.ndim < 2 or _is_undecayed(name)}
    _assert_partition(trainable, decayed, others)
    return [_group(decayed, weight_decay), _group(others, 0.0)]


def split_groups(groups: Groups, key: str, values: Mapping[str, Any]) -> Groups:
    """Each group cut into one for every value that its parameters have, written down in it under `key`.

    Args:
        groups: from `param_groups`.
        key: of the new entry, such as "lr_scale".
        values: parameter name -> value, of every parameter. Groups come in the order of the values.
    """
    parts = []
    for group in groups:
        named = dict(zip(group["param_names"], group["params"], strict=True))
        for value in sorted({values[name] for name in named}):
            part = {name: parameter for name, parameter in named.items() if values[name] == value}
            parts.append({**group, "params": list(part.values()), "param_names": list(part), key: value})
    return parts


def layer_scales(model: Classifier, decay: float) -> dict[str, float]:
    """Parameter name -> share of the learning rate for fine-tuning: 1 for the head, times `decay` for each layer below.

    Clark et al. (arXiv:2003.10555), as BEiT and ConvNeXt use it: the layers next to the image are the most general, and
    what they have learned should change least.

    Args:
        model: a network.
        decay: in (0, 1], the factor from one layer to the one below it.

    Raises:
        ValueError: decay is outside its range, or the network does not call each of its blocks once.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer_decay is {decay}: expected a factor in (0, 1], such as 0.75")
    top = len(model.blocks) + 1
    return {name: decay ** (top - depth) for name, depth in layer_depths(model).items()}


def layer_depths(model: Classifier) -> dict[str, int]:
    """Parameter name -> depth: 0 for the stem, 1 to n for the n blocks, n + 1 for what follows them, the head with it.

    What stands between two blocks has the depth of the second. Found by a forward pass on the meta device, without
    arithmetic, so that no network needs to list its layers: a parameter is as deep as the number of blocks that are
    done when the module that holds it is called first.
    """
    n = len(model.blocks)
    reached: dict[str, int] = {"": 0}
    done = 0

    def enter(name: str) -> None:
        reached.setdefault(name, done if done == 0 else done + 1)

    def leave() -> None:
        nonlocal done
        done += 1

    handles = [m.register_forward_pre_hook(lambda *_, name=name: enter(name)) for name, m in model.named_modules()]
    handles += [block.register_forward_hook(lambda *_: leave()) for block in model.blocks]
    try:
        _run_on_meta(model)
    finally:
        for handle in handles:
            handle.remove()
    if done != n or n == 0:
        raise ValueError(f"{type(model).__name__} called its {n} blocks {done} times: layer decay needs each once")
    inside = {module: number for number, block in enumerate(model.blocks, start=1) for module in block.modules()}
    depths = {}
    for name, _ in model.named_parameters():
        owner = name.rpartition(".")[0]
        module = model.get_submodule(owner)
        while owner not in reached:  # used by the module around it, without a call of its own
            owner = owner.rpartition(".")[0]
        depths[name] = inside.get(module, reached[owner])
    return depths


def _run_on_meta(model: Classifier) -> None:
    """A forward pass in eval mode, without memory or arithmetic; the model stays as it is."""
    tensors: dict[str, Tensor] = {name: parameter.to("meta") for name, parameter in model.named_parameters()}
    tensors |= {name: buffer.to("meta") for name, buffer in model.named_buffers()}
    image = torch.zeros(1, model.in_channels, model.image_size, model.image_size, device="meta")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            torch.func.functional_call(model, tensors, (image,))
    finally:
        for module, training in modes.items():
            module.training = training


def hidden_matrices(model: Classifier) -> frozenset[str]:
    """The names of the matrices and kernels inside the blocks: what Muon is for.

    The stem and the head are not among them: their gradients are of another kind, one input or one class a row. Nor
    are the kernels of grouped convolutions, which are many small matrices.
    """
    convolutions = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    grouped = {f"{name}.weight" for name, module in convolutions if module.groups > 1}
    inside = {parameter for block in model.blocks for parameter in block.parameters() if parameter.ndim >= 2}
    inside -= set(model.head.parameters())
    return frozenset(
        n for n, p in model.named_parameters() if p in inside and not _is_undecayed(n) and n not in grouped
    )


def mark_hidden(groups: Groups, names: Collection[str]) -> Groups:
    """The groups for `Muon`: those parameters whose names are given, and the others."""
    return split_groups(groups, "hidden", {name: name in names for group in groups for name in group["param_names"]})


def _is_undecayed(name: str) -> bool:
    return name.rpartition(".")[2] in UNDECAYED


def _group(parameters: dict[str, nn.Parameter], weight_decay: float) -> dict[str, Any]:
    return {
        "params": list(parameters.values()),
        "param_names": list(parameters),
        "weight_decay": weight_decay,
    }


def _assert_partition(trainable: dict[str, nn.Parameter], *parts: dict[str, nn.Parameter]) -> None:
    """Each trainable parameter is in exactly one part: one left out would never train, and nothing else would tell."""
    names = [name for part in parts for name in part]
    assert sorted(names) == sorted(trainable), f"not in exactly one group: {set(trainable) ^ set(names)}"
