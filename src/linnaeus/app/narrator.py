"""What the training loop reports, told to people and written to the record."""

import time
from collections.abc import Callable

from linnaeus.app.progress import Display
from linnaeus.core.record import Recorder
from linnaeus.data.loader import Watched
from linnaeus.engine.step import State
from linnaeus.engine.train import Scores

WORDS = {
    "train/top1": "acc",
    "train/f1": "F1",
    "val/top1": "val acc",
    "val/balanced": "balanced",
    "val/map": "val mAP",
    "val/f1": "val F1",
}
"""What the scores in the record are called on a line; which of them a run has depends on its task."""
WAIT = 0.1
"""Share of the time that training may wait for images before a person is told why."""
START_SECONDS = 2.0
"""Worker processes take so long to start, once; it is no reason to complain."""


class Narrator:
    """Turns the loop's numbers into a bar, a line an epoch, and the record."""

    def __init__(
        self,
        state: State,
        loader: Watched,
        recorder: Recorder,
        display: Display,
        bar: Callable[[int, str, str], None],
        explain_wait: Callable[[float], str],
    ) -> None:
        """`explain_wait`: how many cores made batches -> why training waits for images, and what helps."""
        self._loader, self._recorder, self._display, self._bar = loader, recorder, display, bar
        self._state, self._best = state, state.best
        self._explain_wait, self._reason = explain_wait, ""
        self._restart(state.step)

    def _restart(self, step: int) -> None:
        self._began, self._first_step = time.monotonic(), step

    def show(self, step: int, scores: Scores) -> None:
        """The loop's look at the numbers."""
        numbers = f"{self.speed(step):,.0f} images/s  loss {scores['train/loss']:.3f}  {_in_words(scores)}"
        self._bar(step, f"epoch {step // self._loader.num_batches + 1}", numbers)

    def speed(self, step: int) -> float:
        """Training images a second since this epoch, or the resumed part of it, began."""
        images = (step - self._first_step) * self._loader.num_images / self._loader.num_batches
        return images / (time.monotonic() - self._began)

    def measure(self, step: int) -> dict[str, float]:
        """The speed of this epoch's training and the share of its time that it waited for images, for the record."""
        if step == 0:  # a fitted head is judged, and nothing was trained
            return {}
        is_slow = self._loader.wait > WAIT and self._loader.waited > START_SECONDS
        self._reason = self._explain_wait(self._loader.busy) if is_slow else ""
        return {"train/images_per_second": self.speed(step), "data/wait": self._loader.wait}

    def record(self, step: int, scores: Scores) -> None:
        """The loop's line at the end of an epoch."""
        self._recorder.record(step, scores)
        best = "" if self._state.best == self._best else "  best so far"
        self._best = self._state.best
        said = [f"epoch {-(-step // self._loader.num_batches):>3}", _in_words(scores)]
        if step:
            said[1] = f"train loss {scores['train/loss']:.3f} {said[1]}"
            said.append(f"{scores['train/images_per_second']:,.0f} images/s")
        self._display.say("  ".join(said) + best)
        if skipped := scores.get("train/skipped"):
            self._display.say(f"  {skipped:,.0f} steps were left out: their loss or gradient was not good")
        if self._reason:
            self._display.say(f"  {scores['data/wait']:.0%} of the time training waited for images: {self._reason}")
        self._restart(step)


def _in_words(scores: Scores) -> str:
    return "  ".join(f"{word} {scores[name]:.1%}" for name, word in WORDS.items() if name in scores)
