"""The contact sheet as a page and as a picture: every image is on it, names cannot break it, nothing is fetched."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from linnaeus.report.contact_sheet import SIDE, Card, contact_page, contact_picture

RED = np.zeros((8, 8, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
GREY = np.full((300, 300, 1), 90, np.uint8)


def cards():
    return [
        Card("a <b>/1.png", "cat & dog", "train", RED, [RED, GREY]),
        Card("2.png", "", "test", GREY, []),
        Card("é" * 400, "many", "val", RED, []),
    ]


def test_every_picture_is_in_the_page_and_opens():
    page = contact_page("photos", ["one line", "<another>"], cards())
    pictures = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", page)]
    shapes = []
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as image:
            shapes.append((image.format, image.size))
    small, large = ("PNG", (8, 8)), ("JPEG", (SIDE, SIDE))
    assert shapes == [small, small, large, large, small]


def test_names_are_text_and_never_markup():
    page = contact_page("<script>", ["<x>"], cards())
    assert "a &lt;b&gt;/1.png" in page
    assert "cat &amp; dog" in page
    assert "&lt;script&gt;" in page
    assert "no class" in page
    assert "<script>" not in page
    assert "<x>" not in page


def test_the_page_counts_the_roles_and_fetches_nothing():
    page = contact_page("photos", [], cards())
    assert "3 images: 1 train, 1 test, 1 val" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "prefers-color-scheme: dark" in page


def test_the_picture_shows_small_images_by_whole_pixels_and_large_ones_whole():
    with Image.open(io.BytesIO(contact_picture(cards()))) as image:
        pixels = np.asarray(image.convert("RGB"))
    red = (pixels == [255, 0, 0]).all(2)
    assert red.sum() == 3 * SIDE * SIDE
    grey = (pixels == [90, 90, 90]).all(2)
    assert grey.sum() == pytest.approx(2 * SIDE * SIDE, rel=0.01)


def test_sheets_of_nothing_and_of_many_images_can_be_made():
    assert contact_picture([])
    many = [Card(f"{i}", "x", "train", RED, [RED]) for i in range(40)]
    with Image.open(io.BytesIO(contact_picture(many))) as image:
        pixels = np.asarray(image)
    assert (pixels == [255, 0, 0]).all(2).sum() == 80 * SIDE * SIDE
