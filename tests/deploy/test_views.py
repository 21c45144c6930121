"""Test-time augmentation is the mean of the logits of views that can be written down, wherever a model is asked."""

import pytest
import torch

import linnaeus
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.deploy.bundle import Bundle, load_bundle, save_bundle
from linnaeus.deploy.views import NUM_VIEWS, average_views, views
from linnaeus.models import create_model

SIZE = 28


def bundle(tta: str | None) -> Bundle:
    torch.manual_seed(0)
    model = create_model("lenet5_modern", num_classes=3, in_channels=1, image_size=SIZE).eval()
    preprocess = Preprocess(Geometry(SIZE, SIZE, (0.5,), (0.25,)))
    about = {
        "architecture": {
            "name": "lenet5_modern",
            "num_classes": 3,
            "in_channels": 1,
            "image_size": SIZE,
            "options": {},
        },
        "task": "single",
        "classes": ["a", "b", "c"],
        "preprocess": preprocess.to_json(),
        "calibration": {"method": "temperature", "temperature": 2.0},
        **({"tta": {"views": tta}} if tta else {}),
    }
    return Bundle(model, about, preprocess)


def photos(count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 1, SIZE, SIZE), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("tta", NUM_VIEWS)
def test_the_views_are_as_many_as_is_said_and_their_weights_sum_to_one(tta):
    images = torch.rand(2, 3, 8, 8)
    seen = list(views(images, tta))
    assert len(seen) == NUM_VIEWS[tta]
    assert sum(weight for _, weight in seen) == 1.0
    assert seen[0][0] is images
    assert all(view.shape == images.shape for view, _ in seen)


def test_shift_sees_what_its_source_sees():
    images = torch.rand(2, 3, 8, 8)
    up_left = torch.cat([images[:, :, 1:2], images[:, :, :-1]], 2)  # moves down by a pixel, and reflects the second row
    up_left = torch.cat([up_left[..., 1:2], up_left[..., :-1]], 3)
    down_right = torch.cat([images[:, :, 1:], images[:, :, -2:-1]], 2)
    down_right = torch.cat([down_right[..., 1:], down_right[..., -2:-1]], 3)
    seen = list(views(images, "shift"))
    expected = [images, images.flip(-1), up_left, up_left.flip(-1), down_right, down_right.flip(-1)]
    assert [weight for _, weight in seen] == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    for (view, _), wanted in zip(seen, expected, strict=True):
        assert torch.equal(view, wanted)


def test_without_views_the_logits_are_the_networks_own():
    assert torch.equal(average_views(lambda x: x.mean((2, 3)), photos().float(), "none"), photos().float().mean((2, 3)))


def test_a_mirror_image_gets_the_same_answer():
    model, images = bundle("flip"), photos()
    torch.testing.assert_close(model.logits(images), model.logits(images.flip(-1)))
    plain = bundle("none")
    assert not torch.allclose(plain.logits(images), plain.logits(images.flip(-1)), atol=1e-4)
    expected = (plain.logits(images) + plain.logits(images.flip(-1))) / 2
    torch.testing.assert_close(model.logits(images), expected)


@pytest.mark.parametrize("tta", ["flip", "shift"])
def test_all_ways_to_ask_have_the_same_views(tta, tmp_path):
    model, images = bundle(tta), photos()
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    expected = model.probabilities(images)
    torch.testing.assert_close(torch.stack([row.probabilities for row in model.rows(arrays)]), expected)
    torch.testing.assert_close(model.embed(arrays), bundle("none").embed(arrays))  # of the image itself
    save_bundle(tmp_path, model)
    torch.testing.assert_close(linnaeus.load(tmp_path).probabilities(images), expected)


def test_a_model_that_says_nothing_of_views_has_none(tmp_path):
    model, images = bundle(None), photos()
    save_bundle(tmp_path, model)
    assert torch.equal(load_bundle(tmp_path).logits(images), bundle("none").logits(images))
    assert torch.equal(model.logits(images), bundle("none").logits(images))


def test_the_views_move_in_what_is_there_and_not_zeros():
    ones = torch.ones(1, 1, 8, 8)
    assert all(torch.equal(view, ones) for view, _ in views(ones, "shift"))
