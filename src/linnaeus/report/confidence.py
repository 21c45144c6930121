"""Sections of a report: what a probability is worth, and when the model should say that it is not sure."""

from collections.abc import Sequence

from linnaeus.metrics.probabilities import Trust
from linnaeus.metrics.reliability import Bin
from linnaeus.report.page import bullets, figure, paragraph, section, side_by_side, table
from linnaeus.report.record import Record, Wish
from linnaeus.report.svg import Frame, Line, around, percent, plot, text, whisker
from linnaeus.report.verdict import worth
from linnaeus.report.words import exact, of_hundred


def calibration_section(record: Record) -> str:
    """Reliability before and after calibration, and what some confidences are worth."""
    title = "How far to trust a probability"
    if record.probabilities is None:
        return section("calibration", title, paragraph(record.missing.get("probabilities", "No answers were kept.")))
    before, after = record.probabilities.before, record.probabilities.after
    method = record.calibration.get("method", "none")
    is_calibrated = method != "none"
    drawn = [_diagram(after, "As the model answers" if is_calibrated else "As the model answers, not calibrated")]
    if is_calibrated:
        drawn.insert(0, _diagram(before, "Before calibration"))
    error = after.calibration_error
    lines = [worth(near, record.task) for near in record.nearby]
    differ = f"by {100 * error.value:.1f} points on average" if error.value >= 0.0005 else "no more than by chance"
    summary = (
        f"Confidence and accuracy differ {differ} (calibration error, less what chance makes: "
        f"{100 * error.value:.1f} points, 95% interval {100 * error.low:.1f} to {100 * error.high:.1f}, "
        f"n = {error.n:,})."
    )
    return section(
        "calibration",
        title,
        paragraph(summary),
        bullets(lines),
        side_by_side(*drawn),
        paragraph(_method(record, before), "quiet"),
        _measures(before, after, is_calibrated),
    )


def _method(record: Record, before: Trust) -> str:
    method = record.calibration.get("method", "none")
    if method == "none":
        return "The model is not calibrated: no calibration made held-out images likelier."
    form = (
        f"a temperature of {record.calibration['temperature']:.3f}, by which all logits are divided"
        if method == "temperature"
        else "a factor and an offset for the logits of each class"
    )
    return (
        f"It is calibrated on the val images by {form}. Without that the calibration error on these test images is "
        f"{100 * before.calibration_error.value:.1f} points."
    )


def _diagram(trust: Trust, name: str) -> str:
    """Accuracy over confidence: on the diagonal they agree."""
    bins = trust.reliability
    low = min([0.5, *(each.confidence for each in bins), *(each.accuracy.low for each in bins)])
    ends = (max(0.0, low - 0.03), 1.0)
    frame = Frame(ends, ends, height=300)
    bars = "".join(whisker(frame, each.confidence, each.accuracy, "a") for each in bins)
    corner = text(
        *_shift(frame.at(ends[0] + 0.1 * (1 - ends[0]), ends[0] + 0.1 * (1 - ends[0]))),
        "as it should be",
        kind="quiet",
    )
    drawn = plot(
        [
            Line("", [(ends[0], ends[0]), (1.0, 1.0)], "quiet", dashed=True),
            Line("", [(each.confidence, each.accuracy.value) for each in bins], "a", mark=True),
        ],
        frame,
        says=f"Reliability. {name}: " + "; ".join(_bin_in_words(each) for each in bins),
        axes=("how sure the answers are", "how many are right"),
        forms=(percent, percent),
        under=bars + corner,
    )
    error = trust.calibration_error
    return figure(
        drawn,
        f"{name}: each dot is a group of about equally many answers, its line the 95% interval. Calibration error "
        f"{100 * error.value:.1f} points.",
    )


def _shift(place: tuple[float, float]) -> tuple[float, float]:
    return place[0] + 8, place[1] + 14


def _bin_in_words(each: Bin) -> str:
    return f"{each.confidence:.0%} sure, {each.accuracy.value:.0%} right of {each.accuracy.n}"


def _measures(before: Trust, after: Trust, is_calibrated: bool) -> str:
    rows: list[list[tuple[str, float | None]]] = []
    names = {"log-loss": "log_loss", "Brier score": "brier", "calibration error": "calibration_error"}
    for word, name in names.items():
        pair = (vars(before)[name], vars(after)[name])
        own = pair[1]
        cells: list[tuple[str, float | None]] = [(word, None)]
        cells += [(f"{pair[0].value:.4f}", pair[0].value)] if is_calibrated else []
        rows.append([*cells, (f"{own.value:.4f} ({own.low:.4f} to {own.high:.4f})", own.value)])
    columns = ["measure", *(["before calibration"] if is_calibrated else []), "as delivered (95% interval)"]
    return table("Measures of the probabilities on the test images; lower is better", columns, rows)


def abstention_section(record: Record) -> str:
    """What refusing the least confident answers gains."""
    title = "When it should say 'not sure'"
    if record.probabilities is None:
        return section("abstention", title, paragraph(record.missing.get("probabilities", "No answers were kept.")))
    curve = record.probabilities.selective
    points = list(zip(curve.coverage, curve.accuracy, strict=True))
    frame = Frame((0.0, 1.0), around([*curve.accuracy, 1.0], within=(0, 1)))
    drawn = plot(
        [Line("", points, "a")],
        frame,
        says="Accuracy among the answered, by how many are answered: "
        + "; ".join(f"{share:.0%} answered, {right:.1%} right" for share, right in points[:: max(1, len(points) // 8)]),
        axes=("images that get an answer, the surest first", "right, of these"),
        forms=(percent, percent),
    )
    about = (
        "Where it may refuse the images of which it is least sure, it is right more often on the others. Thresholds "
        "are chosen on val, so that with 95% confidence the accuracy holds for new images like these; the last two "
        "columns say what became of it on the test images."
    )
    return section(
        "abstention",
        title,
        paragraph(about),
        _wishes(record.wishes, record.counted.by_role["val"]),
        figure(drawn, f"Accuracy among the answered. Area above the curve (AURC): {curve.area:.4f}, lower is better."),
    )


def _wishes(wishes: Sequence[Wish], num_val: int) -> str:
    rows: list[list[tuple[str, float | None]]] = []
    for wish in wishes:
        cells: list[tuple[str, float | None]] = [(f"{100 * wish.min_accuracy:g}%", None)]
        if wish.threshold is None or wish.coverage is None:
            few = f"val has {num_val:,} images, and it takes {wish.needed:,} or more"
            many = f"among its {wish.needed:,} surest answers on val, the fewest that can show it, are too many errors"
            reason = f"cannot be promised: {few if num_val < wish.needed else many}"
            rows.append([*cells, (reason, None), ("", -1.0), ("", -1.0)])
            continue
        sure = "always" if wish.threshold < 0 else f"more than {wish.threshold:.1%} sure"
        right = ("none is answered", -1.0) if wish.accuracy is None else (exact(wish.accuracy), wish.accuracy.value)
        rows.append([*cells, (sure, None), (f"{of_hundred(wish.coverage)}", wish.coverage.value), right])
    names = ["wished for", "it answers when", "test images answered", "of these right (95% interval)"]
    return table("What an accuracy takes", names, rows) if rows else ""
