"""The first module to return NaN or Inf, or to send it back; and the step that did it, saved for replay."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from linnaeus.core.batch import Batch
from linnaeus.core.classifier import Classifier
from linnaeus.core.device import autocast
from linnaeus.core.files import load_tensors, save_tensors
from linnaeus.explain.hooks import watch
from linnaeus.models import create_model

KIND, VERSION = "linnaeus-nonfinite", 1
Phase = Literal["forward", "backward", "optimizer"]


@dataclass(frozen=True)
class Culprit:
    """Where numbers first ceased to be finite.

    Attributes:
        module: its name; "the loss" or "the optimizer" where it was none of the network's.
        phase: of the step.
        what: what it did, in words, with the statistics of its inputs.
    """

    module: str
    phase: Phase
    what: str

    def __str__(self) -> str:
        return f"{self.module} {self.what}"


@dataclass
class Evidence:
    """What the network was given in the micro-batch that went wrong, or else in the last one.

    Attributes:
        culprit: None as long as all is finite.
        images: (B, C, H, W) float, normalised and mixed.
        gradient: (B, K) of the loss with respect to the logits; None where the backward pass was not reached.
        draws: the state of torch's generators before the pass, that of the device last, for dropout.
    """

    culprit: Culprit | None = None
    images: Tensor | None = None
    gradient: Tensor | None = None
    draws: list[Tensor] = field(default_factory=list)


def find_culprit(model: nn.Module, take: Callable[[], object]) -> Evidence:
    """Takes a step and names what is first not finite: in the forward pass, in the backward pass, or after the update.

    Args:
        model: with the weights of before the step; not compiled.
        take: takes the step on the batch in question: forward, backward and update, in micro-batches or whole.
    """
    with _tracing(model) as evidence:
        take()
    if evidence.culprit is None:
        for name, tensor in model.named_parameters():
            if not _is_finite(tensor):
                what = f"made {name} not finite, with gradients that are finite: its step was too long"
                evidence.culprit = Culprit("the optimizer", "optimizer", what)
                break
    return evidence


@contextmanager
def _tracing(model: nn.Module) -> Iterator[Evidence]:
    evidence, inputs, modules = Evidence(), dict[str, str](), dict(model.named_modules())
    blame = _Blame(evidence)

    def before(name: str, tensors: list[Tensor]) -> None:
        if evidence.culprit is not None:
            return
        inputs[name] = _in_words(tensors)
        if name == "":
            evidence.images, evidence.gradient, evidence.draws = tensors[0].detach().clone(), None, _draws(tensors[0])
        for tensor in tensors:
            _on_gradient(tensor, partial(blame.backward, name or "the network", given=inputs[name]))

    def after(name: str, tensors: list[Tensor]) -> None:
        broken = [tensor for tensor in tensors if not _is_finite(tensor)]
        if broken and evidence.culprit is None:
            what = f"returned {_in_words(broken)}, given {inputs[name]}"
            evidence.culprit = Culprit(name or "the network", "forward", what)
        for kind, buffer in modules[name].named_buffers(recurse=False):
            if evidence.culprit is None and not _is_finite(buffer):
                what = f"made its {kind} {_in_words([buffer])}, given {inputs[name]}"
                evidence.culprit = Culprit(name or "the network", "forward", what)
        for tensor in tensors:
            if name:
                _on_gradient(tensor, partial(blame.backward, f"what follows {name}", given=_in_words([tensor])))
            else:
                _on_gradient(tensor, partial(blame.logits, _in_words([tensor])))

    handles = [
        _on_gradient(parameter, partial(blame.parameter, name, inputs)) for name, parameter in model.named_parameters()
    ]
    try:
        with watch(modules.items(), before=before, after=after):
            yield evidence
    finally:
        for handle in filter(None, handles):
            handle.remove()


@dataclass
class _Blame:
    """Who sent back the first gradient that is not finite.

    One tensor is the output of one module and the input of others: its hooks run one after the other with the very
    same gradient. The one registered last is the innermost module that was given the tensor: it sent the gradient back.
    """

    evidence: Evidence
    first: Tensor | None = None

    def backward(self, who: str, gradient: Tensor, *, given: str) -> None:
        """The gradient of an input of a module, or of an output, which what follows it sent back."""
        if self._is_first(gradient):
            self.evidence.culprit = Culprit(who, "backward", f"sent back {_in_words([gradient])}, given {given}")

    def parameter(self, name: str, inputs: dict[str, str], gradient: Tensor) -> None:
        """The gradient of a parameter."""
        owner = name.rpartition(".")[0]
        if self._is_first(gradient):
            what = f"gave {name} the gradient {_in_words([gradient])}, given {inputs.get(owner, 'nothing of its own')}"
            self.evidence.culprit = Culprit(owner or "the network", "backward", what)

    def logits(self, statistics: str, gradient: Tensor) -> None:
        """The gradient of the network's output, which the loss sent back."""
        if self.evidence.culprit is None or self.evidence.gradient is None:  # of this micro-batch, not of a later one
            self.evidence.gradient = gradient.detach().clone()
        if self._is_first(gradient):
            what = f"sent back {_in_words([gradient])}, given logits {statistics}"
            self.evidence.culprit = Culprit("the loss", "backward", what)

    def _is_first(self, gradient: Tensor) -> bool:
        if self.evidence.culprit is None and not _is_finite(gradient):
            self.first = gradient
        return gradient is self.first


def save_step(path: Path, evidence: Evidence, weights: dict[str, Tensor], batch: Batch, about: dict[str, Any]) -> None:
    """Writes the step for `replay`: the weights before it, its batch, and what the network was given of it.

    Args:
        path: its folder is made.
        evidence: of `find_culprit`.
        weights: the network's state of before the step.
        batch: the whole batch, of which the network may have been given a part.
        about: "architecture" (name, num_classes, in_channels, image_size, options), "precision", "channels_last",
            "step"; all JSON-able.
    """
    assert evidence.images is not None  # the network was called
    assert evidence.culprit is not None
    path.parent.mkdir(exist_ok=True)
    tensors = {f"model/{name}": tensor for name, tensor in weights.items()}
    tensors |= {f"batch/{name}": tensor for name, tensor in vars(batch).items()}
    tensors |= {f"draws/{number}": state for number, state in enumerate(evidence.draws)}
    tensors["images"] = evidence.images
    if evidence.gradient is not None:
        tensors["gradient"] = evidence.gradient
    save_tensors(path, KIND, VERSION, tensors, {**about, "culprit": asdict(evidence.culprit)})


@dataclass(frozen=True)
class Replay:
    """A step that went wrong, made again.

    Attributes:
        model: with the weights of before the step, in training mode.
        images: (B, C, H, W) float, what it was given.
        gradient: (B, K) of the loss with respect to its logits; None if the step did not get so far.
        batch: the whole batch; `index` leads to the rows of the run's data/index.csv.
        step: its number.
        recorded, found: the culprit in the run, and this time; None if all was finite this time, as it is where only
            the update was at fault.
    """

    model: Classifier
    images: Tensor
    gradient: Tensor | None
    batch: Batch
    step: int
    recorded: Culprit
    found: Culprit | None


def replay(path: Path | str, *, device: str = "cpu") -> Replay:
    """Makes the forward and backward pass of a saved step again and names what is first not finite.

    Raises:
        RequestError: if the file is missing or none of `save_step`.
        EnvironmentFault: if it is damaged.
    """
    tensors, about = load_tensors(Path(path), KIND, VERSION)
    place = torch.device(device)
    model = _rebuild(about["architecture"], place, channels_last=about["channels_last"])
    weights = {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
    model.load_state_dict(weights)
    images = tensors["images"].to(place, memory_format=torch.channels_last)  # as the loaders lay them out
    gradient = tensors.get("gradient")
    batch = Batch(*(tensors[f"batch/{name}"] for name in ("images", "targets", "valid", "index")))

    def take() -> None:
        with autocast(place, about["precision"]):
            logits = model(images)
        if gradient is not None:
            torch.autograd.backward(logits, gradient.to(place))

    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), _tracing(model.train()) as evidence:
        torch.set_rng_state(tensors["draws/0"])
        if place.type == "cuda" and "draws/1" in tensors:
            torch.cuda.set_rng_state(tensors["draws/1"], place)
        take()
    model.zero_grad()
    model.load_state_dict(weights)  # as before the pass: BatchNorm has moved its statistics
    return Replay(model, images, gradient, batch, about["step"], Culprit(**about["culprit"]), evidence.culprit)


def _rebuild(architecture: dict[str, Any], place: torch.device, *, channels_last: bool) -> Classifier:
    named = dict(architecture)
    with torch.random.fork_rng(devices=[]):
        model = create_model(named.pop("name"), pretrained=False, **named.pop("options"), **named).to(place)
    return model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _draws(tensor: Tensor) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(tensor.device)] if tensor.is_cuda else states


def _on_gradient(tensor: Tensor, see: Callable[[Tensor], None]) -> RemovableHandle | None:
    return tensor.register_hook(see) if tensor.requires_grad else None  # type: ignore[no-untyped-call]


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _in_words(tensors: list[Tensor]) -> str:
    """Shape and statistics: "(8, 6, 14, 14) between -3.1 and 2.2, mean 0.04, std 1" and how much is not finite."""
    return " and ".join(_statistics(tensor.detach()) for tensor in tensors) or "no tensor"


def _statistics(tensor: Tensor) -> str:
    shape, values = tuple(tensor.shape), tensor.float().flatten()
    good = values[torch.isfinite(values)]
    missing = len(values) - len(good)
    broken = f"{missing:,} of {len(values):,} values not finite" if missing else ""
    if not len(good):
        return f"{shape} with {broken or 'no values'}"
    numbers = (
        f"between {float(good.min()):.3g} and {float(good.max()):.3g}, mean {float(good.mean()):.3g}, "
        f"std {float(good.std(correction=0)):.3g}"
    )
    return f"{shape} {numbers}" + (f", {broken}" if broken else "")
