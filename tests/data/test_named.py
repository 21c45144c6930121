"""Sets by name and the formats they come in: IDX and CIFAR are read exactly, and pickles are never executed.

What is not on the machine is fetched by torchvision, here from a server of our own, or asked for in one line.
"""

import functools
import gzip
import hashlib
import http.server
import pickle
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.sources import NAMED, named, open_source

from .pictures import names

SIZES = {"train": 30, "t10k": 20}


def digits(split: str, seed: int = 0):
    """(N, 5, 4) pixels and (N,) labels 0 to 9, all of them."""
    number = SIZES[split]
    draw = np.random.default_rng((seed, number))
    return draw.integers(0, 256, (number, 5, 4), np.uint8), draw.permutation(np.arange(number) % 10).astype(np.uint8)


def idx(array) -> bytes:
    """An array of uint8 in MNIST's format."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, *, packed: bool = False, splits=("train", "t10k")) -> Path:
    """The files of a small MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        for kind, array in zip(("images-idx3", "labels-idx1"), digits(split), strict=True):
            content, ending = (gzip.compress(idx(array)), ".gz") if packed else (idx(array), "")
            (folder / f"{split}-{kind}-ubyte{ending}").write_bytes(content)
    return folder


def is_mnist(source) -> bool:
    """Whether a source holds what `write_mnist` wrote."""
    images = np.concatenate([digits("train")[0], digits("t10k")[0]])[..., None]
    labels = np.concatenate([digits("train")[1], digits("t10k")[1]])
    return (
        np.array_equal([source.decode(source.read(i)) for i in range(50)], images)
        and np.array_equal(source.labels.targets, labels)
        and source.labels.splits.tolist() == ["train"] * 30 + ["test"] * 20
    )


def photos(seed: int, number: int = 8):
    """(N, 3, 32, 32) pixels, channel by channel as in CIFAR, and N labels 0 to 3."""
    draw = np.random.default_rng((7, seed))
    return draw.integers(0, 256, (number, 3, 32, 32), np.uint8), draw.permutation(np.arange(number) % 4).tolist()


class Python2Pickler(pickle._Pickler):
    """Writes texts and bytes as the texts of Python 2, with which the authors of CIFAR wrote their files."""

    def save_text(self, text) -> None:
        content = text.encode() if isinstance(text, str) else text
        short = len(content) < 256
        self.write(b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<i", len(content)))
        self.write(content)
        self.memoize(text)

    dispatch = {**pickle._Pickler.dispatch, str: save_text, bytes: save_text}  # noqa: RUF012


def write_pickle(file: Path, value) -> None:
    """As Python 2 would."""
    with file.open("wb") as stream:
        Python2Pickler(stream, 2).dump(value)


CLASSES = ["airplane", "automobile", "bird", "cat"]
CIFAR10 = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def write_cifar(folder: Path) -> Path:
    """A small CIFAR in the format that the folder's name says, six files of eight images or two."""
    folder.mkdir(parents=True)
    is_ten, is_pickled = "cifar-10-" in folder.name, folder.name.endswith(("py", "python"))
    for seed, name in enumerate(CIFAR10 if is_ten else ["train", "test"]):
        pixels, labels = photos(seed)
        if not is_pickled:
            heads = [bytes([label]) if is_ten else bytes([9, label]) for label in labels]
            rows = [head + image.tobytes() for head, image in zip(heads, pixels, strict=True)]
            (folder / f"{name}.bin").write_bytes(b"".join(rows))
            continue
        key = "labels" if is_ten else "fine_labels"
        more = {} if is_ten else {"coarse_labels": [9] * len(labels)}
        content = {"batch_label": "training batch", key: labels, "data": pixels.reshape(len(labels), -1), **more}
        write_pickle(folder / name, {**content, "filenames": [f"labels_{i}.png" for i in range(len(labels))]})
    if is_pickled:
        key = "label_names" if is_ten else "fine_label_names"
        meta = {"num_cases_per_batch": 8, key: CLASSES, "coarse_label_names": ["a", "b"], "num_vis": 3072}
        write_pickle(folder / ("batches.meta" if is_ten else "meta"), meta)
    else:
        file = "batches.meta.txt" if is_ten else "fine_label_names.txt"
        (folder / file).write_text("\n".join([*CLASSES, "", ""]))
    return folder


def is_cifar(source, files: int) -> bool:
    """Whether a source holds what `write_cifar` wrote."""
    parts = [photos(seed) for seed in range(files)]
    images = np.concatenate([pixels for pixels, _ in parts]).transpose(0, 2, 3, 1)
    return (
        np.array_equal([source.decode(source.read(i)) for i in range(8 * files)], images)
        and source.labels.targets.tolist() == [label for _, labels in parts for label in labels]
        and source.labels.classes == tuple(CLASSES)
        and source.labels.splits.tolist() == ["train"] * 8 * (files - 1) + ["test"] * 8
    )


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    """No set lies in the usual places of this machine."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(named, "_CACHE", tmp_path / "cache")
    monkeypatch.setattr(named, "_SYSTEM", tmp_path / "system")
    monkeypatch.delenv(named.VARIABLE, raising=False)


@pytest.fixture
def offline(monkeypatch):
    """The addresses that torchvision knows lead to a port where nobody listens."""
    from torchvision import datasets

    for kind in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(kind, "mirrors", ["http://127.0.0.1:9/"])
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setattr(kind, "url", f"http://127.0.0.1:9/{kind.filename}")


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_in_mnists_format_is_read_exactly(tmp_path, packed):
    source = open_source(str(write_mnist(tmp_path / "digits", packed=packed)))
    assert is_mnist(source)
    assert source.labels.classes == tuple("0123456789")
    assert len(set(names(source))) == 50
    assert source.name(40) == f"{source.labels.targets[40]}-00040"


def test_torchvisions_folder_with_packed_and_unpacked_files_is_one_set(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw", packed=True)
    write_mnist(tmp_path / "MNIST" / "raw")
    assert is_mnist(open_source(str(tmp_path / "MNIST")))


def test_a_set_with_images_for_training_alone_has_no_test(tmp_path):
    source = open_source(str(write_mnist(tmp_path / "digits", splits=["train"])))
    assert source.labels.splits.tolist() == ["train"] * 30


def test_fashion_mnist_has_names_by_its_folder(tmp_path):
    assert open_source(str(write_mnist(tmp_path / "fashion-mnist"))).labels.classes == named.FASHION
    assert len(named.FASHION) == 10


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda content: content[:-1], "has 615 bytes, and its head promises 616"),
        ("train-images-idx3-ubyte", lambda content: b"PK" + content[2:], "is not IDX with 3 axes of uint8"),
        ("train-images-idx3-ubyte", lambda _: b"", "is not IDX with 3 axes"),
        ("train-images-idx3-ubyte", lambda content: content[:9], "is not IDX with 3 axes"),
        ("t10k-labels-idx1-ubyte", lambda _: idx(np.zeros(19, np.uint8)), "has 20 images, and its labels are 19"),
        ("t10k-images-idx3-ubyte", lambda _: idx(np.zeros((20, 4, 4), np.uint8)), r"images of \(4, 4\) pixels"),
        ("t10k-labels-idx1-ubyte", None, "has no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz beside it"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(tmp_path, file, change, message):
    folder = write_mnist(tmp_path / "digits")
    if change is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(change((folder / file).read_bytes()))
    with pytest.raises(DataError, match=message):
        open_source(str(folder))


@pytest.mark.parametrize("change", [lambda c: c[:-20], lambda c: c[:30] + b"\xff" * 9 + c[39:], lambda c: b"x" + c])
def test_a_damaged_packed_file_is_refused_by_name(tmp_path, change):
    folder = write_mnist(tmp_path / "digits", packed=True)
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is damaged \(.*\): fetch it again"):
        open_source(str(folder))


def test_two_sets_in_one_folder_are_refused(tmp_path):
    folder = write_mnist(tmp_path / "emnist")
    for kind in ("images-idx3", "labels-idx1"):
        (folder / f"emnist-letters-train-{kind}-ubyte").write_bytes((folder / f"train-{kind}-ubyte").read_bytes())
    with pytest.raises(DataError, match="holds several sets"):
        open_source(str(folder))


EDITIONS = {
    "cifar-10-batches-bin": 6,
    "cifar-10-batches-py": 6,
    "cifar-100-binary": 2,
    "cifar-100-python": 2,
}


@pytest.mark.parametrize(("edition", "files"), EDITIONS.items())
def test_every_edition_of_cifar_is_read_exactly(tmp_path, edition, files):
    folder = write_cifar(tmp_path / edition)
    assert is_cifar(open_source(str(folder)), files)
    assert is_cifar(open_source(str(tmp_path)), files)  # a folder that holds it
    folder.rename(tmp_path / "mine")
    assert is_cifar(open_source(str(tmp_path / "mine")), files)  # whatever its name


def test_the_pickles_of_the_tests_are_such_as_python_reads(tmp_path):
    file = write_cifar(tmp_path / "cifar-10-batches-py") / "data_batch_3"
    content = pickle.loads(file.read_bytes(), encoding="latin1")  # as the authors of CIFAR advise
    pixels, labels = photos(2)
    assert content["labels"] == labels
    assert np.array_equal(content["data"], pixels.reshape(8, -1))


def test_pixels_that_were_pickled_column_by_column_are_read_as_numpy_reads_them(tmp_path):
    folder = write_cifar(tmp_path / "cifar-100-python")
    pixels, labels = photos(0)
    content = {"data": np.asfortranarray(pixels.reshape(8, -1)), "fine_labels": labels, "coarse_labels": labels}
    write_pickle(folder / "train", content)
    assert is_cifar(open_source(str(folder)), 2)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_code_in_a_pickle_is_not_executed(tmp_path):
    folder, mark = write_cifar(tmp_path / "cifar-10-batches-py"), tmp_path / "executed"
    pixels, labels = photos(0)
    (folder / "data_batch_1").write_bytes(
        pickle.dumps({"trap": Trap(mark), "data": pixels.reshape(8, -1), "labels": labels}, 3)
    )
    source = open_source(str(folder))
    assert not mark.exists()
    assert source.labels.targets[:8].tolist() == labels
    pickle.loads((folder / "data_batch_1").read_bytes())
    assert mark.exists()  # the trap works


@pytest.mark.parametrize(
    ("edition", "file", "change", "message"),
    [
        ("cifar-10-batches-bin", "data_batch_2.bin", lambda c: c[:-1], "has 24583 bytes, not whole rows of 3073"),
        ("cifar-10-batches-bin", "data_batch_2.bin", lambda c: b"", "has 0 bytes"),
        ("cifar-10-batches-bin", "data_batch_2.bin", lambda c: b"\x04" + c[1:], "has the label 4, .* names 4 classes"),
        ("cifar-10-batches-bin", "data_batch_2.bin", None, "lacks data_batch_2.bin: fetch the set again"),
        ("cifar-10-batches-py", "data_batch_2", lambda c: c[: len(c) // 2], "data_batch_2 is damaged"),
        ("cifar-10-batches-py", "data_batch_2", lambda c: b"no pickle", "data_batch_2 is damaged"),
        ("cifar-10-batches-py", "data_batch_2", lambda c: pickle.dumps({}), "has 0 labels and 0 bytes of pixels"),
        ("cifar-100-python", "train", None, "lacks train"),
    ],
)
def test_a_damaged_file_of_cifar_is_refused_by_name(tmp_path, edition, file, change, message):
    folder = write_cifar(tmp_path / edition)
    if change is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(change((folder / file).read_bytes()))
    with pytest.raises(DataError, match=message):
        open_source(str(folder))


def test_of_several_sets_in_one_folder_one_must_be_chosen(tmp_path):
    write_cifar(tmp_path / "cifar-10-batches-bin")
    write_cifar(tmp_path / "cifar-100-python")
    with pytest.raises(
        RequestError, match=r"holds several sets: .*cifar-10-batches-bin, .*cifar-100-python. Choose one"
    ):
        open_source(str(tmp_path))


@pytest.mark.parametrize("home", ["variable", "work/data", "cache", "system"])
def test_a_set_on_the_machine_is_found_in_the_usual_places(tmp_path, monkeypatch, home):
    if home == "variable":
        monkeypatch.setenv(named.VARIABLE, str(tmp_path / home))
    write_mnist(tmp_path / home / "MNIST" / "raw")
    write_mnist(tmp_path / home / "fashion-mnist", packed=True)
    write_cifar(tmp_path / home / "cifar-10-batches-bin")
    write_cifar(tmp_path / home / "cifar-100-python")
    assert is_mnist(open_source("mnist"))
    assert is_mnist(open_source("fashion_mnist"))
    assert open_source("fashion_mnist").labels.classes == named.FASHION
    assert is_cifar(open_source("cifar10"), 6)
    assert is_cifar(open_source("cifar100"), 2)
    (note,) = open_source("cifar100").labels.notes
    assert note.startswith("cifar100: read from ")
    assert note.endswith("cifar-100-python")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_without_a_network_the_line_says_what_to_put_where(tmp_path, monkeypatch, offline, name):
    files = named.PUBLISHED[name]
    for home in ("cache", "variable"):
        with pytest.raises(RequestError, match=f"'{name}' is not on this machine and cannot be fetched") as caught:
            open_source(name)
        assert f"Put {files.files} into {tmp_path / home / files.folders[0]}; or set LINNAEUS_DATA" in str(caught.value)
        assert "\n" not in str(caught.value)
        monkeypatch.setenv(named.VARIABLE, str(tmp_path / "variable"))
    assert not list((tmp_path / "cache").iterdir())  # no half of a set is left


def test_a_file_or_folder_of_that_name_goes_before_the_set(tmp_path):
    write_mnist(tmp_path / "work" / "cifar10")
    assert is_mnist(open_source("cifar10"))


def test_every_named_set_is_offered_where_the_name_is_unknown():
    with pytest.raises(RequestError, match=r"\(animals, mnist, fashion_mnist, cifar10, cifar100\)"):
        open_source("mnits")
    assert set(NAMED) == {"animals", *named.PUBLISHED}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format, *args) -> None:
        pass


@pytest.fixture
def web(tmp_path):
    """A folder, and the address that it is served at."""
    (tmp_path / "web").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield tmp_path / "web", f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def md5(file: Path) -> str:
    """The checksum that torchvision knows a file by."""
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def test_mnist_is_fetched_once_and_then_found(tmp_path, monkeypatch, web, capsys):
    from torchvision.datasets import MNIST

    folder, address = web
    files = sorted(write_mnist(folder, packed=True).iterdir())
    monkeypatch.setattr(MNIST, "mirrors", [address])
    monkeypatch.setattr(MNIST, "resources", [(file.name, md5(file)) for file in files])
    assert is_mnist(open_source("mnist"))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["MNIST"]
    for file in files:
        file.unlink()
    assert is_mnist(open_source("mnist"))
    assert capsys.readouterr().out == ""


def test_cifar_is_fetched_without_executing_its_pickles_and_a_wrong_checksum_is_refused(tmp_path, monkeypatch, web):
    from torchvision.datasets import CIFAR10

    folder, address = web
    content = write_cifar(tmp_path / "made" / "cifar-10-batches-py")
    with tarfile.open(folder / CIFAR10.filename, "w:gz") as archive:
        archive.add(content, content.name)
    monkeypatch.setattr(CIFAR10, "url", address + CIFAR10.filename)
    with pytest.raises(RequestError, match=r"cannot be fetched .*corrupted"):
        open_source("cifar10")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(folder / CIFAR10.filename))
    monkeypatch.setattr(pickle, "load", None)
    assert is_cifar(open_source("cifar10"), 6)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar-10-batches-py"]
