"""What the head of a report says where an image may have several classes: how good, against chance, which are weak."""

from collections.abc import Iterator

from linnaeus.metrics.intervals import Interval, wilson
from linnaeus.report.record import ClassRow, Record
from linnaeus.report.words import between, number, of_hundred, whole_percent

SAID = 3
"""Classes that are named in a sentence."""


def title(record: Record) -> str:
    """How good, for people who know no measure."""
    return f"All labels right for {of_hundred(record.measures['all labels right'])} images like these"


def lines(record: Record) -> Iterator[str]:
    """How sure, of single labels, and in what order the images of a class come."""
    every, top = record.measures["all labels right"], record.top
    yield (
        f"For new images of the same kind: every label right for {number(every.low, every.n)} to "
        f"{number(every.high, every.n)} of 100, with 95% confidence, as judged by {every.n:,} test images, "
        f"{record.counted.origin}. The model has not learnt from them. Images of another camera, place or time can be "
        "harder."
    )
    found, said = together(record)
    yield (
        f"One label at a time: of the labels that the images have it finds {of_hundred(found)} ({between(found)}), and "
        + (f"of those that it says {of_hundred(said)} are there ({between(said)})." if said else "it says none.")
    )
    yield (
        "Whatever the thresholds: put the images in order of how sure the model is of a class, and go down to any "
        f"image of the class; then {number(top.value, top.n)}% of those passed are of it, on average over all classes "
        f"(mean average precision, mAP; {number(top.low, top.n)} to {number(top.high, top.n)}). A perfect order has "
        f"100%, one by chance about {whole_percent(chance(record))}."
    )


def chance(record: Record) -> float:
    """The mAP of an order by chance: the mean share of the images that have a class, of those that some image has."""
    seen = [row.support for row in record.rows if row.support]
    return sum(seen) / max(1, len(seen)) / record.top.n


def together(record: Record) -> tuple[Interval, Interval | None]:
    """Of all labels of all classes: how many are found, and how many that are said are there; None where none is said.

    The intervals are Wilson's, as if labels of one image were independent.
    """
    hits, support = sum(map(_hits, record.rows)), sum(row.support for row in record.rows)
    said = sum(map(_said, record.rows))
    return wilson(hits, support), wilson(hits, said) if said else None


def worries(record: Record) -> Iterator[str]:
    """Classes that are found less often, or said wrongly more often, than all together, by more than chance."""
    found, said = together(record)
    rare = [(row.name, row.recall) for row in record.rows if row.recall is not None and row.recall.high < found.low]
    if rare:
        yield f"Found less often than the others: {_named(rare)}"
    right = [(row.name, wilson(_hits(row), _said(row))) for row in record.rows if _said(row)]
    doubtful = [(name, own) for name, own in right if said is not None and own.high < said.low]
    if doubtful:
        yield f"Right less often than the others when said: {_named(doubtful)}"


def _named(pairs: list[tuple[str, Interval]]) -> str:
    order = sorted(pairs, key=lambda pair: pair[1].value)
    text = "; ".join(f"'{name}' ({of_hundred(own)}, {between(own)})" for name, own in order[:SAID])
    return f"{text}; and {len(order) - SAID} more." if order[SAID:] else f"{text}."


def _hits(row: ClassRow) -> int:
    return 0 if row.recall is None else round(row.recall.value * row.support)


def _said(row: ClassRow) -> int:
    return row.said or 0
