"""The progress of a run that is given a time in place of a number of steps."""

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

_LAST = 1 - 2**-20
"""The largest progress of a step that is taken; 1 says that the run was over."""
_ROW = 16  # bytes of a step in the journal
_RECENT = 9  # steps that tell how long the next one will take


@dataclass(frozen=True)
class Costs:
    """What must still fit into the time once the last step is taken, in seconds.

    Attributes:
        evaluation: one evaluation on val, with its checkpoint.
        passes: evaluations that follow the last step, in multiples of one on val.
        closing: the rest, up to the delivered model.
    """

    evaluation: float
    passes: float
    closing: float


class Budget:
    """The share of a given time that has gone by, a step at a time, and the same shares again when a run is resumed.

    The time is that of the whole command, from its first look at the images to the delivered model. The progress of a
    step is the share of the time between the first step and the end of training that has gone by at its middle.

    Every step's progress is appended to a journal before the step is taken. A run that is killed and resumed takes the
    steps after its checkpoint with the progress they had, and so comes through the same weights, bit for bit, up to the
    last step that the killed process began; from there on the clock decides, as it would have done, and counts neither
    the time in between nor the steps taken twice. What a crash of the whole machine takes from the journal (seconds of
    it) is decided anew.

    The journal is raw float64 in the machine's byte order, two numbers a step: the progress at its middle, and the
    seconds since the command began. A progress of 1 means that the run was over before that step.
    """

    def __init__(
        self,
        journal: Path,
        *,
        seconds: float,
        costs: Costs,
        step: int = 0,
        elapsed: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins, or goes on at `step` with what the journal has.

        Args:
            seconds: what the whole command may take.
            step: the number of the next step.
            elapsed: seconds since the command began; of no importance where the journal has any.
            now: the clock, in seconds.
        """
        self.seconds, self.costs = seconds, costs
        self._now, self._evaluation = now, costs.evaluation
        self._evaluates_since: float | None = None
        self._shares, self._times = _read(journal)
        self._journal, self._saved = journal, len(self._times)
        journal.touch()
        while 0 < len(self._times) < step:  # lost in a crash of the machine, and the state was not
            self._append(self._shares[-1], self._times[-1])
        # While steps are taken again the clock stands still; it goes on with the last step that is known.
        self._origin: float | None = None
        if step >= len(self._times):
            self._origin = now() - (self._times[-1] if self._times else elapsed)

    def share(self, step: int) -> float:
        """The progress at the middle of a step that is about to be taken, in [0, 1); never less than that before."""
        if step < len(self._shares):
            if step == len(self._shares) - 1 and self._origin is None:
                self._origin = self._now() - self._times[step]
            return self._shares[step]
        elapsed = self._elapsed()
        first = self._times[0] if self._times else elapsed
        length = max(self._end(self._evaluation) - first, 1e-9)
        share = min(_LAST, (elapsed + self._step_seconds(elapsed) / 2 - first) / length)
        return self._append(max(share, self._shares[-1]) if self._shares else share, elapsed)

    def is_over(self, step: int) -> bool:
        """Whether the time allows no further step. It allows one always, and an answer of yes is final.

        Where an evaluation was allowed before, the time since then is what evaluations are taken to need from now on.
        """
        if step < len(self._shares):
            self._evaluates_since = None  # the run went back, and did not only evaluate
            return self._shares[step] >= 1
        elapsed = self._elapsed()
        if self._evaluates_since is not None:
            self._evaluation, self._evaluates_since = elapsed - self._evaluates_since, None
        if step == 0 or elapsed + self._step_seconds(elapsed) / 2 < self._end(self._evaluation):
            return False
        self._append(1.0, elapsed)
        return True

    def allows_evaluation(self, step: int) -> bool:
        """Whether the time allows an evaluation before step `step` and more steps after it.

        The last evaluation has its own time. The answer depends only on the journal and the costs, so that a resumed
        run evaluates where it did before; an answer of no is followed by a step.
        """
        length = self._end(self.costs.evaluation) - self._times[0]
        allowed = self._shares[step - 1] + self.costs.evaluation / max(length, 1e-9) < _LAST
        if not allowed:
            self.share(step)  # decides it now: the time might be over a moment later, and nothing evaluated
        elif self._origin is not None:
            self._evaluates_since = self._elapsed()
        return allowed

    def _elapsed(self) -> float:
        assert self._origin is not None, "steps are taken in order"
        return self._now() - self._origin

    def _end(self, evaluation: float) -> float:
        """When the last step should be done, in seconds since the command began."""
        return self.seconds - self.costs.passes * evaluation - self.costs.closing

    def _step_seconds(self, elapsed: float) -> float:
        recent = [*self._times[-_RECENT:], elapsed]
        return median(b - a for a, b in pairwise(recent)) if len(recent) > 1 else 0.0

    def _append(self, share: float, elapsed: float) -> float:
        self._shares.append(share)
        self._times.append(elapsed)
        self._save()
        return share

    def _save(self) -> None:
        """Writes at once what is not on disk yet, so that a kill loses nothing."""
        rows = zip(self._shares[self._saved :], self._times[self._saved :], strict=True)
        content = array("d", (number for row in rows for number in row)).tobytes()
        try:
            with self._journal.open("r+b", buffering=0) as file:
                file.seek(_ROW * self._saved)
                self._saved += file.write(content) // _ROW
        except OSError:
            return  # the disk is full: with the next step, again


def _read(journal: Path) -> tuple["array[float]", "array[float]"]:
    """Progress and seconds of every step in the journal; a last one torn by a crash is left out."""
    content = journal.read_bytes() if journal.exists() else b""
    rows = array("d", content[: len(content) // _ROW * _ROW])
    return rows[0::2], rows[1::2]
