"""Sections of a report: the images, the training, the classes, what is confused, the worst mistakes, the slices."""

from collections.abc import Sequence
from html import escape

import numpy as np

from linnaeus.metrics.scores import most_confused
from linnaeus.report.confusion import MOST, confusion_plot
from linnaeus.report.page import bullets, figure, folded, paragraph, section, side_by_side, table
from linnaeus.report.record import ClassRow, Record, Shown
from linnaeus.report.svg import Frame, Line, around, forest, percent, plot
from linnaeus.report.verdict import best_epoch
from linnaeus.report.words import counted, exact, whole_percent

SHOWN_CLASSES = 200
SHOWN_SLICES = 24


def data_section(record: Record) -> str:
    """What the images are, and what the doctor found."""
    roles = ", ".join(
        f"{number:,} {role}{' (set aside at random)' if role in record.counted.carved else ''}"
        for role, number in record.counted.by_role.items()
    )
    total = sum(record.counted.by_role.values())
    left = record.counted.left_out
    lines = [
        f"{counted(total, 'image')} of {counted(len(record.classes), 'class', 'classes')}, {record.source}: {roles}."
        + (f" {counted(left, 'image was', 'images were')} left out; data/quarantine.csv says why." if left else "")
    ]
    found = "".join(_finding(finding) for finding in record.findings)
    heading = "What the doctor found" if found else ""
    return section(
        "data",
        "The images",
        *map(paragraph, lines),
        f"<h3>{heading}</h3><ul>{found}</ul>" if found else paragraph("The doctor found nothing to complain of."),
        paragraph("With pictures: data/doctor.html in the folder of the run.", "quiet") if found else "",
    )


def _finding(finding: dict[str, object]) -> str:
    tone = {"error": "bad", "warning": "fair"}.get(str(finding["severity"]), "")
    chip = f'<span class="chip {tone}">{escape(str(finding["severity"]))}</span>'
    about = f"{escape(str(finding['reason']))} <span class='quiet'>{escape(str(finding['advice']))}</span>"
    return f"<li>{chip}<b>{escape(str(finding['title']))}.</b> {about}</li>"


def curves_section(record: Record) -> str:
    """Loss and score after each epoch."""
    if len(record.curves) < 2:
        reason = record.missing.get(
            "curves", "The record of the run has fewer than two epochs: there is no curve to draw."
        )
        return section("curves", "The training", paragraph(reason))
    score, word = (
        ("top1", "accuracy") if record.task == "single" else ("map" if _has(record, "val/map") else "f1", "score")
    )
    loss = _curve(record, {"train/loss": "train", "val/loss": "val"}, "loss", "Loss in nats")
    names = {f"train/{score}": "train", f"val/{score}": "val"}
    scores = _curve(record, names, word, f"{word.capitalize()} after each epoch")
    return section("curves", "The training", side_by_side(loss, scores), _best_in_words(record))


def _epochs(record: Record) -> list[tuple[int, dict[str, float]]]:
    """The lines of the record with their epochs; 0 is a fitted head before the first step."""
    return list(enumerate(record.curves, 0 if record.curves[0]["step"] == 0 else 1))


def _has(record: Record, name: str) -> bool:
    return any(name in line for line in record.curves)


def _curve(record: Record, names: dict[str, str], what: str, caption: str) -> str:
    tones = {"train": "b", "val": "a"}
    lines = []
    for name, short in names.items():
        points = [(float(epoch), line[name]) for epoch, line in _epochs(record) if name in line]
        lines += [Line(short, points, tones[short])] if points else []
    if not lines:
        return ""
    values = [y for line in lines for _, y in line.points]
    is_share = what != "loss"
    epochs = [epoch for epoch, _ in _epochs(record)]
    frame = Frame((epochs[0], epochs[-1]), around(values, within=(0, 1) if is_share else (0, np.inf)))
    drawn = plot(
        lines,
        frame,
        says=f"{caption}, over {len(record.curves)} epochs: "
        + "; ".join(f"{line.name} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in lines),
        axes=("epoch", what),
        forms=(_whole, percent if is_share else lambda value: f"{value:.3g}"),
    )
    return figure(drawn, f"{caption}. In training images are changed at random, which makes them harder.")


def _whole(value: float) -> str:
    return f"{value:.0f}" if abs(value - round(value)) < 1e-9 else ""


def _best_in_words(record: Record) -> str:
    best = best_epoch(record)
    if best is None:
        return ""
    epoch = next(epoch for epoch, line in _epochs(record) if line is best)
    state = f"the state after epoch {epoch}" if epoch else "the fitted linear head of before the first epoch"
    return paragraph(f"The model is {state}, the best on val of {_epochs(record)[-1][0]} epochs.", "quiet")


def classes_section(record: Record) -> str:
    """A row a class; those in which most is wrong first where not all are shown."""
    rows = record.rows
    more = ""
    if len(rows) > SHOWN_CLASSES:
        rows = sorted(rows, key=lambda row: row.recall.value if row.recall else 2.0)[:SHOWN_CLASSES]
        more = f"The {SHOWN_CLASSES} of {len(record.rows):,} classes that are found least often."
    names = ["class", "found (recall)", "right when said (precision)", "F1", "test images", "training images"]
    names += ["average precision", "said from"] if record.task == "multi" else ["taken for"]
    drawn = table("By class; a click on a heading sorts", names, [_class_cells(row, record.task) for row in rows])
    about = (
        "Found: of the images of a class, how many are recognised, with its 95% interval. Right when said: of the "
        "images that are called so, how many are."
    )
    if record.task == "multi":
        about += (
            " Both hold where an image is said to have a class from the probability in the last column on: the "
            "threshold that gave this class the largest F1 on val (50% where val has few of it). "
            "Average precision needs no threshold: see the head of this report."
        )
    return section("classes", "The classes", paragraph(about, "quiet"), paragraph(more) if more else "", drawn)


def _class_cells(row: ClassRow, task: str) -> list[tuple[str, float | None]]:
    recall = ("no test image", -1.0) if row.recall is None else (exact(row.recall), row.recall.value)
    cells: list[tuple[str, float | None]] = [(row.name, None), recall]
    cells += [(f"{row.precision:.1%}", row.precision), (f"{row.f1:.1%}", row.f1)]
    cells += [(f"{row.support:,}", row.support), (f"{row.trained:,}", row.trained)]
    if task == "multi":
        ap = row.average_precision
        cells.append(("", -1.0) if ap is None else (f"{ap:.1%}", ap))
        return [*cells, ("", -1.0) if row.threshold is None else (f"{row.threshold:.1%}", row.threshold)]
    return [*cells, ("" if row.taken_for is None else f"{row.taken_for[0]} ({row.taken_for[1]:,})", None)]


def confusion_section(record: Record) -> str:
    """The matrix, and its largest errors."""
    if record.confusion is None:
        reason = "An image may have several classes here, so that none is taken for another: see the table of classes."
        return section("confusion", "What is confused", paragraph(reason))
    pairs = most_confused(np.array(record.confusion), 10)
    lines = [
        f"'{record.classes[truth]}' taken for '{record.classes[said]}': {number:,} of "
        f"{counted(sum(record.confusion[truth]), 'image')}"
        for truth, said, number in pairs
    ]
    shown = min(len(record.classes), MOST)
    about = (
        "A row is a class, a column what the model said; the darker, the more of the row. Blue is right, orange wrong."
    )
    if shown < len(record.classes):
        about += f" Shown are the {shown} of {len(record.classes):,} classes with the most errors."
    matrix = (
        '<div class="matrix"><p><button type="button" value="1.5" aria-label="larger">+</button> '
        '<button type="button" value="0.6667" aria-label="smaller">−</button></p>'
        f'<div class="wide" tabindex="0" role="region" aria-label="confusion matrix">'
        f"{confusion_plot(record.confusion, record.classes)}</div>"
        '<output aria-live="polite">Point at a cell to read it.</output></div>'
    )
    return section("confusion", "What is confused", paragraph(about, "quiet"), side_by_side(matrix, _largest(lines)))


def _largest(lines: Sequence[str]) -> str:
    return f"<div><h3>The most frequent errors</h3>{bullets(lines)}</div>" if lines else ""


def mistakes_section(record: Record) -> str:
    """The surest errors as pictures."""
    if not record.mistakes:
        none = (
            "They are not listed where an image may have several classes: the table of classes says which are weak."
            if record.task == "multi"
            else "No test image is judged wrongly."
        )
        return section("mistakes", "The worst mistakes", paragraph(record.missing.get("mistakes", none)))
    about = (
        "The errors of which the model was surest, as it sees the images. Where there are two pictures, the second "
        "shows what spoke for its answer, the brighter the more."
    )
    remark = record.missing.get("overlays", "")
    return section(
        "mistakes",
        "The worst mistakes",
        paragraph(about, "quiet"),
        paragraph(remark, "quiet") if remark else "",
        pictures(record.mistakes),
    )


def suspects_section(record: Record) -> str:
    """Held-out images whose labels look wrong."""
    title = "Labels that look wrong"
    if record.suspects is None:
        return section("suspects", title, paragraph(record.missing.get("suspects", "They were not looked for.")))
    if not record.suspects:
        return section("suspects", title, paragraph("None among the held-out images."))
    more = record.num_suspects - len(record.suspects)
    about = (
        f"{counted(record.num_suspects, 'held-out image has a label', 'held-out images have labels')} that the model "
        "contradicts so firmly that the label may be wrong. Look at them: the model may be wrong instead."
    )
    rest = f"And {more:,} more in data/suspects.csv." if more else ""
    return section("suspects", title, paragraph(about), pictures(record.suspects), paragraph(rest) if rest else "")


def pictures(shown: Sequence[Shown]) -> str:
    """Cards with what was said of each image."""
    return f'<div class="pictures">{"".join(_card(each) for each in shown)}</div>'


def _card(each: Shown) -> str:
    alt = f"{each.name}, labelled {each.label}"
    tiles = [_image(each.picture, alt)] + (
        [_image(each.overlay, f"what the model looked at in {each.name}")] if each.overlay else []
    )
    return (
        f'<figure><div class="pair">{"".join(tiles)}</div><figcaption>labelled <b>{escape(each.label)}</b> '
        f"({escape(whole_percent(each.label_probability))}), said <b>{escape(each.said)}</b> "
        f"({escape(whole_percent(each.said_probability))})"
        f"<div><code>{escape(each.name)}</code> {escape(each.role)}</div></figcaption></figure>"
    )


def _image(uri: str, alt: str) -> str:
    if not uri:
        return '<div class="none">the image cannot be read</div>'
    kind = ' class="small"' if uri.startswith("data:image/png") else ""
    return f'<img{kind} alt="{escape(alt)}" src="{uri}">'


def slices_section(record: Record) -> str:
    """Accuracy by kinds of images."""
    title = "Kinds of images"
    if not record.slices:
        reason = record.missing.get(
            "slices", "The test images do not differ in size, orientation, brightness or any column."
        )
        return section("slices", title, paragraph(reason))
    failing = [each for each in record.slices if each.fails]
    order = sorted(record.slices, key=lambda each: (not each.fails, each.accuracy.value))[:SHOWN_SLICES]
    rows = [(f"{each.column}: {each.value}", each.accuracy, "b" if each.fails else "a") for each in order]
    overall = _overall(record)
    drawn = forest(rows, says=f"Accuracy of {len(rows)} kinds of images with 95% intervals", reference=overall)
    lines = [
        f"{each.column} '{each.value}': right for {exact(each.accuracy)} of {each.accuracy.n:,} images, elsewhere for "
        f"{each.rest:.1%} (p {each.p_value:.2g}, corrected for the {len(record.slices)} kinds looked at)"
        for each in failing
    ]
    verdict = (
        "On these it is worse than elsewhere, by more than chance:"
        if lines
        else ("On no kind of images is it worse than elsewhere by more than chance explains.")
    )
    return section(
        "slices",
        title,
        paragraph(verdict),
        bullets(lines),
        figure(
            drawn,
            f"Dots are {'shares of images with all labels right' if record.task == 'multi' else 'accuracies'}, lines "
            "their 95% intervals; orange is worse than elsewhere by more than chance.",
        ),
        folded(f"All {len(record.slices)} as a table", _slice_table(record)),
    )


def _slice_table(record: Record) -> str:
    names = ["kind", "right", "images", "elsewhere", "p"]
    cells: list[list[tuple[str, float | None]]] = [
        [
            (f"{each.column}: {each.value}", None),
            (exact(each.accuracy), each.accuracy.value),
            (f"{each.accuracy.n:,}", each.accuracy.n),
            (f"{each.rest:.1%}", each.rest),
            (f"{each.p_value:.2g}", each.p_value),
        ]
        for each in record.slices
    ]
    return table("By kind of image", names, cells)


def _overall(record: Record) -> float:
    if record.confusion is None:
        return record.measures["all labels right"].value
    return record.top.value
