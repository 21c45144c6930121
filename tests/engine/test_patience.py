"""A run ends where no better state comes for a while: at an epoch's end, and the same one wherever it was killed."""

import pytest

from linnaeus.engine.step import take_step

from ..faults.small import BATCHES, assert_same, evaluate, everything, go, make_rule

RANKS = [0.5, 0.9, 0.7, 0.9, 0.6, 0.95, 0.96]


def judge(state):
    scores, _ = evaluate(state)
    return scores, (RANKS[state.step // BATCHES - 1], 0.0)


@pytest.mark.parametrize(
    ("patience", "stops_after"),
    [
        (0, 7),  # never
        (BATCHES, 3),
        (BATCHES + 1, 4),  # at the end of an epoch: an equal rank is no better one
        (2 * BATCHES, 4),
        (3 * BATCHES, 5),
        (4 * BATCHES, 7),
    ],
)
def test_a_run_ends_once_its_patience_is_over(tmp_path, patience, stops_after):
    state = go(tmp_path, make_rule(total_steps=7 * BATCHES, patience=patience), judge=judge)
    assert state.step == stops_after * BATCHES
    assert state.stopped == (stops_after < 7)
    assert state.best_step == (2 if stops_after < 7 else 7) * BATCHES


@pytest.mark.parametrize("patience", [2 * BATCHES, BATCHES + 1])
def test_it_ends_at_the_same_step_wherever_it_was_killed(tmp_path, patience):
    rule = make_rule(total_steps=7 * BATCHES, patience=patience)
    go(tmp_path / "whole", rule, judge=judge)
    for number in (BATCHES, 3 * BATCHES + 2, 4 * BATCHES - 1):
        folder = tmp_path / str(number)

        def killed(state, batch, rule, number=number):
            take_step(state, batch, rule)
            if state.step == number:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            go(folder, rule, judge=judge, step=killed)
        go(folder, rule, judge=judge)
        assert_same(everything(folder), everything(tmp_path / "whole"))


def test_a_run_that_has_ended_early_takes_no_step_when_it_is_resumed(tmp_path):
    rule = make_rule(total_steps=7 * BATCHES, patience=BATCHES)
    go(tmp_path, rule, judge=judge)
    before = everything(tmp_path)
    go(tmp_path, rule, judge=lambda _: pytest.fail("was evaluated"), step=lambda *_: pytest.fail("took a step"))
    assert_same(everything(tmp_path), before)


def test_a_checkpoint_that_knows_of_no_patience_loads(tmp_path):
    from linnaeus.core.files import load_tensors, save_tensors
    from linnaeus.engine.checkpoint import KIND, VERSION

    rule = make_rule(total_steps=BATCHES)
    go(tmp_path, rule, judge=judge, keep=1)
    (path,) = tmp_path.glob("step-*")
    tensors, about = load_tensors(path, KIND, VERSION)
    for name in ("best_step", "ranked", "stopped"):
        about.pop(name)
    save_tensors(path, KIND, VERSION, tensors, about)
    assert go(tmp_path, make_rule(total_steps=2 * BATCHES), judge=judge).step == 2 * BATCHES
