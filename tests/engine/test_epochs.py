"""The weights of the chosen epochs are there when a run ends, wherever it was killed, and no others."""

import pytest
import torch

from linnaeus.core.errors import EnvironmentFault
from linnaeus.engine.checkpoint import checkpoints, load_weights
from linnaeus.engine.epochs import Pick, epoch_path
from linnaeus.engine.step import take_step

from ..faults.small import BATCHES, assert_same, evaluate, everything, go, make_rule

RANKS = [0.5, 0.9, 0.7, 0.9, 0.6, 0.8]
EPOCHS = len(RANKS)


def judge(state):
    scores, _ = evaluate(state)
    return scores, (RANKS[state.step // BATCHES - 1], 0.0)


def run(folder, pick, *, step=take_step, keep=2, seconds=0.0):
    return go(
        folder, make_rule(total_steps=EPOCHS * BATCHES), judge=judge, step=step, epochs=pick, keep=keep, seconds=seconds
    )


def kept(folder) -> dict[int, dict[str, torch.Tensor]]:
    paths = sorted(folder.glob("epoch-*"))
    return {int(path.stem[6:]) // BATCHES: load_weights(path) for path in paths}


@pytest.mark.parametrize(
    ("pick", "epochs"),
    [
        (Pick(2, "last"), [5, 6]),
        (Pick(3, "best"), [2, 4, 6]),
        (Pick(1, "best"), [2]),  # of equal ones the earlier
        (Pick(9, "best"), [1, 2, 3, 4, 5, 6]),
    ],
)
def test_those_asked_for_are_chosen(pick, epochs):
    ranked = [(BATCHES * (number + 1), (rank, 0.0)) for number, rank in enumerate(RANKS)]
    assert pick.steps(ranked) == [BATCHES * epoch for epoch in epochs]


@pytest.mark.parametrize("pick", [Pick(2, "last"), Pick(2, "best")])
def test_the_weights_of_the_chosen_epochs_are_kept_and_no_others(tmp_path, pick):
    seen = {}

    def step(state, batch, rule):
        take_step(state, batch, rule)
        seen[state.step] = {name: tensor.clone() for name, tensor in state.judged.state_dict().items()}

    run(tmp_path, pick, step=step, keep=1)
    found = kept(tmp_path)
    assert list(found) == ([5, 6] if pick.which == "last" else [2, 4])
    for epoch, weights in found.items():
        assert all(torch.equal(tensor, seen[BATCHES * epoch][name]) for name, tensor in weights.items())


@pytest.mark.parametrize("pick", [Pick(2, "last"), Pick(2, "best")])
def test_they_are_the_same_wherever_the_run_was_killed(tmp_path, pick):
    run(tmp_path / "whole", pick)
    for number in (3, 2 * BATCHES, 4 * BATCHES + 2, 5 * BATCHES + 1):
        folder = tmp_path / str(number)

        def killed(state, batch, rule, number=number):
            take_step(state, batch, rule)
            if state.step == number:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(folder, pick, step=killed, seconds=100.0 if number % 2 else 0.0)
        run(folder, pick)
        assert_same(everything(folder), everything(tmp_path / "whole"))
        expected, found = kept(tmp_path / "whole"), kept(folder)
        for epoch in pick.steps([(n + 1, (rank, 0.0)) for n, rank in enumerate(RANKS)]):
            assert all(torch.equal(tensor, found[epoch][name]) for name, tensor in expected[epoch].items())


@pytest.mark.parametrize("pick", [Pick(2, "last"), Pick(2, "best")])
def test_a_run_that_goes_on_from_the_older_checkpoint_finds_what_that_needs(tmp_path, pick):
    run(tmp_path / "whole", pick)
    folder = tmp_path / "torn"

    def killed(state, batch, rule):
        if state.step == 5 * BATCHES:
            raise KeyboardInterrupt
        take_step(state, batch, rule)

    with pytest.raises(KeyboardInterrupt):
        run(folder, pick, step=killed, seconds=100.0)
    newest, older = checkpoints(folder)
    newest.write_bytes(newest.read_bytes()[:-10])
    ranked = [(BATCHES * (n + 1), (rank, 0.0)) for n, rank in enumerate(RANKS[: int(older.stem[5:]) // BATCHES])]
    assert all(epoch_path(folder, step).is_file() for step in pick.steps(ranked))
    run(folder, pick)
    assert_same(everything(folder), everything(tmp_path / "whole"))
    assert set(kept(folder)) >= set(kept(tmp_path / "whole")) - {EPOCHS - 1}


def test_what_could_not_be_written_is_written_later_if_it_is_still_chosen(tmp_path, monkeypatch):
    from linnaeus.engine import train as loop

    run(tmp_path / "whole", Pick(2, "last"))
    write, is_full = loop.write_weights, [False]

    def full(*arguments):
        if is_full[0]:
            raise EnvironmentFault("no space left")
        write(*arguments)

    def step(state, batch, rule):
        is_full[0] = 3 * BATCHES - 2 <= state.step < 5 * BATCHES + 2
        take_step(state, batch, rule)

    monkeypatch.setattr(loop, "write_weights", full)
    run(tmp_path / "full", Pick(2, "last"), step=step)
    assert_same(everything(tmp_path / "full"), everything(tmp_path / "whole"))
    found, expected = kept(tmp_path / "full"), kept(tmp_path / "whole")
    for epoch in (5, 6):
        assert all(torch.equal(tensor, found[epoch][name]) for name, tensor in expected[epoch].items())
