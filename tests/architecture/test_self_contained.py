"""The project speaks of itself alone: no file names a place on somebody's machine or a folder outside the clone."""

import subprocess
from pathlib import Path

import pytest

from .source import REPOSITORY, expect_none

# Put together, so that this file does not find itself.
OUTSIDE = ("/" + "work/", "/" + "farm/", "../" + "shared")
# The one place where data from outside the clone may be found by default: (file, what its line starts with).
ALLOWED = ("Makefile", "TEST_DATA_ARCHIVES ?=")


def check_texts(root: Path, names: list[str]) -> list[str]:
    """Lines that name a place outside the project; files that are not text are passed over."""
    found = []
    for name in names:
        if not (root / name).is_file():
            continue
        content = (root / name).read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
            if not (name == ALLOWED[0] and line.startswith(ALLOWED[1])):
                found += [f"{name}:{number}: names '{place}'" for place in OUTSIDE if place in line]
    return found


def project_files(root: Path) -> list[str]:
    """What git tracks, and what it would track if it were added; skips where this is not a git checkout."""
    try:
        top = subprocess.run(["git", "rev-parse", "--show-cdup"], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if top.returncode or top.stdout.strip():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def test_no_file_names_a_place_outside_the_project():
    names = project_files(REPOSITORY)
    assert "Makefile" in names
    expect_none(check_texts(REPOSITORY, names))


def test_a_place_outside_is_found_and_the_default_of_the_makefile_is_not(tmp_path):
    default = f"TEST_DATA_ARCHIVES ?= {OUTSIDE[2]}/data\n"
    (tmp_path / "Makefile").write_text(default + f"run:\n\tcd {OUTSIDE[0]}x\n")
    (tmp_path / "other.mk").write_text(default)
    (tmp_path / "image.png").write_bytes(b"\0" + OUTSIDE[1].encode())
    assert check_texts(tmp_path, ["Makefile", "other.mk", "image.png", "deleted.txt"]) == [
        f"Makefile:3: names '{OUTSIDE[0]}'",
        f"other.mk:1: names '{OUTSIDE[2]}'",
    ]
