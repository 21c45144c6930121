"""Packing: what was in a set is in the files, in the same bytes each time, and an interruption costs one file."""

import hashlib
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from linnaeus.app import pack as packing_module
from linnaeus.app.config import DataConfig
from linnaeus.app.pack import JOURNAL, Packing, pack
from linnaeus.app.progress import Display
from linnaeus.cli.data import pack as command
from linnaeus.cli.data import parse_size
from linnaeus.core.errors import DataError, Interrupted, RequestError
from linnaeus.core.files import load_tensors
from linnaeus.data.sources import Labels, indexes, open_source
from linnaeus.data.sources.arrays import ArraySource

QUIET = Display(quiet=True)


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def photos(tmp_path):
    """Two classes in train and test; one file of each is broken, names are unusual, one picture is large and turned."""
    noise = np.random.Generator(np.random.Philox(key=3))
    for part, count in (("train", 9), ("test", 4)):
        for name in ("cat, tabby", "dög"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (20, 30, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"IMG {number}.v1.png")
            (folder / "broken.jpg").write_text("no image")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise.integers(0, 256, (40, 80, 3), np.uint8)).save(
        tmp_path / "photos/train/dög/large.jpg", exif=exif
    )
    Image.fromarray(noise.integers(0, 256, (20, 30), np.uint8)).save(tmp_path / "photos/train/dög/grey.webp")
    return tmp_path / "photos"


def packed(source, out, **settings):
    return pack(DataConfig(source=str(source)), out, Packing(**settings), QUIET)


def checksums(folder):
    """Of all files; an index is compared by what is in it, since safetensors puts its two notes in any order."""
    files = sorted(folder.iterdir())
    return {path.name: hashlib.sha256(_content(path)).hexdigest() for path in files}


def _content(path):
    if path.suffix != ".index":
        return path.read_bytes()
    tensors, about = load_tensors(path, "linnaeus-shard-index", 1)
    return repr([about, *((name, tensors[name].tolist()) for name in sorted(tensors))]).encode()


def table(source):
    """(content, class, split) of every readable image, sorted."""
    rows = []
    for index in range(len(source.labels)):
        content = source.read(index)
        if content != b"no image":
            rows.append((content, source.labels.text(index), str(source.labels.splits[index])))
    return sorted(rows)


@pytest.mark.parametrize(
    "settings", [{"size": 4000}, {"format": "parquet", "size": 4000}, {"format": "parquet", "size": None}]
)
def test_what_goes_in_comes_out_byte_by_byte_with_labels_and_splits(photos, tmp_path, settings):
    if settings.get("format") == "parquet":
        pytest.importorskip("pyarrow")
    result = packed(photos, tmp_path / "out", **settings)
    again = open_source(str(tmp_path / "out"))
    assert table(again) == table(open_source(str(photos)))
    assert again.labels.classes == ("cat, tabby", "dög")
    about = result.to_json()
    assert about["images"] == len(again.labels) == 28
    assert about["encoded"] == 0
    assert about["left_out"] == {
        f"{part}/{name}/broken.jpg": "not an image, or a damaged header"
        for part in ("train", "test")
        for name in ("cat, tabby", "dög")
    }
    assert len(about["files"]) == (2 if settings["size"] is None else len(about["files"]))
    assert {name.split("-")[0].split(".")[0] for name in about["files"]} == {"train", "test"}
    assert about["bytes"] == sum((tmp_path / "out" / name).stat().st_size for name in about["files"])


def test_files_are_of_the_size_that_was_asked_for(photos, tmp_path):
    result = packed(photos, tmp_path / "out", size=12_000)
    sizes = [entry.size for entry in result.entries]
    assert len(sizes) > 4
    assert max(sizes) <= 12_000 + tarfile.RECORDSIZE
    one = packed(photos, tmp_path / "small", size=1)
    assert all(entry.images == 1 for entry in one.entries[:-1])


def test_the_same_images_give_the_same_bytes(photos, tmp_path):
    for kind in ("shards", "parquet"):
        for name in ("a", "b"):
            packed(photos, tmp_path / kind / name, format=kind, size=9000)
        assert checksums(tmp_path / kind / "a") == checksums(tmp_path / kind / "b")


def test_a_shard_is_plain_webdataset(photos, tmp_path):
    packed(photos, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "test-000000.tar") as tar:
        names = tar.getnames()
        assert names[:2] == ["00000000-test_cat_tabby_IMG_0_v1.png", "00000000-test_cat_tabby_IMG_0_v1.cls"]
        assert {(m.mtime, m.uid, m.uname, m.mode) for m in tar} == {(0, 0, "", 0o644)}
        assert {tar.extractfile(name).read() for name in names if name.endswith(".cls")} == {b"0", b"1"}
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == ["cat, tabby", "dög"]


def test_an_index_lies_beside_every_shard_so_that_no_pass_is_needed(photos, tmp_path, monkeypatch):
    packed(photos, tmp_path / "out", size=9000)
    monkeypatch.setattr(indexes, "scan", None)
    assert len(open_source(str(tmp_path / "out")).labels) == 28


def test_large_images_become_small_upright_jpegs_and_the_others_stay(photos, tmp_path):
    result = packed(photos, tmp_path / "out", max_side=40, quality=95)
    assert result.to_json()["encoded"] == 1
    source = open_source(str(tmp_path / "out"))
    (large,) = (i for i in range(len(source.labels)) if "large" in source.name(i))
    assert source.decode(source.read(large)).shape == (40, 20, 3)
    with Image.open(io.BytesIO(source.read(large))) as image:
        assert image.format == "JPEG"
        assert image.getexif().get(0x0112) is None
    assert set(table(source)) - set(table(open_source(str(photos)))) == {(source.read(large), "dög", "train")}


def test_several_classes_an_image_survive(photos, tmp_path):
    rows = ["path,labels", "train/dög/grey.webp,a|b", "train/dög/large.jpg,b", "test/dög/IMG 0.v1.png,a|b"]
    (photos / "several.csv").write_text("\n".join([*rows, "test/dög/IMG 1.v1.png,", "test/dög/IMG 2.v1.png,a"]))
    for kind in ("shards", "parquet"):
        packed(photos / "several.csv", tmp_path / kind, format=kind)
        labels = open_source(str(tmp_path / kind)).labels
        assert labels.task == "multi"
        assert labels.classes == ("a", "b")
        assert labels.targets.tolist() == [[1, 1], [0, 1], [1, 1], [0, 0], [1, 0]]


def test_pixels_without_a_file_become_png(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (20, 9, 7, 1), np.uint8)
    source = ArraySource(images, Labels(("one", "two"), np.arange(20) % 2, np.full(20, "")))
    monkeypatch.setattr(packing_module, "open_source", lambda *_, **__: source)
    result = packed("digits", tmp_path / "out")
    assert result.to_json()["encoded"] == 20
    assert result.to_json()["files"] == ["data-000000.tar"]
    again = open_source(str(tmp_path / "out"))
    assert again.labels.classes == ("one", "two")
    assert again.labels.targets.tolist() == [0, 1] * 10
    assert again.labels.splits.tolist() == [""] * 20
    assert np.array_equal(np.stack([again.decode(again.read(i)) for i in range(20)]), images)


@pytest.mark.parametrize("kind", ["shards", "parquet"])
def test_an_interruption_costs_the_file_that_was_being_written(photos, tmp_path, monkeypatch, kind):
    settings = {"format": kind, "size": 9000}
    whole = packed(photos, tmp_path / "whole", **settings)
    encode, calls = packing_module.try_encoded, []

    def stopping(source, index, **how):
        calls.append(index)
        if index == 17:
            raise KeyboardInterrupt
        return encode(source, index, **how)

    monkeypatch.setattr(packing_module, "_AHEAD", 1)
    with monkeypatch.context() as patch:
        patch.setattr(packing_module, "try_encoded", stopping)
        with pytest.raises(Interrupted, match=r"finished file\(s\) are kept: the same command goes on"):
            packed(photos, tmp_path / "out", **settings)
    kept = checksums(tmp_path / "out")
    assert 2 < len(kept) < len(checksums(tmp_path / "whole"))
    assert not [name for name in kept if name.startswith((".train", ".test"))]
    splits = open_source(str(photos)).labels.splits
    journal = json.loads((tmp_path / "out" / JOURNAL).read_text())["files"]
    done = {i for entry in journal for i in np.flatnonzero(splits == entry["split"])[entry["start"] : entry["stop"]]}
    assert done
    calls.clear()
    monkeypatch.setattr(packing_module, "try_encoded", lambda s, i, **how: calls.append(i) or encode(s, i, **how))
    again = packed(photos, tmp_path / "out", **settings)
    assert checksums(tmp_path / "out") == checksums(tmp_path / "whole")
    assert again.entries == whole.entries
    assert set(calls) == set(range(len(splits))) - done


def test_a_file_that_was_damaged_since_is_written_anew_and_the_others_are_kept(photos, tmp_path, monkeypatch):
    first = packed(photos, tmp_path / "out", size=9000)
    whole = checksums(tmp_path / "out")
    path = tmp_path / "out" / first.entries[1].name
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(bytes(content))
    (tmp_path / "out" / first.entries[3].name).unlink()
    encode, calls = packing_module.try_encoded, []
    monkeypatch.setattr(packing_module, "_AHEAD", 1)
    monkeypatch.setattr(packing_module, "try_encoded", lambda s, i, **how: calls.append(i) or encode(s, i, **how))
    packed(photos, tmp_path / "out", size=9000)
    assert checksums(tmp_path / "out") == whole
    redone = [first.entries[1], first.entries[3]]
    assert len(calls) <= sum(entry.stop - entry.start + 1 for entry in redone)


def test_a_folder_that_holds_something_else_is_left_alone(photos, tmp_path):
    packed(photos, tmp_path / "out")
    with pytest.raises(RequestError, match="was packed from other images or with other options"):
        packed(photos, tmp_path / "out", size=5000)
    (photos / "train" / "dög" / "grey.webp").unlink()
    with pytest.raises(RequestError, match="was packed from other images or with other options"):
        packed(photos, tmp_path / "out")
    with pytest.raises(RequestError, match="exists already and holds something else"):
        packed(photos, photos)
    with pytest.raises(RequestError, match="exists already and holds something else"):
        packed(photos, photos / "train" / "dög" / "large.jpg")
    with pytest.raises(RequestError, match="cannot be made: Not a directory"):
        packed(photos, photos / "train" / "dög" / "large.jpg" / "out")
    with pytest.raises(RequestError, match="neither a folder nor a built-in set"):
        packed(tmp_path / "nowhere", tmp_path / "new")


def test_a_set_without_a_readable_image_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").write_text("no image")
    with pytest.raises(DataError, match=r"none of the 2 images can be read; the first, a/1.png \(not an image"):
        packed(tmp_path / "photos", tmp_path / "out")


def test_a_full_disk_leaves_whole_files_and_nothing_else(photos, tmp_path, monkeypatch):
    write = packing_module.WRITERS["shards"].add
    count = []

    def full(self, sample):
        count.append(1)
        if len(count) == 9:
            raise OSError(28, "No space left on device")
        write(self, sample)

    with monkeypatch.context() as patch:
        patch.setattr(packing_module.WRITERS["shards"], "add", full)
        with pytest.raises(OSError, match="No space left"):
            packed(photos, tmp_path / "out", size=9000)
    names = set(checksums(tmp_path / "out"))
    journal = json.loads((tmp_path / "out" / JOURNAL).read_text())
    done = {entry["name"] for entry in journal["files"]}
    assert names == {JOURNAL, "classes.json", *done, *(name.replace(".tar", ".index") for name in done)}
    packed(photos, tmp_path / "out", size=9000)
    packed(photos, tmp_path / "whole", size=9000)
    assert checksums(tmp_path / "out") == checksums(tmp_path / "whole")


def test_the_command_says_what_it_did(photos, tmp_path, capsys):
    command(str(photos), tmp_path / "out", shard_size="9KB", as_json=True)
    about = json.loads(capsys.readouterr().out)
    assert about["images"] == 28
    assert len(about["left_out"]) == 4
    shutil.rmtree(tmp_path / "out")
    command(str(photos), tmp_path / "out", max_side=25)
    text = capsys.readouterr().out
    assert "28 images of 2 classes in 2 file(s)" in text
    assert "28 of them were encoded anew, upright, at most 25 pixels a side" in text
    assert "4 unreadable, left out: " in text
    assert "and 1 more" in text
    assert "Copies and odd images are kept" in text
    command(str(photos), tmp_path / "out", max_side=25)
    assert "2 file(s) were finished before and are kept" in capsys.readouterr().err
    with pytest.raises(RequestError, match="--quality has no effect without --max-side"):
        command(str(photos), tmp_path / "new", quality=50)


@pytest.mark.parametrize(("text", "size"), [("256MB", 256_000_000), ("1.5 gb", 1_500_000_000), ("10KB", 10_000)])
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0MB", "256", "-1MB", "1TB", "MB", "1e3MB"])
def test_what_is_no_size_gets_one_line(text):
    with pytest.raises(RequestError, match="is not a size: expected a number with KB, MB or GB"):
        parse_size(text)


@pytest.mark.slow
def test_the_datasets_library_opens_what_was_packed(photos, tmp_path):
    datasets = pytest.importorskip("datasets")
    packed(photos, tmp_path / "out", format="parquet", size=None)
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 20, "test": 8}
    assert loaded["train"].features["label"].names == ["cat, tabby", "dög"]
    assert loaded["test"][0]["image"].size == (30, 20)
    ours = open_source(str(tmp_path / "out")).labels
    assert ours.targets[ours.splits == "train"].tolist() == loaded["train"]["label"][:]
