"""Data that is odd or hostile, through the public commands: each has a stated outcome, and never a traceback."""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import linnaeus.app.doctor
import linnaeus.app.train  # with the other before any test is another user, who may not be able to
from linnaeus.cli import main

UNIX_NAMES = pytest.mark.skipif(
    os.name == "nt" or os.uname().sysname == "Darwin", reason="this file system has only UTF-8 names"
)
ODD_NAMES = [
    b"with space.png",
    b"new\nline.png",
    "\U0001f98a.png".encode(),
    b"caf\xe9.png",
    b"-rf.png",
    b"[i]<i>&.png",
]
FAST = ["--model", "lenet5_modern", "--duration", "2st", "--batch-size", "8", "--precision", "fp32"]
FAST += ["--set", "train.channels_last=false", "--json"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNAEUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["linnaeus"])


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8))


def fill(root: Path, *classes: str, count: int = 12) -> Path:
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture(100 * label + number).save(root / name / f"{number}.png")
    return root


def linnaeus(monkeypatch, capsys, *words: object) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a command, in this process: to start another takes seconds."""
    monkeypatch.setattr(sys, "argv", ["linnaeus", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    done = capsys.readouterr()
    assert "Traceback" not in done.err
    assert "bug in Linnaeus" not in done.err
    return int(stop.value.code or 0), done.out, done.err


def last_line(text: str) -> str:
    return text.rstrip("\n").splitlines()[-1]


@pytest.fixture
def doctor(monkeypatch, capsys, tmp_path):
    def call(*words: object) -> tuple[int, str, str]:
        return linnaeus(monkeypatch, capsys, "doctor", *words, "--page", tmp_path / "page.html")

    return call


@UNIX_NAMES
@pytest.mark.slow
def test_images_of_any_name_are_trained_on_and_written_down_and_shown(tmp_path, monkeypatch, capsys):
    """Slow, as is a whole training."""
    root = fill(tmp_path / "pho tos\n\U0001f98a", "dark", "bright [bold]")
    for number, name in enumerate(ODD_NAMES):
        path = Path(os.fsdecode(os.fsencode(root / "dark") + b"/" + name))
        picture(1000 + number).save(tmp_path / "new.png")
        shutil.copy(tmp_path / "new.png", path)
    code, out, _ = linnaeus(monkeypatch, capsys, "train", root, *FAST, "--out", tmp_path / "run")
    assert code == 0
    assert json.loads(last_line(out))["metrics"]["split"] == "test"
    with (tmp_path / "run/data/index.csv").open(newline="", encoding="utf-8") as file:
        listed = {row["name"] for row in csv.DictReader(file) if row["role"]}
    expected = {f"dark/{os.fsdecode(n)}".encode("utf-8", "backslashreplace").decode() for n in ODD_NAMES}
    assert expected <= listed
    assert len(listed) == 24 + len(ODD_NAMES)


@UNIX_NAMES
def test_the_doctor_finds_copies_under_any_name_and_shows_them(tmp_path, doctor):
    root = fill(tmp_path / "photos", "[red]dark", "[bold]", count=10)
    folder = os.fsencode(root / "[bold]")
    for name in ODD_NAMES:
        shutil.copy(root / "[red]dark" / "0.png", os.fsdecode(folder + b"/" + name))
    code, out, _ = doctor(root, "--json")
    assert code == 0
    (finding,) = [f for f in json.loads(last_line(out))["findings"] if f["kind"] == "two_labels"]
    assert {file["name"] for file in finding["files"]} == {
        "[red]dark/0.png",
        "[bold]/with space.png",
        "[bold]/new\nline.png",
        "[bold]/\U0001f98a.png",
        "[bold]/caf\\udce9.png",
        "[bold]/-rf.png",
        "[bold]/[i]<i>&.png",
    }
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "[bold]/caf\\udce9.png" in page
    assert "[bold]/[i]&lt;i&gt;&amp;.png" in page


def test_the_doctors_table_prints_names_of_classes_as_they_are(tmp_path, doctor):
    """Few images, so that the classes are named; what is in brackets would vanish, were it markup."""
    code, out, _ = doctor(fill(tmp_path / "photos", "[red]dark", "[bold]", count=3))
    assert code == 0
    words = out.replace("│", " ").split()
    assert "[red]dark" in words
    assert "[bold]" in words


def test_images_without_a_fault_are_good_in_two_lines(tmp_path, doctor):
    code, out, err = doctor(fill(tmp_path / "photos", "dark", "bright"))
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first == "24 images, no findings"
    assert second.startswith("Verdict: good.")


def test_link_loops_end_and_are_told(tmp_path, doctor):
    root = fill(tmp_path / "photos", "dark", "bright")
    (root / "dark" / "loop").symlink_to(root / "dark", target_is_directory=True)
    (root / "dark" / "self.png").symlink_to(root / "dark" / "self.png")
    (root / "all").symlink_to(root, target_is_directory=True)
    code, out, _ = doctor(root, "--json")
    content = json.loads(last_line(out))
    assert code == 0
    assert (content["images"], content["classes"]) == (24, 2)
    (ignored,) = [f for f in content["findings"] if f["kind"] == "ignored"]
    assert ignored["subjects"] == [
        "all (a link to a folder above it)",
        "dark/self.png (Too many levels of symbolic links)",
    ]


@pytest.mark.parametrize("command", ["doctor", "train"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\ncat\n", "path"),
        ("path\nphotos/dark/0.png\n", "label"),
        ("", "is empty"),
    ],
    ids=["no paths", "no labels", "nothing"],
)
def test_a_table_without_a_column_it_needs_is_one_line(tmp_path, monkeypatch, capsys, command, text, message):
    (tmp_path / "t.csv").write_text(text)
    monkeypatch.chdir(tmp_path)
    code, out, err = linnaeus(monkeypatch, capsys, command, "t.csv")
    assert code in (2, 3)
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: t.csv")
    assert message in line


@pytest.mark.parametrize("named", ["--path-column", "--label-column", "--split-column"])
def test_a_column_that_is_named_and_missing_is_one_line_with_those_there(tmp_path, doctor, named):
    (tmp_path / "t.csv").write_text("path,label,split\na.png,cat,train\n")
    code, _, err = doctor(tmp_path / "t.csv", named, "colour")
    assert code == 2
    (line,) = err.splitlines()
    assert "'colour'" in line
    assert "path, label, split" in line


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs users as Unix has them")
@pytest.mark.parametrize("command", ["doctor", "train"])
def test_a_folder_that_may_not_be_read_is_one_line(monkeypatch, capsys, command):
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, which lies in a folder closed to the other user
        closed = fill(Path(name), "dark", "bright") / "dark"
        closed.parent.chmod(0o755)
        closed.chmod(0)
        user = os.geteuid()
        try:
            if user == 0:  # the superuser may read everything: be nobody for a while
                os.seteuid(65534)
            code, out, err = linnaeus(monkeypatch, capsys, command, closed.parent)
        finally:
            os.seteuid(user)
            closed.chmod(0o755)
    assert (code, out, err) == (2, "", f"error: {closed} cannot be read: permission denied\n")


NOTHING = {
    "a file": (2, "is no table"),
    "an empty folder": (3, "has no images"),
    "a folder of texts": (3, "has no images"),
    "a pipe": (2, "is no table"),
    "no such path": (2, "is neither a folder nor a built-in set"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes as Unix has them")
@pytest.mark.parametrize("what", NOTHING)
def test_what_is_no_data_is_refused_in_one_line(tmp_path, doctor, what):
    path, (expected, message) = tmp_path / "data", NOTHING[what]
    if what == "a file":
        path.write_text("no images")
    elif what == "a pipe":  # to open it would wait for ever
        os.mkfifo(path)
    elif what != "no such path":
        path.mkdir()
    if what == "a folder of texts":
        (path / "a").mkdir()
        (path / "a" / "1.txt").write_text("no image")
    code, out, err = doctor(path)
    assert code == expected
    assert out == ""
    (line,) = err.splitlines()
    assert message in line
    assert not (tmp_path / "page.html").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes as Unix has them")
def test_a_page_never_takes_the_place_of_what_is_no_file(tmp_path, monkeypatch, capsys):
    """Writing is atomic, by renaming, so that a superuser would lose /dev/null."""
    root, pipe = fill(tmp_path / "photos", "dark", "bright"), tmp_path / "pipe"
    os.mkfifo(pipe)
    code, _, err = linnaeus(monkeypatch, capsys, "doctor", root, "--page", pipe)
    assert code == 2
    assert "expected the name of a file" in err
    assert pipe.is_fifo()


RUN_AND_WEIGH = """
from pathlib import Path
from linnaeus.cli import main
try:
    main()
except SystemExit as stop:
    (peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(stop.code or 0, int(peak.split()[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read as Linux tells it")
def test_a_hundred_thousand_files_in_one_folder_are_examined(tmp_path):
    """All but 24 are empty: what is tried is the number. A process of its own has a peak of memory of its own.

    The peak that `getrusage` tells would not be: a new process inherits that of the one that started it.
    """
    root = fill(tmp_path / "photos", "dark", "bright")
    for number in range(100_000):
        (root / "dark" / f"empty-{number:06d}.png").touch()
    page = tmp_path / "page.html"
    command = [sys.executable, "-c", RUN_AND_WEIGH, "doctor", str(root), "--page", str(page), "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    *_, answer, figures = done.stdout.splitlines()
    content = json.loads(answer)
    assert (content["images"], content["usable"]) == (100_024, 24)
    (unreadable,) = [f for f in content["findings"] if f["kind"] == "unreadable"]
    assert len(unreadable["files"]) == 100_000
    assert page.stat().st_size < 1_000_000
    exit_code, megabytes = map(int, figures.split())
    assert exit_code == 0
    assert megabytes < 1200
    sys.stdout.write(f"{seconds:.0f} s, {megabytes} MB")
