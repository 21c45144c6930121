"""The cache gives back the pixels it was given and no others, whatever happens to processes, disk and files."""

import io
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from linnaeus.core.errors import DataError
from linnaeus.data import cache as cache_module
from linnaeus.data.augment import crop_box
from linnaeus.data.cache import BoundedImages, ImageCache, Plan, default_budget, digest_of, open_cache
from linnaeus.data.decode import Pixels, UnreadableImage, decode
from linnaeus.data.fast import FastPath, best_decoder, bounded_shapes
from linnaeus.data.loader import FileLoader
from linnaeus.data.order import Order
from linnaeus.data.sources.base import Labels

BUDGET = 10**8
# Processes are forked, for a new one would import torch: seconds a test. They touch no torch.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
FORK = multiprocessing.get_context("fork")


class Contents:
    """A source of encoded images in memory that counts how often it is read."""

    def __init__(self, contents: list[bytes]) -> None:
        self.contents = contents
        self.labels = Labels(("a", "b"), np.arange(len(contents)) % 2, np.full(len(contents), ""))
        self.reads = 0

    def read(self, index: int) -> bytes:
        self.reads += 1
        return self.contents[index]

    def decode(self, content: bytes) -> Pixels:
        return decode(content)


def picture(number: int, height: int = 40, width: int = 50, channels: int = 3) -> Pixels:
    return np.random.default_rng(number).integers(0, 256, (height, width, channels), np.uint8)


def png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def plan_of(contents: list[bytes], pictures: list[Pixels], bound: int = 10**6) -> Plan:
    shapes = np.array([pixels.shape for pixels in pictures]).reshape(-1, 3)
    return Plan(np.frombuffer(b"".join(map(digest_of, contents)), "V16"), bounded_shapes(shapes, bound))


@contextmanager
def opened(root: Path, pictures: list[Pixels], made_by: str = "test", budget: int = BUDGET) -> Iterator[ImageCache]:
    """A cache whose contents are the pictures' own bytes. It must not outlive the block."""
    plan = plan_of([pixels.tobytes() for pixels in pictures], pictures)
    cache, _ = open_cache(root, made_by, plan, budget=budget)
    assert cache is not None
    yield cache


def note_of(root: Path, pictures: list[Pixels], budget: int = BUDGET) -> str:
    return open_cache(root, "test", plan_of([pixels.tobytes() for pixels in pictures], pictures), budget=budget)[1]


def fill(cache: ImageCache, pictures: list[Pixels], order: list[int] | None = None) -> None:
    for position in order or range(len(pictures)):
        cache.write(position, pictures[position].tobytes(), pictures[position])


def count(cache: ImageCache) -> int:
    return int(np.count_nonzero(cache._marks))


def present(cache: ImageCache, pictures: list[Pixels]) -> list[int]:
    """Positions of the pictures that are there. Those that are must be right."""
    found = [(position, cache.read(position)) for position in range(len(pictures))]
    assert all(np.array_equal(pixels, pictures[position]) for position, pixels in found if pixels is not None)
    return [position for position, pixels in found if pixels is not None]


PICTURES = [picture(n, 30 + n, 61 - n, 1 if n % 5 == 0 else 3) for n in range(20)]
FLAT = [picture(n, 64, 64, 1) for n in range(10)]  # 4,096 bytes each


def test_pixels_come_back_as_they_were_and_cannot_be_changed(tmp_path):
    with opened(tmp_path, PICTURES) as cache:
        assert present(cache, PICTURES) == []
        fill(cache, PICTURES[:7])
        assert present(cache, PICTURES) == [*range(7)]
        assert count(cache) == 7
        with pytest.raises(ValueError, match="read-only"):
            cache.read(0)[0] = 1
    with opened(tmp_path, PICTURES) as cache:
        assert present(cache, PICTURES) == [*range(7)]
    assert "for 20" in note_of(tmp_path, PICTURES)


def test_other_images_or_another_decoder_have_another_cache(tmp_path):
    with opened(tmp_path, PICTURES) as cache:
        fill(cache, PICTURES)
    changed = [*PICTURES[:-1], picture(100, *PICTURES[-1].shape)]
    for pictures, made_by in ((changed, "test"), (PICTURES[::-1], "test"), (PICTURES, "another bound")):
        with opened(tmp_path, pictures, made_by) as cache:
            assert present(cache, pictures) == []
    with opened(tmp_path, PICTURES) as cache:
        assert present(cache, PICTURES) == [*range(20)]


def test_pixels_of_another_content_or_shape_are_not_kept(tmp_path):
    with opened(tmp_path, PICTURES) as cache:
        cache.write(0, b"the file has changed since the audit", PICTURES[0])
        cache.write(1, PICTURES[1].tobytes(), PICTURES[1][1:])
        cache.write(2, PICTURES[2].tobytes(), PICTURES[2])
        assert present(cache, PICTURES) == [2]


def test_an_image_that_cannot_be_read_has_no_place(tmp_path):
    digests = np.zeros(3, "V16")
    digests[1] = np.frombuffer(digest_of(PICTURES[1].tobytes()), "V16")[0]
    cache, note = open_cache(
        tmp_path, "test", Plan(digests, np.array([[0, 0, 0], PICTURES[1].shape, [0, 0, 0]])), budget=BUDGET
    )
    for position in range(3):
        cache.write(position, PICTURES[1].tobytes(), PICTURES[1])
    assert [cache.read(position) is None for position in range(3)] == [True, False, True]
    assert note.endswith("for 1")


def test_the_budget_is_kept_and_said(tmp_path):
    for budget, expected in ((4 * 4096 + 100, 4), (7 * 4096, 7), (2 * 4096, 2)):  # the last is less than there is
        with opened(tmp_path, FLAT, budget=budget) as cache:
            fill(cache, FLAT)
            assert present(cache, FLAT) == [*range(expected)]
        del cache
        assert f"for {expected} of 10, for want of room" in note_of(tmp_path, FLAT, budget)
        assert sum(file.stat().st_size for file in tmp_path.rglob("pixels")) <= budget
    assert "there is no room in" in note_of(tmp_path, FLAT, 0)
    with opened(tmp_path, FLAT) as cache:  # what was cut off is not taken for pixels
        assert present(cache, FLAT) == [0, 1]
        fill(cache, FLAT)
        assert present(cache, FLAT) == [*range(10)]


def test_a_cache_in_use_is_not_cut(tmp_path):
    with opened(tmp_path, FLAT) as cache:
        fill(cache, FLAT)
        with opened(tmp_path, FLAT, budget=2 * 4096) as second:
            assert present(second, FLAT) == [0, 1]
        assert present(cache, FLAT) == [*range(10)]


def test_the_cache_least_recently_used_is_evicted_and_none_in_use(tmp_path):
    pictures, budget = FLAT[:4], 12 * 4096
    for age, name in enumerate(["old", "older", "oldest"]):
        with opened(tmp_path, pictures, name, budget) as cache:
            fill(cache, pictures)
            stamp = time.time() - 1000 * (age + 1)
            os.utime(cache._folder / "pixels", (stamp, stamp))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "pixels").write_bytes(b"the user's own")
    del cache
    with opened(tmp_path, pictures, "oldest", budget) as oldest, opened(tmp_path, pictures, "new", budget) as new:
        fill(new, pictures)
        assert present(new, pictures) == present(oldest, pictures) == [0, 1, 2, 3]
    del oldest, new
    with opened(tmp_path, pictures, "old", budget) as cache:
        assert present(cache, pictures) == [0, 1, 2, 3]
    with opened(tmp_path, pictures, "older", budget) as cache:
        assert present(cache, pictures) == []
    assert (tmp_path / "photos" / "pixels").read_bytes() == b"the user's own"


def test_the_disk_keeps_its_spare_room(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "SPARE", shutil.disk_usage(tmp_path).free + 10**9)
    assert "there is no room in" in note_of(tmp_path, PICTURES)


def test_pixels_that_a_crash_has_lost_are_not_shown(tmp_path):
    with opened(tmp_path, PICTURES) as cache:
        fill(cache, PICTURES)
    (pixels,) = tmp_path.glob("*/pixels")
    content = bytearray(pixels.read_bytes())
    content[:3000] = bytes(3000)  # a page that never reached the disk
    pixels.write_bytes(content)
    with opened(tmp_path, PICTURES) as cache:
        lost = set(range(20)) - set(present(cache, PICTURES))
        assert lost == {0, 1}
        fill(cache, PICTURES)
        assert present(cache, PICTURES) == [*range(20)]


@pytest.mark.parametrize("cut", ["marks", "pixels"])
def test_torn_files_are_mended(tmp_path, cut):
    with opened(tmp_path, PICTURES) as cache:
        fill(cache, PICTURES)
    (file,) = tmp_path.glob(f"*/{cut}")
    del cache
    os.truncate(file, file.stat().st_size // 2 + 7)
    with opened(tmp_path, PICTURES) as cache:
        assert len(present(cache, PICTURES)) in range(5, 15)
        fill(cache, PICTURES)
        assert present(cache, PICTURES) == [*range(20)]


def test_garbage_instead_of_marks_is_no_cache_and_no_fault(tmp_path):
    with opened(tmp_path, PICTURES) as cache:
        fill(cache, PICTURES)
    (marks,) = tmp_path.glob("*/marks")
    marks.write_bytes(np.random.default_rng(0).bytes(marks.stat().st_size))
    with opened(tmp_path, PICTURES) as cache:
        assert present(cache, PICTURES) == []
        fill(cache, PICTURES)
        assert present(cache, PICTURES) == [*range(20)]


def test_a_cache_that_was_sent_to_a_process_is_the_same_one(tmp_path):
    with opened(tmp_path, PICTURES) as cache:
        sent = pickle.loads(pickle.dumps(cache))
        fill(sent, PICTURES[:3])
        assert present(cache, PICTURES) == [0, 1, 2]
        shutil.rmtree(tmp_path)
        fill(cache, PICTURES)
        assert present(cache, PICTURES) == present(sent, PICTURES) == [*range(20)]  # what is open stays


def test_a_folder_that_cannot_be_made_is_a_note(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert note_of(tmp_path / "file", PICTURES).startswith("decoded images are not kept")


def test_a_disk_that_becomes_full_stops_the_filling_in_all_processes(tmp_path):
    pictures = [picture(n, 256, 256, 1) for n in range(8)]

    def work(cache: ImageCache) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 65536 + 1000, 3 * 65536 + 1000))  # writes beyond are refused
        fill(cache, pictures)

    with opened(tmp_path, pictures) as cache:
        run_forked([partial(work, cache)])
        assert cache.full
        fill(cache, pictures)
        assert present(cache, pictures) == [0, 1, 2]
    with opened(tmp_path, pictures) as cache:  # the next run tries again
        assert not cache.full
        fill(cache, pictures)
        assert present(cache, pictures) == [*range(8)]


def test_training_goes_on_when_a_real_disk_is_full(tmp_path, monkeypatch):
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        monkeypatch.setattr(cache_module, "SPARE", -BUDGET)
        pictures = [picture(n, 256, 256, 3) for n in range(8)]
        contents = [png(pixels) for pixels in pictures]
        cache, _ = open_cache(tmp_path, "test", plan_of(contents, pictures), budget=BUDGET)
        images = BoundedImages(Contents(contents), FastPath("pillow"), 256, cache)
        for _ in range(2):
            assert all(np.array_equal(images(n), pictures[n]) for n in range(8))
        assert 0 < count(cache) < 8
        assert cache.full
        del cache, images
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def run_forked(jobs: list) -> None:
    """Runs all jobs at once, each in a process of its own; all must succeed."""
    processes = [FORK.Process(target=job) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(jobs)


def test_several_processes_may_fill_one_cache_at_once(tmp_path):
    def work(cache: ImageCache, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(PICTURES)).tolist()
        for position in order:
            fill(cache, PICTURES, [position])
            assert np.array_equal(cache.read(position), PICTURES[position])

    with opened(tmp_path, PICTURES) as cache:
        run_forked([partial(work, pickle.loads(pickle.dumps(cache)), seed) for seed in range(3)])
        assert present(cache, PICTURES) == [*range(20)]


def test_several_runs_may_open_one_cache_at_once(tmp_path):
    def work(seed: int) -> None:
        for turn in range(5):
            with opened(tmp_path, PICTURES) as cache:
                fill(cache, PICTURES, np.random.default_rng((seed, turn)).permutation(20)[:8].tolist())
                present(cache, PICTURES)

    run_forked([partial(work, seed) for seed in range(3)])
    with opened(tmp_path, PICTURES) as cache:
        assert len(present(cache, PICTURES)) > 8
        fill(cache, PICTURES)
        assert present(cache, PICTURES) == [*range(20)]


@pytest.mark.parametrize("images", [1, 5, 9])
def test_a_killed_process_leaves_whole_images_or_none(tmp_path, images):
    pictures = [picture(n, 400, 400, 3) for n in range(12)]
    with opened(tmp_path, pictures) as cache:
        process = FORK.Process(target=fill, args=(cache, pictures))
        process.start()
        deadline = time.monotonic() + 60
        while count(cache) < images and time.monotonic() < deadline:
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert len(present(cache, pictures)) >= images
    with opened(tmp_path, pictures) as cache:
        assert len(present(cache, pictures)) >= images
        fill(cache, pictures)
        assert present(cache, pictures) == [*range(12)]


@pytest.mark.parametrize("write", [1, 2], ids=["half of the pixels", "no mark"])
def test_what_was_being_written_at_the_end_is_not_there(tmp_path, write):
    def work() -> None:
        pwrite, calls = os.pwrite, []

        def last(file: int, content: memoryview, offset: int) -> int:
            calls.append(1)
            if len(calls) == 6 + write:  # each image takes two
                pwrite(file, content[: len(content) // 2] if write == 1 else b"", offset)
                os._exit(0)
            return pwrite(file, content, offset)

        os.pwrite = last
        with opened(tmp_path, PICTURES) as cache:
            fill(cache, PICTURES)
        os._exit(1)

    run_forked([work])
    with opened(tmp_path, PICTURES) as cache:
        assert present(cache, PICTURES) == [0, 1, 2]
        fill(cache, PICTURES)
        assert present(cache, PICTURES) == [*range(20)]


def test_images_are_the_same_with_a_cache_and_without(tmp_path):
    pictures = [picture(n, 90 + n, 130, 1 if n == 2 else 3) for n in range(6)]
    source = Contents([png(pixels) for pixels in pictures])
    plan = plan_of(source.contents, pictures, bound=64)
    cache, _ = open_cache(tmp_path, "test", plan, budget=BUDGET)
    part, _ = open_cache(tmp_path / "part", "test", plan, budget=int(plan.ends[2]))
    for kept, reads in ((cache, 6), (part, 9), (None, 12)):
        images = BoundedImages(source, FastPath("pillow"), 64, kept)
        source.reads = 0
        both = [[images(n) for n in range(6)] for _ in range(2)]
        assert source.reads == reads
        for first, second, content, shape in zip(*both, source.contents, plan.shapes.tolist(), strict=True):
            assert np.array_equal(first, FastPath("pillow").bounded(content, 64))
            assert np.array_equal(first, second)
            assert list(first.shape) == shape


def test_a_file_that_broke_since_the_audit_is_refused_and_not_kept(tmp_path):
    source = Contents([png(picture(0))])
    cache, _ = open_cache(tmp_path, "test", plan_of(source.contents, [picture(0)]), budget=BUDGET)
    images = BoundedImages(source, FastPath("pillow"), 64, cache)
    whole, source.contents[0] = source.contents[0], b"broken"
    with pytest.raises(UnreadableImage):
        images(0)
    source.contents[0] = whole
    assert np.array_equal(images(0), picture(0))


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    if Path("/proc/self/statm").exists():
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    return int(subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True).stdout) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_memory_does_not_grow_over_twenty_epochs(tmp_path, workers):
    pictures = [picture(n, 100, 120) for n in range(200)]  # 7 MB an epoch
    source, fast = Contents([png(pixels) for pixels in pictures]), FastPath(best_decoder())
    cache, _ = open_cache(tmp_path, "test", plan_of(source.contents, pictures), budget=BUDGET)

    def prepare(pixels: Pixels, row: np.ndarray) -> torch.Tensor:
        box = crop_box(*pixels.shape[:2], row, min_area=0.35)
        return torch.from_numpy(fast.crop(pixels, box, (64, 64), "bilinear")).permute(2, 0, 1)

    order, targets = Order(200, 20, 0), torch.from_numpy(source.labels.targets)
    images = BoundedImages(source, fast, 100, cache)
    loader = FileLoader(
        images, np.arange(200), targets, order=order, prepare=prepare, shape=(3, 64, 64), workers=workers
    )
    sizes = []
    for epoch in range(20):
        assert sum(len(batch) for batch in loader.epoch(epoch)) == 200
        sizes.append([resident(pid) for pid in (os.getpid(), *(p.pid for p in multiprocessing.active_children()))])
    growth = np.array(sizes[-1]) - np.array(sizes[2])
    print(growth / 1e6)  # noqa: T201  # MB, shown by `pytest -rP`
    assert len(growth) == 1 + workers
    # Images that were kept would be 122 MB. A forked worker takes some of its own: Python's counters copy shared pages.
    assert (growth < 18e6).all(), growth


def test_the_budget_follows_from_memory_and_disk(tmp_path):
    budget = default_budget(tmp_path / "not" / "made" / "yet")
    assert 0 < budget <= shutil.disk_usage(tmp_path).free // 4 + 10**9
    assert issubclass(UnreadableImage, DataError)
