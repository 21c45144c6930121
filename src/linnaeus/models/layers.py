"""What at least two of the model files use, and nothing else."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Stochastic depth: in training, drops a residual branch for each sample with probability `rate`.

    Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, arXiv:1603.09382, section 3. The paper multiplies
    the branch by `1 - rate` in evaluation; here training divides the surviving ones by it: the expectation is the
    same and evaluation is the identity. The draw comes from the device's default generator, seeded by whoever trains.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = _checked(rate)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        survives = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep)  # (B, 1, ..., 1)
        return x / keep * survives

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}"


def drop_path_rates(drop_path: float, depth: int) -> list[float]:
    """The rate of each of `depth` blocks: linear from 0 at the first to `drop_path` at the last."""
    last = depth - 1
    drop_path = _checked(drop_path)
    return [drop_path * i / last if last else drop_path for i in range(depth)]


def _checked(rate: float) -> float:
    if not 0 <= rate < 1:
        raise ValueError(f"drop_path is {rate}, expected a probability of at least 0 and below 1")
    return rate
