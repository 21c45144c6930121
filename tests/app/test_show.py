"""The contact sheet: the images are those that evaluation and training make, of all classes and roles."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from linnaeus.app.config import make_config
from linnaeus.app.images import Images
from linnaeus.app.prepare import prepare
from linnaeus.app.progress import Display
from linnaeus.app.resolve import resolve
from linnaeus.app.show import VERSIONS, _cards, choose, show
from linnaeus.cli.data import show as command
from linnaeus.core.errors import RequestError
from linnaeus.data.sources import Labels

QUIET = Display(quiet=True)


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of ten noises, 90 x 120."""
    root = tmp_path_factory.mktemp("show") / "photos"
    noise = np.random.Generator(np.random.Philox(key=3))
    for name in ("dark", "bright"):
        (root / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(noise.integers(0, 256, (90, 120, 3), np.uint8)).save(root / name / f"{number}.png")
    return root


def settings(photos, **sections):
    return make_config({"data": {"source": str(photos)}, "model": {"name": "resnet18", "image_size": 64}, **sections})


def cards_of(config, count=20):
    prepared = prepare(config.data, seed=0, display=QUIET)
    config = resolve(config, prepared)
    chosen = choose(prepared.source.labels, prepared.split.roles, count, seed=0)
    return config, prepared, chosen, _cards(config, prepared, chosen, QUIET)


def test_the_first_picture_is_what_evaluation_shows(photos):
    config, prepared, chosen, cards = cards_of(settings(photos))
    fit = Images(config, prepared, QUIET).preprocess.fit
    assert len(cards) == 20
    for index, card in zip(chosen.tolist(), cards, strict=True):
        expected = fit(prepared.source.decode(prepared.source.read(index)))
        assert torch.equal(torch.from_numpy(card.seen).permute(2, 0, 1), expected)
        assert card.name == prepared.source.name(index)
        assert card.label == prepared.source.labels.text(index)
        assert card.role == prepared.split.roles[index]


def test_training_images_have_versions_that_differ_and_held_out_ones_have_none(photos):
    *_, cards = cards_of(settings(photos))
    assert {card.role for card in cards} == {"train", "val", "test"}
    for card in cards:
        assert len(card.versions) == (VERSIONS if card.role == "train" else 0)
        assert len({version.tobytes() for version in card.versions}) == len(card.versions)
        assert all(version.shape == (64, 64, 3) for version in card.versions)


def test_without_augmentation_the_versions_are_what_evaluation_shows(photos):
    *_, cards = cards_of(settings(photos, augment={"crop": "none", "flip": False}))
    assert all(np.array_equal(version, card.seen) for card in cards for version in card.versions)


def test_a_setting_of_augmentation_is_seen(photos):
    augment = {"crop": "none", "flip": False, "cutout": 30}
    *_, cards = cards_of(settings(photos, augment=augment))
    for card in cards:
        for version in card.versions:
            changed = (version != card.seen).any(2)
            assert 0 < changed.sum() <= 30 * 30


def test_repeated_augmentation_brings_all_versions_too(photos):
    *_, cards = cards_of(settings(photos, augment={"repeats": 3}))
    assert all(card.versions for card in cards if card.role == "train")


def test_small_images_in_memory_are_shown_by_the_same_code(monkeypatch):
    config = make_config({"data": {"source": "animals", "limit": 6}})
    config, prepared, chosen, cards = cards_of(config, count=10)
    assert config.data.loader == "memory"
    assert [card.label for card in cards] == list(prepared.classes)
    for index, card in zip(chosen.tolist(), cards, strict=True):
        assert np.array_equal(card.seen, prepared.source.decode(prepared.source.read(index)))


def test_images_are_chosen_in_turn_of_each_class():
    targets = np.repeat(np.arange(3), [50, 5, 2])
    labels = Labels(("a", "b", "c"), targets, np.full(57, ""))
    roles = np.array(["train", "", "test"] * 19)
    chosen = choose(labels, roles, 9, seed=0)
    assert (roles[chosen] != "").all()
    assert np.bincount(targets[chosen]).tolist() == [4, 4, 1] or np.bincount(targets[chosen]).tolist() == [5, 3, 1]
    assert np.array_equal(chosen, choose(labels, roles, 9, seed=0))
    assert len(choose(labels, roles, 999, seed=0)) == (roles != "").sum()
    several = Labels(("a", "b"), np.array([[1, 0], [1, 1], [0, 0]] * 19, np.uint8), np.full(57, ""))
    assert len(choose(several, roles, 10, seed=0)) == 10


def test_a_page_holds_everything_itself(photos, tmp_path, capsys):
    out = tmp_path / "sheet.html"
    command(str(photos), out, images=8, settings=["model.name=resnet18", "model.image_size=64", "augment.erase=0.5"])
    page = out.read_text(encoding="utf-8")
    assert page.count("<figure>") == 8
    assert "augmentation: crop=resized, flip=True, erase=0.5" in page
    assert "resnet18 at 64 pixels, 3 channel(s)" in page
    assert "http" not in page
    assert f"8 images: {out}" in capsys.readouterr().out


def test_a_picture_may_be_had_instead(photos, tmp_path):
    config = settings(photos, augment={"mixup": 0.2})
    assert show(config, tmp_path / "sheet.png", count=6, display=QUIET) == 6
    with Image.open(io.BytesIO((tmp_path / "sheet.png").read_bytes())) as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 20)) > 100


@pytest.mark.parametrize("name", ["sheet.pdf", "missing/sheet.html"])
def test_a_sheet_that_cannot_be_written_is_refused_before_any_work(tmp_path, name):
    with pytest.raises(RequestError, match=r"ending in \.html or \.png"):
        show(settings("/no/such/folder"), tmp_path / name, count=4, display=QUIET)
