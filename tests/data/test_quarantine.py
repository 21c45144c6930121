"""The list of what training leaves out survives any name, and obeys the person who edits it."""

import pytest

from linnaeus.core.errors import RequestError
from linnaeus.data.quarantine import read_quarantine, write_quarantine

NAMES = ["a/1.jpg", "a/two, words.jpg", 'a/"quoted".jpg', "b/new\nline.jpg", "b/\r.jpg", "b/🐈.jpg", "b/\udcff.jpg"]


def test_every_name_and_reason_comes_back(tmp_path):
    path = tmp_path / "quarantine.csv"
    reasons = {index: f"reason {index}, with a comma" for index in range(len(NAMES))}
    write_quarantine(path, reasons, NAMES.__getitem__)
    assert path.read_text(encoding="utf-8").startswith('"path","reason"\n"a/1.jpg",')
    assert read_quarantine(path, len(NAMES), NAMES.__getitem__) == (reasons, [])


def test_a_deleted_line_brings_its_image_back_and_an_added_one_leaves_one_out(tmp_path):
    path = tmp_path / "quarantine.csv"
    write_quarantine(path, {0: "constant", 2: "truncated"}, NAMES.__getitem__)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], lines[2], "b/🐈.jpg,"]), encoding="utf-8")
    found, _ = read_quarantine(path, len(NAMES), NAMES.__getitem__)
    assert found == {2: "truncated", 5: "listed in the quarantine"}


def test_names_that_are_gone_are_told(tmp_path):
    path = tmp_path / "quarantine.csv"
    write_quarantine(path, {0: "constant", 1: "constant"}, NAMES.__getitem__)
    assert read_quarantine(path, 1, NAMES.__getitem__) == ({0: "constant"}, ["a/two, words.jpg"])


def test_an_empty_list_leaves_nothing_out(tmp_path):
    path = tmp_path / "quarantine.csv"
    write_quarantine(path, {}, NAMES.__getitem__)
    assert read_quarantine(path, len(NAMES), NAMES.__getitem__) == ({}, [])


@pytest.mark.parametrize("content", [b"file,why\na.jpg,x\n", b"path,reason\n\xff\xfe,x\n", b'path,reason\n"a,x\n'])
def test_another_file_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"other\.csv is no quarantine list"):
        read_quarantine(path, len(NAMES), NAMES.__getitem__)


def test_a_missing_list_is_refused(tmp_path):
    with pytest.raises(RequestError, match="does not exist"):
        read_quarantine(tmp_path / "absent.csv", 0, NAMES.__getitem__)
