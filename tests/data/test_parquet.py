"""Parquet: images inside it as Hugging Face data sets have them, one file or many, and paths in it as in any table."""

import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.doctor import audit
from linnaeus.data.loader import FileLoader, decoded
from linnaeus.data.order import Order
from linnaeus.data.sources import Columns, open_source, parquet, shards
from linnaeus.data.sources.parquet import split_of

from .pictures import contents, fill, names, png

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

CLASSES = ["zebra", "cat, tabby", "no fish"]
LABELS = [0, 1, 1, 0, 1, 0, 0, 1, 1, 0]


def write(path: Path, images, labels, *, features=None, group: int = 3, **more) -> Path:
    """A file like those of the `datasets` library: structs of bytes and path, numbers for labels, notes."""
    values = [image if isinstance(image, dict) else {"bytes": image, "path": None} for image in images]
    columns = {
        "image": pa.array(values, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "label": pa.array(labels),
        **{name: pa.array(column) for name, column in more.items()},
    }
    if features is None:
        features = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    noted = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(noted), path, row_group_size=group)
    return path


IMAGES = [png(i) for i in range(len(LABELS))]


def test_images_and_class_names_are_those_of_the_file(tmp_path):
    source = open_source(str(write(tmp_path / "pets.parquet", IMAGES, LABELS)))
    assert contents(source) == IMAGES
    assert source.decode(source.read(3)).shape == (8, 8, 3)
    assert names(source) == [f"pets.parquet:{i}" for i in range(10)]
    assert source.labels.classes == ("zebra", "cat, tabby")  # in the file's order; a comma in a name separates nothing
    assert source.labels.targets.tolist() == LABELS
    assert source.labels.notes == (
        f"{tmp_path / 'pets.parquet'}: image in 'image', label in 'label'",
        "no image has the class no fish: left out",
    )


def test_images_may_be_read_in_any_order_by_threads_and_after_being_sent(tmp_path):
    source = open_source(str(write(tmp_path / "pets.parquet", IMAGES, LABELS)))
    order = np.random.default_rng(0).integers(0, 10, 200).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.read, order)) == [IMAGES[i] for i in order]
    sent = pickle.dumps(source)
    assert not any(image in sent for image in IMAGES)
    assert contents(pickle.loads(sent)) == IMAGES


@pytest.mark.slow
def test_workers_bring_the_images_after_the_main_process_has_read_some(tmp_path):
    source = open_source(str(write(tmp_path / "pets.parquet", IMAGES, LABELS)))
    assert contents(source) == IMAGES
    targets = torch.from_numpy(source.labels.targets)
    order = Order(10, 4, None)
    images = decoded(source)
    loader = FileLoader(images, np.arange(10), targets, order=order, prepare=as_tensor, shape=(3, 8, 8), workers=2)
    batches = list(loader.epoch(0))
    images = torch.cat([batch.images[batch.valid] for batch in batches])
    assert torch.equal(images, torch.stack([as_tensor(source.decode(image), None) for image in IMAGES]))
    assert torch.cat([batch.targets[batch.valid] for batch in batches]).tolist() == LABELS


def as_tensor(pixels, draws):
    """(H, W, C) pixels -> (C, H, W)."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def test_a_pass_over_the_images_reads_each_row_group_once(tmp_path, monkeypatch):
    source = open_source(str(write(tmp_path / "pets.parquet", IMAGES, LABELS)))
    read, reads = shards.Shards.read_group, []
    monkeypatch.setattr(shards.Shards, "read_group", lambda *args: reads.append(args[1]) or read(*args))
    assert contents(source) == IMAGES
    assert reads == [0, 1, 2, 3]
    assert source.read(0) == IMAGES[0]
    assert reads == [0, 1, 2, 3]  # all still in memory


def test_row_groups_beyond_the_bound_of_memory_are_let_go_the_oldest_first(tmp_path, monkeypatch):
    source = open_source(str(write(tmp_path / "pets.parquet", IMAGES, LABELS)))
    two = len(b"".join(IMAGES[:6])) + 200
    monkeypatch.setattr(shards, "_CACHE_BYTES", two)
    read, reads = shards.Shards.read_group, []
    monkeypatch.setattr(shards.Shards, "read_group", lambda *args: reads.append(args[1]) or read(*args))
    order = [0, 3, 1, 6, 2, 4]  # of the row groups 0, 1, 0, 2, 0, 1
    assert [source.read(i) for i in order] == [IMAGES[i] for i in order]
    assert reads == [0, 1, 2, 1]


@pytest.mark.parametrize("place", ["", "data", "split folders"])
def test_a_folder_of_shards_is_one_source_with_the_splits_of_their_names(tmp_path, place):
    files = ["test-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"]
    for number, file in enumerate(files):
        name = f"{file.split('-')[0]}/{number:04d}" if place == "split folders" else f"{place}/{file}"
        write(tmp_path / f"{name.strip('/')}.parquet", [png(number, i) for i in range(4)], [0, 1, 0, 1], group=3)
    source = open_source(str(tmp_path))
    assert contents(source) == [png(number, i) for number in range(4) for i in range(4)]
    assert source.labels.splits.tolist() == ["test"] * 4 + ["train"] * 8 + ["val"] * 4
    assert len(set(names(source))) == 16
    assert names(source)[6].endswith(":2")
    assert "split in 'the names of the files'" in source.labels.notes[0]


def test_a_pattern_brings_the_files_that_match(tmp_path):
    for number in range(4):
        write(tmp_path / f"part-{number}.parquet", [png(number, i) for i in range(2)], [0, 1])
    source = open_source(str(tmp_path / "part-[0-2].parquet"))
    assert contents(source) == [png(number, i) for number in range(3) for i in range(2)]
    assert names(source)[4] == "part-2.parquet:0"
    with pytest.raises(RequestError, match="no file matches"):
        open_source(str(tmp_path / "other-*.parquet"))
    (tmp_path / "part-9.txt").touch()
    with pytest.raises(RequestError, match=r"part-9.txt: only Parquet files may be several"):
        open_source(str(tmp_path / "part-*"))


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("default/validation/0000.parquet", "val"),
        ("test.parquet", "test"),
        ("data/Dev_1.parquet", "val"),
        ("trainer-0.parquet", ""),
        ("part-train.parquet", ""),
    ],
)
def test_a_split_is_the_first_word_of_a_file_or_folder(file, split):
    assert split_of(Path(file)) == split


def test_a_split_column_goes_before_the_names_of_the_files(tmp_path):
    write(tmp_path / "train-0.parquet", IMAGES[:4], [0, 1, 0, 1], split=["train", "train", "test", "test"])
    write(tmp_path / "test-0.parquet", IMAGES[4:8], [0, 1, 0, 1], split=["train", "train", "test", "test"])
    assert open_source(str(tmp_path)).labels.splits.tolist() == ["train", "train", "test", "test"] * 2


def test_one_named_file_states_no_splits(tmp_path):
    write(tmp_path / "test-0.parquet", IMAGES[:4], [0, 1, 0, 1])
    assert open_source(str(tmp_path)).labels.splits.tolist() == [""] * 4


def test_rows_without_a_label_are_left_out_and_rows_without_an_image_have_a_reason(tmp_path):
    images = [*IMAGES[:3], None, {"bytes": None, "path": "elsewhere.png"}, b"no image"]
    source = open_source(str(write(tmp_path / "p.parquet", images, [0, -1, 1, 0, 1, None])))
    assert source.labels.ignored == ("p.parquet:1: no label", "p.parquet:5: no label")
    assert names(source) == ["p.parquet:0", "p.parquet:2", "p.parquet:3", "p.parquet:4"]
    assert {source.name(i): reason for i, reason in audit(source).broken.items()} == {
        "p.parquet:3": "cannot be read (no image in this row)",
        "p.parquet:4": "cannot be read (no image in this row)",
    }
    assert source.read(1) == IMAGES[2]


def test_several_labels_in_a_row_make_the_task_multi_label(tmp_path):
    inside = {"names": CLASSES, "_type": "ClassLabel"}
    tags = [[0], [0, 1], [], [1], [2, 0]]
    for number, noted in enumerate(
        [{"feature": inside, "_type": "Sequence"}, {"feature": inside, "_type": "List"}, [inside]]
    ):
        features = {"image": {"_type": "Image"}, "label": noted}
        labels = open_source(str(write(tmp_path / f"{number}.parquet", IMAGES[:5], tags, features=features))).labels
        assert (labels.task, labels.classes) == ("multi", tuple(CLASSES))
        assert labels.targets.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1]]


def test_labels_that_are_texts_numbers_or_dictionaries_of_texts_need_no_notes(tmp_path):
    plain = {"image": {"_type": "Image"}}
    texts = ["b", "a", "b"]
    for number, labels in enumerate([texts, pa.array(texts).dictionary_encode(), pa.array(texts, pa.large_string())]):
        source = open_source(str(write(tmp_path / f"{number}.parquet", IMAGES[:3], labels, features=plain)))
        assert source.labels.classes == ("a", "b")
        assert source.labels.targets.tolist() == [1, 0, 1]
    for number, labels in enumerate([[10, 9, 10], [10.0, 9.0, 10.0]], 7):
        source = open_source(str(write(tmp_path / f"{number}.parquet", IMAGES[:3], labels, features=plain)))
        assert source.labels.classes == ("9", "10")


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_a_column_of_plain_bytes_holds_images_too(tmp_path, kind):
    table = pa.table({"img": pa.array(IMAGES[:2], kind), "class": ["a", "b"]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert contents(open_source(str(tmp_path / "t.parquet"))) == IMAGES[:2]


def test_of_several_columns_of_classes_or_images_one_must_be_chosen(tmp_path):
    names_of = {"names": CLASSES, "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "fine_label": names_of, "coarse_label": names_of}
    data = write(tmp_path / "t.parquet", IMAGES[:2], ["x", "y"], fine_label=[0, 1], coarse_label=[1, 0])
    table = pq.read_table(data).drop_columns(["label"])
    noted = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(noted), data)
    with pytest.raises(RequestError, match="several columns for the label: fine_label, coarse_label"):
        open_source(str(data))
    assert open_source(str(data), Columns(label="coarse_label")).labels.targets.tolist() == [1, 0]
    two = pa.table({"left": table["image"], "right": table["image"], "label": ["x", "y"]})
    pq.write_table(two, data)
    with pytest.raises(RequestError, match="several columns for the path: left, right"):
        open_source(str(data))
    assert contents(open_source(str(data), Columns(path="right"))) == IMAGES[:2]


def test_what_the_file_notes_as_an_image_is_the_image_whatever_else_has_bytes(tmp_path):
    sounds = [{"bytes": b"bark", "path": None}] * 2
    features = {"image": {"_type": "Image"}, "label": {"_type": "Value"}, "sound": {"_type": "Audio"}}
    source = open_source(str(write(tmp_path / "t.parquet", IMAGES[:2], ["a", "b"], features=features, sound=sounds)))
    assert contents(source) == IMAGES[:2]


def test_further_columns_of_a_file_are_kept_but_for_numbers_without_end(tmp_path):
    more = {"ward": ["a", "b"] * 5, "vector": [[0.5, 1.5]] * 10, "score": np.linspace(0, 1, 10).tolist(), "raw": IMAGES}
    labels = open_source(str(write(tmp_path / "t.parquet", IMAGES, LABELS, **more))).labels
    assert [labels.extra["ward"].values[code] for code in labels.extra["ward"].codes] == ["a", "b"] * 5
    assert not labels.extra.keys() & {"score", "raw"}


def test_a_table_of_paths_may_be_parquet_and_its_paths_are_relative_to_its_file(tmp_path):
    for seed, folder in enumerate(["x", "y"]):
        fill(tmp_path / folder, 2, seed)
    paths = {"x": ["0.png", "1.png"], "y": ["../x/0.png", str(tmp_path / "y" / "1.png")]}
    for folder, own in paths.items():
        pq.write_table(pa.table({"path": own, "label": ["cat", "dog"]}), tmp_path / folder / "t.parquet")
    source = open_source(str(tmp_path / "*" / "t.parquet"))
    expected = [tmp_path / "x" / "0.png", tmp_path / "x" / "1.png", tmp_path / "x" / "0.png", tmp_path / "y" / "1.png"]
    assert contents(source) == [path.read_bytes() for path in expected]
    assert names(source) == ["x/0.png", "x/1.png", "y/../x/0.png", str(tmp_path / "y" / "1.png")]


def test_a_label_beyond_the_classes_is_refused(tmp_path):
    with pytest.raises(DataError, match="'label' is 3 in a row, and has 3 classes, from 0 on"):
        open_source(str(write(tmp_path / "t.parquet", IMAGES[:3], [0, 3, None])))


def test_files_that_are_not_alike_are_refused(tmp_path):
    write(tmp_path / "a.parquet", IMAGES[:2], [0, 1])
    write(tmp_path / "b.parquet", IMAGES[:2], ["x", "y"])
    with pytest.raises(DataError, match=r"b.parquet is not like .*a.parquet: its columns are .* label \(string\)"):
        open_source(str(tmp_path))


def test_a_damaged_file_is_refused_and_damage_inside_is_found_by_the_audit(tmp_path):
    data = write(tmp_path / "t.parquet", [bytes([i]) * 5000 for i in range(9)], [0, 1, 0] * 3)
    whole = data.read_bytes()
    for content in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2]):
        data.write_bytes(content)
        with pytest.raises(DataError, match=r"t.parquet is damaged, or not Parquet: [^\n]*$"):
            open_source(str(data))
    data.write_bytes(whole)
    source = open_source(str(data))
    data.write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])  # the head of the first page; the file's end is good
    reasons = audit(source).broken
    assert all("cannot be read (damaged: " in reasons[i] for i in range(3))
    assert all("not an image" in reasons[i] for i in range(3, 9))
    data.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(source)).read(8)  # another process, with nothing in memory


def test_without_pyarrow_the_line_says_what_to_install(tmp_path, monkeypatch):
    data = write(tmp_path / "t.parquet", IMAGES, LABELS)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RequestError, match=r"Parquet needs pyarrow: pip install 'linnaeus\[table\]'"):
        open_source(str(data))


def test_large_row_groups_are_said_to_be_slow(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_LARGE_GROUP", 1 << 20)
    blob = np.random.default_rng(0).bytes(600_000)
    labels = open_source(str(write(tmp_path / "t.parquet", [blob, blob[::-1]], [0, 1]))).labels
    assert any("row groups of up to 1 MiB" in note for note in labels.notes)
    labels = open_source(str(write(tmp_path / "t.parquet", [blob, blob[::-1]], [0, 1], group=1))).labels
    assert not any("row groups" in note for note in labels.notes)


def test_real_images_in_parquet_are_those_of_the_class_folders(real_data, tmp_path):
    folder = real_data("flowers5")
    by_folder = open_source(str(folder))
    rows = np.random.default_rng(0).permutation(len(by_folder.labels))[:300].tolist()
    features = {"image": {"_type": "Image"}, "label": {"names": by_folder.labels.classes, "_type": "ClassLabel"}}
    images = [by_folder.read(i) for i in rows]
    labels = by_folder.labels.targets[rows].tolist()
    source = open_source(str(write(tmp_path / "flowers.parquet", images, labels, features=features, group=100)))
    assert contents(source) == images
    assert source.labels.classes == by_folder.labels.classes
    assert source.labels.targets.tolist() == labels
