"""Copies are found and different images are not taken for copies, however little they show."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from linnaeus.data import duplicates
from linnaeus.data.doctor import audit
from linnaeus.data.duplicates import find_twins, perceptual_hash
from linnaeus.data.sources import open_source
from linnaeus.data.sources.arrays import ArraySource
from linnaeus.data.sources.base import Labels

from .planted import draw_photo


def source_of(images: list[Image.Image]) -> ArraySource:
    pixels = np.stack([np.asarray(image.convert("RGB").resize(images[0].size)) for image in images])
    return ArraySource(pixels, Labels(("a",), np.zeros(len(images), np.int64), np.full(len(images), "")))


def twins_of(images: list[Image.Image]):
    return find_twins(audit(source_of(images)))


def pairs(twins) -> set[tuple[int, int]]:
    return set(zip(twins.first.tolist(), twins.second.tolist(), strict=True))


PHOTOS = [draw_photo(seed) for seed in range(30)]


def compressed(photo: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def cropped(photo: Image.Image, share: float) -> Image.Image:
    return ImageOps.crop(photo, max(1, round(share * photo.height))).resize(photo.size)


CHANGES = {
    "quality 20": lambda photo: compressed(photo, 20),
    "half size": lambda photo: photo.resize((48, 36)).resize(photo.size),
    "brighter": lambda photo: ImageEnhance.Brightness(photo).enhance(1.2),
    "darker": lambda photo: ImageEnhance.Brightness(photo).enhance(0.8),
    "more contrast": lambda photo: ImageEnhance.Contrast(photo).enhance(1.3),
    "grey": lambda photo: photo.convert("L"),
    "cropped": lambda photo: cropped(photo, 0.02),
    "shifted": lambda photo: photo.crop((2, 2, photo.width, photo.height)),
    "mirrored": ImageOps.mirror,
}


@pytest.mark.parametrize("change", CHANGES)
def test_near_copies_are_found_and_no_others(change):
    twins = twins_of([*PHOTOS, *map(CHANGES[change], PHOTOS)])
    assert pairs(twins) == {(k, k + 30) for k in range(30)}
    assert twins.mirrored.tolist() == [change == "mirrored"] * 30
    assert twins.complete


def test_exact_copies_are_told_apart_from_near_ones():
    twins = twins_of([PHOTOS[0], PHOTOS[1], PHOTOS[0], compressed(PHOTOS[1], 40), PHOTOS[0]])
    assert twins.copy_of.tolist() == [0, 1, 0, 3, 0]
    assert pairs(twins) == {(1, 3)}


def test_a_family_is_a_chain_of_copies():
    images = [PHOTOS[0], PHOTOS[1], compressed(PHOTOS[0], 40), PHOTOS[2], PHOTOS[1], compressed(PHOTOS[0], 30)]
    assert twins_of(images).families().tolist() == [0, 1, 0, 3, 1, 0]


def test_images_without_detail_are_never_near_copies():
    flat = [Image.new("RGB", (40, 40), (k, 2 * k, 255 - k)) for k in range(60)]
    ramps = [Image.fromarray(np.linspace(k, 200, 4800).reshape(40, 40, 3).astype(np.uint8)) for k in range(40)]
    assert pairs(twins_of(flat + ramps)) == set()


def test_blurred_spots_are_not_taken_for_each_other():
    """As galaxies: smooth, in the middle, and with much the same slopes everywhere."""
    y, x = np.mgrid[-20:20, -20:20]
    rng = np.random.default_rng(0)
    spots = [
        np.exp(-(x**2 + (y / flat) ** 2) / (2 * width**2)) * 200 + rng.normal(0, 1, (40, 40)) + 20
        for width, flat in zip(rng.uniform(4, 8, 60), rng.uniform(0.7, 1, 60), strict=True)
    ]
    assert pairs(twins_of([Image.fromarray(spot.clip(0, 255).astype(np.uint8)) for spot in spots])) == set()


def test_the_same_shape_in_another_colour_is_another_image():
    """As sorted sweets: the shape of each is the same, and the colour of similar brightness is the class."""

    def sweet(colour: str, seed: int) -> Image.Image:
        texture = draw_photo(7, (64, 64)).convert("L")
        image = ImageOps.colorize(texture, "black", colour)
        ImageDraw.Draw(image).point((seed, 0), fill="white")
        return image

    images = [sweet(colour, seed) for colour in ("#e03030", "#309030", "#3060ff") for seed in range(2)]
    assert pairs(twins_of(images)) == {(0, 1), (2, 3), (4, 5)}


def test_an_image_that_is_its_own_mirror_image_pairs_once():
    half = np.asarray(PHOTOS[0])[:, :48]
    symmetric = Image.fromarray(np.concatenate([half, half[:, ::-1]], 1))
    twins = twins_of([symmetric, compressed(symmetric, 40)])
    assert pairs(twins) == {(0, 1)}
    assert twins.mirrored.tolist() == [False]


def test_the_hash_of_a_mirror_image_is_known_without_it():
    grey = np.random.default_rng(0).integers(0, 256, (50, 32, 32), np.uint8)
    assert np.array_equal(perceptual_hash(grey, mirrored=True), perceptual_hash(grey[:, :, ::-1]))
    assert not np.array_equal(perceptual_hash(grey, mirrored=True), perceptual_hash(grey))


def test_the_look_up_finds_all_pairs_within_seven_bits():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 300, np.uint64)
    for k, distance in enumerate([*range(8)] * 15):  # 120 planted pairs
        bits = rng.choice(64, distance, replace=False).astype(np.uint64)
        hashes[150 + k] = hashes[k] ^ np.bitwise_or.reduce(np.uint64(1) << bits, initial=np.uint64(0))
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = {(i, j) for i, j in itertools.combinations(range(300), 2) if distances[i, j] <= 7}
    first, second = duplicates._candidates(hashes, hashes, np.full(300, 140.0, np.float32))
    assert len(expected) >= 120
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected


def test_ranges_are_expanded_alike_in_one_piece_and_in_many(monkeypatch):
    rng = np.random.default_rng(0)
    order = rng.permutation(50)
    start = rng.integers(0, 40, 30)
    ends = start + rng.integers(0, 10, 30)
    (whole,) = duplicates._expand(order, start, ends)
    assert whole[1].tolist() == [p for a, b in zip(start, ends, strict=True) for p in order[a:b]]
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", 7)
    pieces = list(duplicates._expand(order, start, ends))
    assert len(pieces) > 10
    for k in (0, 1):
        assert np.array_equal(np.concatenate([piece[k] for piece in pieces]), whole[k])


def test_a_set_whose_images_all_look_alike_is_given_up(monkeypatch):
    """A fixed camera: every pair is a candidate, and going through all of them would take for ever."""
    scene = np.asarray(PHOTOS[0]).astype(int)
    noise = np.random.default_rng(0).integers(-3, 4, (40, *scene.shape))
    images = [Image.fromarray((scene + n).clip(0, 255).astype(np.uint8)) for n in noise]
    assert len(pairs(twins_of(images))) == 40 * 39 / 2
    monkeypatch.setattr(duplicates, "_MAX_CANDIDATES", 10)
    monkeypatch.setattr(duplicates, "_CANDIDATES_AN_IMAGE", 1)
    twins = twins_of(images)
    assert not twins.complete
    assert pairs(twins) == set()


def test_what_does_not_decode_has_no_twin():
    class Broken(ArraySource):
        def read(self, index: int) -> bytes:
            if index < 2:
                raise OSError("gone")
            return super().read(index)

    source = source_of([PHOTOS[0]] * 4)
    twins = find_twins(audit(Broken(source.images, source.labels)))
    assert twins.copy_of.tolist() == [0, 1, 2, 2]


@pytest.mark.slow
def test_silhouettes_are_not_taken_for_each_other():
    """10,000 animals of 28 pixels, many much alike. The two pairs are dogs that differ by a fraction of a pixel."""
    source = open_source("animals")
    twins = find_twins(audit(source))
    assert (twins.copy_of != np.arange(10_000)).sum() == 284
    names = {(source.name(a), source.name(b)) for a, b in pairs(twins)}
    assert names == {("dog-04269", "dog-04397"), ("dog-04679", "dog-04734")}


@pytest.mark.slow
def test_recall_and_precision_on_real_photos(real_data):
    """1000 photos of 1000 classes, each changed in eight ways; a finding between two photos would be wrong."""
    paths = sorted(path for path in real_data("imagenet-sample-1000").rglob("*.JPEG"))
    photos = [Image.open(path).convert("RGB").resize((320, 240)) for path in paths]
    least = {"quality 20": 0.99, "half size": 0.99, "brighter": 0.9, "darker": 0.99, "more contrast": 0.98}
    least |= {"grey": 0.99, "cropped": 0.9, "mirrored": 0.99}
    for change, recall in least.items():
        twins = twins_of([*photos, *map(CHANGES[change], photos)])
        assert {(a, b) for a, b in pairs(twins) if (b - a) % len(photos)} == set(), change
        families = twins.families().reshape(2, len(photos))  # 23 of the photos are grey, and their copies exact
        found = float((families[0] == families[1]).mean())
        assert found >= recall, (change, found)
