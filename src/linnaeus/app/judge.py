"""Who chooses the best state of a run: its evaluation on val."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from linnaeus.app.begin import Beginning
from linnaeus.app.rules import METRICS
from linnaeus.core.batch import Loader
from linnaeus.core.device import autocast
from linnaeus.core.errors import Interrupted
from linnaeus.engine.evaluate import Parts, evaluate
from linnaeus.engine.guard import FAILURES, go_without_compiler
from linnaeus.engine.step import State
from linnaeus.engine.train import Rank, Scores
from linnaeus.metrics.counts import Counts
from linnaeus.metrics.multilabel import mean_average_precision, mean_f1, mean_loss
from linnaeus.metrics.outputs import Judged, Outputs
from linnaeus.metrics.scores import accuracy, balanced_accuracy, confusion_array, macro_f1, mean_nll
from linnaeus.metrics.thresholds import best_thresholds

Verdict = tuple[dict[str, float], Rank]
"""The scores on val for the record, and how good that is, the larger the better."""


@dataclass
class Judge:
    """Evaluates a state on val, in the precision of training, and ranks it by `train.metric`.

    Attributes:
        measure: step -> what else to record of the training up to it.
        stop: the number of the signal that asked to stop, or 0; then an evaluation is broken off.
        note: is told in a line what a person should know.
    """

    begun: Beginning
    measure: Callable[[int], Scores]
    stop: Callable[[], int]
    note: Callable[[str], None]

    def __post_init__(self) -> None:
        self._loader, self._parts = self.begun.images.evaluation("val"), Parts(self.note)

    def __call__(self, state: State) -> tuple[Scores, Rank]:
        """The scores for the record, and the rank.

        Raises:
            Interrupted: where a signal asked to stop.
        """
        measured = self.measure(state.step)
        network = state.judged.eval()
        judged = partial(judge, self.begun, network, self._loader, parts=self._parts, progress=self._go_on)
        try:
            scores, rank = judged()
        except FAILURES as error:
            said = go_without_compiler(network, error)
            if not said:
                raise
            state.compiled = False
            self.note(said)
            scores, rank = judged()
        return {**scores, **measured, "data/missing": len(self.begun.images.missing)}, rank

    def _go_on(self, _: int) -> None:
        if number := self.stop():
            raise Interrupted("stopped on request", number)


def judge(
    begun: Beginning,
    network: nn.Module,
    loader: Loader,
    *,
    parts: Parts,
    progress: Callable[[int], None] | None = None,
) -> Verdict:
    """Evaluates a network, which is in evaluation mode, on the images of `loader`, in the precision of training."""
    prepared, device, train = begun.prepared, begun.device, begun.config.train

    def logits_of(images: Tensor) -> Tensor:
        with autocast(device, "bf16" if train.precision == "bf16" else "fp32"):
            logits: Tensor = network(begun.images.preprocess(images))
        return logits

    number, metric = len(prepared.classes), train.metric or METRICS[prepared.task][0]
    fill = partial(evaluate, partial(parts.logits, logits_of), loader, device=device, progress=progress)
    if prepared.task == "single":
        return _of_one_class(fill(into=Counts.zeros(number)), metric)
    return _of_several_classes(fill(into=Outputs(number)).read(), metric)


def _of_one_class(counts: Counts, metric: str) -> Verdict:
    scores = {"top1": accuracy(counts).value, "loss": mean_nll(counts)}
    if metric == "balanced":
        scores["balanced"] = balanced_accuracy(counts).value
    elif metric == "f1":
        scores["f1"] = float(macro_f1(confusion_array(counts)))
    return _ranked(scores, metric)


def _of_several_classes(judged: Judged, metric: str) -> Verdict:
    scores = {"map": mean_average_precision(judged), "loss": mean_loss(judged)}
    if metric == "f1":  # at thresholds chosen on the same images, as those of the finished model will be
        scores["f1"] = mean_f1(judged, best_thresholds(judged.probabilities, judged.truths))
    return _ranked(scores, metric)


def _ranked(scores: dict[str, float], metric: str) -> Verdict:
    first, second = (scores[metric], -scores["loss"])
    if metric == "loss":
        first, second = -scores["loss"], next(iter(scores.values()))
    return {f"val/{name}": score for name, score in scores.items()}, (first, second)
