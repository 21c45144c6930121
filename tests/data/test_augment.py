"""Augmentations are exact functions of the draws: the same for any batch, any number of workers and any order."""

import inspect
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from linnaeus.core.seed import DRAWS, draws, generator, permutation
from linnaeus.data.augment import (
    CUTOUT,
    ERASE,
    ERASE_BOX,
    FLIP,
    alternate_flips,
    crop_box,
    cutout,
    erase,
    flip,
    in_turn,
    pad_crop,
    repeat,
)
from linnaeus.data.loader import FileLoader, MemoryLoader, decoded
from linnaeus.data.order import Order
from linnaeus.data.policies import make_policy

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8)

STEPS = {
    "pad_crop": partial(pad_crop, padding=2),
    "pad_crop, mirrored": partial(pad_crop, padding=2, mode="reflect"),
    "flip": flip,
    "cutout": partial(cutout, side=4, fill=(1, 2, 3)),
    "erase": partial(erase, probability=0.5, fill=(1, 2, 3)),
    "erase with noise": partial(erase, probability=0.5, fill="noise"),
    "in turn": partial(in_turn, steps=[partial(pad_crop, padding=2), flip, make_policy("trivial")]),
}


def numbers_for(count=50):
    return draws(0, "augment", 0, start=0, count=count)


@pytest.mark.parametrize("name", STEPS)
def test_an_image_comes_out_the_same_in_any_batch_and_goes_in_unharmed(name):
    step, numbers, images = STEPS[name], numbers_for(), IMAGES.copy()
    together = step(images, numbers)
    alone = np.concatenate([step(images[i : i + 1], numbers[i : i + 1]) for i in range(50)])
    backwards = step(images[::-1], numbers[::-1])[::-1]
    assert np.array_equal(together, alone)
    assert np.array_equal(together, backwards)
    assert np.array_equal(images, IMAGES)
    assert not np.array_equal(together, IMAGES)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_pad_crop_is_a_shift_of_the_padded_image(mode):
    numbers = numbers_for()
    cropped = pad_crop(IMAGES, numbers, padding=2, mode=mode)
    how = {"zeros": "constant", "reflect": "reflect"}[mode]
    for image, row, result in zip(IMAGES, numbers, cropped, strict=True):
        top, left = int(row[1] * 5), int(row[2] * 5)
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode=how)
        assert np.array_equal(result, padded[top : top + 8, left : left + 8])


def test_flip_mirrors_half_of_the_images():
    numbers = numbers_for()
    flipped = flip(IMAGES, numbers)
    mirrored = numbers[:, 0] < 0.5
    assert np.array_equal(flipped[mirrored], IMAGES[mirrored, :, ::-1])
    assert np.array_equal(flipped[~mirrored], IMAGES[~mirrored])
    assert 10 < mirrored.sum() < 40


def test_alternating_flips_show_each_image_both_ways_in_two_epochs():
    first = generator(0, "flip").random(50)
    shown = []
    for epoch in range(4):
        rows = permutation(50, seed=0, epoch=epoch)
        numbers = draws(0, "augment", epoch, start=0, count=50)
        alternating = alternate_flips(numbers, first[rows], epoch=epoch)
        others = np.delete(np.arange(DRAWS), FLIP)
        assert np.array_equal(alternating[:, others], numbers[:, others])
        flipped = np.empty_like(IMAGES)
        flipped[rows] = flip(IMAGES[rows], alternating)
        shown.append(flipped)
    mirrored = (shown[0] != IMAGES).any(axis=(1, 2, 3))
    assert 10 < mirrored.sum() < 40
    assert np.array_equal(mirrored, first < 0.5)
    assert np.array_equal(shown[1], shown[0][:, :, ::-1])
    assert np.array_equal(shown[2], shown[0])
    assert np.array_equal(shown[3], shown[1])


def test_alternating_a_number_at_the_edge_of_its_range_still_flips():
    for number in (0.0, 0.5 - 2**-53, 0.5, 1.0 - 2**-53):  # generators give multiples of 2^-53
        rows = [alternate_flips(np.zeros((1, DRAWS)), np.array([number]), epoch=epoch)[0, FLIP] for epoch in (0, 1)]
        assert (rows[0] < 0.5) != (rows[1] < 0.5)
        assert 0 <= min(rows) <= max(rows) < 1


@pytest.mark.parametrize(("count", "repeats"), [(48, 3), (50, 3), (50, 2), (7, 4), (51, 1), (2, 5), (1, 3)])
def test_repeated_augmentation_keeps_the_length_and_repeats_the_first_images(count, repeats):
    order = permutation(count, seed=0, epoch=0)
    repeated = repeat(order, repeats=repeats)
    assert len(repeated) == count
    images, copies = np.unique(repeated, return_counts=True)
    distinct = -(-count // repeats)
    assert distinct <= len(images) <= distinct + 1
    assert set(images) == set(order[: len(images)])
    assert copies.max() == min(repeats, -(-count // 2))  # two images in turn share the places
    assert copies.min() == repeats or (copies < repeats).sum() <= 2  # only the last pair is cut off
    if count > 1:
        assert (repeated[1:] != repeated[:-1]).all()  # mixing pairs neighbours


def test_repeated_augmentation_brings_the_copies_into_one_batch_with_draws_of_their_own():
    assert repeat(np.array([5, 3, 1, 0, 2, 4]), repeats=3).tolist() == [5, 3, 5, 3, 5, 3]
    assert repeat(np.array([5, 3, 1, 0, 2, 4, 6, 7]), repeats=2).tolist() == [5, 3, 5, 3, 1, 0, 1, 0]
    numbers = numbers_for(3)
    copies = pad_crop(IMAGES[[5, 5, 5]], numbers, padding=2)
    assert not np.array_equal(copies[0], copies[1])


def test_no_repetition_is_the_order_itself():
    order = permutation(13, seed=0, epoch=0)
    assert repeat(order, repeats=1).tolist() == order.tolist()


@pytest.mark.parametrize("side", [1, 3, 4, 20])
def test_cutout_covers_a_square_around_its_centre(side):
    numbers = numbers_for()
    covered = cutout(IMAGES, numbers, side=side, fill=(7, 8, 9))
    for image, row, result in zip(IMAGES, numbers, covered, strict=True):
        top, left = (int(number * 8) - side // 2 for number in row[CUTOUT])
        y, x = np.mgrid[:8, :8]
        inside = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
        assert (result[inside] == (7, 8, 9)).all()
        assert np.array_equal(result[~inside], image[~inside])
        assert inside.any()


def boxes(images, erased):
    """(N, 4): top, left, height, width of what has changed, and whether all of the box has."""
    found = []
    for changed in (images != erased).any(axis=3):
        if changed.any():
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            box = rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
            assert changed.sum() == box[2] * box[3]
            found.append(box)
    return np.array(found)


def test_erased_boxes_are_distributed_as_torchvisions():
    images = np.full((3000, 40, 60, 1), 9, np.uint8)
    ours = boxes(images, erase(images, numbers_for(3000), probability=1.0, fill=(0,)))
    transform = v2.RandomErasing(p=1.0, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3))
    torch.manual_seed(0)
    params = [transform.make_params([torch.empty(1, 40, 60)]) for _ in range(3000)]
    theirs = np.array([[p["i"], p["j"], p["h"], p["w"]] for p in params])
    assert len(ours) == 3000
    spread = theirs.std(0) / np.sqrt(3000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 6 * spread).all()
    assert (np.abs(ours.std(0) - theirs.std(0)) < 6 * spread).all()
    assert np.abs(np.corrcoef(ours.T) - np.corrcoef(theirs.T)).max() < 0.1


def test_erasing_treats_a_share_of_the_images_and_leaves_a_box_that_fits_nowhere_alone():
    images = np.full((1000, 12, 12, 3), 9, np.uint8)
    erased = erase(images, numbers_for(1000), probability=0.25, fill=(1, 2, 3))
    changed = (erased != images).any(axis=(1, 2, 3))
    assert 190 < changed.sum() < 310
    assert np.array_equal(np.unique(erased.reshape(-1, 3), axis=0), [[1, 2, 3], [9, 9, 9]])
    assert np.array_equal(erase(images, numbers_for(1000), probability=0.0, fill=(1, 2, 3)), images)
    numbers = numbers_for(1000)
    numbers[:, ERASE_BOX] = [0.999, 0.5] * 6  # all of the image
    assert np.array_equal(erase(images, numbers, probability=1.0, fill=(1, 2, 3), area=(0.5, 1.0)), images)


def test_area_and_ratio_of_an_erased_box_are_as_asked():
    images = np.full((50, 100, 100, 1), 9, np.uint8)
    erased = erase(images, numbers_for(), probability=1.0, fill=(0,), area=(0.12, 0.12), ratio=(3.0, 3.0))
    assert np.array_equal(boxes(images, erased)[:, 2:], np.tile([20, 60], (50, 1)))


def test_an_erased_box_reaches_every_edge():
    images = np.full((1, 10, 10, 1), 9, np.uint8)
    for top, left in [(0.0, 0.0), (0.999, 0.999)]:
        numbers = np.zeros((1, DRAWS))
        numbers[:, ERASE] = 0.0, top, left
        numbers[:, ERASE_BOX] = 0.5
        (box,) = boxes(images, erase(images, numbers, probability=1.0, fill=(0,)))
        assert (box[:2] == (0 if top == 0.0 else 10 - box[2:])).all()


def test_noise_is_even_over_all_levels_and_differs_between_images():
    images = np.zeros((200, 30, 30, 3), np.uint8)
    erased = erase(images, numbers_for(200), probability=1.0, fill="noise", area=(0.3, 0.3))
    levels = erased[erased > 0]
    counts = np.bincount(levels, minlength=256)[1:]
    expected = len(levels) / 255
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * np.sqrt(2 * 255)  # chi-square
    assert len({image.tobytes() for image in erased}) == 200


@pytest.mark.parametrize(("height", "width"), [(100, 150), (60, 400)])
def test_crop_boxes_are_distributed_as_torchvisions(height, width):
    ours = np.array([crop_box(height, width, row, min_area=0.2) for row in draws(0, "a", 0, start=0, count=2000)])
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(8, scale=(0.2, 1.0))
    params = [transform.make_params([image]) for _ in range(2000)]
    theirs = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in params])
    spread = theirs.std(0) / np.sqrt(len(theirs)) + 1e-9
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 6 * spread + 0.05).all()


def test_a_crop_of_the_whole_area_is_the_whole():
    numbers = np.full(DRAWS, 0.5)
    numbers[4:24:2] = 1.0
    assert crop_box(32, 32, numbers, min_area=0.5) == (0, 0, 32, 32)


def test_no_two_augmentations_share_a_number():
    """Apart from the two that crop, of which a run has one."""
    module = inspect.getmodule(crop_box)
    names = ["FLIP", "TOP", "LEFT", "NOISE", "CROP", "JITTER", "CUTOUT", "POLICY", "ERASE", "ERASE_BOX"]
    places = [np.arange(DRAWS)[vars(module)[name]] for name in names]
    used = np.concatenate([np.atleast_1d(place) for place in places])
    assert len(set(used.tolist())) == len(used)


@dataclass(frozen=True)
class Pictures:
    """A source of nothing but images."""

    images: np.ndarray

    def read(self, index):
        return index

    def decode(self, index):
        return self.images[index]


def everything(images, numbers):
    """All that training does to small images, at once."""
    steps = [*(STEPS[name] for name in ("pad_crop, mirrored", "flip", "cutout", "erase with noise"))]
    steps += [make_policy("rand"), make_policy("jitter", hue=0.1)]
    return in_turn(images, numbers, steps=steps)


def prepare(pixels, row):
    return torch.from_numpy(everything(pixels[None], row[None])[0]).permute(2, 0, 1)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_and_batches_do_not_change_a_pixel(workers):
    index, targets = np.arange(50), torch.arange(50)
    expected = everything(IMAGES[permutation(50, seed=5, epoch=3)], draws(5, "augment", 3, start=0, count=50))
    for batch_size in (50, 8):
        order = Order(50, batch_size, 5)
        files = FileLoader(
            decoded(Pictures(IMAGES)), index, targets, order=order, prepare=prepare, shape=(3, 8, 8), workers=workers
        )
        memory = MemoryLoader(IMAGES, targets, index, order=order, augment=everything)
        for loader in (files, memory):
            found = torch.cat([batch.images for batch in loader.epoch(3)]).permute(0, 2, 3, 1).numpy()
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("ranks", [2, 5])
def test_a_rank_that_draws_for_its_own_positions_gets_the_same_pixels(ranks):
    rows = permutation(50, seed=5, epoch=0)
    whole = everything(IMAGES[rows], draws(5, "augment", 0, start=0, count=50))
    share = 50 // ranks
    for rank in range(ranks):
        start = rank * share
        numbers = draws(5, "augment", 0, start=start, count=share)
        assert np.array_equal(everything(IMAGES[rows[start : start + share]], numbers), whole[start : start + share])
