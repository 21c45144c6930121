"""The head of a run that starts from trained weights, fitted to the features of its images before the first step."""

import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from linnaeus.app.begin import Beginning
from linnaeus.app.linear import looked_at
from linnaeus.app.progress import Advance, Display
from linnaeus.app.rules import make_loss
from linnaeus.app.run import Run
from linnaeus.core.batch import Loader
from linnaeus.core.classifier import Classifier
from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.files import load_tensors, save_tensors
from linnaeus.core.fold import folded
from linnaeus.data.loader import watched_workers
from linnaeus.engine.evaluate import Parts, evaluate
from linnaeus.engine.loss import LOSSES
from linnaeus.engine.probe import Examples, Gathered, Head, fit_head
from linnaeus.engine.step import State

KIND, VERSION = "linnaeus-features", 1
FEW = 8
"""Images on which the network with its normalisation folded in is compared with the network itself."""


def start_with_head(run: Run, begun: Beginning, state: State, display: Display) -> None:
    """Puts the best linear head into the network and its average, to be evaluated before the first step.

    The features are kept in the folder of the run until a state with the head is saved: a run that is killed before
    computes no more of them than it must.
    """
    began = time.monotonic()
    train, val = (_read_or_compute(run, role, begun, state.model, display) for role in ("train", "val"))
    task = begun.prepared.task
    head = fit_head(
        train,
        val,
        num_classes=state.model.num_classes,
        loss=make_loss(begun.config, task, train.features.device),
        judge=next(iter(LOSSES[task].values())),
    )
    with torch.no_grad():
        _put(head, state.model)
        if state.ema is not None:
            state.ema.module.load_state_dict(state.model.state_dict())
    state.due = True
    display.say(
        f"a linear head fitted to the features of {len(train.targets):,} images in {time.monotonic() - began:.1f} s; "
        f"penalty {head.strength:.2g}, held-out loss {head.held_out[head.strength]:.3f}"
    )


def forget_features(run: Run) -> None:
    """Removes the features; the head is saved."""
    for path in run.checkpoints.glob("features-*.safetensors"):
        path.unlink()


def _put(head: Head, model: Classifier) -> None:
    assert isinstance(model.head, nn.Linear)  # resolve() has looked
    model.head.weight.copy_(head.weight)
    if model.head.bias is not None:
        model.head.bias.copy_(head.bias)


def _read_or_compute(run: Run, role: str, begun: Beginning, model: Classifier, display: Display) -> Examples:
    path = run.checkpoints / f"features-{role}.safetensors"
    found = _read(path)
    if found is None:
        loader = begun.images.shown(looked_at(begun.prepared, role))
        with watched_workers(), display.bar(f"features of {role}", loader.num_images) as advance:
            found = _compute(begun, model, loader, Parts(display.say), advance)
        save_tensors(path, KIND, VERSION, found, {"role": role})
    # A Mac's GPU has no float64.
    device = torch.device("cpu") if begun.device.type == "mps" else begun.device
    features, targets = found["features"].to(device), found["targets"].to(device)
    balances = begun.config.data.balance and role == "train"
    return Examples(features, targets, _balanced(targets) if balances else torch.ones_like(features[:, 0]))


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        return load_tensors(path, KIND, VERSION)[0]
    except (RequestError, EnvironmentFault):  # not there, or damaged: they are computed
        return None


def _compute(begun: Beginning, model: Classifier, loader: Loader, parts: Parts, advance: Advance) -> dict[str, Tensor]:
    """Features and targets of the images that can be read, as evaluation shows them to the network."""
    preprocess = begun.images.preprocess.to(begun.device)
    few = next(iter(loader.epoch(0))).images[:FEW].to(begun.device)
    network = folded(model, preprocess(few)).to(memory_format=torch.channels_last)
    seen = evaluate(
        partial(parts.logits, lambda images: network.features(preprocess(images))),
        loader,
        into=Gathered(),
        device=begun.device,
        progress=advance,
    )
    return seen.read()


def _balanced(targets: Tensor) -> Tensor:
    """(N,) weights with which all classes weigh the same."""
    counts = torch.bincount(targets)
    return (1 / counts)[targets] * len(targets) / int((counts > 0).sum())
