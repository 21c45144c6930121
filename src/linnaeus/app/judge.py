"""Who chooses the best state of a run: its evaluation on val."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from linnaeus.app.begin import Beginning
from linnaeus.app.narrator import Narrator
from linnaeus.core.device import autocast
from linnaeus.core.errors import Interrupted
from linnaeus.engine.evaluate import evaluate
from linnaeus.engine.guard import FAILURES, go_without_compiler
from linnaeus.engine.step import State
from linnaeus.engine.train import Rank, Scores
from linnaeus.metrics.counts import Counts
from linnaeus.metrics.multilabel import mean_average_precision, mean_loss
from linnaeus.metrics.outputs import Outputs
from linnaeus.metrics.scores import accuracy, mean_nll


@dataclass
class Judge:
    """Evaluates a state on val, in the precision of training; ranks it by accuracy, or mean average precision.

    Attributes:
        stop: the number of the signal that asked to stop, or 0; then an evaluation is broken off.
        note: is told in a line what a person should know.
    """

    begun: Beginning
    narrator: Narrator
    stop: Callable[[], int]
    note: Callable[[str], None]

    def __post_init__(self) -> None:
        self._loader = self.begun.images.evaluation("val")

    def __call__(self, state: State) -> tuple[Scores, Rank]:
        """The scores for the record, and the rank.

        Raises:
            Interrupted: where a signal asked to stop.
        """
        measured = self.narrator.measure(state.step)
        network = state.judged.eval()
        try:
            name, score, loss = self._score(network)
        except FAILURES as error:
            said = go_without_compiler(network, error)
            if not said:
                raise
            state.compiled = False
            self.note(said)
            name, score, loss = self._score(network)
        missing = len(self.begun.images.missing)
        return {name: score, "val/loss": loss, **measured, "data/missing": missing}, (score, -loss)

    def _score(self, network: nn.Module) -> tuple[str, float, float]:
        """The score that chooses the best state, with its name in the record, and the loss."""
        prepared, device = self.begun.prepared, self.begun.device
        preprocess, precision = self.begun.images.preprocess, self.begun.config.train.precision

        def logits_of(images: Tensor) -> Tensor:
            with autocast(device, "bf16" if precision == "bf16" else "fp32"):
                logits: Tensor = network(preprocess(images))
            return logits

        number, go_on = len(prepared.classes), self._go_on
        if prepared.task == "single":
            counts = evaluate(logits_of, self._loader, into=Counts.zeros(number), device=device, progress=go_on)
            return "val/top1", accuracy(counts).value, mean_nll(counts)
        judged = evaluate(logits_of, self._loader, into=Outputs(number), device=device, progress=go_on).read()
        return "val/map", mean_average_precision(judged), mean_loss(judged)

    def _go_on(self, _: int) -> None:
        if number := self.stop():
            raise Interrupted("stopped on request", number)
