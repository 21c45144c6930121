"""The fast paths show the pixels of the reference decoder, or pixels as close as is stated, or refuse as it does."""

import csv
import functools
import importlib.util
import io
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from linnaeus.core.errors import RequestError
from linnaeus.core.seed import draws
from linnaeus.data import fast
from linnaeus.data.augment import crop_box
from linnaeus.data.decode import Pixels, UnreadableImage, decode
from linnaeus.data.fast import FastPath, best_decoder, bound_for, bounded_shape, bounded_shapes, has_extra

needs_extra = pytest.mark.skipif(not has_extra(), reason="needs linnaeus[fast-data]")
each_path = pytest.mark.parametrize("path", ["pillow", pytest.param("fast", marks=needs_extra)])
ALL = 10**6  # a bound that leaves every image as it is


@functools.cache
def photo(height: int, width: int, channels: int = 3) -> Pixels:
    """Noise whose power falls with its frequency, as that of photos does; read-only."""
    rng = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(height)[:, None, None], np.fft.fftfreq(width)[None, :, None]
    spectrum = np.fft.fft2(rng.normal(size=(height, width, channels)), axes=(0, 1))
    falling = np.hypot(rows, columns).clip(1 / max(height, width)) ** -1.5
    waves = np.fft.ifft2(spectrum * falling, axes=(0, 1)).real
    pixels = (128 + 50 * waves / max(waves.std(), 1e-9)).clip(0, 255).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


def encode(pixels: Pixels, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def resized(pixels: Pixels, shape: tuple[int, int], mode: str) -> Pixels:
    """Torch's antialiased resize."""
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    return F.interpolate(images, shape, mode=mode, antialias=True)[0].permute(1, 2, 0).numpy()


def slow(content: bytes, bound: int) -> Pixels:
    """Full decoding and torch's antialiased resize."""
    pixels = decode(content)
    return resized(pixels, bounded_shape(*pixels.shape[:2], bound), "bicubic")


def gaps(ours: Pixels, theirs: Pixels) -> np.ndarray:
    assert ours.shape == theirs.shape
    return np.abs(ours.astype(int) - theirs)


@each_path
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_near_the_bound_has_the_pixels_of_the_reference(path, options, channels):
    for sides in ((97, 131), (64, 64), (1, 40), (33, 2), (1, 1)):
        content = encode(photo(*sides, channels), quality=90, **options)
        for bound in (ALL, min(sides)):
            assert np.array_equal(FastPath(path).bounded(content, bound), decode(content))
    content = encode(photo(97, 131, channels), quality=90, **options)
    assert np.array_equal(FastPath(path).bounded(content, 70), slow(content, 70))


@each_path
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_an_image_decoded_at_a_reduced_scale_is_close_to_full_decoding(path, reduction):
    content = encode(photo(480, 601), quality=95)
    bound = int(480 / reduction / fast.MARGIN)  # as close to the margin as it gets
    difference = gaps(FastPath(path).bounded(content, bound), slow(content, bound))
    assert 0 < difference.mean() < 2


def test_large_photos_are_decoded_at_a_reduced_scale(monkeypatch):
    seen = []
    monkeypatch.setitem(fast._JPEG, "pillow", lambda content, image, reduction: seen.append(reduction))
    content = encode(photo(240, 320))
    for bound in (240, 81, 80, 41, 40, 20, 1):
        FastPath("pillow").bounded(content, bound)
    assert seen == [1, 1, 2, 2, 4, 8, 8]


@each_path
@pytest.mark.parametrize("orientation", range(10))
def test_images_come_out_upright(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for sides in ((120, 160), (119, 161), (1, 9), (9, 1), (1, 1)):
        content = encode(photo(*sides), exif=exif, quality=95)
        assert np.array_equal(FastPath(path).bounded(content, ALL), decode(content))
    for sides in ((240, 320), (239, 321)):
        content = encode(photo(*sides), exif=exif, quality=95)
        assert (
            gaps(FastPath(path).bounded(content, 40), slow(content, 40)).mean() < 3
        )  # a shift by one pixel makes it 6


@each_path
@pytest.mark.parametrize("bound", [16, 40, 79, 80, 100])
def test_a_bounded_image_has_the_stated_shape(path, bound):
    content = encode(photo(100, 150), quality=95)
    assert FastPath(path).bounded(content, bound).shape[:2] == bounded_shape(100, 150, bound)


def test_the_shorter_side_is_bounded():
    assert bounded_shape(390, 470, 320) == (390, 470)
    assert bounded_shape(401, 470, 320) == (320, round(470 * 320 / 401))
    assert bounded_shape(4000, 3000, 320) == (427, 320)
    shapes = np.array([[4000, 3000, 3], [0, 0, 0], [20, 900, 1]])
    assert bounded_shapes(shapes, 320).tolist() == [[427, 320, 3], [0, 0, 0], [20, 900, 1]]
    assert bounded_shapes(shapes[:0], 320).shape == (0, 3)


def test_no_square_crop_of_a_bounded_image_is_enlarged():
    for size, min_area in ((224, 0.35), (224, 0.08), (32, 1.0)):
        bound = bound_for(size, min_area)
        assert abs(np.sqrt(min_area) * bound - size) < 1
    assert bound_for(224, 0.35) == 379


@each_path
def test_what_is_not_a_plain_jpeg_goes_to_the_reference_decoder(path):
    image = Image.fromarray(photo(60, 80))
    rgba = image.convert("RGBA")
    rgba.putalpha(100)
    files = [(rgba, "PNG"), (image.convert("CMYK"), "JPEG"), (image.convert("P"), "GIF"), (image, "WEBP")]
    files.append((Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80)), "PNG"))
    for picture, kind in files:
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        content = buffer.getvalue()
        assert np.array_equal(FastPath(path).bounded(content, 100), decode(content)), kind
        assert np.array_equal(FastPath(path).bounded(content, 20), slow(content, 20)), kind


def test_what_is_no_file_goes_to_the_source():
    pixels = photo(6, 7)
    found = FastPath("pillow").bounded(
        pixels.tobytes(), ALL, lambda content: np.frombuffer(content, "u1").reshape(6, 7, 3)
    )
    assert np.array_equal(found, pixels)


@each_path
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_truncated_file_is_refused_in_the_words_of_the_reference(path, share, options):
    content = encode(photo(90, 90), **options)
    content = content[: int(len(content) * share)]
    with pytest.raises(UnreadableImage) as reference:
        decode(content)
    for bound in (10, 90):
        with pytest.raises(UnreadableImage) as ours:
            FastPath(path).bounded(content, bound)
        assert str(ours.value) == str(reference.value)


@each_path
def test_a_file_that_is_not_an_image_is_refused(path):
    for content in (b"", b"\xff\xd8", b"\xff\xd8 this is not a JPEG", b"hello"):
        with pytest.raises(UnreadableImage):
            FastPath(path).bounded(content, 10)


@each_path
def test_damage_in_the_middle_ends_as_with_the_reference(path):
    content = bytearray(encode(photo(120, 120), quality=95))
    content[len(content) // 2 : len(content) // 2 + 4] = b"\xff\xd9\x00\x01"  # an end of image
    outcomes = []
    for decoder in (decode, partial(FastPath(path).bounded, bound=ALL)):
        try:
            outcomes.append(decoder(bytes(content)).tolist())
        except UnreadableImage as refusal:
            outcomes.append(str(refusal))
    assert outcomes[0] == outcomes[1]


@each_path
def test_a_decompression_bomb_is_refused(path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        FastPath(path).bounded(encode(photo(20, 20)), 20)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_crop_is_resized_as_torch_does_it_also_from_read_only_memory(channels, interpolation):
    image = photo(70, 90, channels)
    expected = resized(image[5:65, 7:77], (33, 44), interpolation)
    assert np.array_equal(FastPath("pillow").crop(image, (5, 7, 60, 70), (33, 44), interpolation), expected)


@needs_extra
def test_only_slight_bilinear_reductions_go_without_antialiasing():
    image = photo(300, 300)
    for sides, interpolation in (((201, 100), "bilinear"), ((100, 201), "bilinear"), ((90, 90), "bicubic")):
        exact = resized(image[9 : 9 + sides[0], 9 : 9 + sides[1]], (100, 100), interpolation)
        assert np.array_equal(FastPath("fast").crop(image, (9, 9, *sides), (100, 100), interpolation), exact)
    for sides in ((200, 200), (60, 80)):
        for pixels in (image, image[:, :, :1]):
            close = FastPath("fast").crop(pixels, (3, 5, *sides), (100, 100), "bilinear")
            exact = resized(pixels[3 : 3 + sides[0], 5 : 5 + sides[1]], (100, 100), "bilinear")
            assert 0 < gaps(close, exact).mean() < 3


def test_a_path_is_known_by_its_versions():
    assert f"pillow {Image.__version__}" in FastPath("pillow").describe()


def test_without_the_extra_pillow_is_the_best_and_fast_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert best_decoder() == "pillow"
    with pytest.raises(RequestError, match="pip install 'linnaeus\\[fast-data\\]'"):
        FastPath("fast")


@needs_extra
def test_with_the_extra_the_best_path_uses_it():
    assert best_decoder() == "fast"
    assert "simplejpeg 1" in FastPath("fast").describe()


@pytest.mark.slow  # some of them are large
@each_path
@pytest.mark.filterwarnings("ignore")
def test_the_odd_images_of_the_field_come_out_as_from_the_reference(path, real_data):
    folder = real_data("odd-images")
    with (folder / "manifest.csv").open(newline="") as file:
        names = [folder / row["folder"] / row["file"] for row in csv.DictReader(file)]
    for name in names:
        outcomes = []
        for decoder in (decode, partial(FastPath(path).bounded, bound=ALL)):
            try:
                outcomes.append(decoder(name.read_bytes()))
            except UnreadableImage as refusal:
                outcomes.append(str(refusal))
        assert np.array_equal(*outcomes), name


@each_path
def test_the_stated_differences_of_a_reduced_scale_hold_on_photos(path, real_data):
    means, worst = [], 0
    for file in sorted(real_data("hymenoptera").rglob("*.jpg"))[::10]:
        content = file.read_bytes()
        bound = int(min(decode(content).shape[:2]) / 2 / fast.MARGIN)
        difference = gaps(FastPath(path).bounded(content, bound), slow(content, bound))
        means.append(difference.mean())
        worst = max(worst, int(difference.max()))
    print(f"{len(means)} photos: mean {np.mean(means):.2f}, worst image {max(means):.2f}, worst pixel {worst}")  # noqa: T201
    assert np.mean(means) < 1.3
    assert max(means) < 4
    assert worst < 50


@needs_extra
def test_the_stated_differences_of_slight_reductions_hold_on_photos(real_data):
    files = sorted(real_data("hymenoptera").rglob("*.jpg"))[::10]
    means, worst = [], 0
    for file, row in zip(files, draws(0, "a", 0, start=0, count=len(files)), strict=True):
        pixels = decode(file.read_bytes())
        top, left, height, width = box = crop_box(*pixels.shape[:2], row, min_area=0.35)
        close = FastPath("fast").crop(pixels, box, (224, 224), "bilinear")
        exact = resized(pixels[top : top + height, left : left + width], (224, 224), "bilinear")
        means.append(gaps(close, exact).mean())
        worst = max(worst, int(gaps(close, exact).max()))
    print(f"{len(means)} crops: mean {np.mean(means):.2f}, worst image {max(means):.2f}, worst pixel {worst}")  # noqa: T201
    assert np.mean(means) < 1.5
    assert max(means) < 8
    assert worst < 120
