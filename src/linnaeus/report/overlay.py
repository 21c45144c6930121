"""Heat maps over images, side by side: one picture an image, and one HTML file for all, which fetches nothing.

The image below is grey, so that colour means the map alone. A map of one sign runs through Inferno (Smith and van der
Walt 2015, CC0), which is perceptually uniform, also in grey and for colour-blind people. A map of two signs is orange
where it speaks for the class and blue where it speaks against it (Okabe and Ito 2008).
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from linnaeus.core.preprocess import to_channels
from linnaeus.report.contact_sheet import image_of, write_parts

SIDE = 224  # pixels of a tile, at least: small images are shown by whole multiples
GAP, LINE = 8, 20
INFERNO = (
    *((0, 0, 4), (24, 12, 60), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84)),
    *((221, 81, 58), (243, 118, 27), (252, 165, 10), (246, 215, 70), (252, 255, 164)),
)
FOR, AGAINST = (230, 159, 0), (0, 114, 178)
_SHOWN_BELOW = 0.45  # of the grey image, under the strongest colour of a map of one sign
_FULL_AT = 0.995  # share of the values of a map of two signs that its colours reach: single pixels would take them all
_PAGE = (245, 246, 247)


@dataclass(frozen=True)
class Map:
    """One explanation of one image.

    Attributes:
        title: the method.
        heat: (h, w) float32; where it is zero everywhere there is nothing to show.
        signed: whether it has two signs.
        note: what the strongest value is, in words.
    """

    title: str
    heat: NDArray[np.float32]
    signed: bool
    note: str


@dataclass(frozen=True)
class Explanation:
    """One image with its maps.

    Attributes:
        name: valid text.
        verdict: what the model says of the image, or why it cannot be read.
        seen: (S, S, 1 or 3) uint8, what the network was shown; None where it cannot be read.
        maps: in the order of the page.
    """

    name: str
    verdict: str
    seen: NDArray[np.uint8] | None
    maps: Sequence[Map] = ()


def overlay(seen: NDArray[np.uint8], chart: Map) -> NDArray[np.uint8]:
    """(S, S, C) uint8 -> (T, T, 3) uint8, the map over the image; T is a multiple of S, and at least `SIDE`."""
    one = seen if seen.shape[2] == 3 else seen[:, :, :1]
    grey = np.asarray(enlarge(to_channels(one, 1)), np.float64)[:, :, None]
    small = Image.fromarray(chart.heat / _strongest(chart))
    heat = np.clip(np.asarray(small.resize(grey.shape[1::-1], Image.Resampling.BICUBIC), np.float64), -1, 1)[:, :, None]
    if chart.signed:
        colour, share = np.where(heat > 0, np.array(FOR), np.array(AGAINST)), np.abs(heat)
        grey = 96 + grey / 2  # light and flat, so that both colours stand out
    else:
        levels = np.linspace(0, 1, len(INFERNO))
        channels = [np.interp(heat.clip(0), levels, channel) for channel in zip(*INFERNO, strict=True)]
        colour, share = np.concatenate(channels, axis=2), np.array(1 - _SHOWN_BELOW)
    drawn: NDArray[np.uint8] = np.clip(grey * (1 - share) + colour * share, 0, 255).astype(np.uint8)
    return drawn


def enlarge(seen: NDArray[np.uint8]) -> Image.Image:
    """(S, S, C) uint8 -> an image of at least `SIDE` pixels, each pixel as a square."""
    image = image_of(seen)
    times = -(-SIDE // image.width)
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def explanation_picture(shown: Explanation) -> bytes:
    """The image and its maps in a row, as a PNG file."""
    assert shown.seen is not None  # there is nothing to draw of an image that cannot be read
    tiles = [enlarge(shown.seen), *(Image.fromarray(overlay(shown.seen, chart)) for chart in shown.maps)]
    side = tiles[0].width
    sheet = Image.new("RGB", (len(tiles) * (side + GAP) + GAP, side + 3 * LINE + 2 * GAP), _PAGE)
    draw = ImageDraw.Draw(sheet)
    write_parts(draw, (GAP, GAP), [shown.verdict, shown.name], sheet.width - 2 * GAP)
    captions = [("As the network sees it", ""), *((chart.title, chart.note) for chart in shown.maps)]
    for place, (tile, (title, note)) in enumerate(zip(tiles, captions, strict=True)):
        left, below = GAP + place * (side + GAP), GAP + LINE + side + 2
        sheet.paste(tile, (left, GAP + LINE))
        write_parts(draw, (left, below), [title], side)
        write_parts(draw, (left, below + LINE), ["", note], side)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def explanation_page(title: str, lines: Sequence[str], shown: Sequence[Explanation]) -> str:
    """The page; `lines` stand at its head."""
    about = "\n".join(f'<p class="quiet">{escape(line)}</p>' for line in lines)
    legend = "\n".join(_legends([chart for each in shown for chart in each.maps]))
    cards = "\n".join(_card(each) for each in shown)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Explained: {escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>
<p class="quiet">What speaks for the class</p>
<h1>{escape(title)}</h1>
{about}
{legend}
</header>
{cards}
</main>
</body>
</html>
"""


def _strongest(chart: Map) -> np.float32:
    values = np.abs(chart.heat)
    return np.float32((np.quantile(values, _FULL_AT) if chart.signed else values.max()) or values.max() or 1)


def _legends(charts: Sequence[Map]) -> list[str]:
    found = []
    if any(not chart.signed for chart in charts):
        colours = ", ".join(f"rgb{colour}" for colour in INFERNO)
        found.append(_legend(colours, "nothing", "most, in this image"))
    if any(chart.signed for chart in charts):
        found.append(_legend(f"rgb{AGAINST}, #b8b8b8, rgb{FOR}", "against the class", "for the class"))
    return found


def _legend(colours: str, low: str, high: str) -> str:
    bar = f'<span class="bar" style="background: linear-gradient(to right, {colours})"></span>'
    return f'<p class="legend"><span>{low}</span>{bar}<span>{high}</span></p>'


def _card(shown: Explanation) -> str:
    head = f'<h2>{escape(shown.verdict)}</h2>\n<p class="quiet">{escape(shown.name)}</p>'
    if shown.seen is None:
        return f'<section class="failed">{head}</section>'
    small = max(shown.seen.shape[:2]) <= SIDE // 2
    tiles = [_tile(image_of(shown.seen), "As the network sees it", "", small=small)]
    for chart in shown.maps:
        tiles.append(_tile(Image.fromarray(overlay(shown.seen, chart)), chart.title, chart.note, small=False))
    return f'<section>{head}<div class="row">{"".join(tiles)}</div></section>'


def _tile(image: Image.Image, title: str, note: str, *, small: bool) -> str:
    """JPEG for photos; PNG for small images, whose pixels shall be seen as they are."""
    form, file = ("PNG" if small else "JPEG"), io.BytesIO()
    image.save(file, form, quality=85)
    source = f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
    kind = ' class="small"' if small else ""
    caption = f"<b>{escape(title)}</b> <span>{escape(note)}</span>"
    return f'<figure><img{kind} alt="{escape(title)}" src="{source}"><figcaption>{caption}</figcaption></figure>'


_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --quiet: #5f656d; --page: #f5f6f7; --card: #fff; --line: #dfe2e6;
  --error: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --quiet: #9aa1a9; --page: #15171a; --card: #1e2125;
  --line: #343a40; --error: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 88rem; margin: 0 auto; padding: 1rem; }
header, section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.2rem;
  margin: 0 0 1rem; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { margin: 0; font-size: 1.1rem; overflow-wrap: anywhere; } .failed h2 { color: var(--error); }
p { margin: .3rem 0; overflow-wrap: anywhere; } .quiet, figcaption span { color: var(--quiet); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem .6rem; align-items: center; font-size: .85rem; }
.bar { width: 12rem; max-width: 40vw; height: .8rem; border-radius: .3rem; border: 1px solid var(--line); }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(14rem, 45%), 1fr)); gap: .7rem;
  margin-top: .6rem; }
figure { margin: 0; max-width: 22rem; } img { width: 100%; display: block; border-radius: .3rem; }
img.small { image-rendering: pixelated; }
figcaption { font-size: .85rem; line-height: 1.4; margin-top: .3rem; overflow-wrap: anywhere; }
"""
