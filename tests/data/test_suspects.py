"""Wrong labels are found by what a model predicts for images that it did not learn from."""

import csv
import sys

import numpy as np
import pytest
import torch
from torch import nn

from linnaeus.core.errors import RequestError
from linnaeus.data.sources import open_source
from linnaeus.data.sources.base import Labels
from linnaeus.data.suspects import COLUMNS, Suspect, check_possible, find_suspects, to_finding, write_suspects

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def cleanlab():
    pytest.importorskip("cleanlab", reason="needs the extra [doctor]")


def labels_of(targets) -> Labels:
    return Labels(CLASSES, np.asarray(targets), np.full(len(targets), ""))


def predictions(count: int, flipped: int):
    """A model that is right and sure, within noise, and labels of which the first `flipped` were swapped."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, count)
    logits = rng.normal(0, 1, (count, 3)) + 4 * np.eye(3)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    given = truth.copy()
    given[:flipped] = (truth[:flipped] + 1) % 3
    return probabilities.astype(np.float32), given


@pytest.mark.slow
def test_planted_wrong_labels_are_found_with_few_others(cleanlab):
    """Slow, as are the next: importing the library and what it stands on takes seconds."""
    probabilities, given = predictions(600, 30)
    labels = labels_of(np.concatenate([np.zeros(1000, np.int64), given]))
    suspects = find_suspects(probabilities, np.arange(1000, 1600), labels)
    found = np.array([suspect.position for suspect in suspects]) - 1000
    assert np.isin(np.arange(30), found).sum() >= 27
    assert (found < 30).mean() >= 0.8
    for suspect, row in zip(suspects, found.tolist(), strict=True):
        assert suspect.label == CLASSES[given[row]]
        assert suspect.looks_like == CLASSES[probabilities[row].argmax()] != suspect.label
        assert suspect.label_probability == probabilities[row, given[row]]
        assert suspect.looks_like_probability == probabilities[row].max()
    believed = [suspect.label_probability for suspect in suspects]
    assert believed == sorted(believed), "the surest come first"


@pytest.mark.slow
def test_right_labels_are_not_suspected(cleanlab):
    truth = np.arange(300) % 3
    assert find_suspects(0.9 * np.eye(3)[truth] + 0.1 / 3, np.arange(300), labels_of(truth)) == ()


@pytest.mark.slow
@pytest.mark.parametrize("given", [[1], [1, 1, 1], [0, 0, 0], [0, 2], [2, 1, 1, 0, 1]], ids=str)
def test_few_images_of_few_classes_are_judged_or_left_alone(cleanlab, given):
    """Also where a class is missing among them, or all are of one."""
    certain = np.full((len(given), 3), 0.05, np.float32)
    certain[np.arange(len(given)), given] = 0.9
    assert find_suspects(certain, np.arange(len(given)), labels_of(given)) == ()


@pytest.mark.slow
def test_a_tenth_of_the_labels_of_photos_changed_is_found_by_a_small_network(cleanlab, real_data):
    """CIFAR-10's automobiles, frogs and ships; the network learns from wrong labels too. Half a minute."""
    source = open_source(str(real_data("cifar10-jpeg") / "test"))
    chosen = [source.labels.classes.index(name) for name in ("automobile", "frog", "ship")]
    positions = np.concatenate([np.flatnonzero(source.labels.targets == k)[:800] for k in chosen])
    pixels = np.stack([source.decode(source.read(position)) for position in positions.tolist()])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1  # (N, H, W, C) -> (N, C, H, W)
    figures = np.array([_precision_and_recall(images, np.repeat([0, 1, 2], 800), seed) for seed in range(3)])
    precision, recall, guessing = figures.mean(0)
    sys.stdout.write(f"precision {precision:.0%} ± {figures[:, 0].std():.0%}, recall {recall:.0%}, n = 3 seeds")
    assert precision >= 0.4
    assert recall >= 0.7
    assert precision > 4 * guessing


def _precision_and_recall(images: torch.Tensor, truth: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Of the suspects in a held-out third; and the share of wrong labels there, which is the precision of guessing."""
    rng = np.random.default_rng(seed)
    flipped = rng.random(len(truth)) < 0.1
    given = np.where(flipped, (truth + rng.integers(1, 3, len(truth))) % 3, truth)
    order = rng.permutation(len(truth))
    held_out, learnt = order[: len(order) // 3], order[len(order) // 3 :]
    probabilities = _train(images[learnt], torch.from_numpy(given[learnt]), images[held_out], seed)
    found = np.array([suspect.position for suspect in find_suspects(probabilities, held_out, labels_of(given))])
    return flipped[found].mean(), flipped[found].sum() / flipped[held_out].sum(), flipped[held_out].mean()


def _train(images: torch.Tensor, targets: torch.Tensor, others: torch.Tensor, seed: int) -> np.ndarray:
    """Eight epochs of a network of three convolutions; (M, 3) probabilities of `others`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [
            layer
            for inner, outer in ((3, 32), (32, 64), (64, 128))
            for layer in (nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.ReLU())
        ]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 3))
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.05)
        for _ in range(8):
            for rows in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images[rows]), targets[rows], label_smoothing=0.1).backward()
                optimizer.step()
    with torch.inference_mode():
        return network.eval()(others).softmax(1).numpy()


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(RequestError, match=r"pip install 'linnaeus\[doctor\]'"):
        check_possible(labels_of(np.zeros(3, np.int64)))


def test_images_of_several_classes_are_refused_before_the_library_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(RequestError, match="images may have several"):
        check_possible(labels_of(np.eye(3, dtype=np.uint8)))


def test_the_finding_has_figures_and_a_reason_an_image():
    finding = to_finding([Suspect(4, "ant", "bee", 0.02, 0.95), Suspect(1, "bee", "cat", 0.1, 0.6)], 40)
    assert finding.severity == "warning"
    assert finding.reason == "The labels of 2 of 40 held-out images (5.0%) contradict what the model predicts."
    assert dict(finding.files) == {
        4: "labelled 'ant' (2%), looks like 'bee' (95%)",
        1: "labelled 'bee' (10%), looks like 'cat' (60%)",
    }


def test_the_table_keeps_any_name_in_one_cell(tmp_path):
    names = ['a,"b"\n\r.png', "caf\udce9.png"]
    suspects = [Suspect(1, "ant", "bee", 0.25, 0.5), Suspect(0, "bee", "ant", 0.125, 0.75)]
    write_suspects(tmp_path / "s.csv", suspects, names.__getitem__, np.array(["val", "test"]))
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            list(COLUMNS),
            ["caf\\udce9.png", "test", "ant", "bee", "0.250000", "0.500000"],
            ['a,"b"\n\r.png', "val", "bee", "ant", "0.125000", "0.750000"],
        ]
