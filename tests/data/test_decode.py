"""Every kind of image becomes upright uint8 pixels by the stated policy, or a reason."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from linnaeus.core.errors import RequestError
from linnaeus.data.decode import UnreadableImage, decode, load_image


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8))


def test_colour_and_grey_come_back_as_they_were():
    assert np.array_equal(decode(encode(RGB)), np.asarray(RGB))
    assert np.array_equal(decode(encode(RGB.convert("L")))[:, :, 0], np.asarray(RGB.convert("L")))


def test_sixteen_bits_keep_their_upper_eight():
    values = np.arange(60, dtype=np.uint16).reshape(6, 10) * 1000
    assert np.array_equal(decode(encode(Image.fromarray(values)))[:, :, 0], (values >> 8).astype(np.uint8))


def test_transparent_pixels_become_white():
    clear = RGB.convert("RGBA")
    clear.putalpha(0)
    assert (decode(encode(clear)) == 255).all()


def test_a_palette_becomes_colour_and_one_bit_grey():
    assert decode(encode(RGB.convert("P"))).shape == (6, 9, 3)
    assert set(np.unique(decode(encode(RGB.convert("1"))))) <= {0, 255}


def test_cmyk_becomes_colour():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert decode(encode(red, "JPEG", quality=100)).mean((0, 1)) == pytest.approx([254, 0, 0], abs=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    shape = decode(encode(RGB, "JPEG", exif=exif)).shape
    assert shape == ((6, 9, 3) if orientation < 5 else (9, 6, 3))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, I am a text file", "not an image"),
        (encode(RGB.resize((90, 90)), "JPEG")[:-300], "truncated"),
        (encode(RGB.resize((90, 90)))[:-300], "truncated"),
        (encode(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"), "floating-point"),
        (encode(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"), "32-bit"),
    ],
    ids=["empty", "text", "truncated JPEG", "truncated PNG", "float", "32-bit"],
)
def test_what_cannot_be_used_has_a_reason(data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode(data)


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        decode(encode(RGB))


def test_arrays_and_pil_images_are_taken_too(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(RGB))
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), RGB, np.asarray(RGB)):
        assert np.array_equal(load_image(image), np.asarray(RGB))
    with pytest.raises(RequestError, match="expected \\(H, W, C\\) uint8"):
        load_image(np.zeros((4, 4), np.uint8))


@pytest.mark.filterwarnings("ignore")
def test_the_odd_images_of_the_field_decode_and_the_corrupt_ones_are_refused(real_data):
    folder = real_data("odd-images")
    with (folder / "manifest.csv").open(newline="") as file:
        rows = [(row["folder"], row["file"]) for row in csv.DictReader(file)]
    for kind, name in rows:
        content = (folder / kind / name).read_bytes()
        if kind == "corrupt":
            with pytest.raises(UnreadableImage):
                decode(content)
        else:
            assert decode(content).dtype == np.uint8, name
    assert len(rows) > 90
