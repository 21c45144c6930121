"""WebDataset shards: samples and labels as packed, damage with reasons, addresses, and an order for an epoch."""

import io
import json
import os
import pickle
import tarfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.doctor import audit
from linnaeus.data.loader import FileLoader, decoded
from linnaeus.data.order import Order
from linnaeus.data.shard_order import shard_order
from linnaeus.data.sources import Columns, indexes, open_source, remote
from linnaeus.data.sources.remote import ShardCache, look_at
from linnaeus.data.sources.shard_names import expand, find_shards
from linnaeus.data.sources.tar import is_header_of, load_index, save_index, scan

from .pictures import contents, names, png


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNAEUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_PAUSE", 0.0)


def tar_of(members, **kinds) -> bytes:
    """A tar file; `members`: (name, content) or a TarInfo; `kinds`: of `tarfile.open`."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **kinds) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return file.getvalue()


def samples(count: int, seed: int = 0, classes: int = 2):
    """`count` pictures with labels in turn, as the members of a shard."""
    return [
        member
        for i in range(count)
        for member in ((f"{i:03d}.png", png(seed, i)), (f"{i:03d}.cls", str(i % classes).encode()))
    ]


def write(path: Path, members, **kinds) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(members if isinstance(members, bytes) else tar_of(members, **kinds))
    return path


def test_a_folder_of_shards_is_one_source_with_the_splits_of_their_names(tmp_path):
    for number, name in enumerate(["test-000000", "train-000000", "train-000001", "val-000000"]):
        write(tmp_path / "set" / f"{name}.tar", samples(4, number))
    source = open_source(str(tmp_path / "set"))
    assert contents(source) == [png(number, i) for number in range(4) for i in range(4)]
    assert source.labels.splits.tolist() == ["test"] * 4 + ["train"] * 8 + ["val"] * 4
    assert source.labels.targets.tolist() == [0, 1] * 8
    assert source.labels.classes == ("0", "1")
    assert names(source)[5] == "train-000000.tar:001.png"
    assert source.labels.notes == (f"{tmp_path / 'set'}: 16 samples in 4 shard(s), split in 'the names of the files'",)
    assert source.labels.shards is None  # on this disk any order is as good
    assert source.decode(source.read(3)).shape == (8, 8, 3)


def test_splits_may_be_folders_and_classes_json_says_what_numbers_mean(tmp_path):
    write(tmp_path / "set" / "train" / "0.tar", samples(6, 0, classes=3))
    write(tmp_path / "set" / "test" / "0.tar", samples(6, 1, classes=3))
    (tmp_path / "set" / "classes.json").write_text('["zebra", "cat, tabby", "ant"]')
    labels = open_source(str(tmp_path / "set")).labels
    assert labels.classes == ("zebra", "cat, tabby", "ant")
    assert labels.targets.tolist() == [0, 1, 2] * 4
    assert labels.splits.tolist() == ["test"] * 6 + ["train"] * 6
    (tmp_path / "set" / "classes.json").write_text('["zebra", "cat, tabby"]')
    with pytest.raises(DataError, match="the label 2 is beyond the 2 names of classes"):
        open_source(str(tmp_path / "set"))
    (tmp_path / "set" / "classes.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"classes.json: expected the names of the classes"):
        open_source(str(tmp_path / "set"))
    (tmp_path / "set" / "classes.json").unlink()
    (tmp_path / "set" / "classes.txt").write_text("zebra\ncat, tabby\nant\n")
    assert open_source(str(tmp_path / "set")).labels.classes == ("zebra", "cat, tabby", "ant")


def test_labels_may_be_texts_and_lists_and_lists_make_the_task_multi_label(tmp_path):
    texts = [(f"{i}.{end}", c) for i, t in enumerate(["cat", "dog", "cat"]) for end, c in [("png", png(i)), ("cls", t)]]
    shard = write(tmp_path / "a.tar", [(n, c if isinstance(c, bytes) else c.encode()) for n, c in texts])
    labels = open_source(str(shard)).labels
    assert (labels.classes, labels.targets.tolist()) == (("cat", "dog"), [0, 1, 0])
    members = []
    for i, tags in enumerate([["cat"], ["cat", "dog"], [], ["dog"]]):
        members += [(f"{i}.png", png(i)), (f"{i}.json", json.dumps({"label": tags, "source": "web"}).encode())]
    labels = open_source(str(write(tmp_path / "b.tar", members))).labels
    assert labels.task == "multi"
    assert labels.targets.tolist() == [[1, 0], [1, 1], [0, 0], [0, 1]]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_unusual_names_survive_in_every_format(tmp_path, kind):
    stems = ["猫/été 😀", "line\nbreak", f"{'deep/' * 18}x", "/absolute/name", "../outside"]
    if kind != tarfile.USTAR_FORMAT:
        stems.append("y" * 300)
    members = [
        member
        for i, stem in enumerate(stems)
        for member in ((f"{stem}.png", png(i)), (f"{stem}.cls", str(i % 2).encode()))
    ]
    source = open_source(str(write(tmp_path / "t.tar", members, format=kind)))
    assert names(source) == [f"t.tar:{stem}.png" for stem in stems]
    assert contents(source) == [png(i) for i in range(len(stems))]
    assert source.labels.ignored == ()


def test_names_that_are_not_text_survive(tmp_path):
    members = [("caf\udce9.png", png(0)), ("caf\udce9.cls", b"0"), ("b.png", png(1)), ("b.cls", b"1")]
    kinds = {"format": tarfile.GNU_FORMAT, "encoding": "utf-8", "errors": "surrogateescape"}
    shard = str(write(tmp_path / "t.tar", members, **kinds))
    for _ in range(2):  # the second from the index that the first has left
        source = open_source(shard)
        assert names(source) == ["t.tar:caf\udce9.png", "t.tar:b.png"]
        assert contents(source) == [png(0), png(1)]


def test_members_in_any_order_are_samples_by_their_names(tmp_path):
    members = samples(4)
    shard = write(tmp_path / "t.tar", members[1::2] + members[::2])
    assert open_source(str(shard)).labels.targets.tolist() == [0, 1, 0, 1]


def test_what_is_no_sample_has_a_reason(tmp_path):
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "000.png"
    hard = tarfile.TarInfo("hard.png")
    hard.type, hard.linkname = tarfile.LNKTYPE, "000.png"
    pipe = tarfile.TarInfo("pipe.png")
    pipe.type = tarfile.FIFOTYPE
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    members = [
        *samples(2),
        *(folder, link, hard, pipe),
        *(("000.png", png(9)), ("001.jpg", png(9)), ("000.cls", b"1"), ("._x.png", b"")),
        *(("a.seg.png", png(8)), ("b.png", png(7)), ("c.png", png(6)), ("c.json", b'{"label": {"x": 1}}')),
        *(("d.png", png(5)), ("d.json", b"[" * 100_000), ("e.png", png(4)), ("e.cls", b"\xff"), ("f.txt", b"hello")),
    ]
    source = open_source(str(write(tmp_path / "t.tar", members)))
    assert names(source) == ["t.tar:000.png", "t.tar:001.png"]
    assert source.labels.ignored == (
        "t.tar:link.png (a link to 000.png, which is not followed)",
        "t.tar:hard.png (a link to 000.png, which is not followed)",
        "t.tar:pipe.png (not a file)",
        "t.tar:000.png (a second image of one sample, whose first is 000.png)",
        "t.tar:001.jpg (a second image of one sample, whose first is 001.png)",
        "t.tar:000.cls (a second label of one sample)",
        "t.tar:._x.png (a hidden file)",
        "t.tar:c.json (its label is an object, not a text, a number or a list of them)",
        "t.tar:d.json (not JSON)",
        "t.tar:e.cls (not UTF-8)",
        "t.tar:a (no image; its file names end in .seg.png)",
        "t.tar:f (no image; its file names end in .txt)",
        *(f"t.tar:{name}.png: no label" for name in "bcde"),
    )
    assert "12 file(s) or sample(s) in the shards left out" in source.labels.notes[1]


def test_a_file_with_holes_has_a_reason(tmp_path):
    # As GNU tar -S writes it: a map of the pieces in the header, and the real size after it.
    block = bytearray(tarfile.TarInfo("holes.png").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"00000000001\0"
    block[156:157] = tarfile.GNUTYPE_SPARSE
    block[386:410] = b"00000000000\0" + b"00000000001\0"
    block[483:495] = b"00000001000\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    start = tar_of(samples(2))[: 8 * 512]
    source = open_source(str(write(tmp_path / "t.tar", start + bytes(block) + b"x".ljust(512, b"\0") + bytes(1024))))
    assert len(source.labels) == 2
    assert "holes.png (a file with holes" in source.labels.ignored[0]


def test_a_shard_cut_anywhere_gives_the_samples_before_the_cut_and_says_so(tmp_path):
    members = [(name, content * 300 if name.endswith(".cls") else content) for name, content in samples(3)]
    whole = tar_of(members)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        ends = [tar.getmember(f"{i:03d}.cls").offset_data + 300 for i in range(3)]
    for cut in range(512, ends[2], 100):
        index = scan(io.BytesIO(whole[:cut]))
        labels = [label for code in index.codes if (label := index.cells[code]) != "null"]
        assert labels == [f'"{i % 2}"'.replace(f"{i % 2}", f"{i % 2}" * 300) for i in range(3) if cut >= ends[i]]
        assert index.end
    assert scan(io.BytesIO(whole)).end == ""
    shard = write(tmp_path / "t.tar", whole[: ends[1] + 100])
    source = open_source(str(shard))
    assert contents(source) == [png(0, 0), png(0, 1)]
    assert any("t.tar is " in note and ("cut off" in note or "damaged" in note) for note in source.labels.notes)


def test_damage_in_the_middle_is_not_taken_for_the_end(tmp_path):
    whole = bytearray(tar_of(samples(4)))
    with tarfile.open(fileobj=io.BytesIO(bytes(whole))) as tar:
        offset = tar.getmember("002.png").offset
    whole[offset : offset + 512] = b"\xaa" * 512
    source = open_source(str(write(tmp_path / "t.tar", bytes(whole))))
    assert len(source.labels) == 2
    assert f"t.tar is damaged at byte {offset:,}" in source.labels.notes


def test_random_damage_never_raises_what_is_not_ours():
    whole = tar_of(samples(6), format=tarfile.PAX_FORMAT)
    noise = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in noise.integers(0, len(whole), 20):
            damaged[place] = noise.integers(256)
        index = scan(io.BytesIO(bytes(damaged[: noise.integers(3, len(whole))])))
        assert (index.offsets + index.sizes <= len(whole)).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"t.tar is no tar file \(empty file\)"),
        (b"I am text", r"t.tar is no tar file"),
        (b"\x1f\x8b\x08" + b"x" * 600, r"t.tar is compressed by gzip, and so no image in it can be reached: unpack it"),
        (tar_of([("a.txt", b"1")]), r"has no sample with an image: t.tar \(a \(no image; its file names end in .txt\)"),
        (tar_of([]), "has no sample with an image"),
    ],
)
def test_what_holds_no_samples_gets_one_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        open_source(str(write(tmp_path / "t.tar", content)))


def test_images_may_be_read_by_threads_and_after_being_sent(tmp_path):
    source = open_source(str(write(tmp_path / "t.tar", samples(10))))
    order = np.random.default_rng(0).integers(0, 10, 200).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.read, order)) == [png(0, i) for i in order]
    sent = pickle.dumps(source)
    assert png(0, 3) not in sent
    assert contents(pickle.loads(sent)) == [png(0, i) for i in range(10)]


def test_a_shard_is_passed_over_once_and_again_when_it_changes(tmp_path, monkeypatch):
    shard = write(tmp_path / "t.tar", samples(4))
    passes = []
    monkeypatch.setattr(indexes, "scan", lambda file, _: passes.append(file.name) or scan(file))
    first, again = open_source(str(shard)), open_source(str(shard))
    assert contents(first) == contents(again)
    assert len(passes) == 1
    write(shard, samples(6, 1))
    assert contents(open_source(str(shard))) == [png(1, i) for i in range(6)]
    assert len(passes) == 2


def test_an_index_beside_the_shard_is_used_while_it_is_true(tmp_path, monkeypatch):
    shard = write(tmp_path / "t.tar", samples(4))
    save_index(tmp_path / "t.index", scan(io.BytesIO(shard.read_bytes())), str(shard.stat().st_size))
    monkeypatch.setattr(indexes, "scan", None)
    assert contents(open_source(str(shard))) == [png(0, i) for i in range(4)]
    monkeypatch.undo()
    monkeypatch.setenv("LINNAEUS_CACHE", str(tmp_path / "another"))
    (tmp_path / "t.index").write_bytes(b"torn")
    source = open_source(str(shard))
    assert contents(source) == [png(0, i) for i in range(4)]
    assert "t.index is not used: " in source.labels.notes[1]
    longer = write(tmp_path / "t.tar", [*samples(4), ("x.png", bytes(20_000)), ("x.cls", b"0")])
    save_index(tmp_path / "t.index", scan(io.BytesIO(tar_of(samples(4)))), "1")
    assert "another version of the shard" in open_source(str(longer)).labels.notes[1]


def test_an_index_that_is_not_true_is_found_when_an_image_is_read(tmp_path):
    shard = write(tmp_path / "t.tar", samples(4))
    source = open_source(str(shard))
    write(shard, [("first.txt", b"1"), *samples(4)])
    assert set(audit(source).broken.values()) == {"cannot be read (the shard has changed since its index was made)"}
    shard.write_bytes(shard.read_bytes()[:700])
    assert "the shard ends before the image does" in audit(source).broken[3]
    shard.unlink()
    assert "No such file" in audit(source).broken[0]


def test_an_index_says_the_same_after_it_was_saved(tmp_path):
    index = scan(io.BytesIO(tar_of([*samples(3), ("lost.txt", b"1")])))
    save_index(tmp_path / "i", index, "7")
    again = load_index(tmp_path / "i", "7")
    assert (again.names.blob, again.names.lengths) == (index.names.blob, index.names.lengths)
    assert (again.cells, again.ignored, again.end) == (index.cells, index.ignored, index.end)
    for name in ("offsets", "sizes", "codes"):
        assert np.array_equal(getattr(again, name), getattr(index, name))
    assert load_index(tmp_path / "i", "8") is None


def test_a_header_is_known_by_its_size():
    block = tarfile.TarInfo("x").tobuf()
    assert is_header_of(block, 0)
    assert not is_header_of(block, 8)
    assert not is_header_of(bytes(512), 0)
    large = tarfile.TarInfo("x")
    large.size = 9 << 33
    assert is_header_of(large.tobuf(tarfile.GNU_FORMAT), large.size)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{train,val}/{0..1}.tar", ["train/0.tar", "train/1.tar", "val/0.tar", "val/1.tar"]),
        ("{a,b}{c,d}", ["ac", "ad", "bc", "bd"]),
    ],
)
def test_braces_are_expanded(pattern, expected):
    assert expand(pattern) == expected


@pytest.mark.parametrize("pattern", ["a-{3..1}.tar", "a-{0..99999999999}.tar", "a-{x}.tar", "{a-{0..1},b}.tar"])
def test_braces_that_make_no_sense_get_one_line(pattern):
    with pytest.raises(RequestError, match="range"):
        expand(pattern)


def test_patterns_name_shards_and_missing_ones_are_named(tmp_path, monkeypatch):
    for number in range(3):
        write(tmp_path / f"t-{number}.tar", samples(2, number))
    monkeypatch.chdir(tmp_path)
    expected = [png(number, i) for number in range(3) for i in range(2)]
    for data in ("t-{0..2}.tar", "t-*.tar", f"{tmp_path}/t-{{0,1,2}}.tar", f"file://{tmp_path}/t-{{0..2}}.tar"):
        source = open_source(data)
        assert contents(source) == expected
        assert names(source)[2] == "t-1.tar:000.png"
    with pytest.raises(RequestError, match=r"t-3.tar cannot be read: No such file"):
        open_source("t-{0..3}.tar")
    with pytest.raises(RequestError, match="no shard matches"):
        open_source("{u,v}-*.tar")
    with pytest.raises(RequestError, match="has no columns to choose"):
        open_source("t-{0..2}.tar", Columns(label="x"))


class Shelf(BaseHTTPRequestHandler):
    """Serves `files`; keeps what was asked for; the first `failures` requests for content fail."""

    files: ClassVar[dict[str, bytes]]
    asked: ClassVar[list[tuple[str, str]]]
    ranges = True
    failures = 0

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        content = self.files.get(self.path.strip("/"))
        span = self.headers.get("Range") if self.ranges else None
        self.asked.append((self.path.strip("/"), span or ("" if self.command == "GET" else "HEAD")))
        status = 404 if content is None else 206 if span else 200
        if content is not None and self.command == "GET" and type(self).failures:
            type(self).failures -= 1
            status, content = 503, b""
        content = content or b""
        total = len(content)
        if status == 206:
            first, _, last = span.removeprefix("bytes=").partition("-")
            content = content[int(first) : int(last or total) + 1]
        self.send_response(status)
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(content) - 1}/{total}")
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def shelf():
    """A web server on this machine: (its address, its handler)."""
    pytest.importorskip("aiohttp", reason="fsspec reads http through aiohttp: pip install 'linnaeus[shards]'")
    handler = type("Own", (Shelf,), {"files": {}, "asked": [], "failures": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def stock(handler, count: int = 3) -> None:
    handler.files.update({f"set/t-{number}.tar": tar_of(samples(4, number)) for number in range(count)})


def test_shards_come_over_http_and_are_fetched_once(shelf):
    address, handler = shelf
    stock(handler)
    source = open_source(f"{address}/set/t-{{0..2}}.tar")
    assert contents(source) == [png(number, i) for number in range(3) for i in range(4)]
    assert names(source)[4] == "t-1.tar:000.png"
    assert source.labels.shards.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    handler.asked.clear()
    assert contents(open_source(f"{address}/set/t-{{0..2}}.tar")) == contents(source)
    assert {kind for name, kind in handler.asked if name.endswith(".tar")} == {"HEAD"}
    with pytest.raises(RequestError, match=r"there is nothing at .*t-3.tar"):
        open_source(f"{address}/set/t-{{0..3}}.tar")


def test_with_an_index_beside_it_single_images_come_by_range_and_more_bring_the_shard(shelf, tmp_path, monkeypatch):
    address, handler = shelf
    stock(handler, 1)
    content = handler.files["set/t-0.tar"]
    save_index(tmp_path / "i", scan(io.BytesIO(content)), str(len(content)))
    handler.files["set/t-0.index"] = (tmp_path / "i").read_bytes()
    source = open_source(f"{address}/set/t-0.tar")
    handler.asked.clear()
    assert [source.read(i) for i in (3, 1)] == [png(0, 3), png(0, 1)]
    spans = [span for name, span in handler.asked]
    assert len(spans) == 2
    assert all(span.startswith("bytes=") for span in spans)
    assert [source.read(i) for i in (2, 0, 3)] == [png(0, i) for i in (2, 0, 3)]
    handler.asked.clear()
    assert contents(source) == [png(0, i) for i in range(4)]
    assert handler.asked == []


def test_a_server_that_knows_no_ranges_serves_too(shelf, tmp_path, monkeypatch):
    address, handler = shelf
    handler.ranges = False
    stock(handler, 1)
    monkeypatch.setattr(remote, "_PIECE", 1000)
    assert contents(open_source(f"{address}/set/t-0.tar")) == [png(0, i) for i in range(4)]
    shard = look_at(f"{address}/set/t-0.tar")
    whole = handler.files["set/t-0.tar"]
    assert [ShardCache(tmp_path / "own").read(shard, start, 9) for start in (0, 700)] == [whole[:9], whole[700:709]]


def test_a_shard_that_cannot_be_fetched_is_not_asked_for_with_every_image(memory, tmp_path):
    memory.pipe("/a.tar", bytes(5000))
    shard = look_at("memory://a.tar")
    memory.pipe("/a.tar", bytes(4000))
    cache, reasons = ShardCache(tmp_path / "own"), set()
    for _ in range(remote.SINGLY):
        assert cache.read(shard, 0, 5) == bytes(5)
    for _ in range(5):
        with pytest.raises(OSError, match="came short") as caught:
            cache.read(shard, 0, 5)
        reasons.add(caught.value.strerror)
        memory.rm("/a.tar") if memory.exists("/a.tar") else None
    assert len(reasons) == 1


def test_a_network_may_fail_a_moment_but_not_for_ever(shelf, tmp_path):
    address, handler = shelf
    stock(handler, 1)
    handler.failures = 2
    shard = look_at(f"{address}/set/t-0.tar")
    assert ShardCache(tmp_path / "own").fetch(shard).read_bytes() == handler.files["set/t-0.tar"]
    handler.failures = 99
    with pytest.raises(OSError, match="503"):
        ShardCache(tmp_path / "other").fetch(shard)
    assert not list((tmp_path / "other").glob("*tar*"))


@pytest.fixture
def memory():
    """The file system of fsspec that is in memory, empty."""
    import fsspec

    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def test_any_address_of_fsspec_will_do_with_patterns_folders_and_splits(memory):
    for number, name in enumerate(["train-0", "train-1", "val-0"]):
        memory.pipe(f"/set/{name}.tar", tar_of(samples(2, number)))
    memory.pipe("/set/classes.txt", b"ant\nbee\n")
    for data in ("memory://set/{train-0,train-1,val-0}.tar", "memory://set", "memory://set/*.tar"):
        source = open_source(data)
        assert contents(source) == [png(number, i) for number in range(3) for i in range(2)]
        assert source.labels.classes == ("ant", "bee")
        assert source.labels.splits.tolist() == ["train"] * 4 + ["val"] * 2
    with pytest.raises(RequestError, match="no shard matches"):
        open_source("memory://elsewhere")
    with pytest.raises(RequestError, match=r"nosuch://a\.tar cannot be read without a further package"):
        open_source("nosuch://a.tar")
    assert len(find_shards("memory://set/{train,val}-*.tar")) == 3


def test_the_cache_keeps_its_bound_and_drops_what_was_not_used_longest(memory, tmp_path, monkeypatch):
    shards = []
    for number in range(5):
        memory.pipe(f"/{number}.tar", bytes([number]) * 1000)
        shards.append(look_at(f"memory://{number}.tar"))
    monkeypatch.setattr(remote, "BUDGET", 3000)
    cache = ShardCache(tmp_path / "own")
    kept = [cache.fetch(shard) for shard in shards[:3]]
    for age, path in zip((30, 10, 20), kept, strict=True):
        stamp = path.stat().st_mtime - age
        os.utime(path, (stamp, stamp))
    assert cache.read(shards[0], 5, 3) == bytes(3)  # used: now the youngest
    kept += [cache.fetch(shards[3])]
    assert [path.exists() for path in kept] == [True, True, False, True]
    memory.pipe("/large.tar", bytes(3001))
    large = look_at("memory://large.tar")
    with pytest.raises(OSError, match="a shard of"):
        cache.fetch(large)
    assert [cache.read(large, 3000, 1) for _ in range(4)] == [b"\0"] * 4  # by ranges


def test_processes_that_want_one_shard_fetch_it_once(memory, tmp_path, monkeypatch):
    memory.pipe("/a.tar", bytes(5000))
    shard = look_at("memory://a.tar")
    copies = []
    copy = remote._copy
    monkeypatch.setattr(remote, "_copy", lambda *args: copies.append(1) or copy(*args))
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: ShardCache(tmp_path / "own").fetch(shard), range(8)))) == 1
    assert len(copies) == 1


def test_a_shard_that_shrinks_while_it_is_fetched_is_not_kept(memory, tmp_path):
    memory.pipe("/a.tar", bytes(5000))
    shard = look_at("memory://a.tar")
    memory.pipe("/a.tar", bytes(4000))
    with pytest.raises(OSError, match="came short"):
        ShardCache(tmp_path / "own").fetch(shard)
    assert not list((tmp_path / "own").glob("*tar*"))


SHARDS = np.repeat(np.arange(20, dtype=np.int32), np.random.default_rng(0).integers(1, 30, 20))


@pytest.mark.parametrize("window", [1, 3, 8, 20, 99])
def test_an_order_by_the_shard_brings_each_row_once_from_few_shards_at_a_time(window):
    order = shard_order(SHARDS, seed=3, epoch=1, window=window)
    assert sorted(order.tolist()) == list(range(len(SHARDS)))
    seen = SHARDS[order]
    first, last = {}, {}
    for position, shard in enumerate(seen.tolist()):
        first.setdefault(shard, position)
        last[shard] = position
    live = [sum(first[s] <= position <= last[s] for s in first) for position in range(len(seen))]
    assert max(live) <= window
    assert np.array_equal(order, shard_order(SHARDS, seed=3, epoch=1, window=window))
    assert not np.array_equal(order, shard_order(SHARDS, seed=3, epoch=2, window=window))
    assert not np.array_equal(order, shard_order(SHARDS, seed=4, epoch=1, window=window))


def test_an_order_by_the_shard_does_not_depend_on_what_the_shards_are_called():
    assert np.array_equal(
        shard_order(SHARDS, seed=0, epoch=0), shard_order((7 * SHARDS + 1).astype(np.int32), seed=0, epoch=0)
    )


def test_every_shard_comes_at_every_place_alike():
    """Over many epochs: the mean position of the rows of each shard is the middle, within five standard errors."""
    shards = np.repeat(np.arange(6, dtype=np.int32), 4)
    places: Counter[int] = Counter()
    epochs = 2000
    for epoch in range(epochs):
        for position, row in enumerate(shard_order(shards, seed=0, epoch=epoch, window=2).tolist()):
            places[int(shards[row])] += position
    means = np.array([places[shard] / (4 * epochs) for shard in range(6)])
    assert np.allclose(means, 11.5, atol=5 * 7 / np.sqrt(epochs))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_brings_the_images_by_the_shard_once_each_and_can_start_anywhere(memory, workers):
    for number in range(20):
        memory.pipe(f"/set/{number:02d}.tar", tar_of(samples(6, number)))
    source = open_source("memory://set")
    order = Order(120, 7, 3, shards=source.labels.shards)
    targets = torch.from_numpy(source.labels.targets)
    images = decoded(source)
    loader = FileLoader(
        images, np.arange(120), targets, order=order, prepare=as_tensor, shape=(3, 8, 8), workers=workers
    )
    whole = list(loader.epoch(1))
    index = torch.cat([batch.index for batch in whole]).numpy()
    assert np.array_equal(index, shard_order(source.labels.shards, seed=3, epoch=1))
    assert all(batch.valid.all() for batch in whole)
    rest = list(loader.epoch(1, start=9))
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[9:], rest, strict=True))
    expected = torch.from_numpy(source.decode(png(index[0] // 6, index[0] % 6))).permute(2, 0, 1)
    assert torch.equal(whole[0].images[0], expected)


def as_tensor(pixels, draws):
    """(H, W, C) pixels -> (C, H, W)."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def test_an_order_of_nothing_is_empty():
    assert len(shard_order(np.zeros(0, np.int32), seed=0, epoch=0)) == 0


def test_images_of_an_unchanged_set_elsewhere_are_known_the_next_time(memory, tmp_path):
    memory.pipe("/set/t-0.tar", tar_of(samples(4, 0)))
    source = open_source("memory://set/t-0.tar")
    first = audit(source, cache=tmp_path / "facts")
    assert (first.decoded, audit(open_source("memory://set/t-0.tar"), cache=tmp_path / "facts").decoded) == (4, 0)
    memory.rm("/set/t-0.tar")
    memory.pipe("/set/t-0.tar", tar_of(samples(4, 9)))
    assert audit(open_source("memory://set/t-0.tar"), cache=tmp_path / "facts").decoded == 4


def test_where_nothing_tells_whether_a_shard_changed_that_is_said_and_it_is_read_again(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_VERSIONS", ())
    memory.pipe("/set/t-0.tar", tar_of(samples(4, 0)))
    source = open_source("memory://set/t-0.tar")
    said = "nothing tells whether t-0.tar changed: each training reads it before it begins"
    assert said in source.labels.notes
    assert [audit(source, cache=tmp_path / "facts").decoded for _ in range(2)] == [4, 4]
