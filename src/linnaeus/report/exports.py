"""Section of a report: what became of each artefact that was exported of the run, and why."""

from collections import Counter
from collections.abc import Sequence

from linnaeus.metrics.intervals import Interval
from linnaeus.report.exported import Exported, Judged
from linnaeus.report.page import bullets, figure, folded, paragraph, section, table
from linnaeus.report.record import Record
from linnaeus.report.svg import forest
from linnaeus.report.words import counted, exact, whole_percent

WORDS = {
    "delivered": "delivered",
    "warned": "delivered with a warning",
    "refused": "refused",
    "not scored": "written but not scored",
}
"""What the gate said, for people."""
_TONES = {"delivered": "a", "warned": "c", "refused": "b"}

Cell = tuple[str, float | None]


def exports_section(record: Record, run: str) -> str:
    """The artefacts beside the network that they came from."""
    title, tried = "Exports", record.exports
    if not tried:
        about = (
            f"None was made. `linnaeus export {run} --to onnx,onnx:int8` writes the model for another runtime and "
            "judges it there on real images; the report then shows what became of it."
        )
        return section("exports", title, paragraph(about))
    return section(
        "exports",
        title,
        paragraph(_summary(tried)),
        _drawn(tried),
        table("What was tried, and what the gate said", _NAMES, [_row(each) for each in tried]),
        bullets(_reasons(tried)),
        folded("All figures, and what is computed in 8 bits", _details(tried)),
    )


_NAMES = ["artefact", "verdict", "accuracy (95% interval)", "change in points", "same answer", "MB"]


def change_in_points(interval: Interval) -> str:
    """`-0.7 (-2.8 to +1.5)`, and never a zero with a minus."""
    value, low, high = (f"{100 * end:+z.1f}" for end in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def megabytes(size: int) -> str:
    """Of an artefact; `-` where there is none."""
    return f"{size / 1e6:,.2f}" if size else "-"


def _summary(tried: Sequence[Exported]) -> str:
    outcomes: Counter[str] = Counter(each.outcome for each in tried)
    told = "; ".join(f"{outcomes[outcome]} {words}" for outcome, words in WORDS.items() if outcomes[outcome])
    judged = dict.fromkeys(f"{each.score.accuracy.n:,} {each.score.images}" for each in tried if each.score)
    text = f"{counted(len(tried), 'artefact')} tried: {told}."
    if judged:
        text += f" Judged by their own runtimes on {' or on '.join(judged)}, beside the network on the same images."
    if outcomes.total() > outcomes["refused"]:
        text += " All but the refused are in exports/ in the folder of the run."
    return text


def _reasons(tried: Sequence[Exported]) -> list[str]:
    """Why, those that were refused first; what is true of several is said once."""
    names: dict[str, list[str]] = {}
    for each in sorted(tried, key=lambda own: own.outcome != "refused"):
        for reason in each.reasons:
            names.setdefault(reason, []).append(each.name)
    return [f"{', '.join(own)}: {reason}" for reason, own in names.items()]


def _drawn(tried: Sequence[Exported]) -> str:
    """The changes with their intervals; nothing where nothing was scored."""
    rows = [(each.name, each.score.change, _TONES.get(each.outcome, "quiet")) for each in tried if each.score]
    if not rows:
        return ""
    says = "Change of accuracy by export: " + "; ".join(f"{name} {_points(own.value)} points" for name, own, _ in rows)
    drawn = forest(rows, says=says, reference=0.0, name="the network", form=_points, within=(-1.0, 1.0))
    return figure(drawn, "Points of accuracy gained or lost against the network, with the paired 95% interval.")


def _points(value: float) -> str:
    return f"{100 * value:+z.1f}" if value else "0"


def _row(each: Exported) -> list[Cell]:
    size: Cell = (megabytes(each.bytes), each.bytes / 1e6 or None)
    return [(each.name, None), (WORDS[each.outcome], None), *_judged(each.score), size]


def _judged(score: Judged | None) -> list[Cell]:
    if score is None:
        return [("-", None)] * 3
    return [
        (exact(score.accuracy), score.accuracy.value),
        (change_in_points(score.change), score.change.value),
        (f"{score.agreement.value:.1%}", score.agreement.value),
    ]


def _details(tried: Sequence[Exported]) -> str:
    names = ["artefact", "largest gap", "log-loss (95% interval)", "layers", "weights", "work"]
    kept = [f"{each.name} keeps in floating point: {', '.join(each.float_layers)}" for each in tried]
    tuned = [f"{each.name}, weights tuned to bear 8 bits (--qat): {each.tuning}" for each in tried if each.tuning]
    return (
        table("Further figures of each artefact", names, [_detail(each) for each in tried])
        + bullets([line for line, each in zip(kept, tried, strict=True) if each.float_layers] + tuned)
        + paragraph(_MEANINGS, "quiet")
    )


_MEANINGS = (
    "Largest gap: how far any probability of any image moved. Log-loss: its change in nats, above 0 where the "
    "probabilities mean less. Layers, weights, work: the share of the layers with weights, of these weights, and of "
    "the multiply-accumulates that is really computed in 8-bit integers, counted in the artefact itself."
)


def _detail(each: Exported) -> list[Cell]:
    score, covered = each.score, each.covered
    cells: list[Cell] = [(each.name, None)]
    if score is None:
        cells += [("-", None)] * 2
    else:
        loss = score.loss_change
        told = f"{loss.value:+z.3f} ({loss.low:+z.3f} to {loss.high:+z.3f})"
        cells += [(f"{score.gap:.2g}", score.gap), (told, loss.value)]
    shares = (covered.layers, covered.weights, covered.macs) if covered else (None, None, None)
    return [*cells, *(("-" if share is None else whole_percent(share), share) for share in shares)]
