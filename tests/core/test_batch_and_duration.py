"""Batches pad and split without losing or counting twice; durations become steps once."""

import pytest
import torch

from linnaeus.core.batch import Batch
from linnaeus.core.duration import Duration
from linnaeus.core.errors import RequestError


def batch(size: int) -> Batch:
    numbers = torch.arange(size)
    return Batch.of(numbers.view(-1, 1, 1, 1).to(torch.uint8), numbers, numbers)


def test_padding_is_marked_and_keeps_the_images():
    padded = batch(3).pad(5)
    assert padded.valid.tolist() == [True, True, True, False, False]
    assert padded.index.tolist() == [0, 1, 2, 2, 2]
    assert batch(3).pad(2).index.tolist() == [0, 1, 2]


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 50])
def test_micro_batches_are_the_batch_in_pieces(parts):
    pieces = list(batch(7).split(parts))
    assert torch.cat([piece.targets for piece in pieces]).tolist() == list(range(7))
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    assert len(pieces) == min(parts, 7)


@pytest.mark.parametrize(
    ("text", "steps"), [("3ep", 30), ("0.5ep", 5), ("7st", 7), ("10%", 20), ("0.001ep", 1), (" 2 ep ", 20), ("0ep", 0)]
)
def test_durations_become_steps(text, steps):
    assert Duration.parse(text).steps(steps_per_epoch=10, total=200) == steps


@pytest.mark.parametrize("text", ["", "3", "ep", "-1ep", "0st", "0min", "1ep 2st", "5parsecs"])
def test_what_is_not_a_duration_is_refused(text):
    with pytest.raises(RequestError, match="is not a duration"):
        Duration.parse(text)


def test_a_time_is_not_steps():
    assert Duration.parse("2h") == Duration(7200, "s")
    assert [str(Duration.parse(text)) for text in ("2h", "90min", "45s", "3ep")] == ["2h", "1.5h", "45s", "3ep"]
    with pytest.raises(RequestError, match="cannot be counted in steps"):
        Duration.parse("2h").steps(steps_per_epoch=10)


@pytest.mark.parametrize(
    ("part", "run", "share"),
    [
        ("30s", "10min", 0.05),
        ("2min", "10min", 0.2),
        ("15%", "10min", 0.15),
        ("2ep", "8ep", 0.25),
        ("5st", "2ep", 0.25),
        ("1.01%", "100st", 0.02),  # of whole steps
    ],
)
def test_a_part_of_a_run_is_a_share_of_it(part, run, share):
    assert Duration.parse(part).share(Duration.parse(run), steps_per_epoch=10) == share


@pytest.mark.parametrize(("part", "run"), [("500st", "10min"), ("2ep", "2h"), ("30s", "5ep"), ("1min", "100st")])
def test_steps_are_no_share_of_a_time_nor_a_time_of_steps(part, run):
    with pytest.raises(RequestError, match=f"^{part} is .*, and the run is {run}: give "):
        Duration.parse(part).share(Duration.parse(run), steps_per_epoch=10)
