"""The doctor finds every planted fault under its heading, accuses no clean image, changes nothing and remembers."""

import hashlib
import itertools
import json
import os
import shutil
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from linnaeus.data.doctor import audit, diagnose
from linnaeus.data.facts import FACTS, Audit, Rows
from linnaeus.data.findings import KINDS, Diagnosis
from linnaeus.data.quarantine import to_quarantine
from linnaeus.data.sources import open_source
from linnaeus.data.sources.base import Source

from .planted import CLASSES, COPIES, FILES, Expected, draw_photo, encode, plant

GROUPED = {"copies", "near_copies"}  # of these the groups are compared: which of them is the copy is a matter of order


@dataclass
class Examined:
    root: Path
    source: Source
    found: Audit
    diagnosis: Diagnosis
    expected: Expected
    untouched: bool

    def accused(self, kind: str) -> set[str]:
        return {self.source.name(i) for finding in self.diagnosis.by_kind(kind) for i in finding.files}


def examine_planted(root: Path, photos) -> Examined:
    expected = plant(root, photos)
    before = snapshot(root)
    source = open_source(str(root))
    found = audit(source)
    diagnosis = diagnose(source, found)
    return Examined(root, source, found, diagnosis, expected, snapshot(root) == before)


def equal(some: Rows, others: Rows) -> bool:
    return all(np.array_equal(some[name], others[name]) for name in FACTS)


def snapshot(root: Path) -> dict[str, tuple[str, int]]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files}


def fill(root: Path, count: int, size: int = 12) -> Source:
    """Two classes of noise, each file different."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png", compress_level=1)
    return open_source(str(root))


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Examined:
    return examine_planted(tmp_path_factory.mktemp("planted"), (draw_photo(seed) for seed in itertools.count()))


def check_planted(planted: Examined) -> str:
    """Exactly what was planted is found; the figures, for a person."""
    for kind in KINDS.keys() - GROUPED - set(CLASSES.values()):
        assert planted.accused(kind) == planted.expected.files[kind], KINDS[kind].title
    for kind in GROUPED:
        found = planted.diagnosis.by_kind(kind)
        groups = {frozenset(map(planted.source.name, group)) for finding in found for group in finding.groups}
        assert groups == planted.expected.groups[kind], KINDS[kind].title
    for kind in CLASSES.values():
        assert planted.diagnosis.by_kind(kind), KINDS[kind].title
    clean = sum("clean" in planted.source.name(i) for i in range(len(planted.source.labels)))
    return f"{len(FILES) + len(COPIES) + len(CLASSES)} kinds of fault, all found; {clean} clean images, none accused"


def test_all_planted_faults_are_found_and_no_clean_image_is_accused(planted):
    assert len(FILES) + len(COPIES) + len(CLASSES) >= 40
    sys.stdout.write(check_planted(planted))


@pytest.mark.slow
def test_the_same_among_real_photos(tmp_path, real_data):
    """400 photos of ants and bees; decoding one of them blown up to 6000 pixels takes a while."""
    paths = sorted(real_data("hymenoptera").rglob("*.jpg"))
    photos = (ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in paths)
    sys.stdout.write(check_planted(examine_planted(tmp_path, photos)))


def test_nothing_of_the_users_is_changed(planted):
    assert planted.untouched


def test_training_leaves_out_what_the_table_of_kinds_says(planted):
    quarantine = {planted.source.name(i): reason for i, reason in to_quarantine(planted.diagnosis).items()}
    expected = planted.expected.files
    assert (
        quarantine.keys() == expected["unreadable"] | expected["constant"] | expected["leak"] | expected["two_labels"]
    )
    assert "exact copy of test/ant" in quarantine["train/ant/of exact copy in test.jpg"]
    assert "mirrored near copy of val/ant" in quarantine["train/ant/of mirrored in val.jpg"]


def test_leaks_say_how_many_images_of_the_later_split_have_a_twin(planted):
    (leak,) = planted.diagnosis.by_kind("leak")
    # 20 clean images of each class, and the two copies.
    assert "2 of 42 images of test (4.8%) have a twin in train: 1 exact copy and 1 near copy." in leak.reason
    assert "2 of 42 images of val (4.8%) have a twin in train: 1 exact copy and 1 near copy." in leak.reason


def test_the_json_is_json_and_puts_the_gravest_first(planted):
    content = json.loads(json.dumps(planted.diagnosis.to_json(), allow_nan=False))
    assert content["verdict"] == "unusable"
    severities = [finding["severity"] for finding in content["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert content["images"] == len(planted.source.labels)
    assert content["usable"] == len(planted.found.usable) == content["images"] - len(planted.found.broken)


def test_a_clean_set_is_good(tmp_path):
    source = fill(tmp_path, 12)
    diagnosis = diagnose(source, audit(source))
    assert diagnosis.findings == ()
    assert diagnosis.verdict == "good"


def test_fine_lines_are_no_single_colour_though_their_thumbnail_is(tmp_path):
    fill(tmp_path, 12, size=64)
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[::2] = 255
    Image.fromarray(lines).save(tmp_path / "a" / "lines.png")
    source = open_source(str(tmp_path))
    found = audit(source)
    assert np.ptp(found.rows["grey"][12]) == 0
    assert diagnose(source, found).findings == ()


def test_a_set_without_an_image_that_decodes_is_unusable(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"broken" + name.encode())
    source = open_source(str(tmp_path))
    diagnosis = diagnose(source, audit(source))
    assert {finding.kind for finding in diagnosis.findings} == {"unreadable", "no_images"}
    assert diagnosis.verdict == "unusable"


def test_many_near_copies_across_splits_are_told_and_not_left_out(tmp_path):
    """As when the frames of a film are split at random: leaving the twins out would leave no training set."""
    for split, quality in (("train", 90), ("test", 50)):
        for name, first in (("a", 0), ("b", 100)):
            (tmp_path / split / name).mkdir(parents=True)
            for seed in range(first, first + 12):
                (tmp_path / split / name / f"{seed}.jpg").write_bytes(encode(draw_photo(seed), quality=quality))
    source = open_source(str(tmp_path))
    diagnosis = diagnose(source, audit(source))
    (everywhere,) = diagnosis.by_kind("leak_everywhere")
    assert "24 of 24 images of test (100.0%) have a twin in train" in everywhere.reason
    assert not diagnosis.by_kind("leak")
    assert to_quarantine(diagnosis) == {}


def test_a_few_near_copies_across_small_splits_are_left_out(tmp_path):
    """Two of twelve are more than the share, and still an accident."""
    for split, seeds in (("train", range(12)), ("test", [*range(2), *range(20, 30)])):
        for label, name in enumerate(("a", "b")):
            (tmp_path / split / name).mkdir(parents=True)
            for seed in [*seeds][label::2]:
                content = encode(draw_photo(seed), quality=90 if split == "train" else 50)
                (tmp_path / split / name / f"{seed}.jpg").write_bytes(content)
    source = open_source(str(tmp_path))
    diagnosis = diagnose(source, audit(source))
    assert {source.name(i) for i in to_quarantine(diagnosis)} == {"train/a/0.jpg", "train/b/1.jpg"}
    assert not diagnosis.by_kind("leak_everywhere")


def test_a_listed_file_that_is_gone_is_unreadable_and_no_crash(tmp_path):
    source = fill(tmp_path / "data", 2)
    (tmp_path / "data/a/0.png").unlink()
    found = audit(source, cache=tmp_path / "facts")
    assert found.broken == {0: "cannot be read (No such file or directory)"}


def test_progress_counts_every_image_once(tmp_path):
    source, counts = fill(tmp_path, 70), []
    audit(source, progress=counts.append)
    assert sum(counts) == len(source.labels) == 140
    assert len(counts) > 2


def test_small_images_keep_their_pixels_and_large_ones_do_not(tmp_path):
    source = fill(tmp_path, 2)
    kept, dropped = audit(source), audit(source, keep_below=8)
    assert np.array_equal(kept.pixels[1], source.decode(source.read(1)))
    assert dropped.pixels == {}
    assert kept.rows["digest"][1].tobytes() == hashlib.blake2b(source.read(1), digest_size=16).digest()
    assert kept.rows["shape"][1].tolist() == [12, 12, 3]


def test_what_pillow_warns_of_becomes_a_remark_and_is_not_printed(planted, capfd):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = audit(planted.source)
        warnings.warn("of somebody else", stacklevel=1)
    assert [str(warning.message) for warning in heard] == ["of somebody else"]
    assert ["EXIF" in text for text in found.remarks.values()] == [True]
    assert capfd.readouterr().err == ""


class Counting:
    """A source that counts what is read."""

    def __init__(self, source: Source) -> None:
        self.labels, self.name, self.decode, self._source = source.labels, source.name, source.decode, source
        self.names, self.stamps = source.names, source.stamps
        self.reads: list[int] = []

    def read(self, index: int) -> bytes:
        self.reads.append(index)
        return self._source.read(index)


def test_a_second_run_reads_nothing_and_knows_the_same(planted, tmp_path):
    cache = tmp_path / "new folder" / "facts.safetensors"
    first = audit(planted.source, cache=cache)
    counting = Counting(planted.source)
    second = audit(counting, cache=cache)
    assert counting.reads == []
    assert (first.decoded, second.decoded) == (len(planted.source.labels), 0)
    assert equal(first.rows, second.rows)
    assert (first.broken, first.remarks) == (second.broken, second.remarks)
    assert diagnose(counting, second).to_json() == diagnose(planted.source, first).to_json()


def test_without_stamps_nothing_is_remembered(tmp_path):
    source = Counting(fill(tmp_path / "data", 2))
    source.stamps = lambda: None
    for _ in range(2):
        assert audit(source, cache=tmp_path / "facts").decoded == 4


def test_a_changed_a_new_and_a_removed_file_are_noticed(tmp_path):
    root, cache = tmp_path / "data", tmp_path / "facts"
    source = fill(root, 6)
    audit(source, cache=cache)
    (root / "a/0.png").write_bytes(b"no longer an image")
    (root / "a/1.png").unlink()
    (root / "b/new.png").write_bytes(encode(draw_photo(0), "PNG"))
    source = open_source(str(root))
    counting = Counting(source)
    found = audit(counting, cache=cache)
    assert sorted(map(source.name, counting.reads)) == ["a/0.png", "b/new.png"]
    assert [source.name(i) for i in found.broken] == ["a/0.png"]
    assert equal(found.rows, audit(source, cache=tmp_path / "other").rows)
    assert audit(source, cache=cache).decoded == 0


def test_a_file_of_the_same_length_and_another_time_is_read_again(tmp_path):
    root, cache = tmp_path / "data", tmp_path / "facts"
    source = fill(root, 2)
    audit(source, cache=cache)
    status = (root / "a/1.png").stat()
    os.utime(root / "a/1.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    counting = Counting(source)
    audit(counting, cache=cache)
    assert list(map(source.name, counting.reads)) == ["a/1.png"]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_cache_is_done_without_and_replaced(tmp_path, share):
    root, cache = tmp_path / "data", tmp_path / "facts"
    source = fill(root, 2)
    audit(source, cache=cache)
    whole = cache.read_bytes()
    cache.write_bytes(whole[: int(len(whole) * share)])
    found = audit(source, cache=cache)
    assert found.decoded == 4
    assert found.note.startswith("all images are decoded again")
    assert audit(source, cache=cache).decoded == 0


def test_what_another_decoder_found_is_not_believed(tmp_path, monkeypatch):
    root, cache = tmp_path / "data", tmp_path / "facts"
    source = fill(root, 2)
    audit(source, cache=cache)
    monkeypatch.setattr("linnaeus.data.facts.version", lambda _: "99")
    found = audit(source, cache=cache)
    assert found.decoded == 4
    assert "another version" in found.note


def test_a_cache_that_cannot_be_written_is_a_note(tmp_path):
    source = fill(tmp_path / "data", 2)
    (tmp_path / "file").write_text("in the way of the folder")
    found = audit(source, cache=tmp_path / "file" / "facts")
    assert found.decoded == 4
    assert found.note.startswith("the next run decodes all images again")


def test_a_file_that_cannot_be_read_is_tried_again(tmp_path):
    root, cache = tmp_path / "data", tmp_path / "facts"
    source = fill(root, 2)

    class Failing(Counting):
        def read(self, index: int) -> bytes:
            if index == 2:
                raise PermissionError(13, "Permission denied")
            return super().read(index)

    assert audit(Failing(source), cache=cache).broken == {2: "cannot be read (Permission denied)"}
    found = audit(source, cache=cache)
    assert found.decoded == 1
    assert found.broken == {}


@pytest.mark.slow
def test_ten_thousand_unchanged_files_are_known_in_less_than_a_second(tmp_path):
    """Writing 10,000 files and decoding them once takes some seconds."""
    root, cache = tmp_path / "data", tmp_path / "facts"
    source = fill(root, 5_000, size=8)
    audit(source, cache=cache)
    start = time.perf_counter()
    found = audit(source, cache=cache)
    elapsed = time.perf_counter() - start
    assert found.decoded == 0
    assert elapsed < 1
    sys.stdout.write(f"{elapsed:.2f} s")


def test_conclusions_of_an_unchanged_set_are_not_drawn_again(planted, tmp_path, monkeypatch):
    facts, kept = tmp_path / "facts", tmp_path / "conclusions"
    first = diagnose(planted.source, audit(planted.source, cache=facts), kept=kept)
    monkeypatch.setattr("linnaeus.data.doctor.find_twins", None)
    second = diagnose(planted.source, audit(planted.source, cache=facts), kept=kept)
    assert second.findings == first.findings
    assert second.to_json() == first.to_json() == planted.diagnosis.to_json()
    twins, expected = second.case.twins, first.case.twins
    assert twins.families().tolist() == expected.families().tolist()
    assert (twins.mirrored.tolist(), twins.complete) == (expected.mirrored.tolist(), expected.complete)


def change_a_file(root: Path) -> None:
    shutil.copy(root / "a/0.png", root / "b/0.png")


def rename_a_file(root: Path) -> None:
    (root / "a/0.png").rename(root / "a/zero.png")


def move_to_another_class(root: Path) -> None:
    (root / "a/0.png").rename(root / "b/00.png")


@pytest.mark.parametrize("change", [change_a_file, rename_a_file, move_to_another_class])
def test_conclusions_are_drawn_anew_from_anything_new(tmp_path, change):
    root, facts, kept = tmp_path / "data", tmp_path / "facts", tmp_path / "conclusions"
    source = fill(root, 12)
    diagnose(source, audit(source, cache=facts), kept=kept)
    before = kept.read_bytes()
    change(root)
    source = open_source(str(root))
    found = audit(source, cache=facts)
    assert diagnose(source, found, kept=kept).to_json() == diagnose(source, audit(source)).to_json()
    assert kept.read_bytes() != before


def test_damaged_conclusions_are_drawn_again(planted, tmp_path):
    facts, kept = tmp_path / "facts", tmp_path / "conclusions"
    kept.write_bytes(b"damaged")
    found = audit(planted.source, cache=facts)
    assert diagnose(planted.source, found, kept=kept).to_json() == planted.diagnosis.to_json()


def test_a_finding_on_one_image_is_told_of_one(tmp_path):
    fill(tmp_path, 12)
    Image.new("RGB", (12, 12)).save(tmp_path / "a" / "black.png")
    source = open_source(str(tmp_path))
    (constant,) = diagnose(source, audit(source)).by_kind("constant")
    assert constant.reason == "1 of 25 images (4.0%) shows a single colour."


@pytest.mark.slow
def test_a_hundred_thousand_unchanged_files_start_in_seconds_and_cost_little(tmp_path):
    """A million files shall start in some seconds and cost less than 200 MB; the first time, all are decoded."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from start import in_own_process, write_files

    write_files(tmp_path / "files", 100_000)
    in_own_process("first", tmp_path / "files", tmp_path)
    second = in_own_process("second", tmp_path / "files", tmp_path)
    sys.stdout.write(f"{second}")
    assert second["seconds"] < 5
    assert second["mib"] < 60
