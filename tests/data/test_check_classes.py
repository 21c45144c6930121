"""The checks on classes hold where images have several: what cannot be learnt is said, what can is not accused."""

import pytest

from linnaeus.data.doctor import audit, diagnose
from linnaeus.data.findings import KINDS
from linnaeus.data.sources import open_source

from .pictures import png


def findings(folder, cells, header="path,label"):
    """kind -> reasons, of a table of pictures with these labels."""
    lines = [header]
    for number, cell in enumerate(cells):
        (folder / f"{number}.png").write_bytes(png(number))
        lines.append(f"{number}.png,{cell}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    source = open_source(str(folder / "table.csv"))
    assert source.labels.task == "multi"
    found = {}
    for finding in diagnose(source, audit(source)).findings:
        found.setdefault(finding.kind, []).append(finding.reason)
    return found


def test_images_of_several_classes_in_good_proportion_are_not_accused(tmp_path):
    found = findings(tmp_path, ["cat|dog", "dog", "cat", ""] * 10)
    assert not found.keys() & {"one_class", "empty_class", "tiny_class", "unbalanced"}


def test_the_same_labels_on_every_image_are_an_error(tmp_path):
    assert findings(tmp_path, ["1,1"] * 12, "path,cat,dog")["one_class"] == [
        "All images that can be used have the same labels: 'cat|dog'."
    ]


def test_a_class_on_every_image_is_told(tmp_path):
    found = findings(tmp_path, ["cat|dog", "dog"] * 10)
    assert found["unbalanced"] == ["1 class is on every image, with nothing to be told from: dog."]
    assert "one_class" not in found


@pytest.mark.parametrize("kind", ["tiny_class", "unbalanced"])
def test_classes_are_counted_by_image_and_class(tmp_path, kind):
    found = findings(tmp_path, ["cat|dog", "cat"] * 30 + ["eel", "eel|dog"])
    reasons = {
        "tiny_class": "1 class has fewer than 10 usable images: eel (2).",
        "unbalanced": "'cat' has 60 images and 'eel' 2: 30 times as many.",
    }
    assert found[kind] == [reasons[kind]]


@pytest.mark.parametrize(("bare", "verb"), [(1, "has"), (3, "have")])
def test_images_without_any_class_are_counted_and_a_note(tmp_path, bare, verb):
    found = findings(tmp_path, ["cat|dog", "dog", "cat"] * 10 + [""] * bare)
    assert found["no_class"] == [
        f"{bare} of {30 + bare} images ({bare / (30 + bare):.1%}) {verb} none of the 2 classes."
    ]
    assert KINDS["no_class"].severity == "note"


def test_a_set_where_every_image_has_a_class_has_no_such_note(tmp_path):
    assert "no_class" not in findings(tmp_path, ["cat|dog", "dog", "cat"] * 10)
