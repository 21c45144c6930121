"""The report of a run: one page, what it tells as JSON beside it, and the model card; at the end of a run, or later."""

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from linnaeus.app.exports import exported
from linnaeus.app.gather import Kept, gather, read_run
from linnaeus.app.measure import with_baselines, with_learning, with_pictures, with_speed
from linnaeus.app.prepare import Prepared, prepare
from linnaeus.app.progress import Display
from linnaeus.app.run import Run, command_line
from linnaeus.core.device import pick
from linnaeus.core.errors import DataError, LinnaeusError, RequestError
from linnaeus.core.files import read_json, write_json, write_text
from linnaeus.deploy.bundle import Bundle, load_bundle
from linnaeus.report.card import model_card
from linnaeus.report.record import KIND, VERSION, Record, from_json
from linnaeus.report.run_page import run_page

PAGE, DATA = "report.html", "report.json"
SHARE = 0.1
"""Of the time that a run has taken, this much may be spent on its report at the end; what does not fit is left out."""
SPEED_SECONDS = 1.0
LONG = ("learning",)
"""Parts that may take as long as an epoch."""

FAULTS = (LinnaeusError, OSError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""After hours of training, no fault of its last page is worth more than a line."""

Part = Callable[[Record], Record]


def report_after_training(
    run: Run, prepared: Prepared, bundle: Bundle, *, began: float, end: float | None, display: Display
) -> None:
    """Writes the report of a run that has just ended. Whatever goes wrong, the run is finished, and a line says so.

    Args:
        bundle: the delivered model, on its device.
        began: when the command began, by the monotonic clock.
        end: when it should end, where it was given a time. Then nothing is measured after it, nor what may take long.
    """
    now = time.monotonic()
    try:
        until = now + SHARE * (now - began)
        if end is not None:
            until = min(until, end)
        skip = () if end is None else LONG
        kept = read_run(run)
        record = gather(kept)
        _write_card(run, record)  # at once: it belongs to the model, whatever becomes of the page
        record = _measure(record, kept, prepared, bundle, until=until, skip=skip, display=display)
        display.say(f"Report: {write_report(run, record)}")
    except FAULTS as error:
        again = command_line("report", run.folder)
        reason = str(error) if isinstance(error, LinnaeusError | OSError) else f"{type(error).__name__}: {error}"
        display.say(f"the run is finished, but its report was not written ({reason}). Write it with:\n  {again}")


def report(folder: Path, *, device: str = "auto", display: Display) -> tuple[Path, Record]:
    """Writes the report of a finished run anew, with all that can be measured, however long it takes.

    Returns:
        The page, and what it tells.

    Raises:
        RequestError: if the folder is not a finished run, or keeps no answers.
    """
    run = Run(folder)
    kept = read_run(run)
    bundle = load_bundle(folder).to(pick(device))
    try:
        prepared = _images(kept, display)
    except (RequestError, DataError) as reason:
        display.say(f"without the images: {reason}")
        record = _recall(run, kept, str(reason))
        record = with_speed(record, bundle, run.model, seconds=SPEED_SECONDS)
    else:
        record = _measure(gather(kept), kept, prepared, bundle, until=None, display=display)
    return write_report(run, record), record


def renew_exports(folder: Path, display: Display) -> None:
    """Tells the report of a run, if it has one, of exports that were made since; a fault costs a line and no export.

    All else stays as it was written: an export changes neither the model nor what was measured of it.
    """
    run = Run(folder)
    if not (run.folder / DATA).is_file():
        return
    try:
        record = replace(read_report(run.folder), exports=exported(run.folder))
        display.say(f"Report: {write_report(run, record)}")
    except (LinnaeusError, OSError) as error:
        display.say(f"the report was not renewed ({error}). Write it with:\n  {command_line('report', run.folder)}")


def write_report(run: Run, record: Record) -> Path:
    """Writes `report.json`, `report.html` and the model card; returns the page."""
    write_json(run.folder / DATA, KIND, VERSION, record.to_json())
    write_text(run.folder / PAGE, run_page(record))
    _write_card(run, record)
    return run.folder / PAGE


def _write_card(run: Run, record: Record) -> None:
    write_text(run.model / "README.md", model_card(record))


def read_report(folder: Path) -> Record:
    """What `write_report` has kept.

    Raises:
        RequestError: if there is none.
        EnvironmentFault: if it is damaged, or newer than this Linnaeus.
    """
    return from_json(read_json(folder / DATA, KIND, VERSION))


def _measure(
    record: Record,
    kept: Kept,
    prepared: Prepared,
    bundle: Bundle,
    *,
    until: float | None,
    skip: Collection[str] = (),
    display: Display,
) -> Record:
    """The whole record; parts of `skip`, or that would begin after `until`, are left out and named.

    `until` is a time of the monotonic clock.
    """
    positions = {
        name: position
        for own in (kept.val, kept.test)
        for name, position in zip(own.names, own.positions.tolist(), strict=True)
    }
    left = SPEED_SECONDS if until is None else max(0.05, min(SPEED_SECONDS, (until - time.monotonic()) / 10))
    parts: dict[str, Part] = {
        "mistakes": lambda own: with_pictures(own, prepared, bundle, positions),
        "baselines": lambda own: with_baselines(own, kept, prepared),
        "speed": lambda own: with_speed(own, bundle, kept.run.model, seconds=left),
        "learning": lambda own: with_learning(own, kept, prepared, bundle, display=display),
    }
    display.say("writing the report")
    for name, part in parts.items():
        if name not in skip and (until is None or time.monotonic() < until):
            record = part(record)
        else:
            reason = f"It was left out so that training ends in time: `linnaeus report {kept.run.folder}` measures it."
            record = replace(record, missing={**record.missing, name: reason})
    return record


def _images(kept: Kept, display: Display) -> Prepared:
    """The images of a run, as it knew them.

    Raises:
        RequestError, DataError: if they are gone or have changed.
    """
    config = kept.run.read_config()
    prepared = prepare(config.data, seed=config.train.seed, display=display, run_data=kept.run.data)
    if prepared.fingerprint != kept.about["data_fingerprint"]:
        raise DataError(f"the images of {config.data.source} have changed since this run")
    return prepared


def _recall(run: Run, kept: Kept, reason: str) -> Record:
    """The record without the images: what needs them is taken from an earlier report of the same run, or left out."""
    record = gather(kept)
    if (run.folder / DATA).is_file():
        before = read_report(run.folder)
        # An image may be in both lists: as the network sees it, with what it looked at, and as it is.
        mistakes = {each.name: each for each in before.mistakes}
        suspects = {each.name: each for each in before.suspects or []}
        return replace(
            record,
            mistakes=[mistakes.get(each.name, each) for each in record.mistakes],
            suspects=record.suspects and [suspects.get(each.name, each) for each in record.suspects],
            baselines=before.baselines,
            learning=before.learning,
            missing={**before.missing, **record.missing},
        )
    gone = f"It needs the images, and they are not there: {reason}."
    return replace(record, missing={**record.missing, "learning": gone, "baselines": gone})
