"""Under a budget the progress is the clock's, and what was recorded of it is used again whatever the clock says."""

from array import array
from pathlib import Path

import pytest

from linnaeus.core.budget import Budget, Costs

FREE = Costs(evaluation=0.0, passes=1.0, closing=0.0)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, time: float = 1000.0) -> None:
        self.time = time

    def __call__(self) -> float:
        return self.time


def walk(budget: Budget, clock: Clock, step: int, seconds: float = 1.0, most: int = 10**6) -> list[float]:
    """Takes steps of so many seconds until the time is over, or `most` of them; the progress of each."""
    shares = []
    while len(shares) < most and not budget.is_over(step):
        shares.append(budget.share(step))
        clock.time += seconds
        step += 1
    return shares


@pytest.fixture
def journal(tmp_path) -> Path:
    return tmp_path / "progress.f64"


def test_steps_of_one_length_have_the_progress_of_counted_ones(journal):
    clock = Clock()
    budget = Budget(journal, seconds=100, costs=FREE, now=clock)
    # How long a step takes is known from the second one on.
    assert walk(budget, clock, 0) == pytest.approx([0.0, *((step + 0.5) / 100 for step in range(1, 100))])
    assert clock.time == 1100


def test_what_was_spent_before_and_what_comes_after_the_steps_is_part_of_the_time(journal):
    clock, costs = Clock(), Costs(evaluation=4.0, passes=2.5, closing=3.0)
    budget = Budget(journal, seconds=100, costs=costs, elapsed=7.0, now=clock)
    shares = walk(budget, clock, 0)
    assert clock.time == 1000 + 100 - 7 - 2.5 * 4 - 3
    assert len(shares) == 80
    assert shares[-1] == pytest.approx(79.5 / 80)


def test_the_end_is_at_the_step_that_is_nearest_to_it(journal, tmp_path):
    for seconds, expected in ((10.4, 10), (10.6, 11)):
        clock = Clock()
        budget = Budget(tmp_path / str(expected), seconds=seconds, costs=FREE, now=clock)
        assert len(walk(budget, clock, 0)) == expected


def test_one_step_is_always_taken_and_progress_never_falls(journal):
    clock = Clock()
    budget = Budget(journal, seconds=1, costs=FREE, elapsed=50.0, now=clock)
    assert len(walk(budget, clock, 0)) == 1
    slow = Budget(journal.with_name("slow"), seconds=100, costs=FREE, now=clock)
    shares = walk(slow, clock, 0, seconds=10, most=4) + walk(slow, clock, 4, seconds=0.01, most=50)
    assert shares == sorted(shares)


def test_an_evaluation_is_left_out_where_only_the_last_one_has_time(journal):
    clock, costs = Clock(), Costs(evaluation=20.0, passes=1.0, closing=0.0)
    budget = Budget(journal, seconds=100, costs=costs, now=clock)
    assert len(walk(budget, clock, 0, most=50)) == 50
    assert budget.allows_evaluation(50)
    clock.time += 20
    assert len(walk(budget, clock, 50, most=5)) == 5  # at 75 s of the 80 before the last evaluation
    assert not budget.allows_evaluation(55)
    clock.time += 100
    assert not budget.is_over(55), "an answer of no is followed by a step, or the run would end without its evaluation"
    assert budget.share(55) < 1
    assert budget.is_over(56)


def test_a_longer_evaluation_than_expected_leaves_more_time_for_the_last_one(journal):
    clock, costs = Clock(), Costs(evaluation=1.0, passes=2.0, closing=0.0)
    budget = Budget(journal, seconds=100, costs=costs, now=clock)
    walk(budget, clock, 0, most=10)
    assert budget.allows_evaluation(10)
    clock.time += 15
    walk(budget, clock, 10)
    assert clock.time == 1000 + 100 - 2 * 15


def test_a_resumed_run_takes_its_steps_with_the_progress_they_had_and_goes_on_from_there(journal):
    clock = Clock()
    before = walk(Budget(journal, seconds=100, costs=FREE, now=clock), clock, 0, most=60)
    later = Clock(5e6)  # the machine slept for two months, and is three times as fast now
    budget = Budget(journal, seconds=100, costs=FREE, step=20, now=later)
    again = walk(budget, later, 20, seconds=1 / 3, most=40)
    assert again == before[20:]
    rest = walk(budget, later, 60, seconds=1 / 3)
    assert rest[0] == pytest.approx((59 + 1 / 3 + 0.5) / 100, abs=1e-3)
    assert len(rest) == pytest.approx(3 * 40, abs=3)
    assert rest[-1] == pytest.approx(1, abs=0.01)


def test_a_run_that_is_resumed_after_its_last_step_takes_no_other(journal):
    clock = Clock()
    assert len(walk(Budget(journal, seconds=10, costs=FREE, now=clock), clock, 0)) == 10
    assert Budget(journal, seconds=10, costs=FREE, step=10, now=clock).is_over(10)
    assert len(walk(Budget(journal, seconds=10, costs=FREE, step=4, now=clock), clock, 4)) == 6


def test_a_journal_that_a_crash_cut_short_is_continued_from_what_is_left(journal):
    clock = Clock()
    walk(Budget(journal, seconds=100, costs=FREE, now=clock), clock, 0, most=30)
    whole = array("d", journal.read_bytes())
    journal.write_bytes(journal.read_bytes()[: 16 * 20 + 5])
    budget = Budget(journal, seconds=100, costs=FREE, step=25, now=clock)  # the state was saved at step 25
    shares = walk(budget, clock, 25, most=3)
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(whole[2 * 19], abs=0.02)
    rows = array("d", journal.read_bytes())
    assert rows[: 2 * 20] == whole[: 2 * 20]
    assert len(rows) == 2 * 28


def test_a_journal_that_cannot_be_written_does_not_stop_the_run_and_what_was_missed_is_written_later(journal):
    clock = Clock()
    budget = Budget(journal, seconds=100, costs=FREE, now=clock)
    walk(budget, clock, 0, most=3)
    away = journal.rename(journal.with_name("away"))  # what cannot be opened cannot be written either
    walk(budget, clock, 3, most=4)
    away.rename(journal)
    assert len(journal.read_bytes()) == 3 * 16
    shares = walk(budget, clock, 7, most=1)
    rows = array("d", journal.read_bytes())
    assert len(rows) == 2 * 8
    assert rows[-2] == shares[0]


def test_a_run_that_goes_back_takes_the_time_for_no_evaluation(journal):
    clock, costs = Clock(), Costs(evaluation=1.0, passes=2.0, closing=0.0)
    budget = Budget(journal, seconds=100, costs=costs, now=clock)
    before = walk(budget, clock, 0, most=20)
    assert budget.allows_evaluation(20)
    clock.time += 1
    assert walk(budget, clock, 10, most=10) == before[10:]  # again from step 10 on
    walk(budget, clock, 20)
    assert clock.time == 1000 + 100 - 2 * 1
