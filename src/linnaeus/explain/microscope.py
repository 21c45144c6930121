"""What goes on inside a network while it trains, seen without changing it, for a bounded share of the time.

A look takes in one step: the histograms of weights and gradients as the optimizer gets them, how far each weight moves,
and on the same images, in evaluation, which units are dead. The step after it is watched for its memory. The hooks
are PyTorch's own, of any module and any optimizer, and are there only for that step: all others run as without them.
The first look also shows the images and draws the graph, whose tracing takes up to a few seconds and is counted apart.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linnaeus.core.batch import Batch
from linnaeus.core.device import synchronize
from linnaeus.core.record import Recorder
from linnaeus.explain.hooks import watch
from linnaeus.explain.memory import MIB, forget_peak, peak, phases

SHARE = 0.02
"""Of the time of training that looking may take, without the graph."""
LOOKS = 50
"""At most so many in a run: TensorBoard's files stay small, about 2 KiB for each parameter tensor and look."""
PIXELS = 2**19
"""Of the images that are shown: 64 small ones, or 10 of 224 pixels."""
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish)
"""Those whose output, and with it whose gradient, can be zero for good."""
HEALTHY = (1e-4, 1e-2)
"""Lengths of a step relative to its weight in which nothing needs to be done; about 1e-3 is the rule of thumb."""
DEAD = 0.1
"""Share of dead units of one activation that a person is told of."""


class Microscope:
    """Looks at some of the steps of a training run and writes what it sees to the record."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        recorder: Recorder,
        *,
        as_seen: Callable[[Batch, int], Tensor],
        to_pixels: Callable[[Tensor], Tensor],
        total_steps: int,
        share: float = SHARE,
    ) -> None:
        """Begins the clock.

        Args:
            model: that trains; not compiled.
            optimizer: any of PyTorch's interface.
            recorder: of the run.
            as_seen: (batch, step) -> (B, C, H, W) float, what the network is given of it.
            to_pixels: undoes the normalisation: (B, C, H, W) -> the same in [0, 1].
            total_steps: of the run; under a budget of time those that are expected.
            share: of the time that looking may take, without the graph.
        """
        self._model, self._optimizer, self._recorder = model, optimizer, recorder
        self._as_seen, self._to_pixels, self._share = as_seen, to_pixels, share
        self._total_steps, self._every = total_steps, max(1, total_steps // LOOKS)
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._began, self._first, self._next = time.monotonic(), -1, 0
        self._spent, self._drawing, self._last, self._looks, self._weigh = 0.0, 0.0, 0.0, 0, False

    @contextmanager
    def looking(self, step: int, batch: Batch) -> Iterator[None]:
        """Around step number `step`, from 0, on `batch`: looks where it is time to. The step is the same either way."""
        self._first = step if self._first < 0 else self._first
        if self._weigh:
            with self._memory(step, batch.images.device):
                yield
        elif self._is_time(step):
            with self._look(step, batch):
                yield
        else:
            yield

    def close(self, step: int) -> None:
        """Writes what looking cost, when training is done at `step`."""
        costs = {"share": self._spent / self._elapsed(), "graph_seconds": self._drawing}
        self._recorder.record(step, {f"microscope/{name}": value for name, value in costs.items()})

    def _elapsed(self) -> float:
        return time.monotonic() - self._began - self._drawing

    def _is_time(self, step: int) -> bool:
        """Whether a look now would keep to the share; one that costs more than expected delays the next.

        A run too short for any look within the share gets one, at its last step, where that is known.
        """
        if step == self._total_steps - 1 and self._looks == 0:
            return True
        elapsed, done = self._elapsed(), step - self._first
        expected = self._last or 2 * elapsed / max(done, 1)  # the first time: about two steps
        return step >= self._next and done > 0 and self._spent + expected <= self._share * elapsed

    @contextmanager
    def _look(self, step: int, batch: Batch) -> Iterator[None]:
        before, seen, device = self._spent, dict[str, float](), batch.images.device
        with self._watching_update(step, seen, device):
            yield
        with self._counting(device):
            images = self._as_seen(batch, step)
            seen |= {f"dead/{name}": share for name, share in dead_shares(self._model, images).items()}
            if self._looks == 0:
                self._show(step, images)
        if self._looks == 0:
            self._draw(images[:1])
        self._looks, self._next, self._weigh = self._looks + 1, step + self._every, True
        seen["microscope/look"] = self._looks
        finite = {name: value for name, value in seen.items() if math.isfinite(value)}  # JSON has no NaN
        self._recorder.record(step + 1, finite)
        self._last = self._spent - before
        forget_peak(device)

    @contextmanager
    def _watching_update(self, step: int, seen: dict[str, float], device: torch.device) -> Iterator[None]:
        """Fills `seen` with what the optimizer does: gradients and weights before it, and how far the weights move."""
        old: dict[str, Tensor] = {}

        def before(*_: object) -> None:
            with self._counting(device), torch.no_grad():
                for name, weight in self._weights.items():
                    self._recorder.histogram(step + 1, f"weights/{name}", weight)
                    if weight.grad is not None:
                        self._recorder.histogram(step + 1, f"gradients/{name}", weight.grad)
                old.update((name, weight.clone()) for name, weight in self._weights.items() if weight.ndim > 1)
                norms = [w.grad.norm() for w in self._weights.values() if w.grad is not None]
                seen["gradient_norm"] = float(torch.stack(norms).norm())

        def after(*_: object) -> None:
            with self._counting(device), torch.no_grad():
                for name, weight in old.items():
                    size, moved = float(weight.norm()), float((self._weights[name] - weight).norm())
                    if size > 0:  # a head may start at zero
                        seen[f"update_ratio/{name.removesuffix('.weight')}"] = moved / size
                old.clear()

        hooks = (self._optimizer.register_step_pre_hook(before), self._optimizer.register_step_post_hook(after))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _memory(self, step: int, device: torch.device) -> Iterator[None]:
        """The peaks of a step by phase; its own hooks keep nothing, so that a look does not count as memory."""
        data = peak(device)
        with phases(self._model, self._optimizer, device) as peaks:
            yield
        self._weigh = False
        values = {f"memory/{phase}_mib": size / MIB for phase, size in {"data": data, **peaks}.items()}
        self._recorder.record(step + 1, values)

    def _show(self, step: int, images: Tensor) -> None:
        count = max(1, min(64, PIXELS // images[0, 0].numel()))
        shown = self._to_pixels(images[:count])
        self._recorder.images(step + 1, "images", shown[:, : 3 if shown.shape[1] >= 3 else 1])

    def _draw(self, images: Tensor) -> None:
        began = time.monotonic()
        with suppress(RuntimeError):  # what PyTorch raises for a network that cannot be traced: it has no graph then
            self._recorder.graph(self._model, images)
        self._drawing = time.monotonic() - began

    @contextmanager
    def _counting(self, device: torch.device) -> Iterator[None]:
        synchronize(device)  # work under way is none of ours
        began = time.monotonic()
        try:
            yield
        finally:
            synchronize(device)
            self._spent += time.monotonic() - began


def dead_shares(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Name of each call of a ReLU, ReLU6 or Hardswish -> share of its units that are zero for the whole batch.

    A unit is a channel of (B, C, H, W), zero in all images at all places, and otherwise a place of the last dimension.
    The network is in evaluation for it, so that nothing changes: neither statistics nor draws. A module that is called
    again is named "relu#2" the second time.
    """
    alive: dict[str, Tensor] = {}

    def see(name: str, outputs: list[Tensor]) -> None:
        calls = sum(seen.partition("#")[0] == name for seen in alive)
        unit = 1 if outputs[0].ndim == 4 else outputs[0].ndim - 1
        rest = [dim for dim in range(outputs[0].ndim) if dim != unit]
        alive[f"{name}#{calls + 1}" if calls else name] = (outputs[0] != 0).sum(rest) > 0

    chosen = [(name, module) for name, module in model.named_modules() if isinstance(module, ACTIVATIONS)]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with watch(chosen, after=see), torch.no_grad():
            model(images)
    finally:
        for module, mode in modes:
            module.training = mode
    return {name: 1 - float(units.float().mean()) for name, units in alive.items()}


def conclusions(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Three sentences on a run from its record: dead units, update/weight ratios, memory and what looking cost."""
    looks, weighed, ends = (
        [record for record in records if name in record]
        for name in ("microscope/look", "memory/forward_mib", "microscope/share")
    )
    if not looks or not ends:
        return ["the run was too short for the microscope: no step was looked at"]
    share, seconds = ends[-1]["microscope/share"], ends[-1]["microscope/graph_seconds"]
    cost = f"the microscope looked {len(looks)} times, for {share:.1%} of the time"
    cost += f", and drew the graph in {seconds:.1f} s" if seconds else ""
    if weighed:
        phases = ("data", "forward", "backward", "optimizer")
        peaks = ", ".join(f"{phase} {max(r[f'memory/{phase}_mib'] for r in weighed):,.0f}" for phase in phases)
        cost = f"memory at its peak, MiB: {peaks}; {cost}"
    return [_on_dead_units(looks[-1]), _on_ratios(looks), cost]


def _on_dead_units(look: Mapping[str, Any]) -> str:
    shares = {key.removeprefix("dead/"): share for key, share in look.items() if key.startswith("dead/")}
    if not shares:
        return "dead units: none possible, this network has no ReLU"
    worst = sorted(shares.items(), key=lambda item: -item[1])[:3]
    told = [f"{name}: {share:.0%} dead units" for name, share in worst if share > DEAD]
    if told:
        return f"{', '.join(told)}: a lower --lr or a longer optim.warmup keeps more of them alive"
    return f"dead units: at most {worst[0][1]:.0%} of an activation ({worst[0][0]}): healthy"


def _on_ratios(looks: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(key for look in looks for key in look if key.startswith("update_ratio/"))
    medians = {n.removeprefix("update_ratio/"): median(look[n] for look in looks if n in look) for n in names}
    if not medians:
        return "update/weight ratios: none, no weight of two or more dimensions trains"
    low, high = (choose(medians, key=lambda name: medians[name]) for choose in (min, max))
    between = f"update/weight ratios between {medians[low]:.0e} and {medians[high]:.0e}"
    if medians[high] > HEALTHY[1]:
        return f"{between}: {high} changes fast, above {HEALTHY[1]:.0e}: try a lower --lr"
    if medians[low] < HEALTHY[0]:
        return f"{between}: {low} hardly changes, below {HEALTHY[0]:.0e}: try a higher --lr"
    return f"{between}: healthy"
