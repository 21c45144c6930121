"""The doctor's findings as one HTML file: nothing is fetched from elsewhere; it reads on a phone, by day and night."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnaeus.report.page import data_uri

Picture = Callable[[int], NDArray[np.uint8] | None]
"""Position -> (H, W, 1 or 3) uint8, or None if there is nothing to show."""

SIDE = 144  # pixels of a thumbnail: sharp at the 96 that a card shows, on most screens
PICTURES_A_FINDING, PICTURES_A_PAGE = 24, 240  # 240 thumbnails are about 1 MB
NAMES_A_FINDING = 500

_TONES = {"unusable": "error", "usable with warnings": "warning", "good": "good"}
_MEANING = {
    "unusable": "Training refuses this data until the errors below are mended.",
    "usable with warnings": "Training works, and leaves out what is marked so. The warnings cost accuracy or trust.",
    "good": "Nothing stands in the way of training.",
}


def doctor_page(title: str, diagnosis: Mapping[str, Any], picture: Picture, *, remark: str = "") -> str:
    """Writes the page.

    Args:
        title: what was examined, as the user calls it.
        diagnosis: as the doctor's `Diagnosis.to_json` gives it.
        picture: called once for each image that is shown, in the order of the page.
        remark: a sentence below the summary.
    """
    findings = diagnosis["findings"]
    album = _Album(picture)
    sections = "\n".join(_section(number, finding, album) for number, finding in enumerate(findings))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Doctor: {escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header class="{_TONES[diagnosis["verdict"]]}">
<p class="what">Examined: {escape(title)}</p>
<h1>{escape(diagnosis["verdict"].capitalize())}</h1>
<p>{_MEANING[diagnosis["verdict"]]}</p>
<p class="quiet">{_summary(diagnosis)}</p>{f'<p class="quiet">{escape(remark)}</p>' if remark else ""}
</header>
{_contents(findings)}
{sections}
</main>
</body>
</html>
"""


def _summary(diagnosis: Mapping[str, Any]) -> str:
    counts = Counter(finding["severity"] for finding in diagnosis["findings"])
    names = {"error": "errors", "warning": "warnings", "note": "notes"}
    found = [f"{counts[key]} {word[:-1] if counts[key] == 1 else word}" for key, word in names.items() if counts[key]]
    out = {file["position"] for finding in diagnosis["findings"] if finding["quarantined"] for file in finding["files"]}
    return (
        f"{diagnosis['images']:,} images of {diagnosis['classes']:,} classes; {diagnosis['usable']:,} can be decoded, "
        f"{len(out):,} are left out of training. {', '.join(found).capitalize() or 'No findings'}."
    )


def _contents(findings: Sequence[Mapping[str, Any]]) -> str:
    if not findings:
        return ""
    lines = (
        f'<li><a href="#f{number}"><span class="dot {finding["severity"]}"></span>{escape(finding["title"])}</a>'
        f'<span class="quiet">{_size(finding)}</span></li>'
        for number, finding in enumerate(findings)
    )
    return f"<nav><ul>{''.join(lines)}</ul></nav>"


def _size(finding: Mapping[str, Any]) -> str:
    count = len(finding["files"])
    return f"{count:,} {'image' if count == 1 else 'images'}" if count else ""


def _section(number: int, finding: Mapping[str, Any], album: "_Album") -> str:
    chips = f'<span class="chip {finding["severity"]}">{finding["severity"]}</span>'
    # What cannot be decoded cannot be shown.
    pictures = "" if finding["kind"] == "unreadable" else _pictures(finding, album)
    if finding["quarantined"]:
        chips += '<span class="chip out">left out of training</span>'
    return f"""<section id="f{number}">
<h2>{escape(finding["title"])}</h2>
<p>{chips}</p>
<p>{escape(finding["reason"])} <span class="quiet">{escape(finding["advice"])}</span></p>
{pictures}
{_names(finding, unfolded=not pictures)}
</section>"""


def _pictures(finding: Mapping[str, Any], album: "_Album") -> str:
    """Groups side by side where there are any, else one card a file."""
    reasons = {file["position"]: file.get("reason", "") for file in finding["files"]}
    left = PICTURES_A_FINDING
    parts = []
    for group in finding["groups"] or [[file] for file in finding["files"]]:
        shown = group[: min(6, left)]
        if not shown or not album.has_room(len(shown)):
            break
        left -= len(shown)
        more = f'<p class="quiet">and {len(group) - len(shown):,} more</p>' if len(shown) < len(group) else ""
        cards = "".join(_card(file, reasons.get(file["position"], ""), album) for file in shown)
        parts.append(f'<div class="{"group" if finding["groups"] else "single"}">{cards}{more}</div>')
    return f'<div class="pictures">{"".join(parts)}</div>' if parts else ""


def _card(file: Mapping[str, Any], reason: str, album: "_Album") -> str:
    about = " · ".join(part for part in (file["label"], file["split"]) if part)
    return (
        f"<figure>{album.image(file['position'])}<figcaption><b>{escape(file['name'])}</b>"
        f"<span>{escape(about)}</span><span>{escape(reason)}</span></figcaption></figure>"
    )


def _names(finding: Mapping[str, Any], *, unfolded: bool) -> str:
    lines = list(_lines(finding))
    if not lines:
        return ""
    more = f"<li>and {len(lines) - NAMES_A_FINDING:,} more</li>" if len(lines) > NAMES_A_FINDING else ""
    items = "".join(f"<li>{line}</li>" for line in lines[:NAMES_A_FINDING])
    start = "<details open>" if unfolded else "<details>"
    return f"{start}<summary>By name: {len(lines):,}</summary><ul>{items}{more}</ul></details>"


def _lines(finding: Mapping[str, Any]) -> Iterator[str]:
    for file in finding["files"]:
        yield f"<code>{escape(file['name'])}</code> {escape(file.get('reason', ''))}"
    for subject in finding["subjects"]:
        yield f"<code>{escape(subject)}</code>"


class _Album:
    """Thumbnails inside the page, up to a number."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._left = PICTURES_A_PAGE

    def has_room(self, count: int) -> bool:
        """Whether so many more fit on the page."""
        return count <= self._left

    def image(self, position: int) -> str:
        """The thumbnail of one image, or an empty frame."""
        self._left -= 1
        pixels = self._picture(position)
        if pixels is None:
            return '<div class="none">cannot be shown</div>'
        kind = ' class="small"' if max(pixels.shape[:2]) <= SIDE // 2 else ""
        return f'<img{kind} alt="" src="{data_uri(pixels, SIDE)}">'


_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --quiet: #5f656d; --page: #f5f6f7; --card: #fff; --line: #dfe2e6;
  --error: #b3261e; --warning: #8a5a00; --note: #3d6a9e; --good: #1f7a43; --out: #6b4fa0; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --quiet: #9aa1a9; --page: #15171a; --card: #1e2125;
  --line: #343a40; --error: #ff8a80; --warning: #f2bd5c; --note: #8fbcf0; --good: #7ed6a0; --out: #c3a9f5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem; }
header, section, nav { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1rem 1.2rem; margin: 0 0 1rem; }
header { border-left: .4rem solid var(--tone); }
header.error { --tone: var(--error); } header.warning { --tone: var(--warning); } header.good { --tone: var(--good); }
h1 { margin: 0; font-size: 1.8rem; color: var(--tone); } h2 { margin: 0; font-size: 1.15rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; } .what, .quiet { color: var(--quiet); } .what { margin: 0; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav li { display: flex; justify-content: space-between; gap: 1rem; padding: .2rem 0; }
nav .quiet { white-space: nowrap; }
a { color: inherit; text-decoration: none; } a:hover { text-decoration: underline; }
.dot { display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; margin-right: .6rem;
  background: var(--tone); }
.chip { display: inline-block; border: 1px solid var(--tone); color: var(--tone); border-radius: 1rem;
  padding: 0 .6rem; margin-right: .4rem; font-size: .85rem; }
.dot.error, .chip.error { --tone: var(--error); } .dot.warning, .chip.warning { --tone: var(--warning); }
.dot.note, .chip.note { --tone: var(--note); } .chip.out { --tone: var(--out); }
.pictures { display: flex; flex-wrap: wrap; gap: .7rem; margin: .8rem 0; }
.single, .group { display: flex; flex-wrap: wrap; gap: .7rem; }
.group { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem; }
figure { margin: 0; width: 8.2rem; }
img, .none { width: 8.2rem; height: 6.2rem; object-fit: contain; background: var(--page); border-radius: .3rem;
  display: block; }
img.small { image-rendering: pixelated; }
.none { display: grid; place-items: center; color: var(--quiet); font-size: .8rem; border: 1px dashed var(--line); }
figcaption { font-size: .75rem; line-height: 1.3; overflow-wrap: anywhere; margin-top: .3rem; }
figcaption b { display: block; font-weight: 600; } figcaption span { display: block; color: var(--quiet); }
details { margin-top: .5rem; } summary { cursor: pointer; color: var(--quiet); }
details ul { padding-left: 1.2rem; font-size: .85rem; overflow-wrap: anywhere; }
"""
