"""What evaluation accumulates: sums only, so that neither the batch size nor the number of ranks shows in a result."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(eq=False)
class Counts:
    """Sums over the images seen so far.

    Every field is a tensor on the device of the logits, so that `update` never waits for the device. `read` waits once,
    checks, and hands back the same sums on the host.

    Attributes:
        confusion: (K, K) int64; rows are the truth, columns the prediction. Of equal logits the first class wins.
        top5: 0-d int64: how often the truth is among the min(5, K) largest logits.
        nll: 0-d float64: sum of the negative log likelihoods of the truth, in nats.
        n: 0-d int64: the number of images.
        nonfinite: 0-d int64: the number of images with a NaN or an infinity among their logits.
    """

    confusion: Tensor
    top5: Tensor
    nll: Tensor
    n: Tensor
    nonfinite: Tensor

    @classmethod
    def zeros(cls, num_classes: int) -> Self:
        """Nothing counted yet. The first `update` moves the sums to the device of its logits."""
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}: expected at least 1")
        return cls(
            confusion=torch.zeros(num_classes, num_classes, dtype=torch.int64),
            top5=torch.zeros((), dtype=torch.int64),
            nll=torch.zeros((), dtype=torch.float64),
            n=torch.zeros((), dtype=torch.int64),
            nonfinite=torch.zeros((), dtype=torch.int64),
        )

    def update(self, logits: Tensor, targets: Tensor, valid: Tensor) -> None:
        """Count one batch, in place.

        Args:
            logits: (B, K) float, of any precision.
            targets: (B,) int64 in [0, K) wherever `valid`; elsewhere anything.
            valid: (B,) bool; False marks padding, which is not counted.

        Raises:
            ValueError: a shape or a dtype is not as above. A target out of range raises what torch's indexing raises.
        """
        self._check(logits, targets, valid)
        home = _accumulating_device(logits.device)
        self._move(home)
        logits, targets, valid = logits.detach().to(home), targets.to(home), valid.to(home)
        truth = torch.where(valid, targets, 0)
        cells = truth * len(self.confusion) + logits.argmax(dim=1)
        nll = F.cross_entropy(logits.double(), truth, reduction="none")
        self.confusion.view(-1).index_add_(0, cells, valid.long())
        self.top5 += (valid & (_rank_of_truth(logits, truth) < 5)).sum()
        self.nll += torch.where(valid, nll, 0.0).sum()
        self.n += valid.sum()
        self.nonfinite += (valid & ~logits.isfinite().all(dim=1)).sum()

    def read(self) -> Self:
        """The same sums on the host, fit to be reported.

        Raises:
            ValueError: no image was counted, or the logits of some were NaN or infinite (their argmax means nothing).
        """
        host = self.map(Tensor.cpu)
        if host.nonfinite:
            raise ValueError(
                f"the logits of {int(host.nonfinite)} of {int(host.n)} images hold NaN or infinite values: "
                "no score can be given; look for the first layer that produces them"
            )
        if not host.n:
            raise ValueError("no image was counted: expected at least one valid image")
        return host

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A new `Counts` of `function` of every field: a copy to a device, or a sum across ranks."""
        return type(self)(**{field.name: function(getattr(self, field.name)) for field in fields(self)})

    def __add__(self, other: Self) -> Self:
        """The counts of both sets of images, on the device of the left one.

        Raises:
            ValueError: the numbers of classes differ.
        """
        if len(self.confusion) != len(other.confusion):
            raise ValueError(f"cannot add counts of {len(self.confusion)} and {len(other.confusion)} classes")
        device = self.n.device
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return type(self)(**{name: mine + theirs.to(device) for name, (mine, theirs) in pairs.items()})

    def _move(self, device: torch.device) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name).to(device))

    def _check(self, logits: Tensor, targets: Tensor, valid: Tensor) -> None:
        if not logits.is_floating_point() or logits.ndim != 2 or logits.shape[1] != len(self.confusion):
            raise ValueError(
                f"logits are {logits.dtype} {tuple(logits.shape)}: expected floats of shape (B, {len(self.confusion)})"
            )
        for name, tensor, dtype in (("targets", targets, torch.int64), ("valid", valid, torch.bool)):
            if tensor.dtype != dtype or tensor.shape != logits.shape[:1]:
                raise ValueError(
                    f"{name} are {tensor.dtype} {tuple(tensor.shape)}: expected {dtype} of shape ({len(logits)},)"
                )


def _accumulating_device(device: torch.device) -> torch.device:
    """Where to sum: beside the logits, except on MPS, which has no float64 and so waits for the host at each batch."""
    return torch.device("cpu") if device.type == "mps" else device


def _rank_of_truth(logits: Tensor, truth: Tensor) -> Tensor:
    """(B, K), (B,) -> (B,) int64: how many classes come before the truth; 0 exactly where argmax finds the truth.

    `topk` orders equal logits as it likes, so that a network with constant logits would score differently from one
    device to the next. Here, as in argmax, the lower index comes first.
    """
    own = logits.gather(1, truth[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    ahead = (logits > own) | ((logits == own) & (classes < truth[:, None]))
    return ahead.sum(dim=1)
