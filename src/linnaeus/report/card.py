"""The model card: Markdown with the metadata that the Hugging Face hub reads, from the record of the report."""

import json
from collections.abc import Iterator

from linnaeus.report.exports import WORDS, change_in_points, megabytes
from linnaeus.report.record import Record
from linnaeus.report.verdict import judge
from linnaeus.report.words import counted, exact

SHOWN_CLASSES = 20
_USE = (
    "## How to use it",
    "",
    "```python",
    "import linnaeus",
    "",
    'classifier = linnaeus.load("path/to/this/folder")',
    'print(classifier.predict(["image.jpg"])[0])',
    "```",
    "",
)


def model_card(record: Record) -> str:
    """The card: what it is, how good it is and on what, what to worry about, how to use it."""
    verdict = judge(record)
    return "\n".join(
        [
            "---",
            *_metadata(record),
            "---",
            "",
            f"# {record.title}: {record.model} for {counted(len(record.classes), 'class', 'classes')}",
            "",
            f"**{verdict.title}.** {verdict.summary}.",
            "",
            *verdict.lines,
            "",
            "## Measures on test images",
            "",
            "| measure | value (95% interval) | images |",
            "|---|---|---|",
            *(f"| {name} | {exact(interval)} | {interval.n:,} |" for name, interval in record.measures.items()),
            "",
            *_list("What to worry about", verdict.worries),
            "## What it knows",
            "",
            f"Classes: {_classes(record)}.",
            "",
            *_list("How it answers", list(_answers(record))),
            f"Licence: {record.provenance['licence']}.",
            "",
            *_USE,
            *_exports(record),
            "## Where it comes from",
            "",
            *(
                f"- {name}: {value}"
                for name, value in record.provenance.items()
                if name not in ("licence", "everything")
            ),
            "",
        ]
    )


def _metadata(record: Record) -> Iterator[str]:
    """YAML; texts are written as JSON, which YAML reads, so that no name can break it."""
    yield "library_name: linnaeus"
    yield "pipeline_tag: image-classification"
    yield "license: other"
    yield f"license_name: {json.dumps('see below')}"
    yield "tags:"
    yield "- image-classification"
    yield f"- {json.dumps(record.model)}"
    yield "metrics:"
    yield "- accuracy" if record.task == "single" else "- mean_average_precision"
    yield "model-index:"
    yield f"- name: {json.dumps(record.title)}"
    yield "  results:"
    yield "  - task:"
    yield "      type: image-classification"
    yield "    dataset:"
    yield f"      name: {json.dumps(record.source)}"
    yield f"      type: {json.dumps(record.source)}"
    yield "      split: test"
    yield "    metrics:"
    for name, interval in record.measures.items():
        kind = {"top-1": "accuracy", "macro F1": "f1", "mAP": "mean_average_precision"}.get(
            name, name.replace(" ", "_")
        )
        yield f"    - type: {json.dumps(kind)}"
        yield f"      name: {json.dumps(name)}"
        yield f"      value: {interval.value:.6f}"


def _list(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {line}" for line in lines), ""] if lines else []


def _exports(record: Record) -> list[str]:
    if not record.exports:
        return []
    rows = []
    for each in record.exports:
        score = each.score
        judged = (exact(score.accuracy), change_in_points(score.change)) if score else ("-", "-")
        rows.append(f"| {each.name} | {WORDS[each.outcome]} | {' | '.join(judged)} | {megabytes(each.bytes)} |")
    return [
        "## Exported artefacts",
        "",
        "Each was judged by its own runtime, beside this model on the same images.",
        "",
        "| artefact | verdict | accuracy (95% interval) | change in points (paired) | MB |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def _classes(record: Record) -> str:
    names = record.classes[:SHOWN_CLASSES]
    more = len(record.classes) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")


def _answers(record: Record) -> Iterator[str]:
    if record.task == "multi":
        yield "An image may have several classes, or none: those whose probability reaches their own threshold."
    yield _calibration(record)
    if abstain := record.confidence.get("abstain"):
        wish = f"an accuracy of {abstain['min_accuracy']:.3g} where it answers"
        if abstain["threshold"] is None:
            yield f"It was asked to promise {wish}, which too few held-out images allow: it never answers."
        else:
            yield f"It is not sure at a confidence of {abstain['threshold']:.4f} or less, to keep {wish}."


def _calibration(record: Record) -> str:
    if record.calibration.get("method", "none") == "none":
        return "Its probabilities are not calibrated."
    if record.probabilities is None:
        return "Its probabilities are calibrated."
    before, after = (own.calibration_error for own in (record.probabilities.before, record.probabilities.after))
    return (
        f"Its probabilities are calibrated on held-out images: on the test images they are off by "
        f"{100 * after.value:.1f} points on average, without it by {100 * before.value:.1f}."
    )
