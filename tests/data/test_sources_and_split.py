"""From a source to roles: they follow the stated rules, and copies never straddle two roles."""

import shutil

import numpy as np
import pytest

from linnaeus.core.errors import DataError
from linnaeus.data.doctor import audit
from linnaeus.data.sources import open_source
from linnaeus.data.split import assign_roles

from .pictures import fill

SHARES = {"val_share": 0.2, "test_share": 0.2, "seed": 0}


def split_of(root, **changes):
    source = open_source(str(root))
    found = audit(source)
    return source, assign_roles(source.labels, found, **{**SHARES, **changes})


def test_without_splits_all_three_are_carved_by_class(tmp_path):
    for seed, name in enumerate(["cat", "dog"]):
        fill(tmp_path / name, 20, seed)
    source, split = split_of(tmp_path)
    assert split.carved == ("val", "test")
    for label in (0, 1):
        own = split.roles[source.labels.targets == label]
        assert [int((own == role).sum()) for role in ("train", "val", "test")] == [12, 4, 4]
    assert np.array_equal(split.roles, split_of(tmp_path)[1].roles)
    assert not np.array_equal(split.roles, split_of(tmp_path, seed=1)[1].roles)


def test_the_roles_that_a_seed_gives_do_not_change_from_version_to_version(tmp_path):
    for seed, name in enumerate(["ape", "bee", "cat"]):
        fill(tmp_path / name, 12, seed)
    shutil.copy(tmp_path / "bee" / "3.png", tmp_path / "bee" / "copy.png")
    _, split = split_of(tmp_path)
    letters = {"train": ".", "val": "v", "test": "t"}
    assert "".join(letters[role] for role in split.roles.tolist()) == "v......v..ttvv...t.t....t.vt......vt."


def test_a_given_val_is_the_test_where_there_is_none(tmp_path):
    for seed, name in enumerate(["train/cat", "train/dog", "validation/cat", "validation/dog"]):
        fill(tmp_path / name, 10, seed)
    source, split = split_of(tmp_path)
    assert split.carved == ("val",)
    assert {source.name(i).split("/")[0] for i in split.indices("test")} == {"validation"}
    assert {source.name(i).split("/")[0] for i in split.indices("val")} == {"train"}


def test_copies_stay_together_when_carved(tmp_path):
    for seed, name in enumerate(["cat", "dog"]):
        fill(tmp_path / name, 10, seed)
        for number in range(10):
            shutil.copy(tmp_path / name / f"{number}.png", tmp_path / name / f"copy-{number}.png")
    source, split = split_of(tmp_path)
    roles = {source.name(i): split.roles[i] for i in range(len(source.labels))}
    assert all(roles[f"{c}/{n}.png"] == roles[f"{c}/copy-{n}.png"] for c in ("cat", "dog") for n in range(10))


def test_a_training_copy_of_a_test_image_is_left_out(tmp_path):
    for seed, name in enumerate(["train/cat", "train/dog", "test/cat", "test/dog"]):
        fill(tmp_path / name, 10, seed)
    shutil.copy(tmp_path / "test/cat/3.png", tmp_path / "train/cat/leak.png")
    source, split = split_of(tmp_path)
    assert {source.name(i): r for i, r in split.left_out.items()} == {
        "train/cat/leak.png": "exact copy of an image in test"
    }


def test_broken_images_have_no_role_and_a_reason(tmp_path):
    for seed, name in enumerate(["cat", "dog"]):
        fill(tmp_path / name, 10, seed)
    (tmp_path / "cat" / "bad.jpg").write_text("no image")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    source = open_source(str(tmp_path))
    found = audit(source)
    assert [source.name(i) for i in found.broken] == ["cat/bad.jpg"]
    assert source.labels.ignored == ("cat/notes.txt",)
    assert assign_roles(source.labels, found, **SHARES).roles[list(found.broken)] == ""


def test_a_class_with_too_few_images_to_carve_from_is_refused_with_the_number_that_is_missing(tmp_path):
    fill(tmp_path / "cat", 2, 0)
    fill(tmp_path / "eel", 9, 1)
    with pytest.raises(DataError, match=r"class 'cat' has 2 different usable .* add at least 1"):
        split_of(tmp_path)
