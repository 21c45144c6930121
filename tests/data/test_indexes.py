"""The bars of what takes long the first time: shards are looked at and indexed, rows of Parquet files are read."""

import io
import re
from contextlib import contextmanager

import pytest
from rich.console import Console

from linnaeus.app.progress import Display
from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.sources import indexes, open_source, parquet, remote

from .pictures import png
from .test_webdataset import samples, tar_of, write

LARGE = ("notes.bin", bytes(3 << 20))  # so that a pass has something to tell before its end


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNAEUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_PAUSE", 0.0)


class Bars:
    """A `Bar` that keeps what it is told: (what, total, unit) -> the amounts."""

    def __init__(self):
        self.told = {}

    @contextmanager
    def __call__(self, what, total, *, unit):
        amounts = self.told.setdefault((what, total, unit), [])
        yield amounts.append


def test_a_pass_over_shards_tells_how_many_bytes_are_done_and_only_the_first_time(tmp_path):
    shards = [write(tmp_path / "set" / f"{n}.tar", [*samples(4, n), LARGE, *samples(2, n)]) for n in range(2)]
    size = sum(shard.stat().st_size for shard in shards)
    first, second = Bars(), Bars()
    open_source(str(tmp_path / "set"), bar=first)
    assert first.told.keys() == {("looking at shards", 2, "shards"), ("indexing shards", size, "bytes")}
    amounts = first.told["indexing shards", size, "bytes"]
    assert sum(amounts) == size
    assert len(amounts) >= 4  # within each shard, not only at its end
    open_source(str(tmp_path / "set"), bar=second)
    assert second.told == {("looking at shards", 2, "shards"): [1, 1]}


def test_a_damaged_shard_fills_its_part_of_the_bar_too(tmp_path):
    shard = write(tmp_path / "t.tar", tar_of([*samples(4), LARGE])[: 2 << 20])
    bars = Bars()
    open_source(str(shard), bar=bars)
    assert sum(bars.told["indexing shards", 2 << 20, "bytes"]) == 2 << 20


def test_bytes_from_an_address_count_once_however_often_they_come(monkeypatch):
    fsspec = pytest.importorskip("fsspec", reason="addresses need fsspec: pip install 'linnaeus[shards]'")
    content = tar_of([*samples(4), ("notes.bin", bytes(9 << 20))])
    fsspec.filesystem("memory").pipe_file("/set/t.tar", content)

    class Torn(io.BytesIO):
        def read(self, count):
            if self.tell() > 0 and failures:
                raise OSError(failures.pop())
            return super().read(count)

    failures = ["the line went dead"]
    kind = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(kind, "open", lambda *_, **__: Torn(content))
    bars = Bars()
    assert len(open_source("memory://set/t.tar", bar=bars).labels) == 4
    amounts = bars.told["indexing shards", len(content), "bytes"]
    assert not failures
    assert min(amounts) < 0
    assert sum(amounts) == len(content)


@pytest.mark.parametrize("holds_paths", [True, False])
def test_rows_of_parquet_files_are_counted(tmp_path, monkeypatch, holds_paths):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("linnaeus.data.sources.shards.CHUNK", 4)
    images = [f"{i}.png" if holds_paths else png(i) for i in range(10)]
    for part in ("train", "test"):
        pq.write_table(pa.table({"image": images, "label": ["a", "b"] * 5}), tmp_path / f"{part}-{holds_paths}.parquet")
    bars = Bars()
    source = open_source(str(tmp_path), bar=bars)
    assert isinstance(source, parquet.ParquetSource) is not holds_paths
    assert bars.told == {("reading labels", 20, "rows"): [4, 4, 2] * 2}


def test_an_error_ends_the_bar(tmp_path):
    ended = []

    @contextmanager
    def bar(what, total, *, unit):
        try:
            yield lambda _: None
        finally:
            ended.append(what)

    with pytest.raises(RequestError):
        open_source(f"{tmp_path}/missing-{{0..1}}.tar", bar=bar)
    write(tmp_path / "t.tar", b"\x1f\x8b compressed")
    with pytest.raises(DataError):
        open_source(str(tmp_path / "t.tar"), bar=bar)
    assert ended == ["looking at shards", "looking at shards", "indexing shards"]


def test_a_person_sees_bytes_and_the_time_that_is_left(tmp_path, monkeypatch):
    shard = write(tmp_path / "t.tar", samples(4))
    display, screen = Display(), io.StringIO()
    display.stderr = Console(file=screen, force_terminal=True, width=100)
    whole, told = shard.stat().st_size, []

    def slow(file, progress):
        progress(whole // 2)
        told.append(screen.getvalue())
        return found(file)

    found = indexes.scan
    monkeypatch.setattr(indexes, "scan", slow)
    open_source(str(shard), bar=display.bar)
    assert told
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(rf"indexing shards .*{whole / 1000:.1f}/{whole / 1000:.1f} kB \d:\d\d:\d\d", plain)
