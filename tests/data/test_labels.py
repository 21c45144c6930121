"""One class an image or several: what counts as a separator, the order of the classes, and rows that say nothing."""

import numpy as np
import pytest

from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.sources import open_source
from linnaeus.data.sources.labels import find_separator
from linnaeus.data.sources.subset import take_per_class

from .pictures import names


def table(folder, *rows: str):
    """A CSV with these rows as a source; none of its images exists, and none is looked at."""
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return open_source(str(folder / "table.csv"))


IMAGENET = ["tench, Tinca tinca", "boxer", "great white shark, white shark", "crane", "crane, heron", "maillot"]
GRID = [f"{colour},{thing}" for colour in ("red", "blue", "green") for thing in ("car", "bus", "bike")]


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["cat", "dog", "cat|dog", "cat|dog"], "|"),
        (["cat", "dog", "cat;dog", "dog; cat"], ";"),
        (["cat", "dog", "cat, dog", "dog,cat"], ","),
        (["cat", "cat|dog", "cat|dog", "eel"], "|"),  # half of those in company are also alone
        (["No Finding", "Mass|Nodule", "Mass|Edema", "Edema|Nodule", "Mass|Edema|Nodule", "Mass|Pain"], "|"),
        (GRID, ","),  # never alone, yet 6 labels make 9 cells
        (["a|b", "b|c", "c|a", "a|b|c"], "|"),
        (["a,b|c", "c", "a,b", "a,b|c"], "|"),  # the first separator that fits
        (["", "cat", "dog", "cat|dog", "cat|dog"], "|"),
        (IMAGENET, None),
        (["animal|dog", "animal|cat", "plant|rose", "animal|dog"], None),  # a hierarchy: more parts than cells
        (["animal", "animal|dog", "animal|cat", "animal|eel"], None),  # one in four stands alone
        (["red car", "blue car", "red bus", "blue bus", "red", "car"], None),  # white space is part of a name
        (["cat", "dog", "cat|dog"], None),  # one image is a slip of the pen
        (["cat", "dog"] * 200 + ["cat|dog"] * 3, None),  # fewer than one in a hundred
        (["cat", "dog"] * 200 + ["cat|dog"] * 5, "|"),
        (["cat", "dog", "cat||dog", "|"], None),  # an empty part
        (["cat", "dog"], None),
        ([], None),
    ],
)
def test_a_separator_is_one_whose_parts_recombine(cells, separator):
    values = list(dict.fromkeys(cells))
    assert find_separator(values, [cells.count(value) for value in values]) == separator


def test_cells_with_several_labels_make_the_task_multi_label_and_it_is_said(tmp_path):
    source = table(tmp_path, "path,labels", "1,dog | cat", "2,cat", "3,dog|cat|cat", "4,", "5,dog|eel", "6,eel")
    labels = source.labels
    assert (labels.task, labels.classes) == ("multi", ("cat", "dog", "eel"))
    assert labels.targets.dtype == np.uint8
    assert labels.targets.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1], [0, 0, 1]]
    assert [labels.text(i) for i in range(6)] == ["cat|dog", "cat", "cat|dog", "", "dog|eel", "eel"]
    assert "labels separated by '|': multi-label, 3 classes" in labels.notes


def test_one_column_a_class_makes_the_task_multi_label_and_it_is_said(tmp_path):
    labels = table(tmp_path, "image,zebra,ape,set", "1,1,0,train", "2,1.0,True,test", "3,0,0,val").labels
    assert (labels.task, labels.classes) == ("multi", ("zebra", "ape"))  # in the order of the columns
    assert labels.targets.tolist() == [[1, 0], [1, 1], [0, 0]]
    assert labels.splits.tolist() == ["train", "test", "val"]
    assert "one column a class: multi-label, 2 classes" in labels.notes
    assert not labels.extra


def test_one_column_a_class_with_one_class_an_image_says_what_it_could_be(tmp_path):
    labels = table(tmp_path, "image,zebra,ape", "1,1,0", "2,0,1").labels
    assert labels.task == "multi"
    assert any("every image has exactly one" in note for note in labels.notes)


@pytest.mark.parametrize("cell", ["2", "-1", "", "yes", "0.5"])
def test_a_column_that_is_neither_0_nor_1_is_no_class(tmp_path, cell):
    with pytest.raises(RequestError, match=r"has no column of labels .* Its columns are: image, zebra, ape"):
        table(tmp_path, "image,zebra,ape", "1,1,0", f"2,0,{cell}", "3,1,1")


def test_classes_that_are_numbers_are_ordered_as_numbers(tmp_path):
    assert table(tmp_path, "path,label", "1,10", "2,9", "3,-1", "4,100").labels.classes == ("-1", "9", "10", "100")
    assert table(tmp_path, "path,label", "1,10", "2,9", "3,1a").labels.classes == ("10", "1a", "9")
    assert table(tmp_path, "path,label", "1,--1", "2,-", "3,9").labels.classes == ("-", "--1", "9")


def test_spaces_around_a_label_are_no_part_of_it(tmp_path):
    labels = table(tmp_path, "path, label", "1, cat", "2,cat ", "3,hot  dog").labels
    assert labels.classes == ("cat", "hot  dog")
    assert labels.targets.tolist() == [0, 0, 1]


def test_a_label_that_is_not_utf8_becomes_valid_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"path,label\n1,caf\xe9\n2,cat\n")
    assert open_source(str(tmp_path / "t.csv")).labels.classes == ("caf\\xe9", "cat")


def test_rows_that_cannot_be_used_are_left_out_with_their_reasons(tmp_path):
    rows = ["1,cat", ",dog", "2,", "1,cat", "3,dog", "3,cat", "4,dog", ",eel"]
    labels = (source := table(tmp_path, "path,label", *rows)).labels
    assert names(source) == ["1", "3", "4"]
    assert labels.targets.tolist() == [0, 1, 1]
    assert labels.classes == ("cat", "dog")  # no image of the class eel is left
    conflict = "an earlier row has the same path with another label; several labels of an image belong in one cell"
    assert labels.ignored == (
        "row 3: no path",
        "row 9: no path",
        "1: an earlier row has the same path",
        f"3: {conflict}, as cat|dog",
        "2: no label",
    )
    assert "2 row(s) left out: no path; the first is row 3" in labels.notes


def test_a_table_without_two_classes_is_refused(tmp_path):
    with pytest.raises(DataError, match="has only one class, 'cat'"):
        table(tmp_path, "path,label", "1,cat", "2,cat")
    with pytest.raises(DataError, match="has no row with a label"):
        table(tmp_path, "path,label", "1,", "2, ")
    with pytest.raises(DataError, match="has no row that can be used; the first has no path"):
        table(tmp_path, "path,label", ",cat", ",dog")
    with pytest.raises(DataError, match="has no row with a label"):
        table(tmp_path, "path,cat,dog", "1,0,0", "2,0,0")
    with pytest.raises(DataError, match="has no rows"):
        table(tmp_path, "path,label")


def test_a_class_column_without_an_image_is_left_out_and_named(tmp_path):
    labels = table(tmp_path, "path,cat,dog,eel", "1,1,0,0", "2,1,0,1").labels
    assert labels.classes == ("cat", "eel")
    assert labels.targets.tolist() == [[1, 0], [1, 1]]
    assert "no image has the class dog: left out" in labels.notes


def test_splits_are_understood_in_any_case(tmp_path):
    words = ["Train", "training", "VAL", "valid", "validation", "dev", "test", "Testing", ""]
    labels = table(tmp_path, "path,label,split", *[f"{i},{'ab'[i % 2]},{word}" for i, word in enumerate(words)]).labels
    assert labels.splits.tolist() == ["train"] * 2 + ["val"] * 4 + ["test"] * 2 + [""]


def test_further_columns_are_kept_where_their_values_repeat(tmp_path):
    rows = [f"{i},{'ab'[i % 2]},ward {i % 3},note {i},{i}" for i in range(12)]
    extra = table(tmp_path, "path,label,ward,note,number", *rows).labels.extra
    assert list(extra) == ["ward"]
    assert [extra["ward"].values[code] for code in extra["ward"].codes] == [f"ward {i % 3}" for i in range(12)]


def test_at_most_so_many_images_of_each_class_are_taken(tmp_path):
    rows = [f"{i},{'ab'[i % 5 == 0]},{'train' if i % 2 else 'test'}" for i in range(200)]
    source = table(tmp_path, "path,label,split", *rows)
    some = take_per_class(source, 7, seed=3)
    counts = {(some.labels.text(i), str(some.labels.splits[i])) for i in range(len(some.labels))}
    assert len(counts) == 4
    assert len(some.labels) == 4 * 7
    assert [int(name) for name in names(some)] == sorted(int(name) for name in names(some))
    assert names(take_per_class(source, 7, seed=3)) == names(some) != names(take_per_class(source, 7, seed=4))


def test_of_several_labels_each_class_gets_so_many_images_as_there_are(tmp_path):
    cells = ["a|b", "a", "a|c", "a", "b|a", "", "a", "b", "", ""] * 20
    source = table(tmp_path, "path,label", *[f"{i},{cell}" for i, cell in enumerate(cells)])
    some = take_per_class(source, 5, seed=0)
    counts = some.labels.targets.sum(0).tolist()
    assert counts[2] == 5  # the rarest is never taken for the sake of another
    assert min(counts) == 5
    assert (some.labels.targets.sum(1) == 0).sum() == 5
    assert len(some.labels) <= 20
