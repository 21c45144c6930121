"""Tables that name files: CSV, TSV and JSONL say the same, columns are found or named, and faults have reasons."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.doctor import audit
from linnaeus.data.sources import Columns, open_source, rows, table

from .pictures import contents, fill, names, png

ROWS = [
    ("a/0.png", "cat", "train"),
    ("a/1.png", "dog", "train"),
    ("b/0.png", "cat", "test"),
    ("b/1.png", "dog", "test"),
]


def write(path: Path, rows=ROWS, header=("path", "label", "split")) -> str:
    """Writes rows in the format of the file's ending; gives what a user calls the file."""
    if path.suffix in (".jsonl", ".ndjson"):
        lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
    else:
        lines = [{".csv": ",", ".tsv": "\t"}[path.suffix].join(row) for row in (header, *rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def photos(tmp_path):
    """Two folders with two images each, that say nothing of classes."""
    fill(tmp_path / "a", 2, 0)
    fill(tmp_path / "b", 2, 1)
    return tmp_path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "ndjson"])
def test_every_format_says_the_same(photos, ending):
    source = open_source(write(photos / f"table.{ending}"))
    assert names(source) == [path for path, _, _ in ROWS]
    assert contents(source) == [(photos / path).read_bytes() for path, _, _ in ROWS]
    assert source.labels.classes == ("cat", "dog")
    assert source.labels.targets.tolist() == [0, 1, 0, 1]
    assert source.labels.splits.tolist() == ["train", "train", "test", "test"]
    assert source.decode(source.read(0)).shape == (8, 8, 3)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_a_table_read_in_pieces_is_the_table(photos, monkeypatch, ending, chunk):
    cells = [(f"{i}.png", ["cat", "dog", "eel", "cat|dog", ""][i % 5], ["train", "test"][i // 9]) for i in range(18)]
    data = write(photos / f"table.{ending}", cells)
    whole = open_source(data)
    for module in (rows, table):
        monkeypatch.setattr(module, "CHUNK", chunk)
    pieces = open_source(data)
    assert names(pieces) == names(whole) == [path for path, _, _ in cells]
    assert pieces.labels.classes == whole.labels.classes == ("cat", "dog", "eel")
    assert np.array_equal(pieces.labels.targets, whole.labels.targets)
    assert np.array_equal(pieces.labels.splits, whole.labels.splits)


def test_a_flat_folder_with_labels_csv_is_that_table(photos):
    write(photos / "a" / "labels.csv", [("0.png", "cat"), ("1.png", "dog")], ("filename", "class"))
    source = open_source(str(photos / "a"))
    assert names(source) == ["0.png", "1.png"]
    assert source.labels.classes == ("cat", "dog")


def test_labels_csv_beside_folders_may_name_the_files_in_them(photos):
    write(photos / "labels.csv")
    source = open_source(str(photos))
    assert names(source) == [path for path, _, _ in ROWS]
    assert source.labels.classes == ("cat", "dog")


def test_labels_csv_that_only_explains_the_class_folders_is_not_taken_for_the_labels(photos):
    write(photos / "labels.csv", [("a", "an apple"), ("b", "a bear")], ("folder", "label"))
    source = open_source(str(photos))
    assert source.labels.classes == ("a", "b")
    assert len(source.labels) == 4
    assert source.labels.notes == (f"{photos / 'labels.csv'} has no column of paths: not used",)


def test_labels_csv_in_a_flat_folder_without_a_column_of_paths_is_an_error(photos):
    write(photos / "a" / "labels.csv", [("0", "cat"), ("1", "dog")], ("id", "label"))
    with pytest.raises(RequestError, match=r"has no column of paths .* Its columns are: id, label"):
        open_source(str(photos / "a"))


def test_paths_are_relative_to_the_table_or_absolute_or_file_addresses(photos):
    (photos / "tables").mkdir()
    odd = photos / "a" / "100% caf\u00e9.png"
    odd.write_bytes(png(3))
    paths = ["../a/0.png", str(photos / "b" / "0.png"), (photos / "b" / "1.png").as_uri(), odd.as_uri()]
    source = open_source(write(photos / "tables" / "t.csv", [(p, "xy"[i % 2], "") for i, p in enumerate(paths)]))
    expected = [photos / "a" / "0.png", photos / "b" / "0.png", photos / "b" / "1.png", odd]
    assert contents(source) == [path.read_bytes() for path in expected]
    assert names(source) == [paths[0], *map(str, expected[1:])]


@pytest.mark.parametrize("address", ["https://example.org/1.png", "s3://bucket/1.png", "file://server/1.png"])
def test_images_on_the_web_are_refused_by_name(photos, address):
    with pytest.raises(DataError, match=f"names {address}: images on the web are not fetched"):
        open_source(write(photos / "t.csv", [("a/0.png", "cat", ""), (address, "dog", "")]))


ODD = [
    "with space.png",
    " lead.png",
    "new\nline.png",
    "\U0001f98a.png",
    "caf\udce9.png",
    "a,b;c|d'\"\t.png",
    "a\\b.png",
]


@pytest.mark.skipif(os.uname().sysname == "Darwin", reason="this file system has only UTF-8 names")
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_any_name_that_a_file_can_have_is_read_and_comes_back(tmp_path, ending):
    for number, name in enumerate(ODD):
        (tmp_path / name).write_bytes(png(number))
    if ending == "jsonl":
        lines = [json.dumps({"path": name, "label": "xy"[i % 2]}, ensure_ascii=False) for i, name in enumerate(ODD)]
    else:
        separator = {"csv": ",", "tsv": "\t"}[ending]
        quoted = ['"' + name.replace('"', '""') + '"' for name in ODD]
        lines = [f"path{separator}label", *[f"{name}{separator}{'xy'[i % 2]}" for i, name in enumerate(quoted)]]
    (tmp_path / f"t.{ending}").write_bytes(os.fsencode("\n".join(lines)))
    source = open_source(str(tmp_path / f"t.{ending}"))
    assert names(source) == ODD
    assert contents(source) == [png(number) for number in range(len(ODD))]


def test_each_file_that_cannot_be_read_has_its_reason_and_the_others_are_read(photos):
    os.mkfifo(photos / "pipe")
    (photos / "broken.png").write_bytes(b"no image")
    (photos / "loop").symlink_to(photos / "loop")
    bad = ["gone.png", "a", "pipe", "broken.png", "zero\0byte.png", "x" * 300 + ".png", "a/0.png/1.png", "loop"]
    source = open_source(write(photos / "t.jsonl", [*ROWS, *[(path, "cat", "train") for path in bad]]))
    broken = {source.name(i): reason for i, reason in audit(source).broken.items()}
    assert broken == {
        "gone.png": "cannot be read (No such file or directory)",
        "a": "cannot be read (a folder or a device, not a file)",
        "pipe": "cannot be read (a folder or a device, not a file)",
        "broken.png": "not an image, or a damaged header",
        "zero\0byte.png": "cannot be read (a zero byte in its name)",
        "x" * 300 + ".png": "cannot be read (File name too long)",
        "a/0.png/1.png": "cannot be read (Not a directory)",
        "loop": "cannot be read (Too many levels of symbolic links)",
    }


@pytest.mark.parametrize(
    "header",
    [
        ("path", "label", "split"),
        ("Filename", "Class", "Set"),
        ("image_path", "category", "subset"),
        ("File-Path", "Class Name", "SPLIT"),
    ],
)
def test_columns_are_found_by_their_usual_names_and_it_is_said(photos, header):
    labels = open_source(write(photos / "t.csv", header=header)).labels
    assert labels.targets.tolist() == [0, 1, 0, 1]
    assert labels.splits.tolist() == ["train", "train", "test", "test"]
    path, label, split = header
    assert labels.notes == (f"{photos / 't.csv'}: image in '{path}', label in '{label}', split in '{split}'",)


def test_the_users_word_on_the_columns_goes_before_their_names(photos):
    header = ("path", "label", "where", "breed", "fold")
    cells = [("x", "y", path, label, split) for path, label, split in ROWS]
    source = open_source(write(photos / "t.csv", cells, header), Columns(path="where", label="breed", split="fold"))
    assert names(source) == [path for path, _, _ in ROWS]
    assert source.labels.classes == ("cat", "dog")
    assert source.labels.splits.tolist() == ["train", "train", "test", "test"]


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        (("a", "b", "c"), Columns(), "has no column of paths .* Its columns are: a, b, c. Choose with --path-column"),
        (
            ("path", "b", "split"),
            Columns(),
            "has no column of labels .* columns are: path, b, split. .* --label-column",
        ),
        (("path", "image", "label"), Columns(), "has several columns for the path: path, image"),
        (("path", "label", "class"), Columns(), "has several columns for the label: label, class"),
        (
            ("path", "label", "split"),
            Columns(label="breed"),
            "has no column 'breed'. Its columns are: path, label, split",
        ),
        (("path", "label", "split"), Columns(split="label"), "one column cannot be two things"),
    ],
)
def test_a_column_that_is_missing_or_could_be_several_is_one_line_with_the_columns(photos, header, columns, message):
    with pytest.raises(RequestError, match=message) as caught:
        open_source(write(photos / "t.csv", header=header), columns)
    assert "\n" not in str(caught.value)


def test_two_columns_of_one_name_are_refused(photos):
    with pytest.raises(DataError, match="two columns called 'label'"):
        open_source(write(photos / "t.csv", header=("path", "label", "label")))


def test_a_split_that_is_none_is_refused_where_the_user_named_the_column_and_said_where_not(photos):
    data = write(photos / "t.csv", [(path, label, "fold 1") for path, label, _ in ROWS], ("path", "label", "set"))
    labels = open_source(data).labels
    assert labels.splits.tolist() == [""] * 4
    assert "the column 'set' holds 'fold 1': not taken for splits" in labels.notes
    with pytest.raises(DataError, match="'fold 1' in the column 'set' is none of train, val and test"):
        open_source(data, Columns(split="set"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty: its first row names the columns"),
        ("t.csv", b"path,label\n", "has no rows"),
        (
            "t.csv",
            b"path,label\n1,cat\n\n2,dog,cat\n",
            r"t.csv row 4 has 3 cells, and the first row 2\. .* needs quotes",
        ),
        ("t.csv", b"path,label\n1\n", "row 2 has 1 cells"),
        ("t.csv", b'path,label\n"1,cat\n2,dog\n', "line 3: unexpected end of data"),
        ("t.csv", b'path,label\n"1"x,cat\n', "line 2: ',' expected after '\"'"),
        ("t.csv", b"path,label\n" + b"x" * 200_000 + b",cat\n", "line 2: field larger than field limit"),
        ("t.csv", "path,label\n1,cat\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("t.jsonl", b"\n\n", "has no column of paths"),
        ("t.jsonl", b'{"path": "1", "label": "cat"}\n\n{"path": \n', "line 3 is not JSON"),
        (
            "t.jsonl",
            b'{"path": "1", "label": "cat"}, {"path": "2", "label": "dog"}\n',
            "line 1 is not JSON: Extra data",
        ),
        ("t.jsonl", b'["1", "cat"]\n', "line 1 is not an object"),
        ("t.jsonl", b"[" * 100_000 + b"\n", "line 1 is not JSON"),
        ("t.jsonl", b'{"path": {"x": 1}, "label": "cat"}\n', "the column 'path' holds objects"),
        ("t.jsonl", b'{"path": "1", "label": [["cat"]]}\n', "the column 'label' holds objects"),
        ("t.jsonl", b'{"path": ["1"], "label": "cat"}\n', "the column 'path' holds lists, not paths"),
    ],
)
def test_a_damaged_table_is_refused_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, RequestError), match=message) as caught:
        open_source(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_the_place_of_a_fault_is_counted_from_the_start_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "CHUNK", 2)
    (tmp_path / "t.csv").write_text("path,label\n1,cat\n2,dog\n\n3,cat\n4,dog\n5\n")
    with pytest.raises(DataError, match="row 7 has 1 cells"):
        open_source(str(tmp_path / "t.csv"))
    good = '{"path": "1", "label": "cat"}\n'
    (tmp_path / "t.jsonl").write_text(f"{good * 3}\n{good}bad\n")
    with pytest.raises(DataError, match="line 6 is not JSON"):
        open_source(str(tmp_path / "t.jsonl"))


def test_a_table_from_a_spreadsheet_is_read(photos):
    lines = ["path;label;split", *[";".join(row) for row in ROWS], ""]
    (photos / "t.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    source = open_source(str(photos / "t.csv"))
    assert names(source) == [path for path, _, _ in ROWS]
    assert source.labels.classes == ("cat", "dog")


def test_lists_in_jsonl_make_the_task_multi_label(tmp_path):
    cells = [["dog", "cat"], ["cat"], [], "eel", None, [3, True]]
    lines = [json.dumps({"path": str(i), "label": cell}) for i, cell in enumerate(cells)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    labels = open_source(str(tmp_path / "t.jsonl")).labels
    assert [labels.text(i) for i in range(6)] == ["cat|dog", "cat", "", "eel", "", "3|True"]
    assert "lists of labels: multi-label, 5 classes" in labels.notes


def test_keys_of_jsonl_may_be_absent(tmp_path):
    lines = ['{"label": "cat", "path": "1", "more": {"x": 1}}', '{"path": "2"}', '{"path": "3", "label": 7}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    source = open_source(str(tmp_path / "t.jsonl"))
    assert names(source) == ["1", "3"]
    assert source.labels.classes == ("7", "cat")
    assert source.labels.ignored == ("2: no label",)


def test_real_images_named_by_a_table_are_those_of_the_class_folders(real_data, tmp_path):
    folder = real_data("hymenoptera")
    by_folder = open_source(str(folder))
    header = ("path", "label", "split")
    cells = [
        (str(folder / by_folder.name(i)), by_folder.labels.text(i), str(by_folder.labels.splits[i]))
        for i in range(len(by_folder.labels))
    ]
    by_table = open_source(write(tmp_path / "t.csv", cells, header))
    assert contents(by_table) == contents(by_folder)
    assert by_table.labels.classes == by_folder.labels.classes
    assert np.array_equal(by_table.labels.targets, by_folder.labels.targets)
    assert np.array_equal(by_table.labels.splits, by_folder.labels.splits)


MEASURE = """
import sys, time
import torch
from linnaeus.data.sources import open_source
from linnaeus.explain.memory import forget_peak, peak
cpu = torch.device("cpu")
forget_peak(cpu)
before, start = peak(cpu), time.process_time()
source = open_source(sys.argv[1])
spent, most = time.process_time() - start, peak(cpu) - before
print(len(source.labels), spent, most / 2**20, source.name(999_999))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "limit"), [("csv", 5), ("jsonl", 10)])
def test_a_million_files_open_in_seconds_and_cost_less_than_200_mb(tmp_path, ending, limit):
    cells = [(f"train/n{i % 1000:08d}/n{i % 1000:08d}_{i}.JPEG", f"n{i % 1000:08d}", "train") for i in range(1_000_000)]
    data = write(tmp_path / f"table.{ending}", cells)
    done = subprocess.run([sys.executable, "-c", MEASURE, data], capture_output=True, text=True, check=True)
    number, seconds, megabytes, last = done.stdout.split()
    assert (int(number), last) == (1_000_000, cells[-1][0])
    assert float(megabytes) < 200
    assert float(seconds) < limit  # of the processor, for others use the machine too
