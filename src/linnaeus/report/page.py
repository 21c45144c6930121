"""The frame of a page: one file that fetches nothing, for phone and desk, by day and night, on screen and paper."""

import base64
import io
import re
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 192  # pixels of a picture: sharp at the 128 that a card shows, on most screens
LONG = 32  # letters from which on a cell of a table is broken into lines


def page(title: str, body: str) -> str:
    """A whole document. The browser itself is told to fetch nothing."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def section(anchor: str, title: str, *parts: str) -> str:
    """A card with a heading; parts without content are left out."""
    content = "\n".join(part for part in parts if part)
    heading = f'<h2 id="{anchor}-h">{escape(title)}</h2>'
    return f'<section id="{anchor}" aria-labelledby="{anchor}-h">{heading}\n{content}</section>'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    about = f' class="{kind}"' if kind else ""
    return f"<p{about}>{prose(text)}</p>"


def prose(text: str) -> str:
    """Plain text as HTML; what stands between backticks is code, such as a command to copy."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def bullets(lines: Sequence[str]) -> str:
    """A list of plain texts."""
    return f"<ul>{''.join(f'<li>{prose(line)}</li>' for line in lines)}</ul>" if lines else ""


def figure(content: str, caption: str) -> str:
    """A plot with what it shows in words."""
    return f'<figure class="chart">{content}<figcaption>{escape(caption)}</figcaption></figure>'


def side_by_side(*figures: str) -> str:
    """Figures beside each other where there is room."""
    shown = [each for each in figures if each]
    return f'<div class="charts">{"".join(shown)}</div>' if shown else ""


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[tuple[str, float | None]]]) -> str:
    """A table that a click on a heading sorts.

    Args:
        columns: the first names the row; columns of numbers stand to the right.
        rows: (what is shown, by what it is sorted: None by the text).
    """
    numeric = [any(row[place][1] is not None for row in rows) for place in range(len(columns))]
    head = "".join(
        f'<th scope="col" aria-sort="none"{_right(is_number)}><button type="button">{escape(name)}</button></th>'
        for name, is_number in zip(columns, numeric, strict=True)
    )
    body = "".join(f"<tr>{_cells(row, numeric)}</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="sortable">'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cells(row: Sequence[tuple[str, float | None]], numeric: Sequence[bool]) -> str:
    (name, key), *others = row
    first = f'<th scope="row"{_key(key)}>{escape(name)}</th>'
    return first + "".join(
        f"<td{_kind(shown, is_number)}{_key(value)}>{_ends(shown)}</td>"
        for (shown, value), is_number in zip(others, numeric[1:], strict=True)
    )


def _ends(shown: str) -> str:
    """A cell that may break before the ends of an interval, where there is little room, and not between them."""
    return re.sub(r"(\([^()]* to [^()]*\))", r'<span class="ends">\1</span>', escape(shown))


def _key(value: float | None) -> str:
    return "" if value is None else f' data-key="{value:.9g}"'


def _right(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _kind(shown: str, is_number: bool) -> str:
    """A sentence in a column of numbers is broken into lines; on one line it would push the others off the page."""
    return ' class="long"' if len(shown) > LONG else _right(is_number)


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Names with values."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f"<dl>{lines}</dl>"


def folded(summary: str, content: str) -> str:
    """What is there for who wants it."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def data_uri(pixels: NDArray[np.uint8], side: int = SIDE) -> str:
    """(H, W, 1 or 3) as a picture inside the page: JPEG; PNG for small images, whose pixels are to be seen."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    form = "PNG" if max(image.size) <= side // 2 else "JPEG"
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, form, quality=80)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    const numeric = head.classList.contains("number");
    const before = head.getAttribute("aria-sort");
    const way = before === "none" ? (numeric ? "descending" : "ascending")
      : before === "ascending" ? "descending" : "ascending";
    heads.forEach(other => other.setAttribute("aria-sort", other === head ? way : "none"));
    const key = row => { const cell = row.cells[place];
      return "key" in cell.dataset ? Number(cell.dataset.key) : numeric ? -Infinity : cell.textContent; };
    const sign = way === "ascending" ? 1 : -1;
    [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
      return sign * (typeof x === "string" ? x.localeCompare(y, "en", {numeric: true}) : x - y); })
      .forEach(row => body.append(row));
  }));
}
for (const box of document.querySelectorAll(".matrix")) {
  const readout = box.querySelector("output"), picture = box.querySelector("svg");
  const first = picture.getBoundingClientRect().width;
  let zoom = 1;
  const tell = event => { const cell = event.target.closest(".cell"); if (cell) readout.value = cell.dataset.says; };
  picture.addEventListener("pointermove", tell);
  picture.addEventListener("click", tell);
  box.querySelectorAll("button").forEach(button => button.addEventListener("click", () => {
    zoom = Math.min(4, Math.max(1, zoom * Number(button.value)));
    picture.style.width = zoom === 1 ? "" : zoom * first + "px";
    picture.style.maxWidth = zoom === 1 ? "" : "none";
  }));
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(each => { each.open = true; }));
"""

_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --quiet: #5a6068; --page: #f5f6f7; --card: #fff; --line: #dfe2e6;
  --bad: #b3261e; --fair: #8a5a00; --good: #1f7a43; --a: #0b62a8; --b: #b4510a; --c: #6b4fa0; --hit: #2d7cc0;
  --miss: #d9660f; --on: #fff; --shade: #1c1e2140; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --quiet: #a0a7af; --page: #15171a; --card: #1e2125;
  --line: #343a40; --bad: #ff8a80; --fair: #f2bd5c; --good: #7ed6a0; --a: #6cb6f5; --b: #f0994d; --c: #c3a9f5;
  --hit: #5aa9ea; --miss: #f0994d; --on: #101214; --shade: #e6e8ea50; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 1rem; }
header, section, nav { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1rem 1.2rem; margin: 0 0 1rem; }
header { border-left: .4rem solid var(--tone); }
.plain { --tone: var(--line); } .plain h1 { color: inherit; }
.bad { --tone: var(--bad); } .fair { --tone: var(--fair); } .good { --tone: var(--good); }
h1 { margin: .1rem 0 .3rem; font-size: 1.75rem; line-height: 1.2; color: var(--tone); overflow-wrap: anywhere; }
h2 { margin: 0 0 .4rem; font-size: 1.2rem; } h3 { margin: 1rem 0 .2rem; font-size: 1rem; }
p, ul, dl { margin: .4rem 0; overflow-wrap: anywhere; max-width: 46rem; } ul { padding-left: 1.2rem; }
.quiet, caption, figcaption, dt { color: var(--quiet); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 0; padding: 0; max-width: none; }
a { color: var(--a); } nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; margin: .8rem 0 0; }
.numbers div { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .7rem; }
.numbers b { display: block; font-size: 1.35rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.numbers span { display: block; font-size: .8rem; line-height: 1.35; color: var(--quiet); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 1rem; }
figure { margin: .6rem 0 0; min-width: 0; } figure.chart { max-width: 34rem; }
figcaption { font-size: .85rem; line-height: 1.4; margin-top: .2rem; overflow-wrap: anywhere; }
svg.plot { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--text); } svg text.quiet { fill: var(--quiet); } svg text.on { fill: var(--on); }
.grid { stroke: var(--line); } .tick { stroke: var(--quiet); }
.line { fill: none; stroke: var(--ink); stroke-width: 2; stroke-linejoin: round; }
.dot { fill: var(--ink); } .whisker { stroke: var(--ink); stroke-width: 1.6; }
svg text.name { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px;
  stroke-linejoin: round; }
.a { --ink: var(--a); } .b { --ink: var(--b); } .c { --ink: var(--c); } svg .quiet { --ink: var(--quiet); }
.hit { fill: var(--hit); } .miss { fill: var(--miss); } .empty { fill: var(--page); }
.cell:hover .empty { stroke: var(--text); }
.matrix .wide { max-height: 44rem; } .matrix output { display: block; min-height: 1.5em; }
.matrix button, th button { font: inherit; color: inherit; background: none; cursor: pointer; }
.matrix button { border: 1px solid var(--line); border-radius: .4rem; min-width: 2.4rem; padding: .15rem .6rem; }
/* A shadow at an edge says that there is more beyond it; covers that scroll along hide it where there is none. */
.wide { overflow: auto; background:
  linear-gradient(90deg, var(--card) 40%, transparent) 0 0 / 2rem 100% no-repeat local,
  linear-gradient(270deg, var(--card) 40%, transparent) 100% 0 / 2rem 100% no-repeat local,
  linear-gradient(90deg, var(--shade), transparent) 0 0 / .7rem 100% no-repeat,
  linear-gradient(270deg, var(--shade), transparent) 100% 0 / .7rem 100% no-repeat; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .3rem 0; }
caption { text-align: left; padding: .2rem 0; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); font-weight: 400; }
thead th { vertical-align: bottom; } tbody th { overflow-wrap: anywhere; min-width: 7.5rem; max-width: 20rem; }
td { white-space: nowrap; } .number { text-align: right; } tbody th, td { vertical-align: top; }
td.long { white-space: normal; min-width: 9rem; max-width: 22rem; } thead th { min-width: 3.5rem; }
th button { border: 0; padding: 0; font-weight: 600; text-align: inherit; }
th button::after { content: " \\2195"; color: var(--quiet); font-weight: 400; }
[aria-sort=ascending] button::after { content: " \\2191"; } [aria-sort=descending] button::after { content: " \\2193"; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); gap: .8rem;
  margin: .6rem 0; }
.pictures figure { margin: 0; border: 1px solid var(--line); border-radius: .5rem; padding: .5rem; }
.pair { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; gap: .4rem; }
.pictures img, .none { width: 100%; height: 8rem; object-fit: contain; background: var(--page); border-radius: .3rem; }
img.small { image-rendering: pixelated; }
.none { display: grid; place-items: center; color: var(--quiet); font-size: .8rem; }
.chip { display: inline-block; border: 1px solid var(--tone, var(--line)); color: var(--tone, var(--quiet));
  border-radius: 1rem; padding: 0 .6rem; margin-right: .4rem; font-size: .8rem; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .1rem 1rem; max-width: none; }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
details { margin-top: .6rem; } summary { cursor: pointer; color: var(--quiet); }
code { font-size: .9em; overflow-wrap: anywhere; }
:focus-visible { outline: 2px solid var(--a); outline-offset: 2px; }
@media (max-width: 30rem) { main { padding: .5rem; } header, section, nav { padding: .8rem; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  tbody th { min-width: 7rem; } td { white-space: normal; }
  .ends { display: inline-block; white-space: nowrap; } th, td { padding-right: .5rem; } }
@media print { :root { color-scheme: light; --page: #fff; } body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; } header, section { break-inside: auto; border-radius: 0; }
  figure, tr, .numbers { break-inside: avoid; }
  h2, h3 { break-after: avoid; } nav, .matrix button { display: none; } .wide { overflow: visible; max-height: none; }
  th button::after { content: "" !important; } }
"""
