"""Images of several classes are shared out so that every role gets its share of every class, and train misses none."""

import numpy as np
import pytest

from linnaeus.core.errors import DataError
from linnaeus.core.seed import generator
from linnaeus.data.doctor import audit
from linnaeus.data.sources import open_source
from linnaeus.data.split import assign_roles
from linnaeus.data.stratify import stratify

from .pictures import png

SHARES = {"val": 0.1, "test": 0.2}


def share_out(counts, sizes=None, seed=0):
    counts = np.array(counts, np.int64)
    sizes = np.ones(len(counts), np.int64) if sizes is None else np.array(sizes)
    return stratify(counts, sizes, SHARES, generator(seed, "split"))


def random_labels(seed, images=300, classes=12):
    """Classes from frequent to rare that come together by chance."""
    rng = np.random.default_rng(seed)
    return (rng.random((images, classes)) < np.geomspace(0.5, 0.02, classes)).astype(np.int64)


def test_classes_that_exclude_each_other_are_shared_out_to_the_image():
    roles = share_out(np.repeat(np.eye(2), [50, 30], axis=0))
    assert [(roles[:50] == role).sum() for role in ("train", "val", "test")] == [35, 5, 10]
    assert [(roles[50:] == role).sum() for role in ("train", "val", "test")] == [21, 3, 6]


def test_every_role_has_its_share_of_every_class_where_a_draw_by_chance_has_not():
    errors, by_chance = [], []
    for seed in range(10):
        counts = random_labels(seed)
        frequent = counts.sum(0) >= 20
        roles = share_out(counts, seed=seed)
        drawn = np.random.default_rng(seed).permutation(roles)  # the same number of images for each role
        for name, gaps in ((roles, errors), (drawn, by_chance)):
            gaps.append(np.abs(counts[name == "test"].sum(0) / counts.sum(0) - 0.2)[frequent])
    assert np.concatenate(errors).mean() < 0.012
    assert np.concatenate(by_chance).mean() > 0.04


@pytest.mark.parametrize("seed", range(20))
def test_train_has_every_class_and_the_others_nearly_every_class_that_there_is_enough_of(seed):
    counts = random_labels(seed, images=60, classes=30)
    counts = counts[:, counts.any(0)]
    roles = share_out(counts, seed=seed)
    assert counts[roles == "train"].any(0).all()
    enough = counts.sum(0) >= 3
    for role in SHARES:
        assert (counts[roles == role].any(0) >= enough).mean() > 0.95


def test_a_class_of_as_many_images_as_roles_is_in_each_and_of_fewer_in_train_first():
    counts = np.zeros((46, 4), np.int64)
    counts[:40, 0] = 1
    counts[40:43, 1] = counts[43:45, 2] = counts[45:, 3] = 1
    roles = share_out(counts)
    assert sorted(roles[40:43]) == ["test", "train", "val"]
    assert "train" in roles[43:45]
    assert len(set(roles[43:45])) == 2
    assert roles[45] == "train"


def test_a_class_that_comes_only_with_rarer_ones_stays_in_train():
    # Each image of class 0 is one of three of a rarer class, and each of those wants to be in every role.
    counts = np.zeros((12, 5), np.int64)
    counts[[0, 3, 6, 9], 0] = 1
    for label in range(4):
        counts[3 * label : 3 * label + 3, label + 1] = 1
    for seed in range(50):
        roles = share_out(counts, seed=seed)
        assert counts[roles == "train"].any(0).all()


def test_images_without_a_class_are_shared_out_by_their_number():
    roles = share_out(np.zeros((100, 2), np.int64))
    assert [(roles == role).sum() for role in ("train", "val", "test")] == [70, 10, 20]


def test_large_groups_are_evened_out_by_small_ones():
    sizes = np.array([30, *[1] * 70])
    roles = share_out(sizes[:, None], sizes)
    images = [sizes[roles == role].sum() for role in ("train", "val", "test")]
    assert images == [70, 10, 20]


def test_the_roles_are_a_function_of_the_seed():
    counts = random_labels(0)
    assert np.array_equal(share_out(counts, seed=1), share_out(counts, seed=1))
    assert not np.array_equal(share_out(counts, seed=1), share_out(counts, seed=2))


def write_table(folder, cells, splits=None):
    """A table of as many pictures as cells; pictures of the same number are copies."""
    splits = splits or [""] * len(cells)
    lines = ["path,label,split"]
    for number, ((picture, cell), split) in enumerate(zip(cells, splits, strict=True)):
        (folder / f"{number}.png").write_bytes(png(picture))
        lines.append(f"{number}.png,{cell},{split}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return open_source(str(folder / "table.csv"))


def roles_of(source, seed=0):
    return assign_roles(source.labels, audit(source), val_share=0.1, test_share=0.2, seed=seed)


def test_copies_of_an_image_with_several_classes_stay_in_one_role(tmp_path):
    cells = [(number // 2, ["cat|dog", "dog", "cat", "cat|eel"][number // 2 % 4]) for number in range(80)]
    source = write_table(tmp_path, cells)
    assert source.labels.task == "multi"
    split = roles_of(source)
    assert np.array_equal(split.roles[::2], split.roles[1::2])
    assert [len(split.indices(role)) for role in ("val", "test")] == pytest.approx([8, 16], abs=2)
    assert split.carved == ("val", "test")


def test_given_splits_of_images_with_several_classes_are_kept(tmp_path):
    cells = [(number, ["cat|dog", "dog", "cat"][number % 3]) for number in range(40)]
    source = write_table(tmp_path, cells, ["train"] * 30 + ["test"] * 10)
    split = roles_of(source)
    assert (split.roles[30:] == "test").all()
    assert source.labels.targets[split.indices("val")].any(0).all()
    assert len(split.indices("val")) == pytest.approx(3, abs=1)
    assert split.carved == ("val",)


def test_a_class_that_only_the_test_has_is_refused(tmp_path):
    cells = [
        (number, ["cat|dog", "dog", "cat", "eel|dog"][number % 4 if number >= 30 else number % 3])
        for number in range(40)
    ]
    source = write_table(tmp_path, cells, ["train"] * 30 + ["test"] * 10)
    with pytest.raises(DataError, match="class 'eel' has no usable image to train on"):
        roles_of(source)


def test_a_role_without_a_single_label_is_refused(tmp_path):
    cells = [(number, ["cat|dog", "dog", "cat"][number % 3] if number < 30 else "") for number in range(40)]
    source = write_table(tmp_path, cells, ["train"] * 30 + ["test"] * 10)
    with pytest.raises(DataError, match="no usable image with a class is left for test"):
        roles_of(source)


def test_too_few_images_to_carve_from_are_refused_with_the_number_that_is_missing(tmp_path):
    source = write_table(tmp_path, [(0, "cat|dog"), (1, "cat"), (1, "dog|cat")])
    with pytest.raises(DataError, match=r"2 different usable training .* val and test: add at least 1"):
        roles_of(source)
