"""Sets of the Hugging Face hub through the `datasets` library: out of its cache, without a network."""

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from linnaeus.core.errors import RequestError
from linnaeus.data.sources import Columns, hub, open_source

from .pictures import contents, names, png

pytestmark = pytest.mark.slow  # the library takes seconds to import

CLASSES = ["zebra", "cat, tabby"]
LABELS = [0, 1, 1, 0]


@pytest.fixture(autouse=True)
def library():
    """The library, or no test: here and not at the top, so that collecting the tests does not wait for it."""
    return pytest.importorskip("datasets")


def part(seed: int, labels=LABELS, **more):
    """A small set as the library has it in memory."""
    import datasets

    images = [{"bytes": png(seed, i), "path": None} for i in range(len(labels))]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
    features |= {name: datasets.Value("string") for name in more}
    return datasets.Dataset.from_dict({"image": images, "label": labels, **more}, datasets.Features(features))


def test_parts_called_for_splits_are_the_splits_and_others_are_left_out_and_named():
    parts = {"validation": part(0), "train": part(1), "unsupervised": part(2)}
    source = hub.source_of("hf:owner/pets", parts, Columns())
    assert contents(source) == [png(seed, i) for seed in (0, 1) for i in range(4)]
    assert names(source) == [f"{name}:{i}" for name in ("validation", "train") for i in range(4)]
    assert source.labels.classes == ("zebra", "cat, tabby")
    assert source.labels.targets.tolist() == LABELS * 2
    assert source.labels.splits.tolist() == ["val"] * 4 + ["train"] * 4
    assert source.labels.notes == (
        "hf:owner/pets: image in 'image', label in 'label', split in 'the parts of the set'",
        "the part(s) unsupervised are none of train, val and test: left out",
    )


def test_one_part_has_no_splits_whatever_its_name():
    for name in ("train", "full"):
        assert hub.source_of("hf:x", {name: part(0)}, Columns()).labels.splits.tolist() == [""] * 4


def test_rows_without_a_label_are_left_out_and_the_others_keep_their_images():
    source = hub.source_of("hf:x", {"train": part(0, [0, -1, 1, None])}, Columns())
    assert names(source) == ["train:0", "train:2"]
    assert contents(source) == [png(0, 0), png(0, 2)]
    assert source.labels.ignored == ("train:1: no label", "train:3: no label")


def test_further_columns_are_kept_and_a_column_may_be_chosen():
    source = hub.source_of("hf:x", {"train": part(0, ward=["a", "b", "b", "a"])}, Columns())
    ward = source.labels.extra["ward"]
    assert [ward.values[code] for code in ward.codes] == ["a", "b", "b", "a"]
    source = hub.source_of("hf:x", {"train": part(0, ward=["a", "b", "b", "a"])}, Columns(label="ward"))
    assert source.labels.classes == ("a", "b")
    with pytest.raises(RequestError, match="the column 'ward' holds string, not images"):
        hub.source_of("hf:x", {"train": part(0, ward=["a", "b", "b", "a"])}, Columns(path="ward"))


def test_images_that_the_library_keeps_as_files_are_read_from_them(tmp_path, library):
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "photos" / label / f"{number}.png").write_bytes(png(9, number))
    loaded = library.load_dataset("imagefolder", data_dir=str(tmp_path / "photos"), cache_dir=str(tmp_path / "cache"))
    source = hub.source_of("hf:x", loaded, Columns())
    assert contents(source) == [png(9, 0), png(9, 1)] * 2
    assert source.labels.classes == ("cat", "dog")
    assert contents(pickle.loads(pickle.dumps(source))) == contents(source)


def write_cache(home) -> None:
    """What the library leaves in its cache after it has fetched `owner/pets`."""
    import pyarrow as pa

    folder = home / "datasets" / "owner___pets" / "default" / "0.0.0" / "0123abcd"
    folder.mkdir(parents=True)
    features = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    noted = {"huggingface": json.dumps({"info": {"features": features}})}
    for seed, name in enumerate(["train", "test"]):
        images = pa.array(
            [{"bytes": png(seed, i), "path": None} for i in range(4)],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        table = pa.table({"image": images, "label": LABELS}).replace_schema_metadata(noted)
        with pa.OSFile(str(folder / f"pets-{name}.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
            out.write_table(table)
    splits = {name: {"name": name, "num_examples": 4, "dataset_name": "pets"} for name in ("train", "test")}
    info = {"features": features, "builder_name": "parquet", "dataset_name": "pets", "config_name": "default"}
    info |= {"version": {"version_str": "0.0.0", "major": 0, "minor": 0, "patch": 0}, "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))


OFFLINE = """
import sys
from linnaeus.core.errors import RequestError
from linnaeus.data.sources import open_source
try:
    source = open_source(sys.argv[1])
    print(source.labels.splits.tolist(), [source.read(i).hex() for i in range(len(source.labels))])
except RequestError as error:
    print(error)
"""


def offline(home, data: str) -> str:
    """What a process without a network says of DATA; the library reads its settings when it is imported."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "error", "-c", OFFLINE, data]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_a_set_in_the_cache_needs_no_network(tmp_path):
    write_cache(tmp_path)
    images = [png(seed, i).hex() for seed in range(2) for i in range(4)]
    expected = f"{['train'] * 4 + ['test'] * 4} {images}\n"
    assert offline(tmp_path, "hf:owner/pets") == expected
    assert offline(tmp_path, "hf:owner/pets:default") == expected


def test_a_set_that_is_not_in_the_cache_is_one_line(tmp_path):
    write_cache(tmp_path)
    for data in ("hf:owner/none", "hf:owner/pets:other"):
        said = offline(tmp_path, data)
        assert said.startswith(f"{data} is neither in the cache of the datasets library nor to be had from the hub: ")
        assert said.count("\n") == 1


@pytest.mark.parametrize("data", ["hf:", "hf:a/b/c", "hf:../x", "hf::config"])
def test_what_is_no_name_of_a_set_is_refused(data):
    with pytest.raises(RequestError, match=f"'{data}' is no set on the hub: expected hf:owner/name"):
        open_source(data)


def test_without_the_library_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RequestError, match=r"needs the datasets library: pip install 'linnaeus\[hub\]'"):
        open_source("hf:owner/pets")


def test_threads_may_read():
    source = hub.source_of("hf:x", {"train": part(0, LABELS * 20)}, Columns())
    order = np.random.default_rng(0).integers(0, 80, 400).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.read, order)) == [png(0, i) for i in order]
