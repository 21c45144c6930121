"""What a file says of itself is read as it stands, without its pixels; thumbnails are averages."""

import csv

import numpy as np
import pytest
from PIL import Image

from linnaeus.data.decode import inspect, thumbnail

from .planted import _sixteen_bit_colour, draw_photo, encode

PHOTO = draw_photo(0)


@pytest.mark.filterwarnings("ignore")
def test_the_odd_images_of_the_field_say_what_the_manifest_says(real_data):
    folder = real_data("odd-images")
    with (folder / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["folder"] != "corrupt"]
    for row in rows:
        facts = inspect((folder / row["folder"] / row["file"]).read_bytes())
        # An orientation of 0 is no orientation.
        orientation = row["exif_orientation"] if row["exif_orientation"] not in ("", "0") else "1"
        found = (facts.format, facts.mode, str(facts.frames), str(facts.orientation))
        assert found == (row["format"], row["mode"], row["frames"], orientation), row["file"]
    assert len(rows) > 60


@pytest.mark.parametrize(
    ("data", "bits"),
    [
        (encode(PHOTO), 8),
        (encode(PHOTO.convert("1"), "PNG"), 1),
        (encode(PHOTO.convert("P"), "PNG"), 8),
        (encode(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG"), 16),
        (encode(Image.fromarray(np.zeros((4, 4), np.uint16)), "TIFF"), 16),
        (_sixteen_bit_colour(PHOTO), 16),
    ],
    ids=["JPEG", "one bit", "palette", "grey PNG", "grey TIFF", "colour PNG, which Pillow calls RGB"],
)
def test_bits_are_those_of_the_file(data, bits):
    assert inspect(data).bits == bits


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_and_camera_come_from_exif(kind):
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = 6, "DMC-TZ3\0 "
    facts = inspect(encode(PHOTO, kind, exif=exif))
    assert (facts.orientation, facts.camera) == (6, "DMC-TZ3")


def test_exif_behind_the_pixels_of_a_png_is_found():
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encode(PHOTO, "PNG", exif=exif)
    start = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[start : start + 4], "big")
    end = data.index(b"IEND") - 4
    moved = data[:start] + data[start + length : end] + data[start : start + length] + data[end:]
    assert inspect(data).orientation == inspect(moved).orientation == 8


def test_transparency_is_an_alpha_channel_or_a_colour():
    assert inspect(encode(PHOTO.convert("RGBA"), "PNG")).transparent
    assert inspect(encode(PHOTO, "PNG", transparency=(1, 2, 3))).transparent
    assert not inspect(encode(PHOTO, "PNG")).transparent


def test_what_is_no_image_says_nothing():
    assert inspect(b"") is None
    assert inspect(b"hello, I am a text file") is None


@pytest.mark.parametrize("channels", [1, 3])
def test_a_thumbnail_is_the_average_of_what_it_covers(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, channels), np.uint8)
    expected = pixels.reshape(32, 2, 32, 3, channels).mean((1, 3))
    small = thumbnail(pixels, 32)
    assert small.shape == (32, 32, channels)
    assert np.abs(small - expected).max() <= 1


def test_a_thumbnail_of_few_pixels_repeats_them():
    pixels = np.array([[[10], [200]]], np.uint8)
    assert np.array_equal(thumbnail(pixels, 4)[:, :, 0], np.repeat([[10, 10, 200, 200]], 4, axis=0))


def test_inspecting_reads_no_pixels():
    """A file cut in its pixels still says everything."""
    data = encode(PHOTO)
    assert inspect(data[: len(data) // 2]) == inspect(data)
