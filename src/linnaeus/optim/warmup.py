"""`GradualWarmup`, a scheduler of torch for those who write their own loop. Ours uses `schedule.py`."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


class GradualWarmup(LRScheduler):
    """A linear warm-up, after which another scheduler takes over from its own beginning.

    With f = multiplier and n = total_epoch, the learning rate after `step()` was called i times is
    base (f + (1 - f) i / n) for i <= n, and then what `after_scheduler` gives after i - n calls.

    The class of that name in the package `warmup_scheduler` means something else by `multiplier`: the base learning
    rate is multiplied by it during the warm-up, and a factor below 1 is refused. Tutorials that pass 1 / 100 mean the
    fraction to start from, and so does this one.

    "Epoch" is the word of torch's schedulers for one call of `step()`. Where it is called after each batch, lengths
    such as T_0 of `after_scheduler` are numbers of batches too.

    Example:

        after = CosineAnnealingWarmRestarts(optimizer, T_0=10 * len(loader), T_mult=2, eta_min=1e-6)
        scheduler = GradualWarmup(optimizer, multiplier=1 / 100, total_epoch=100, after_scheduler=after)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        multiplier: float,
        total_epoch: int,
        after_scheduler: LRScheduler | None = None,
    ) -> None:
        """Sets the first learning rate.

        Args:
            optimizer: whose learning rates are set; each group has its own.
            multiplier: the fraction of the base learning rate to start from, in [0, 1).
            total_epoch: calls of `step()` until the base learning rate is reached, at least 1.
            after_scheduler: of the same optimizer, and not stepped by anyone else; None to stay at the base rate.

        Raises:
            ValueError: an argument is outside its range.
        """
        if not 0 <= multiplier < 1:
            raise ValueError(
                f"multiplier is {multiplier}: expected the fraction to start from, in [0, 1), such as 0.01"
            )
        if total_epoch < 1:
            raise ValueError(f"total_epoch is {total_epoch}: expected at least 1 step of warm-up")
        if isinstance(after_scheduler, ReduceLROnPlateau):
            raise ValueError("after_scheduler is ReduceLROnPlateau: it needs a metric at every step; take another one")
        if after_scheduler is not None and after_scheduler.optimizer is not optimizer:
            raise ValueError("after_scheduler belongs to another optimizer: build it with this one")
        self.multiplier, self.total_epoch, self.after_scheduler = multiplier, total_epoch, after_scheduler
        # What it set when it was built is where it takes over.
        self._after_first = None if after_scheduler is None else after_scheduler.get_last_lr()
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """Sets the next learning rates. `epoch` must stay None, as in torch today."""
        if epoch is not None:
            raise ValueError(f"epoch is {epoch}: call step() without it, once after each step or epoch")
        if self.after_scheduler is None or self.last_epoch < self.total_epoch:
            super().step()
            return
        self.last_epoch += 1
        self.after_scheduler.step()
        self._last_lr = self.after_scheduler.get_last_lr()

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate of each group during and at the end of the warm-up."""
        if self.last_epoch >= self.total_epoch:
            return list(self._after_first or self.base_lrs)
        share = self.last_epoch / self.total_epoch
        return [base * (self.multiplier + (1 - self.multiplier) * share) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, with the state of `after_scheduler`."""
        own = {key: value for key, value in super().state_dict().items() if key != "after_scheduler"}
        return {**own, "after_scheduler": self.after_scheduler and self.after_scheduler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        theirs = state_dict["after_scheduler"]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "after_scheduler"})
        if self.after_scheduler is not None:
            self.after_scheduler.load_state_dict(theirs)
