"""Images before and after augmentation as one HTML file, which fetches nothing from elsewhere, or as one picture."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIDE = 160  # pixels of a tile: larger images are shown smaller, small ones by whole multiples
GAP, LINE = 6, 18
_WIDE = 1700  # pixels, about, of the picture
_HIGH = SIDE + LINE + 2 * GAP  # of a card on it
_PAGE, _TEXT, _QUIET = (245, 246, 247), (28, 30, 33), (95, 101, 109)


@dataclass(frozen=True)
class Card:
    """One image on the sheet.

    Attributes:
        name: valid text.
        label, role: its classes; "train", "val" or "test".
        seen: (S, S, 1 or 3) uint8, as the network is shown it in evaluation.
        versions: the same, as training changes it; none for an image that is held out.
    """

    name: str
    label: str
    role: str
    seen: NDArray[np.uint8]
    versions: Sequence[NDArray[np.uint8]]


def contact_page(title: str, lines: Sequence[str], cards: Sequence[Card]) -> str:
    """Writes the page; `lines` stand at its head."""
    about = "\n".join(f'<p class="quiet">{escape(line)}</p>' for line in lines)
    changed = "\n".join(_figure(card) for card in cards if card.versions)
    held_out = "\n".join(_figure(card) for card in cards if not card.versions)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Images: {escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>
<p class="quiet">What the network will see</p>
<h1>{escape(title)}</h1>
{about}
<p class="quiet">{_counts(cards)}. First of each row: as in evaluation. After it: as training changes it. Images that
are held out stay as they are.</p>
</header>
<div class="sheet">
{changed}
</div>
<div class="sheet held">
{held_out}
</div>
</main>
</body>
</html>
"""


def _counts(cards: Sequence[Card]) -> str:
    roles = Counter(card.role for card in cards)
    return f"{len(cards):,} images: " + ", ".join(f"{number:,} {role}" for role, number in roles.items())


def _figure(card: Card) -> str:
    tiles = "".join(_img(picture, kind) for kind, picture in _tiles(card))
    chip = f'<span class="chip {card.role}">{escape(card.role)}</span>'
    caption = f"<b>{escape(card.label) or 'no class'}</b>{chip}<span>{escape(card.name)}</span>"
    return f'<figure><div class="row">{tiles}</div><figcaption>{caption}</figcaption></figure>'


def _tiles(card: Card) -> list[tuple[str, NDArray[np.uint8]]]:
    return [("seen", card.seen), *(("version", picture) for picture in card.versions)]


def _img(picture: NDArray[np.uint8], kind: str) -> str:
    """JPEG for photos; PNG for small images, whose pixels shall be seen as they are."""
    image = image_of(picture)
    is_small = max(image.size) <= SIDE // 2
    form = "PNG" if is_small else "JPEG"
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, form, quality=85)
    content = base64.b64encode(file.getvalue()).decode()
    size = ' small"' if is_small else '"'
    return f'<img class="{kind}{size} alt="" src="data:image/{form.lower()};base64,{content}">'


def contact_picture(cards: Sequence[Card]) -> bytes:
    """The sheet as a PNG file: images with their versions above, those that are held out below."""
    groups = [[card for card in cards if bool(card.versions) == wanted] for wanted in (True, False)]
    placed: list[tuple[Card, int, int, int]] = []  # (card, left, top, width)
    bottom = GAP
    for group in groups:
        width = max((1 + len(card.versions) for card in group), default=1) * (SIDE + GAP) + GAP
        columns = max(1, _WIDE // width)
        for number, card in enumerate(group):
            placed.append((card, number % columns * width + GAP, bottom + number // columns * _HIGH, width - 2 * GAP))
        bottom += -(-len(group) // columns) * _HIGH
    right = max((left + width for _, left, _, width in placed), default=0)
    sheet = Image.new("RGB", (right + GAP, bottom), _PAGE)
    draw = ImageDraw.Draw(sheet)
    for card, left, top, width in placed:
        for place, (_, picture) in enumerate(_tiles(card)):
            sheet.paste(_tile(picture), (left + place * (SIDE + GAP), top + LINE))
        write_parts(draw, (left, top), [card.label or "no class", card.role, card.name], width)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def write_parts(draw: ImageDraw.ImageDraw, at: tuple[int, int], parts: Sequence[str], space: int) -> None:
    """The label in full colour, role and name behind it, as far as there is room."""
    font = ImageFont.load_default(13)
    left, top = at
    for number, part in enumerate(parts):
        text = " ".join(part.split())
        while text and draw.textlength(text, font=font) > at[0] + space - left:
            text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
        draw.text((left, top), text, fill=_QUIET if number else _TEXT, font=font)
        left += round(draw.textlength(text, font=font)) + 2 * GAP


def _tile(picture: NDArray[np.uint8]) -> Image.Image:
    """As large as a tile: small images by whole multiples, so that their pixels are seen as they are."""
    image = image_of(picture)
    longest = max(image.size)
    if longest <= SIDE:
        times = SIDE // longest
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    image.thumbnail((SIDE, SIDE))
    return image


def image_of(picture: NDArray[np.uint8]) -> Image.Image:
    """(S, S, 1 or 3) -> an image; of other numbers of channels the first is shown."""
    return Image.fromarray(picture if picture.shape[2] == 3 else np.ascontiguousarray(picture[:, :, 0]))


_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --quiet: #5f656d; --page: #f5f6f7; --card: #fff; --line: #dfe2e6;
  --train: #1f7a43; --val: #8a5a00; --test: #3d6a9e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --quiet: #9aa1a9; --page: #15171a; --card: #1e2125;
  --line: #343a40; --train: #7ed6a0; --val: #f2bd5c; --test: #8fbcf0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 88rem; margin: 0 auto; padding: 1rem; }
header, figure { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
header { padding: 1rem 1.2rem; margin: 0 0 1rem; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; }
p { margin: .3rem 0; overflow-wrap: anywhere; } .quiet { color: var(--quiet); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(40rem, 100%), 1fr)); gap: .7rem; }
.held { grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); margin-top: .7rem; }
figure { margin: 0; padding: .6rem; }
.row { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; gap: .35rem; }
img { width: 100%; display: block; border-radius: .3rem; }
img.small { image-rendering: pixelated; }
img.seen { outline: 2px solid var(--quiet); outline-offset: -2px; }
figcaption { font-size: .85rem; line-height: 1.4; overflow-wrap: anywhere; margin-top: .4rem; display: flex;
  flex-wrap: wrap; gap: 0 .6rem; align-items: baseline; }
figcaption span:last-child { color: var(--quiet); }
.chip { border: 1px solid var(--tone); color: var(--tone); border-radius: 1rem; padding: 0 .5rem; font-size: .75rem; }
.chip.train { --tone: var(--train); } .chip.val { --tone: var(--val); } .chip.test { --tone: var(--test); }
"""
