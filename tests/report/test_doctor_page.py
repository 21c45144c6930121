"""The doctor's page is one file that stands alone, says the verdict first, and stays small."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from linnaeus.report.doctor_page import PICTURES_A_FINDING, PICTURES_A_PAGE, doctor_page


def file(position: int, reason: str = "one colour", name: str = "") -> dict:
    return {"position": position, "name": name or f"a/{position}.jpg", "label": "a", "split": "", "reason": reason}


def finding(files=(), *, severity="warning", kind="constant", groups=(), subjects=(), quarantined=True) -> dict:
    about = {"title": "Images of a single colour", "reason": "Some are.", "advice": "Remove them."}
    lists = {"files": list(files), "groups": list(groups), "subjects": list(subjects)}
    return {"kind": kind, "severity": severity, "quarantined": quarantined, **about, **lists}


def diagnosis(*findings: dict, verdict: str = "usable with warnings") -> dict:
    return {"verdict": verdict, "images": 1234, "usable": 1200, "classes": 2, "findings": list(findings)}


def photo(position: int) -> np.ndarray:
    return np.random.default_rng(position).integers(0, 256, (120, 300, 3), np.uint8)


class Balance(HTMLParser):
    """Every tag that is opened is closed, in order."""

    EMPTY = ("meta", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_stands_alone_and_is_well_formed():
    page = doctor_page("photos", diagnosis(finding([file(0), file(1)])), photo)
    parsed = Balance(page)
    links = [value for name, value in parsed.attributes if name in ("src", "href", "srcset", "data")]
    assert links
    assert all(link.startswith(("#", "data:image/")) for link in links)
    assert not re.search(r"https?:|@import|url\(|<script|<link", page)


@pytest.mark.parametrize("verdict", ["unusable", "usable with warnings", "good"])
def test_the_verdict_comes_first(verdict):
    parsed = Balance(doctor_page("photos", diagnosis(finding(subjects=["x"]), verdict=verdict), photo))
    words = [text for text in parsed.text if text.strip()]
    assert verdict.capitalize() in words[3], words[:4]  # after the title, the style and what was examined


def test_figures_are_summed_up():
    note = finding([file(9)], severity="note", quarantined=False)
    page = doctor_page("photos", diagnosis(finding([file(0), file(1)]), finding([file(1), file(2)]), note), photo)
    assert "1,234 images of 2 classes; 1,200 can be decoded, 3 are left out of training. 2 warnings, 1 note." in page


def test_names_cannot_become_markup():
    evil = '<script>alert("1")</script>&.jpg'
    page = doctor_page(evil, diagnosis(finding([file(0, evil, evil)], subjects=[evil])), photo)
    Balance(page)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_thumbnails_show_the_image():
    pixels = np.full((400, 800, 3), (200, 30, 60), np.uint8)
    page = doctor_page("photos", diagnosis(finding([file(0)])), lambda _: pixels)
    (encoded,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert image.size == (144, 72)
    assert np.abs(np.asarray(image).astype(int) - (200, 30, 60)).max() <= 4


def test_small_images_are_shown_pixel_for_pixel():
    small = np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)
    page = doctor_page("digits", diagnosis(finding([file(0)])), lambda _: small)
    (encoded,) = re.findall(r'class="small" alt="" src="data:image/png;base64,([^"]+)', page)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))), small[:, :, 0])


def test_copies_stand_side_by_side():
    groups = [[file(0, ""), file(1, "")], [file(2, ""), file(3, "")]]
    page = doctor_page("photos", diagnosis(finding([file(1), file(3)], kind="copies", groups=groups)), photo)
    assert [group.count("<figure>") for group in page.split('<div class="group">')[1:]] == [2, 2]


def test_the_number_of_pictures_is_bounded_and_the_rest_is_counted():
    asked = []

    def picture(position: int) -> np.ndarray:
        asked.append(position)
        return photo(0)

    many = [finding([file(1000 * k + i) for i in range(600)]) for k in range(12)]
    page = doctor_page("photos", diagnosis(*many), picture)
    assert page.count("<img") == len(asked) == PICTURES_A_PAGE
    assert asked[: PICTURES_A_FINDING + 1] == [*range(PICTURES_A_FINDING), 1000]
    assert "and 100 more" in page
    assert len(page) < 3_000_000


def test_a_group_of_many_shows_some():
    group = [file(k, "") for k in range(50)]
    page = doctor_page("photos", diagnosis(finding([file(1)], kind="copies", groups=[group])), photo)
    assert page.count("<figure>") == 6
    assert "and 44 more" in page


def test_what_cannot_be_read_any_more_has_an_empty_frame():
    page = doctor_page("photos", diagnosis(finding([file(0)])), lambda _: None)
    assert "cannot be shown" in page


def test_files_that_do_not_decode_are_listed_and_not_asked_for():
    broken = finding([file(0, "truncated")], kind="unreadable")
    page = doctor_page("photos", diagnosis(broken), lambda position: pytest.fail(f"asked for {position}"))
    assert "<details open>" in page
    assert "truncated" in page


def test_a_clean_set_has_a_short_page():
    page = doctor_page("photos", diagnosis(verdict="good"), photo)
    Balance(page)
    assert "No findings." in page
