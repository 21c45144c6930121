"""What the training loop reports, told to people and written to the record."""

import time
from collections.abc import Callable

from linnaeus.app.progress import Display
from linnaeus.core.batch import Loader
from linnaeus.core.record import Recorder
from linnaeus.engine.step import State
from linnaeus.engine.train import Scores


class Narrator:
    """Turns the loop's numbers into a bar, a line an epoch, and the record."""

    def __init__(
        self,
        state: State,
        loader: Loader,
        recorder: Recorder,
        display: Display,
        bar: Callable[[int, str, str], None],
    ) -> None:
        self._loader, self._recorder, self._display, self._bar = loader, recorder, display, bar
        self._best = -1.0 if state.best is None else state.best[0]
        self._restart(state.step)

    def _restart(self, step: int) -> None:
        self._began, self._first_step = time.monotonic(), step

    def show(self, step: int, scores: Scores) -> None:
        """The loop's look at the numbers."""
        numbers = f"{self.speed(step):,.0f} images/s  loss {scores['train/loss']:.3f}  acc {scores['train/top1']:.1%}"
        self._bar(step, f"epoch {step // self._loader.num_batches + 1}", numbers)

    def speed(self, step: int) -> float:
        """Training images a second since this epoch, or the resumed part of it, began."""
        images = (step - self._first_step) * self._loader.num_images / self._loader.num_batches
        return images / (time.monotonic() - self._began)

    def record(self, step: int, scores: Scores) -> None:
        """The loop's line at the end of an epoch."""
        self._recorder.record(step, scores)
        best = "  best so far" if scores["val/top1"] > self._best else ""
        self._best = max(self._best, scores["val/top1"])
        self._display.say(
            f"epoch {-(-step // self._loader.num_batches):>3}  train loss {scores['train/loss']:.3f} "
            f"acc {scores['train/top1']:.1%}  val acc {scores['val/top1']:.1%}  "
            f"{scores['train/images_per_second']:,.0f} images/s{best}"
        )
        self._restart(step)
