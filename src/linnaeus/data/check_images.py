"""The checks on single images. Each takes the case and gives what it finds."""

from collections.abc import Callable, Iterable
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from linnaeus.data.decode import EXTENSIONS
from linnaeus.data.findings import Case, Finding

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
FORMATS = {
    "JPEG": _JPEG,
    "MPO": _JPEG,
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "DIB": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx"),
    "AVIF": (".avif",),
}
"""Format as Pillow calls it -> the file extensions that fit."""

MODES = {
    "1": "one bit a pixel",
    "P": "a palette",
    "PA": "a palette with transparency",
    "LA": "grey with transparency",
    "RGBA": "colour with transparency",
    "CMYK": "ink colours (CMYK)",
    "YCbCr": "luminance and chrominance (YCbCr)",
    "LAB": "CIE LAB",
    "HSV": "hue, saturation and value",
}
"""Modes of Pillow that are neither 8-bit grey nor RGB; more bits are a finding of their own."""

CONSTANT = 4  # grey levels between the darkest and the brightest pixel: no more than compression adds
SIZE_FACTOR = 8.0  # times the set's median, as a side
SMALLEST_SIDE, LARGEST_AREA = 8, 50e6  # pixels
ASPECT = 4.0  # longer side over shorter: a centre crop sees a quarter

_OF_ONE = {"are": "is", "have": "has", "hold": "holds", "show": "shows", "cannot": "cannot"}


def check_unreadable(case: Case) -> Iterable[Finding]:
    """Files that do not decode, with the decoder's reason."""
    broken = case.audit.broken
    if broken:
        yield Finding("unreadable", f"{_share(broken, case, 'cannot')} be decoded.", broken)
    if not len(case.audit.usable):
        yield Finding("no_images", f"None of {len(case.labels):,} images can be used.")


def check_extensions(case: Case) -> Iterable[Finding]:
    """Files whose name says another format than their content."""

    def reason(position: int) -> str:
        form = case.audit.rows["format"][position].decode()
        extension = PurePath(case.name(position)).suffix.lower()
        fits = extension not in EXTENSIONS or extension in FORMATS.get(form, (extension,))
        return "" if fits else f"{form} under the name of a {extension} file"

    files = _files(case, case.audit.rows["format"] != b"", reason)
    if files:
        yield Finding("wrong_extension", f"{_share(files, case, 'have')} the extension of another format.", files)


def check_frames(case: Case) -> Iterable[Finding]:
    """Animations and files of several pages."""
    frames = case.audit.rows["frames"]
    files = _files(case, frames > 1, lambda position: f"{frames[position]} pictures")
    if files:
        yield Finding("animated", f"{_share(files, case, 'hold')} several pictures.", files)


def check_size(case: Case) -> Iterable[Finding]:
    """Images far smaller or larger than the rest of the set, and, where the set is not so itself, in absolute terms."""
    shapes = case.audit.shapes[:, :2]
    usable = case.audit.usable
    if not len(usable):
        return
    sides, shorter = np.sqrt(shapes.prod(1)), shapes.min(1)
    median, median_shorter = np.median(sides[usable]), np.median(shorter[usable])
    odd = (sides >= SIZE_FACTOR * median) | (sides * SIZE_FACTOR <= median)
    odd |= (shorter < SMALLEST_SIDE) & (median_shorter >= 2 * SMALLEST_SIDE)
    odd |= (sides**2 >= LARGEST_AREA) & (median**2 < LARGEST_AREA / 4)
    files = _files(case, odd, lambda position: _size(shapes[position]))
    if files:
        usual = f"the set's median is a square of {median:,.0f}"
        yield Finding("extreme_size", f"{_share(files, case, 'are')} far from the usual size; {usual} pixels.", files)


def check_aspect(case: Case) -> Iterable[Finding]:
    """Images much longer or higher than others of the set."""
    shapes = case.audit.shapes[:, :2]
    usable = case.audit.usable
    aspects = shapes.max(1) / np.maximum(shapes.min(1), 1)
    limit = max(ASPECT, 2 * float(np.median(aspects[usable]))) if len(usable) else ASPECT
    files = _files(
        case, aspects >= limit, lambda i: f"{_size(shapes[i])}: one side is {aspects[i]:.1f} times the other"
    )
    if files:
        yield Finding(
            "extreme_aspect", f"{_share(files, case, 'are')} at least {limit:.1f} times as long as high.", files
        )


def check_modes(case: Case) -> Iterable[Finding]:
    """Pixels that are neither grey nor RGB of 8 bits, and grey and colour mixed."""
    rows = case.audit.rows
    modes, bits = np.char.decode(rows["mode"]), rows["bits"]

    def reason(position: int) -> str:
        plain = MODES.get(str(modes[position]))
        return plain if plain is not None else "a transparent colour"

    files = _files(case, np.isin(modes, list(MODES)) | rows["transparent"], reason)
    if files:
        yield Finding("odd_mode", f"{_share(files, case, 'are')} neither plain grey nor plain RGB.", files)
    files = _files(case, bits > 8, lambda position: f"{bits[position]} bits a channel")
    if files:
        yield Finding("odd_depth", f"{_share(files, case, 'have')} more than 8 bits a channel.", files)
    channels = case.audit.shapes[:, 2]
    grey, colour = ((channels == count).sum() for count in (1, 3))
    if grey and colour:
        rare, word, others = (1, "grey", "colour") if grey <= colour else (3, "colour", "grey")
        files = _files(case, channels == rare, lambda _: word)
        yield Finding("mixed_channels", f"{_share(files, case, 'are')} {word}, the others {others}.", files)


def check_orientation(case: Case) -> Iterable[Finding]:
    """Files that say that they lie on a side or are mirrored."""
    orientation = case.audit.rows["orientation"]
    files = _files(case, orientation > 1, lambda position: f"EXIF orientation {orientation[position]}")
    if files:
        yield Finding("exif_rotated", f"{_share(files, case, 'are')} turned or mirrored, by EXIF.", files)


def check_constant(case: Case) -> Iterable[Finding]:
    """Images without any picture."""
    spread = case.audit.rows["spread"]
    files = _files(
        case,
        spread <= CONSTANT,
        lambda i: f"all pixels are within {spread[i]} grey levels" if spread[i] else "one colour",
    )
    if files:
        yield Finding("constant", f"{_share(files, case, 'show')} a single colour.", files)


def check_metadata(case: Case) -> Iterable[Finding]:
    """What the decoder found odd in files that it decoded all the same."""
    if case.audit.remarks:
        reason = f"{_share(case.audit.remarks, case, 'have')} metadata that cannot be read."
        yield Finding("metadata", reason, case.audit.remarks)


def check_ignored(case: Case) -> Iterable[Finding]:
    """What the source passed over."""
    ignored = case.labels.ignored
    if ignored:
        reason = f"{len(ignored):,} {'entry was' if len(ignored) == 1 else 'entries were'} not taken for images."
        yield Finding("ignored", reason, subjects=ignored)


def _files(case: Case, odd: NDArray[np.bool_], reason: Callable[[int], str]) -> dict[int, str]:
    """Position -> reason, for the images that decode, are `odd`, and have a reason."""
    usable = case.audit.usable
    reasons = ((position, reason(position)) for position in usable[odd[usable]].tolist())
    return {position: text for position, text in reasons if text}


def _share(files: dict[int, str], case: Case, verb: str) -> str:
    """`3 of 40 images (7.5%) have`, or `1 of 40 images (2.5%) has`."""
    total = len(case.labels)
    return f"{len(files):,} of {total:,} images ({len(files) / total:.1%}) {_OF_ONE[verb] if len(files) == 1 else verb}"


def _size(shape: NDArray[np.int64]) -> str:
    """Width before height, as people say it."""
    return f"{shape[1]:,} x {shape[0]:,} pixels"
