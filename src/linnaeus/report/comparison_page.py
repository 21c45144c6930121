"""Several runs side by side as one HTML page: accuracy against speed and size, and what their common images tell."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from linnaeus.report.page import bullets, figure, page, paragraph, section, side_by_side, table
from linnaeus.report.record import Record
from linnaeus.report.svg import WIDTH, Frame, Line, around, dot, log_ticks, percent, plot, shorten, text, whisker
from linnaeus.report.verdict import judge
from linnaeus.report.words import exact

ALIKE = 1.5
"""The same network on the same machine, undisturbed, does not differ by more in its time."""

Cost = Callable[[Record], float]


def comparison_page(runs: Sequence[tuple[str, Record]], told: Sequence[Sequence[str]]) -> str:
    """Writes the page.

    Args:
        runs: (folder, record), the first is what the others are compared with; of one task.
        told: for each of the others, what the common test images say of it, in lines.
    """
    head = "".join(paragraph(lines[0]) + bullets(lines[1:]) for lines in told)
    devices = sorted({record.speed.device for _, record in runs if record.speed is not None})
    remark = "Not all were timed on the same machine, so that times cannot be compared: " + "; ".join(devices)
    body = [
        '<header class="plain"><h1>Runs side by side</h1></header>',
        section("verdict", "Which is better", paragraph(f"{len(runs)} runs, judged on test images."), head),
        section(
            "costs",
            "Accuracy against its price",
            side_by_side(
                _pareto(runs, lambda record: record.speed.milliseconds if record.speed else 0, "milliseconds an image"),
                _pareto(runs, lambda record: record.speed.bytes / 1e6 if record.speed else 0, "MB of weights"),
            ),
            paragraph(remark) if len(devices) > 1 else "",
            *map(paragraph, _disturbed(runs)),
        ),
        section("runs", "The runs", _table(runs)),
    ]
    return page("Runs side by side", "\n".join(body))


def _disturbed(runs: Sequence[tuple[str, Record]]) -> Iterator[str]:
    """Runs of the same network on the same machine whose times differ by more than they can by themselves."""
    alike: dict[tuple[str, int, str], list[tuple[float, str]]] = defaultdict(list)
    for name, record in runs:
        if record.speed is not None:
            own = (record.model, record.speed.parameters, record.speed.device)
            alike[own].append((record.speed.milliseconds, name))
    for timed in alike.values():
        (fast, first), (slow, last) = min(timed), max(timed)
        if slow > ALIKE * fast:
            yield (
                f"{first} and {last} are the same network, and {last} took {slow / fast:.1f} times as long: something "
                f"else ran when it was timed. `linnaeus report` of each, on an idle machine, times them anew."
            )


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of (cost, worth) no other beats: none is cheaper and as good, or better and as cheap; by rising cost."""
    order = sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1]))
    best, kept = float("-inf"), []
    for k in order:
        if points[k][1] > best:
            best = points[k][1]
            kept.append(k)
    return kept


def _pareto(runs: Sequence[tuple[str, Record]], cost: Cost, what: str) -> str:
    known = [(name, record) for name, record in runs if record.speed is not None]
    if not known:
        return paragraph(f"None was timed, so that accuracy cannot be set against {what}.")
    points = [(cost(record), record.top.value) for _, record in known]
    kept = pareto(points)
    costs = [x for x, _ in points]
    ends = [end for _, record in known for end in (record.top.low, record.top.high)]
    frame = Frame((min(costs) / 1.6, max(costs) * 1.6), around(ends, within=(0, 1)), log=True)
    marks = []
    for k, (name, record) in enumerate(known):
        tone = "a" if k in kept else "b"
        x, y = frame.at(*points[k])
        is_right = x > WIDTH / 2
        marks.append(whisker(frame, costs[k], record.top, tone) + dot(x, y, tone, 4.5))
        place = (x - 8, y - 6) if is_right else (x + 8, y - 6)
        marks.append(text(*place, shorten(name, 22), anchor="end" if is_right else "start", kind=f"name {tone}"))
    says = f"{known[0][1].headline} against {what}: " + "; ".join(
        f"{name} {worth:.1%} at {price:.3g}" for (name, _), (price, worth) in zip(known, points, strict=True)
    )
    line = Line("", [points[k] for k in kept], "a", dashed=True)
    form = (lambda value: f"{value:g}") if len(log_ticks(*frame.x)) > 1 else (lambda value: f"{value:.3g}")
    drawn = plot(
        [line], frame, says=says, axes=(what, known[0][1].headline), forms=(form, percent), under="".join(marks)
    )
    return figure(
        drawn, "Up and to the left is better. Blue: no other is both as good and as cheap. Lines: 95% intervals."
    )


def _table(runs: Sequence[tuple[str, Record]]) -> str:
    names = list(dict.fromkeys(name for _, record in runs for name in record.measures))
    columns = ["run", "network", *names, "calibration error", "ms an image", "MB", "parameters", "things to mind"]
    rows = []
    for folder, record in runs:
        cells: list[tuple[str, float | None]] = [(folder, None), (record.model, None)]
        for name in names:
            own = record.measures.get(name)
            cells.append(("", -1.0) if own is None else (exact(own), own.value))
        error = record.probabilities and record.probabilities.after.calibration_error
        cells.append((f"{error.value:.1%}", error.value) if error else ("", -1.0))
        speed = record.speed
        if speed is None:
            cells += [("not timed", -1.0), ("", -1.0), ("", -1.0)]
        else:
            cells += [(f"{speed.milliseconds:.1f}", speed.milliseconds), (f"{speed.bytes / 1e6:,.1f}", speed.bytes)]
            cells.append((f"{speed.parameters:,}", speed.parameters))
        number = len(judge(record).worries)
        rows.append([*cells, (f"{number}", number)])
    return table("Each on its own test images, with 95% intervals", columns, rows)
