"""A set of images with planted faults, to try the doctor on: each fault stands in a literal table with its headings.

The photos come from the caller, or are drawn: `draw_photo` makes textures with the spectrum of photos, each unlike the
others.

| what is at fault | kinds | which |
|---|---|---|
| a file that does not decode | 12 | cut off (3 formats), empty, no image (5), pixels beyond 8 bits (2), a bomb |
| a name or a form | 9 | another extension than its format (5), several pictures (4) |
| a size | 4 | tiny, huge, a wide and a high strip |
| a kind of pixels | 11 | CMYK, palette, transparency (3), one bit, LAB, YCbCr, 16 bits (2), grey among colour |
| metadata | 4 | turned or mirrored by EXIF (3), damaged |
| a picture of nothing | 4 | black, white, red, a lens cap |
| a copy | 15 | exact (4), near (8), near across splits (2), near under two labels (1) |
| a class | 4 | tiny, unbalanced, empty, missing from a split |
"""

import io
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Photo = Image.Image


def encode(image: Photo, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **{"quality": 92, **options} if kind in ("JPEG", "WEBP") else options)
    return buffer.getvalue()


def draw_photo(seed: int, size: tuple[int, int] = (96, 72)) -> Photo:
    """Noise whose amplitude falls with the frequency, as in photos, in colour."""
    width, height = size
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width) * width)[:, :, None]
    smooth = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) / (frequency + 1) ** 1.3, axes=(0, 1)).real
    smooth = smooth.mean(2, keepdims=True) + 0.3 * smooth
    return Image.fromarray((128 + 45 * smooth / smooth.std()).clip(0, 255).astype(np.uint8))


def _cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def _with_exif(photo: Photo, orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(photo, kind, exif=exif)


def _frames(photo: Photo, kind: str) -> bytes:
    others = [photo.rotate(90 * k) for k in (1, 2)]
    return encode(photo, kind, save_all=True, append_images=others)


def _transparent_colour(photo: Photo) -> bytes:
    return encode(photo, "PNG", transparency=(1, 2, 3))


def _sixteen_bit_colour(photo: Photo) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write."""
    values = np.asarray(photo).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", photo.width, photo.height, 16, 2, 0, 0, 0)
    return _png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def _bomb(_: Photo) -> bytes:
    """A PNG that says that it has 1.6 billion pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return _png([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")])


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _grey16(photo: Photo) -> bytes:
    return encode(Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257), "PNG")


def _nearly_black(photo: Photo) -> bytes:
    return encode(Image.fromarray((np.asarray(photo) // 86).astype(np.uint8)), "PNG")


def _scaled(photo: Photo, factor: float) -> Photo:
    return photo.resize((max(2, round(photo.width * factor)), max(2, round(photo.height * factor))))


def _strip(photo: Photo, *, wide: bool) -> Photo:
    width, height = photo.size
    x, y = width // 2, height // 2
    return photo.crop((0, y, width, y + height // 8) if wide else (x, 0, x + width // 10, height))


def _lab(photo: Photo) -> bytes:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return encode(ImageCms.profileToProfile(photo, *profiles, outputMode="LAB"), "TIFF")


BAD = ("unreadable",)
FILES: dict[str, tuple[str, Callable[[Photo], bytes], tuple[str, ...]]] = {
    "truncated JPEG": (".jpg", lambda p: _cut(encode(p)), BAD),
    "truncated PNG": (".png", lambda p: _cut(encode(p, "PNG")), BAD),
    "truncated WebP": (".webp", lambda p: _cut(encode(p, "WEBP")), BAD),
    "empty file": (".jpg", lambda _: b"", BAD),
    "text": (".jpg", lambda _: b"see the other folder\n", BAD),
    "web page": (".jpg", lambda _: b"<!DOCTYPE html><html><title>404</title></html>", BAD),
    "pointer of Git LFS": (
        ".jpg",
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        BAD,
    ),
    "zeroed header": (".jpg", lambda p: bytes(512) + encode(p)[512:], BAD),
    "random bytes": (".png", lambda _: np.random.default_rng(1).bytes(5000), BAD),
    "floating point": (".tif", lambda p: encode(p.convert("F"), "TIFF"), BAD),
    "32-bit integers": (".tif", lambda p: encode(p.convert("I").point(lambda v: v * 1000), "TIFF"), BAD),
    "decompression bomb": (".png", _bomb, BAD),
    "PNG named .jpg": (".jpg", lambda p: encode(p, "PNG"), ("wrong_extension",)),
    "JPEG named .png": (".png", encode, ("wrong_extension",)),
    "WebP named .jpg": (".jpg", lambda p: encode(p, "WEBP"), ("wrong_extension",)),
    "BMP named .png": (".png", lambda p: encode(p, "BMP"), ("wrong_extension",)),
    "GIF named .jpg": (".jpg", lambda p: encode(p, "GIF"), ("wrong_extension", "odd_mode")),
    "animated GIF": (".gif", lambda p: _frames(p, "GIF"), ("animated", "odd_mode")),
    "animated PNG": (".png", lambda p: _frames(p, "PNG"), ("animated",)),
    "animated WebP": (".webp", lambda p: _frames(p, "WEBP"), ("animated",)),
    "TIFF of three pages": (".tif", lambda p: _frames(p, "TIFF"), ("animated",)),
    "tiny": (".png", lambda p: encode(_scaled(p, 0.025), "PNG"), ("extreme_size",)),
    "huge": (".jpg", lambda p: encode(_scaled(p, 12)), ("extreme_size",)),
    "wide strip": (".jpg", lambda p: encode(_strip(p, wide=True)), ("extreme_aspect",)),
    "high strip": (".jpg", lambda p: encode(_strip(p, wide=False)), ("extreme_aspect",)),
    "CMYK": (".jpg", lambda p: encode(p.convert("CMYK")), ("odd_mode",)),
    "palette": (".png", lambda p: encode(p.convert("P"), "PNG"), ("odd_mode",)),
    "alpha": (".png", lambda p: encode(p.convert("RGBA"), "PNG"), ("odd_mode",)),
    "grey with alpha": (".png", lambda p: encode(p.convert("LA"), "PNG"), ("odd_mode",)),
    "transparent colour": (".png", _transparent_colour, ("odd_mode",)),
    "one bit": (".png", lambda p: encode(p.convert("1"), "PNG"), ("odd_mode", "mixed_channels")),
    "LAB": (".tif", _lab, ("odd_mode",)),
    "YCbCr": (".tif", lambda p: encode(p.convert("YCbCr"), "TIFF"), ("odd_mode",)),
    "16-bit grey": (".png", _grey16, ("odd_depth", "mixed_channels")),
    "16-bit colour": (".png", _sixteen_bit_colour, ("odd_depth",)),
    "grey among colour": (".jpg", lambda p: encode(p.convert("L")), ("mixed_channels",)),
    "on its side": (".jpg", lambda p: _with_exif(p, 6), ("exif_rotated",)),
    "upside down": (".png", lambda p: _with_exif(p, 3, "PNG"), ("exif_rotated",)),
    "mirrored by EXIF": (".webp", lambda p: _with_exif(p, 2, "WEBP"), ("exif_rotated",)),
    "damaged EXIF": (".jpg", lambda p: encode(p, exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"), ("metadata",)),
    "black": (".jpg", lambda p: encode(Image.new("RGB", p.size)), ("constant",)),
    "white": (".png", lambda p: encode(Image.new("RGB", p.size, "white"), "PNG"), ("constant",)),
    "red": (".png", lambda p: encode(Image.new("RGB", p.size, "red"), "PNG"), ("constant",)),
    "lens cap": (".png", _nearly_black, ("constant",)),
}
"""Fault of one file -> (extension, how it is made of a photo, the headings it must stand under)."""

TRAIN, VAL, TEST, OTHER = "train/ant", "val/ant", "test/ant", "train/bee"
COPIES: dict[str, tuple[str, Callable[[Photo], bytes] | None, tuple[str, ...]]] = {
    "exact copy": (TRAIN, None, ("copies",)),
    "exact copy in test": (TEST, None, ("leak", "copies")),
    "exact copy in val": (VAL, None, ("leak", "copies")),
    "exact copy under another label": (OTHER, None, ("two_labels", "copies")),
    "compressed again": (TRAIN, lambda p: encode(p, quality=30), ("near_copies",)),
    "at half size": (TRAIN, lambda p: encode(_scaled(p, 0.5)), ("near_copies",)),
    "as PNG": (TRAIN, lambda p: encode(p, "PNG", compress_level=1), ("near_copies",)),
    "brighter": (TRAIN, lambda p: encode(ImageEnhance.Brightness(p).enhance(1.15)), ("near_copies",)),
    "of less contrast": (TRAIN, lambda p: encode(ImageEnhance.Contrast(p).enhance(0.7)), ("near_copies",)),
    "cropped": (TRAIN, lambda p: encode(ImageOps.crop(p, round(0.015 * p.height))), ("near_copies",)),
    "mirrored": (TRAIN, lambda p: encode(ImageOps.mirror(p)), ("near_copies",)),
    "in grey": (TRAIN, lambda p: encode(p.convert("L")), ("near_copies", "mixed_channels")),
    "compressed again in test": (TEST, lambda p: encode(p, quality=40), ("leak", "near_copies")),
    "mirrored in val": (VAL, lambda p: encode(ImageOps.mirror(p)), ("leak", "near_copies")),
    "compressed again under another label": (
        OTHER,
        lambda p: encode(p, quality=50),
        ("near_two_labels", "near_copies"),
    ),
}
"""Fault of a pair -> (where the copy of an image of train/ant lies, how it is made, the headings)."""

CLASSES: dict[str, str] = {
    "a class of four images": "tiny_class",
    "a class thirty times as large as another": "unbalanced",
    "a class whose files are all broken": "empty_class",
    "a class that is in train alone": "missing_from_split",
}
"""Fault of a class -> its heading."""


@dataclass
class Expected:
    """What the doctor must find.

    Attributes:
        files: heading -> names of the files that must stand there, and no others.
        groups: heading -> sets of names that must stand together.
        faults: fault -> (heading, name) pairs by which it counts as found.
    """

    files: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    groups: dict[str, set[frozenset[str]]] = field(default_factory=lambda: defaultdict(set))
    faults: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))


def plant(root: Path, photos: Iterator[Photo]) -> Expected:
    """Writes clean images and all faults below `root`, and says what must be found. Takes about 230 photos."""
    expected = Expected()
    clean = {TRAIN: 60, OTHER: 60, VAL: 20, "val/bee": 20, TEST: 20, "test/bee": 20, "train/cat": 4, "train/dog": 0}
    for folder, count in clean.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            (root / folder / f"clean-{number:03d}.jpg").write_bytes(encode(next(photos)))
    for fault, (extension, make, headings) in FILES.items():
        name = f"{TRAIN}/{fault}{extension}"
        (root / name).write_bytes(make(next(photos)))
        for heading in headings:
            expected.files[heading].add(name)
            expected.faults[fault].append((heading, name))
    for number in range(2):
        name = f"train/dog/{number}.jpg"
        (root / name).write_bytes(b"broken")
        expected.files["unreadable"].add(name)
    for fault, (folder, make, headings) in COPIES.items():
        _plant_copy(root, fault, folder, make, headings, next(photos), expected)
    return expected


def _plant_copy(root, fault, folder, make, headings, photo, expected):
    original, copy = f"{TRAIN}/of {fault}.jpg", f"{folder}/{fault}.jpg"
    content = encode(photo)
    with Image.open(io.BytesIO(content)) as saved:
        twin = content if make is None else make(saved.convert("RGB"))
    if twin.startswith(b"\x89PNG"):
        copy = copy.replace(".jpg", ".png")
    (root / original).write_bytes(content)
    (root / copy).write_bytes(twin)
    for heading in headings:
        expected.faults[fault].append((heading, original if heading == "leak" else copy))
        if heading in ("copies", "near_copies"):
            expected.groups[heading].add(frozenset({original, copy}))
        elif heading == "leak":
            expected.files[heading].add(original)
        elif heading in ("two_labels", "near_two_labels"):
            expected.files[heading] |= {original, copy}
        else:
            expected.files[heading].add(copy)
