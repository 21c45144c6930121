"""Durations with units: "90ep" and "5000st" become steps once, "10%" a share of the run; "15min" needs a clock."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from linnaeus.core.errors import RequestError

Unit = Literal["ep", "st", "%", "s"]

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(ep|st|%|s|min|h)")


@dataclass(frozen=True)
class Duration:
    """An amount with its unit: epochs, optimizer steps, per cent of the run, or seconds."""

    amount: float
    unit: Unit

    @property
    def is_time(self) -> bool:
        """Whether only a clock can tell when it has passed."""
        return self.unit == "s"

    @staticmethod
    def parse(text: str) -> "Duration":
        """Reads "90ep", "5000st", "10%", "90s", "15min" or "2h"; and "0ep", no step at all.

        Raises:
            RequestError: if the text is not one positive number and one unit.
        """
        match = _PATTERN.fullmatch(text.strip())
        if match is None or (float(match[1]) == 0 and match[2] != "ep"):
            raise RequestError(
                f"'{text}' is not a duration: give one positive number and one unit, such as 30ep (epochs), "
                "5000st (steps), 10% (of the run), 15min or 2h"
            )
        amount, unit = float(match[1]), match[2]
        if unit in _SECONDS:
            return Duration(amount * _SECONDS[unit], "s")
        return Duration(amount, "%" if unit == "%" else "ep" if unit == "ep" else "st")

    def steps(self, *, steps_per_epoch: int, total: int | None = None) -> int:
        """The duration in optimizer steps, at least 1 unless it is "0ep".

        Args:
            steps_per_epoch: optimizer steps in one pass over the training images.
            total: steps of the whole run, which a percentage refers to.

        Raises:
            RequestError: for a time, which only a clock can turn into steps, and for a percentage without `total`.
        """
        if self.is_time or (self.unit == "%" and total is None):
            raise RequestError(f"{self} cannot be counted in steps here: give epochs (30ep) or steps (5000st)")
        per_unit = {"ep": steps_per_epoch, "st": 1, "%": (total or 0) / 100}[self.unit]
        return max(1 if self.amount else 0, math.ceil(self.amount * per_unit - 1e-9))

    def share(self, run: "Duration", *, steps_per_epoch: int) -> float:
        """How much of a whole run this is; 1 is all of it. In a run of steps, of so many whole steps.

        Raises:
            RequestError: where one is a time and the other is counted in steps: how long a step takes is not known.
        """
        if self.unit == "%" and run.is_time:
            return self.amount / 100
        if self.is_time != run.is_time:
            kinds = ("30s or 2min", "epochs or steps") if run.is_time else ("5ep or 500st", "a time")
            raise RequestError(f"{self} is {kinds[1]}, and the run is {run}: give {kinds[0]}, or a share such as 10%")
        if run.is_time:
            return self.amount / run.amount
        total = run.steps(steps_per_epoch=steps_per_epoch)
        return self.steps(steps_per_epoch=steps_per_epoch, total=total) / total

    def __str__(self) -> str:
        for unit, seconds in (("h", 3600), ("min", 60)):
            if self.is_time and self.amount >= seconds:
                return f"{self.amount / seconds:g}{unit}"
        return f"{self.amount:g}{self.unit}"
