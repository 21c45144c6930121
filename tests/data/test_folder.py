"""Class folders: what is found, in which order, under which names, and what happens to folders that are odd."""

import os
import pickle
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.sources import Columns, open_source
from linnaeus.data.sources.paths import PathList, join
from linnaeus.data.sources.subset import Subset

from .pictures import contents, fill, names, png


def pair(root: Path) -> None:
    """Two classes with two images each."""
    for seed, name in enumerate(["cat", "dog"]):
        fill(root / name, 2, seed)


def test_images_come_by_class_and_then_by_split_and_name(tmp_path):
    for seed, name in enumerate(["train/dog", "train/cat", "valid/cat", "valid/dog"]):
        fill(tmp_path / name, 2, seed)
    fill(tmp_path / "train" / "cat" / "0" / "deep", 1, 9)
    source = open_source(str(tmp_path))
    cats = ["train/cat/0/deep/0.png", "train/cat/0.png", "train/cat/1.png", "valid/cat/0.png", "valid/cat/1.png"]
    dogs = ["train/dog/0.png", "train/dog/1.png", "valid/dog/0.png", "valid/dog/1.png"]
    assert names(source) == cats + dogs
    assert contents(source) == [(tmp_path / name).read_bytes() for name in cats + dogs]
    assert source.labels.classes == ("cat", "dog")
    assert source.labels.targets.tolist() == [0] * 5 + [1] * 4
    assert source.labels.splits.tolist() == ["train"] * 3 + ["val"] * 2 + ["train"] * 2 + ["val"] * 2
    assert source.labels.task == "single"


ODD_NAMES = [
    b"with space.png",
    b"new\nline.png",
    "\U0001f98a.png".encode(),
    b"caf\xe9.png",
    b"-rf.PNG",
    b"a,b;c|d'\".png",
]


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="this file system has only UTF-8 names")
def test_any_name_that_a_file_can_have_is_read_and_comes_back(tmp_path):
    pair(tmp_path)
    folders = [os.fsencode("cat\u00e9 \U0001f431"), b"ey\xe9s"]
    for directory in (os.fsencode(tmp_path) + b"/" + folder for folder in folders):
        Path(os.fsdecode(directory)).mkdir()
        for number, name in enumerate(ODD_NAMES):
            Path(os.fsdecode(directory + b"/" + name)).write_bytes(png(7, number))
    source = open_source(str(tmp_path))
    found = {os.fsencode(source.name(i)): source.read(i) for i in range(len(source.labels))}
    for number, name in enumerate(ODD_NAMES):
        assert found[folders[0] + b"/" + name] == found[folders[1] + b"/" + name] == png(7, number)
    assert source.labels.classes == ("cat", "cat\u00e9 \U0001f431", "dog", "ey\\xe9s")
    assert len(found) == 4 + 2 * len(ODD_NAMES)


def test_link_loops_end_and_what_leads_nowhere_is_noted(tmp_path):
    pair(tmp_path)
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat", target_is_directory=True)
    (tmp_path / "cat" / "self.png").symlink_to(tmp_path / "cat" / "self.png")
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "dog" / "linked.png").symlink_to(tmp_path / "cat" / "0.png")
    (tmp_path / "all").symlink_to(tmp_path, target_is_directory=True)
    source = open_source(str(tmp_path))
    assert names(source) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "dog/linked.png"]
    assert source.labels.ignored == (
        "all (a link to a folder above it)",
        "cat/self.png (Too many levels of symbolic links)",
        "dog/gone.png (a link to nothing)",
    )


def test_a_class_may_be_a_link_to_a_folder_elsewhere(tmp_path):
    pair(tmp_path / "photos")
    fill(tmp_path / "elsewhere", 3, 5)
    (tmp_path / "photos" / "eel").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    source = open_source(str(tmp_path / "photos"))
    assert source.labels.classes == ("cat", "dog", "eel")
    assert names(source)[-3:] == ["eel/0.png", "eel/1.png", "eel/2.png"]


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs users as Unix has them")
@pytest.mark.parametrize("closed", ["", "cat", "cat/inner"])
def test_a_folder_that_may_not_be_read_is_named(closed):
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, which lies in a folder closed to the other user
        root = Path(name)
        pair(root)
        fill(root / "cat" / "inner", 1, 8)
        root.chmod(0o755)
        (root / closed).chmod(0)
        user = os.geteuid()
        try:
            if user == 0:  # the superuser may read everything: be nobody for a while
                os.seteuid(65534)
            with pytest.raises(RequestError, match=f"{root / closed} cannot be read: permission denied"):
                open_source(str(root))
        finally:
            os.seteuid(user)
            (root / closed).chmod(0o755)


def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path):
    for absent in (str(tmp_path / "absent"), "x" * 5000, "zero\0byte"):
        with pytest.raises(RequestError, match="neither a folder nor a built-in set"):
            open_source(absent)
    with pytest.raises(DataError, match="has no images"):
        open_source(str(tmp_path))
    fill(tmp_path / "cat", 2, 0)
    with pytest.raises(DataError, match="has 2 images, but none in a folder of its class"):
        open_source(str(tmp_path / "cat"))
    with pytest.raises(DataError, match="only one class"):
        open_source(str(tmp_path))
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match="class 'dog' has no images"):
        open_source(str(tmp_path))
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(RequestError, match=r"notes.txt is no table: .* \.csv, \.tsv, \.jsonl, \.ndjson, \.parquet"):
        open_source(str(tmp_path / "notes.txt"))


def test_two_folders_for_one_split_are_refused(tmp_path):
    for seed, name in enumerate(["train/cat", "train/dog", "val/cat", "validation/cat"]):
        fill(tmp_path / name, 1, seed)
    with pytest.raises(DataError, match="several folders for one split: train, val, validation"):
        open_source(str(tmp_path))


def test_columns_of_what_has_none_are_refused(tmp_path):
    pair(tmp_path)
    for data in (str(tmp_path), "animals"):
        with pytest.raises(RequestError, match="has no columns to choose"):
            open_source(data, Columns(label="species"))


def test_a_list_of_files_is_cheap_to_send_to_a_worker(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(500):
            (tmp_path / name / f"{number:04d}.png").touch()
    source = open_source(str(tmp_path))
    sent = pickle.dumps(source)
    each = len("cat/0000.png") + 8 + 8 + 4  # the name, where it begins, its target, its empty split
    assert len(sent) < 1000 * each + 2000
    assert names(pickle.loads(sent)) == names(source)


def test_flat_names_are_the_names():
    parts = [[b"a", b"", b"caf\xe9"], [], ["\U0001f98a".encode(), b"new\nline"]]
    lists = []
    for part in parts:
        lists.append(PathList())
        lists[-1].extend(part)
    flat = join(lists)
    expected = [name for part in parts for name in part]
    assert [flat[i] for i in range(len(flat))] == expected
    rows = np.array([4, 2, 2, 1])
    assert [flat.take(rows)[i] for i in range(4)] == [expected[row] for row in rows]
    texts = PathList()
    texts.extend_texts([os.fsdecode(name) for name in expected])
    assert bytes(texts.blob) == b"".join(expected)
    assert list(texts.lengths) == [len(name) for name in expected]
    assert len(join([])) == 0


def test_some_images_of_a_source_keep_all_that_is_known_of_them(tmp_path):
    rows = ["path,label,split,camera", "a,cat,train,x", "b,dog,val,y", "c,cat,train,x", "d,dog,test,y"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    source = open_source(str(tmp_path / "t.csv"))
    some = Subset(source, np.array([3, 0]))
    assert names(some) == ["d", "a"]
    assert some.labels.targets.tolist() == [1, 0]
    assert some.labels.splits.tolist() == ["test", "train"]
    camera = some.labels.extra["camera"]
    assert [camera.values[code] for code in camera.codes] == ["y", "x"]


def test_the_embedded_set_is_what_it_says():
    source = open_source("animals")
    assert np.bincount(source.labels.targets).tolist() == [1000] * 10
    assert len({source.read(i) for i in range(len(source.labels))}) == 9716
    assert source.decode(source.read(0)).shape == (28, 28, 1)
    assert source.name(42) == f"{source.labels.classes[source.labels.targets[42]]}-00042"


@pytest.mark.slow
def test_a_hundred_thousand_files_in_one_folder_are_listed_in_seconds(tmp_path):
    fill(tmp_path / "cat", 1, 0)
    (tmp_path / "dog").mkdir()
    for number in range(100_000):
        (tmp_path / "dog" / f"{number:06d}.png").touch()
    start = time.process_time()
    source = open_source(str(tmp_path))
    assert time.process_time() - start < 2
    assert names(source)[1:] == [f"dog/{number:06d}.png" for number in range(100_000)]
