"""The report of one run as one HTML file that anyone can read: the verdict in words first, then what it rests on."""

from html import escape

from linnaeus.report.confidence import abstention_section, calibration_section
from linnaeus.report.costs import costs_section, learning_section, measures, provenance_section, robustness_section
from linnaeus.report.exports import exports_section
from linnaeus.report.page import bullets, page, paragraph
from linnaeus.report.record import Record
from linnaeus.report.results import (
    classes_section,
    confusion_section,
    curves_section,
    data_section,
    mistakes_section,
    slices_section,
    suspects_section,
)
from linnaeus.report.verdict import Verdict, judge

_CONTENTS = {
    "confusion": "Confusion",
    "classes": "Classes",
    "mistakes": "Mistakes",
    "suspects": "Labels",
    "calibration": "Trust",
    "abstention": "Not sure",
    "slices": "Kinds of images",
    "learning": "More images",
    "robustness": "Spoiled images",
    "curves": "Training",
    "data": "Images",
    "costs": "Speed and size",
    "exports": "Exports",
    "provenance": "Provenance",
}


def run_page(record: Record) -> str:
    """Writes the page."""
    links = "".join(f'<li><a href="#{anchor}">{escape(name)}</a></li>' for anchor, name in _CONTENTS.items())
    parts = [
        _header(record, judge(record)),
        f'<nav aria-label="contents"><ul>{links}</ul></nav>',
        confusion_section(record),
        classes_section(record),
        mistakes_section(record),
        suspects_section(record),
        calibration_section(record),
        abstention_section(record),
        slices_section(record),
        learning_section(record),
        robustness_section(record, record.path),
        curves_section(record),
        data_section(record),
        costs_section(record),
        exports_section(record, record.path),
        provenance_section(record),
    ]
    return page(f"Report: {record.title}", "\n".join(parts))


def _header(record: Record, verdict: Verdict) -> str:
    worries = f"<h3>What to worry about</h3>{bullets(verdict.worries)}" if verdict.worries else ""
    steps = f"<h3>What to do next</h3>{bullets(verdict.steps)}" if verdict.steps else ""
    what = f"{record.title}: {record.model} for {len(record.classes):,} classes of {record.source}"
    return f"""<header class="{verdict.tone}">
<p class="quiet">{escape(what)}</p>
<h1>{escape(verdict.title)}</h1>
<p><b>{escape(verdict.summary)}.</b></p>
{"".join(map(paragraph, verdict.lines))}
{measures(record)}
{worries}
{steps}
</header>"""
