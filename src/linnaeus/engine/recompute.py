"""Gradient checkpointing: activations inside the blocks are computed again rather than kept, to save memory."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from linnaeus.core.classifier import Classifier


def recompute_blocks(model: Classifier) -> None:
    """Makes every block keep its input alone for the backward pass (Chen et al., arXiv:1604.06174).

    For one more forward pass of the blocks, memory grows with their number and no longer with what is inside them.
    Losses, gradients and running statistics stay what they were, bit for bit: dropout draws the same again, and
    BatchNorm counts a batch once. The names of the parameters do not change. In eval mode nothing is different.

    Args:
        model: to be changed in place, before it is compiled.
    """
    for block in model.blocks:
        block.forward = partial(_forward, block, block.forward)


def _forward(block: nn.Module, forward: Any, *inputs: Any) -> Any:
    if not block.training:
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, block))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first forward pass, and around the second."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """BatchNorm moves copies of its running statistics: they have seen this batch already."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    originals = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in originals:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in originals:
            setattr(norm, name, buffer)
