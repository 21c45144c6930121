"""Which parameters decay."""

from typing import Any

from torch import nn

# Learned per token, position or channel, like a bias, and kept as tensors of two or more dimensions only to broadcast.
# Each is the last part of a parameter's dotted name: our names and timm's, then torchvision's.
UNDECAYED = frozenset({"cls_token", "reg_token", "dist_token", "pos_embed"})
UNDECAYED |= {"class_token", "pos_embedding", "layer_scale", "relative_position_bias_table"}
UNDECAYED |= {"gamma", "beta"}  # of global response normalisation, (1, 1, 1, C)


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
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
