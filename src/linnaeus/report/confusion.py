"""The confusion matrix as a picture that answers when it is touched."""

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from linnaeus.report.svg import shorten, svg, text
from linnaeus.report.words import counted

MOST = 40
"""Classes that are drawn: of more, those with the most errors."""
_CELL, _LETTER = 26, 6.6


def confusion_plot(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Rows are the truth, columns what the model said; the shade is the part of the row."""
    table = np.array(confusion)
    shown = worst_classes(table)
    names = [shorten(classes[k], 16) for k in shown]
    side = round(max(_CELL, 300 / len(shown))) if len(shown) < 12 else _CELL
    left = 14 + max(len(name) for name in names) * _LETTER
    top = left * 0.75 + 18
    size = side * len(shown)
    parts = [text(left + size / 2, 12, "what the model said", anchor="middle", kind="quiet")]
    for place, (k, name) in enumerate(zip(shown, names, strict=True)):
        middle = place * side + side / 2
        parts.append(text(left - 6, top + middle + 4, name, anchor="end"))
        x, y = left + middle + 3, top - 6
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" transform="rotate(-45 {x:.1f} {y:.1f})">{escape(name)}</text>')
        parts += [
            _cell(table, (k, j), classes, left + at * side, top + place * side, side) for at, j in enumerate(shown)
        ]
    says = f"Confusion matrix of {len(shown)} classes: rows are the truth, columns what the model said"
    wide = left + size + max(20, len(names[-1]) * _LETTER * 0.72)
    return svg(says, "".join(parts), top + size + 6, wide, most=round(1.25 * wide))


def worst_classes(table: NDArray[np.int64]) -> list[int]:
    """All classes, or those that take part in the most errors, in their order."""
    if len(table) <= MOST:
        return list(range(len(table)))
    errors = table.sum(0) + table.sum(1) - 2 * table.diagonal()
    return sorted(np.argsort(-errors, kind="stable")[:MOST].tolist())


def _cell(
    table: NDArray[np.int64], at: tuple[int, int], classes: Sequence[str], x: float, y: float, side: float
) -> str:
    truth, said = at
    count, total = int(table[truth, said]), int(table[truth].sum())
    share = count / total if total else 0.0
    kind = "hit" if truth == said else "miss"
    words = f"{classes[truth]}, taken for {classes[said]}" if truth != said else f"{classes[truth]}, recognised"
    words = f"{words}: {count:,} of {counted(total, 'image')} ({share:.1%})"
    frame = f'x="{x:.1f}" y="{y:.1f}" width="{side - 1:.1f}" height="{side - 1:.1f}"'
    rect = f'<rect class="empty" {frame}/>'
    if count:
        rect += f'<rect class="{kind}" {frame} fill-opacity="{0.12 + 0.88 * share:.2f}"/>'
        tone = "on" if share > 0.6 else ""
        if len(f"{count}") * 7 < side:
            rect += text(x + side / 2 - 0.5, y + side / 2 + 4, f"{count}", anchor="middle", kind=tone)
    return f'<g class="cell" data-says="{escape(words)}"><title>{escape(words)}</title>{rect}</g>'
