"""Sections of a report: what more images would bring, what spoiled images cost, speed, size, provenance."""

from html import escape

from linnaeus.metrics.robustness import Robustness
from linnaeus.report.page import bullets, facts, figure, folded, paragraph, section, table
from linnaeus.report.record import LearningCurve, Record
from linnaeus.report.svg import Frame, Line, around, forest, percent, plot, whisker
from linnaeus.report.words import between, counted, exact, points

SHOWN_GAINS = 5
_IN_WORDS = {
    "top-1": "right (top-1 accuracy)",
    "top-5": "truth among the five likeliest (top-5)",
    "balanced": "found, mean of the classes (balanced accuracy)",
    "macro F1": "F1, mean of the classes (macro F1)",
    "mAP": "ranking, mean of the classes (mAP)",
    "micro F1": "F1 of all labels together (micro F1)",
    "all labels right": "images with all labels right",
}
"""The measures for people who do not know their names."""


def learning_section(record: Record) -> str:
    """A linear head that learns from ever more images."""
    title = "What more images would bring"
    curve = record.learning
    if curve is None:
        return section("learning", title, paragraph(record.missing.get("learning", "It was not measured.")))
    about = (
        f"A linear head on {curve.features} learns from growing parts of the training images, and is judged on test "
        "images. "
    )
    about += (
        "It is a plain model: what it gains from more images is a guide to what the network would, and its accuracy is "
        "not that of the network."
        if curve.is_own
        else "These features know little, and the network learns its own, of which more images bring more: this curve "
        "says only whether even a plain model would gain."
    )
    gains = [f"'{name}': {100 * gained:+.1f} points" for name, gained in curve.gains[:SHOWN_GAINS] if gained > 0]
    who = (
        "By the last doubling of the images these classes gained most; they would gain first from more:"
        if gains
        else ""
    )
    return section(
        "learning",
        title,
        paragraph(_doubled(curve)),
        figure(_curve(curve), "Dots are means over draws of the images, lines the lowest and the highest of them."),
        paragraph(who) if who else "",
        bullets(gains),
        paragraph(about, "quiet"),
    )


def _doubled(curve: LearningCurve) -> str:
    last = curve.points[-1]
    if curve.doubled is None:
        return (
            f"From {counted(curve.points[0].images, 'image')} to {last.images:,} the accuracy of a linear head goes "
            f"from {curve.points[0].accuracy:.1%} to {last.accuracy:.1%}; it follows no law that could be continued."
        )
    gain = 100 * (curve.doubled.value - last.accuracy)
    low, high = (100 * (end - last.accuracy) for end in (curve.doubled.low, curve.doubled.high))
    return (
        f"Twice the images ({2 * last.images:,} rather than {last.images:,}) would bring about {gain:+.1f} points "
        f"({low:+.1f} to {high:+.1f}, by fits to redrawn points of the curve)."
    )


def _curve(curve: LearningCurve) -> str:
    points = [(float(point.images), point.accuracy) for point in curve.points]
    last = points[-1]
    values = [end for point in curve.points for end in (point.low, point.high)]
    if curve.doubled is not None:
        values += [curve.doubled.low, curve.doubled.high]
    frame = Frame((points[0][0] / 1.1, 2.3 * last[0]), around(values, within=(0, 1)), log=True)
    drawn = []
    for point in curve.points:
        (x, low), (_, high) = frame.at(point.images, point.low), frame.at(point.images, point.high)
        drawn.append(f'<line class="whisker a" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
    lines = [Line("", points, "a", mark=True)]
    if curve.doubled is not None:
        lines.append(Line("twice the images", [last, (2 * last[0], curve.doubled.value)], "b", mark=True, dashed=True))
        drawn.append(whisker(frame, 2 * last[0], curve.doubled, "b"))
    says = "Accuracy of a linear head: " + "; ".join(f"{n:,.0f} images, {value:.1%}" for n, value in points)
    axes = ("training images", "right on the test images")
    return plot(
        lines, frame, says=says, axes=axes, forms=(lambda value: f"{value:,.0f}", percent), under="".join(drawn)
    )


def robustness_section(record: Record, run: str) -> str:
    """What spoiled images cost."""
    title = "On spoiled images"
    found = record.robustness
    if found is None:
        about = f"It was not measured. `linnaeus evaluate {run} --robustness` does, and the report then shows it."
        return section("robustness", title, paragraph(record.missing.get("robustness", about)))
    left = "" if found.relative is None else f", {found.relative.value:.0%} of what it is on the images as they are"
    lines = [
        f"Over {counted(len(found.corruptions), 'kind')} of corruption in five strengths its {found.measure} is "
        f"{found.mean.value:.1%}{left} ({found.clean.value:.1%}; {found.images}).",
        f"The worst is this: {found.worst.words}, {exact(found.worst.score)}.",
        f"Judging an image together with its mirror image changes that by {points(found.flip_gain)}.",
    ]
    about = (
        "Mean over five strengths of each corruption, with its 95% interval; kinds whose lines overlap cannot be "
        "ranked."
    )
    shown = figure(_ranked(found), about)
    all_of_it = folded("All as a table, with other resizing, JPEG and crops", _by_setting(found))
    return section("robustness", title, *map(paragraph, lines), shown, all_of_it)


def _ranked(found: Robustness) -> str:
    """The kinds of corruption, the worst first."""
    order = sorted(found.corruptions, key=lambda entry: entry.score.value)
    rows = [(entry.words, entry.score, "b" if entry.name == found.worst.name else "a") for entry in order]
    says = f"{found.measure} under {len(rows)} kinds of corruption"
    return forest(rows, says=says, reference=found.clean.value, name="as they are")


def _by_setting(found: Robustness) -> str:
    order = sorted(found.corruptions, key=lambda entry: entry.score.value)
    cells: list[list[tuple[str, float | None]]] = [
        [
            (entry.words, None),
            (exact(entry.score), entry.score.value),
            (f"{100 * entry.change.value:+z.1f} points", entry.change.value),
            (", ".join(f"{name}: {value:.0%}" for name, value in zip(entry.settings, entry.scores, strict=True)), None),
        ]
        for entry in (*order, *found.sensitivities)
    ]
    names = ["what is done to the image", f"{found.measure} (95% interval)", "against the clean image", "by setting"]
    return table("By corruption and by setting", names, cells)


def costs_section(record: Record) -> str:
    """Speed, size and artefacts."""
    speed = record.speed
    if speed is None:
        content = paragraph(record.missing.get("speed", "It was not measured."))
    else:
        content = facts(
            [
                (
                    "one image",
                    f"{speed.milliseconds:.1f} ms (median; one in twenty takes over {speed.slow_milliseconds:.1f} ms)",
                ),
                ("many images", f"{speed.images_per_second:,.0f} images/s in batches of {speed.batch}"),
                ("measured on", f"{speed.device}; from pixels of the right size to probabilities, without decoding"),
                ("parameters", f"{speed.parameters:,}"),
                ("file of weights", f"{speed.bytes / 1e6:,.1f} MB"),
            ]
        )
    return section("costs", "Speed and size", content)


def provenance_section(record: Record) -> str:
    """Versions, machine, data and settings, so that it can be done again."""
    return section("provenance", "Where these figures come from", facts(list(record.provenance.items())))


def measures(record: Record) -> str:
    """The foremost figures as tiles."""
    measured = record.measures.items()
    tiles = [(f"{interval.value:.1%}", _IN_WORDS.get(name, name), between(interval)) for name, interval in measured]
    if record.baselines:
        strongest = record.baselines[-1]
        tiles.append((f"{strongest.accuracy.value:.1%}", "best plain baseline", between(strongest.accuracy)))
    if record.probabilities is not None:
        error = record.probabilities.after.calibration_error
        tiles.append((f"{error.value:.1%}", "calibration error", between(error)))
    if record.speed is not None:
        tiles.append(
            (f"{record.speed.milliseconds:.1f} ms", "one image", f"{record.speed.bytes / 1e6:,.1f} MB of weights")
        )
    cells = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(name)}</span><span>{escape(about)}</span></div>"
        for value, name, about in tiles
    )
    return f'<div class="numbers">{cells}</div>'
