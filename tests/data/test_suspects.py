"""Wrong labels are found by what a model predicts for images that it did not learn from."""

import sys

import numpy as np
import pytest

from linnaeus.core.errors import RequestError
from linnaeus.data.sources.base import Labels
from linnaeus.data.suspects import find_suspects

CLASSES = ("ant", "bee", "cat")


def predictions(count: int, flipped: int):
    """A model that is right and sure, within noise, and labels of which the first `flipped` were swapped."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, count)
    logits = rng.normal(0, 1, (count, 3)) + 4 * np.eye(3)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    given = truth.copy()
    given[:flipped] = (truth[:flipped] + 1) % 3
    return probabilities.astype(np.float32), truth, given


@pytest.mark.slow
def test_planted_wrong_labels_are_found_with_few_others():
    """Slow, as is the next: importing the library and what it stands on takes seconds."""
    pytest.importorskip("cleanlab", reason="needs the extra [doctor]")
    probabilities, truth, given = predictions(600, 30)
    labels = Labels(CLASSES, np.concatenate([np.zeros(1000, np.int64), given]), np.full(1600, ""))
    finding = find_suspects(probabilities, np.arange(1000, 1600), labels)
    found = np.array(list(finding.files)) - 1000
    assert np.isin(np.arange(30), found).sum() >= 27
    assert (found < 30).mean() >= 0.8
    assert (found[:10] < 30).all(), "the surest come first"
    index = int(found[0])
    assert f"labelled '{CLASSES[given[index]]}'" in finding.files[index + 1000]
    assert f"looks like '{CLASSES[truth[index]]}'" in finding.files[index + 1000]
    assert finding.severity == "warning"


@pytest.mark.slow
def test_right_labels_give_no_finding():
    pytest.importorskip("cleanlab", reason="needs the extra [doctor]")
    truth = np.arange(300) % 3
    labels = Labels(CLASSES, truth, np.full(300, ""))
    assert find_suspects(0.9 * np.eye(3)[truth] + 0.1 / 3, np.arange(300), labels) is None


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    labels = Labels(CLASSES, np.zeros(3, np.int64), np.full(3, ""))
    with pytest.raises(RequestError, match=r"pip install 'linnaeus\[doctor\]'"):
        find_suspects(np.eye(3), np.arange(3), labels)


def test_images_of_several_classes_are_refused():
    labels = Labels(CLASSES, np.eye(3, dtype=np.uint8), np.full(3, ""))
    with pytest.raises(RequestError, match="have several"):
        find_suspects(np.eye(3), np.arange(3), labels)
