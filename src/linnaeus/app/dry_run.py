"""What a run would take, measured and drawn, with no run made."""

from pathlib import Path
from typing import Any

from linnaeus.app.begin import Beginning, begin
from linnaeus.app.config import Config
from linnaeus.app.forecast import Forecast, forecast, steps_in_time
from linnaeus.app.images import explain_wait
from linnaeus.app.progress import Display
from linnaeus.app.rules import make_schedule
from linnaeus.app.run import check_free
from linnaeus.core.duration import Duration
from linnaeus.explain.memory import MIB, peak
from linnaeus.report.plots import columns

WIDTH, HEIGHT = 60, 6  # of the drawn schedule, in characters


def dry_run(config: Config, *, out: Path | None, display: Display, began: float) -> dict[str, Any]:
    """Prepares a run up to its first step, measures a few steps and an evaluation, and shows what it would take.

    Nothing is written but caches, and for a moment a temporary file, to see how long a checkpoint takes.

    Args:
        out: the run's folder; only looked at.
        began: when the command began, by the monotonic clock.

    Returns:
        What is shown: "steps", "epochs", "seconds" of the whole command, "memory_bytes" at the peak (of the device, or
        on a CPU of the main process), "data_bound" (share of the training time); and "autotune", how the network is run
        and why.

    Raises:
        LinnaeusError: as `train` does before its first step.
    """
    check_free(out)
    begun = begin(config, display=display, began=began)
    found = forecast(begun)
    duration = Duration.parse(begun.config.train.duration)
    if duration.is_time:
        steps = steps_in_time(found, duration)
        seconds = found.seconds(steps)
    else:
        steps = duration.steps(steps_per_epoch=found.steps_per_epoch)
        seconds = found.seconds(steps) - found.measuring  # a run that is not bound to a time does not measure
    plan = {
        "steps": steps,
        "epochs": round(steps / found.steps_per_epoch, 3),
        "seconds": round(seconds, 3),
        "memory_bytes": peak(begun.device),
        "data_bound": round(found.wait(steps), 4),
        "autotune": begun.about["autotune"],
    }
    display.show(_in_words(plan, begun, found))
    if steps:
        display.show(_drawn(begun, found, steps))
    return plan


def _in_words(plan: dict[str, Any], begun: Beginning, found: Forecast) -> str:
    config, split, steps = begun.config, begun.prepared.split, plan["steps"]
    counts = ", ".join(f"{len(split.indices(role)):,} {role}" for role in ("train", "val", "test"))
    where = "on the device" if begun.device.type == "cuda" else "in this process"
    epochs = f"{plan['epochs']:g} epochs of {found.steps_per_epoch:,}"
    rows = {
        "images": counts,
        "steps": f"{steps:,} of {config.train.batch_size} images, {epochs}" if steps else "none: a linear head alone",
        "time": f"{in_time(plan['seconds'])}; a step {1000 * found.later.step:,.1f} ms, an evaluation "
        f"{in_time(found.costs.evaluation)}",
        "memory": f"{plan['memory_bytes'] / MIB:,.0f} MiB at the peak, {where}",
        "data-bound": f"{plan['data_bound']:.0%} of the training time waits for images{_reason(begun, found, steps)}",
    }
    return "\n".join(f"{name:<12}{text}" for name, text in rows.items())


def _reason(begun: Beginning, found: Forecast, steps: int) -> str:
    return f": {explain_wait(begun.config.data, found.busy)}" if found.wait(steps) > 0.1 else ""


def _drawn(begun: Beginning, found: Forecast, steps: int) -> str:
    """The learning rate over the run."""
    config = begun.config
    assert config.optim.lr  # resolve() has decided
    schedule = make_schedule(config, found.steps_per_epoch)
    rates = [config.optim.lr * schedule((column + 0.5) / WIDTH) for column in range(WIDTH)]
    below = f"learning rate, {config.optim.schedule}, over {steps:,} steps"
    return columns(rates, height=HEIGHT, label=f"{max(rates):.3g}", below=below)


def in_time(seconds: float) -> str:
    """Seconds in words: "0.2 s", "41 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
