"""The loop outlives bad steps, full disks, signals and compilers, and what it does about them resumes bit for bit."""

import errno
import signal
from dataclasses import replace

import pytest
import torch

from linnaeus.core.errors import EnvironmentFault, Interrupted, NotFinite, Unstable
from linnaeus.engine import train as loop
from linnaeus.engine.checkpoint import BEST, load_weights
from linnaeus.engine.guard import PATIENCE, is_compiled
from linnaeus.engine.step import take_step

from ..faults.small import BATCHES, STEPS, Images, assert_same, evaluate, everything, go, make_rule, make_state


def poisoned(*numbers, where="loss"):
    """Takes steps of which some have a loss or a gradient that is not finite, or a loss far too large."""

    def step(state, batch, rule):
        if state.step in numbers:
            plain = rule.loss

            def loss(logits, targets, valid):
                value = plain(logits, targets, valid)
                if where == "gradient":  # finite, and its gradient is not
                    return (
                        value
                        + torch.where(logits > 1e9, logits.abs().sqrt(), 0.0).sum()
                        + 0 * ((logits - logits.detach()).abs().sqrt().sum())
                    )
                return value * (1000.0 if where == "spike" else float("nan"))

            rule = replace(rule, loss=loss)
        take_step(state, batch, rule)

    return step


def die_at(number, inner=take_step):
    """As if the process were killed after so many steps, before they are saved."""

    def step(state, batch, rule):
        inner(state, batch, rule)
        if state.step == number:
            raise KeyboardInterrupt

    return step


def test_a_run_ends_the_same_wherever_it_was_killed(tmp_path):
    rule = make_rule(clip_norm=1.0, accumulate=2)
    go(tmp_path / "whole", rule)
    for number in (1, 4, BATCHES, BATCHES + 3, STEPS - 1):
        folder = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            go(folder, rule, step=die_at(number), seconds=0.0 if number % 2 else 100.0)
        go(folder, rule, seconds=100.0)
        assert_same(everything(folder), everything(tmp_path / "whole"))


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("look", [0.0, 100.0])
def test_stop_keeps_nothing_that_is_not_finite(tmp_path, where, look):
    with pytest.raises(NotFinite, match=r"not finite|loss is nan"):
        go(tmp_path, make_rule(), step=poisoned(STEPS - 1, where=where), look=look)
    tensors = everything(tmp_path)
    assert tensors["about"]["step"] < STEPS
    assert all(torch.isfinite(tensors[name]).all() for name in tensors if name != "about")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("number", [0, 7])
def test_a_skipped_step_changes_nothing_but_the_count(optimizer, where, number):
    rule, batch = make_rule(on_nonfinite="skip"), next(Images().epoch(0))
    state = make_state(optimizer)
    for _ in range(number):
        take_step(state, batch, rule)
    before = {name: tensor.clone() for name, tensor in tensors_of(state).items()}
    poisoned(number, where=where)(state, batch, rule)
    after = tensors_of(state)
    assert state.step == number + 1
    assert state.faults[:3].tolist() == [1, 1, 1]
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(not tensor.any() for name, tensor in after.items() if name not in before)  # as it begins
    take_step(state, batch, rule)
    assert state.faults[:3].tolist() == [1, 0, 1]
    assert any(not torch.equal(tensor, tensors_of(state)[name]) for name, tensor in before.items())


def tensors_of(state):
    found = dict(state.model.state_dict()) | {"sums": state.sums}
    for number, remembered in enumerate(state.optimizer.state.values()):
        found |= {f"{number}/{key}": value for key, value in remembered.items() if value is not None}
    return found


@pytest.mark.parametrize("policy", ["skip", "rollback"])
@pytest.mark.parametrize("where", ["loss", "gradient", "spike"])
def test_a_bad_step_is_survived_and_the_run_ends_the_same_wherever_it_was_killed(tmp_path, policy, where):
    bad, spike = BATCHES + 3, 50.0 if where == "spike" else 0.0
    rule = make_rule(on_nonfinite=policy, spike=spike, total_steps=6 * BATCHES if where == "spike" else STEPS)
    bad += 3 * BATCHES if where == "spike" else 0  # a spike is one beside what was usual before

    def inner(state, batch, rule):
        step = poisoned(bad, where=where) if state.rollbacks == 0 else take_step
        step(state, batch, rule)

    whole = go(tmp_path / "whole", rule, step=inner)
    assert whole.rollbacks == (policy == "rollback")
    clean = go(tmp_path / "clean", rule)
    assert not torch.equal(whole.model.head.weight, clean.model.head.weight)
    for number in (bad, bad + 3):
        folder = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            go(folder, rule, step=die_at(number, inner), seconds=0.0 if number == bad else 100.0, look=100.0)
        go(folder, rule, step=inner, seconds=100.0)
        assert_same(everything(folder), everything(tmp_path / "whole"))


def test_a_roll_back_is_to_the_last_evaluation_with_half_the_rate_and_gives_up_in_the_end(tmp_path):
    notes, seen = [], []
    rule = make_rule(on_nonfinite="rollback", note=notes.append, schedule=lambda p: 1.0)

    def step(state, batch, rule):
        seen.append(state.step)
        poisoned(BATCHES + 2)(state, batch, rule)

    with pytest.raises(NotFinite):
        go(tmp_path, rule, step=step)
    assert len(notes) == loop.MAX_ROLLBACKS
    assert f"Back from step {BATCHES + 3} to step {BATCHES}, with 1/2 of the learning rate" in notes[0]
    assert seen == [*range(BATCHES), *[BATCHES, BATCHES + 1, BATCHES + 2] * (loop.MAX_ROLLBACKS + 1)]
    state = make_state()
    loop.load_newest(tmp_path, state)
    take_step(state, next(Images().epoch(0)), rule)
    assert state.optimizer.param_groups[0]["lr"] == 0.1 / 2**loop.MAX_ROLLBACKS


def test_a_spike_stops_a_run_that_is_to_stop(tmp_path):
    rule = make_rule(spike=50.0, total_steps=6 * BATCHES)
    with pytest.raises(Unstable, match="over 50 times the usual"):
        go(tmp_path, rule, step=poisoned(5 * BATCHES, where="spike"))


def test_a_run_that_only_skips_stops(tmp_path):
    with pytest.raises(Unstable, match=f"{PATIENCE} steps in a row"):
        go(tmp_path, make_rule(on_nonfinite="skip"), step=poisoned(*range(3, 3 + PATIENCE)))
    go(tmp_path / "fewer", make_rule(on_nonfinite="skip"), step=poisoned(*range(3, 2 + PATIENCE)))


def test_a_full_disk_is_told_and_the_run_ends_as_if_it_had_never_been_full(tmp_path, monkeypatch):
    go(tmp_path / "whole", make_rule())
    folder, notes, save = tmp_path / "full", [], loop.save_checkpoint
    writes, is_full = loop.write_weights, [False]

    def full(function):
        def write(*arguments, **more):
            if is_full[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*arguments, **more)

        return write

    def step(state, batch, rule):
        is_full[0] = 3 <= state.step < 2 * BATCHES + 2  # over the ends of two epochs, each the best so far
        before = {path: path.read_bytes() for path in folder.glob("*")}
        take_step(state, batch, rule)
        if is_full[0] and state.step > 4:
            assert before == {path: path.read_bytes() for path in folder.glob("*")}

    monkeypatch.setattr(loop, "save_checkpoint", full(save))
    monkeypatch.setattr(loop, "write_weights", full(writes))
    go(folder, make_rule(note=notes.append), step=step)
    assert "could not be saved: No space left on device. It will be tried again" in notes[0]
    assert_same(everything(folder), everything(tmp_path / "whole"))


def test_a_disk_that_stays_full_is_an_error_at_the_end_and_said_when_stopped(tmp_path, monkeypatch):
    go(tmp_path, make_rule(total_steps=BATCHES))
    old = everything(tmp_path)

    def full(*_, **__):
        raise EnvironmentFault("cannot be written")

    monkeypatch.setattr(loop, "save_checkpoint", full)
    newest = f"the state could not be saved; the newest is that of step {BATCHES}"
    with pytest.raises(EnvironmentFault, match=newest):
        go(tmp_path, make_rule())
    with pytest.raises(Interrupted, match=newest):
        go(tmp_path, make_rule(), stop=lambda: signal.SIGTERM)
    kept = everything(tmp_path)
    assert_same({n: t for n, t in old.items() if n[:5] != "best/"}, {n: t for n, t in kept.items() if n[:5] != "best/"})


def test_an_evaluation_that_is_broken_off_is_made_when_the_run_goes_on(tmp_path):
    go(tmp_path / "whole", make_rule())

    def interrupted(state):
        evaluate(state)  # and its network is in evaluation mode
        raise Interrupted("stopped on request", signal.SIGTERM)

    with pytest.raises(Interrupted) as stop:
        go(tmp_path / "cut", make_rule(), judge=interrupted, seconds=100.0)
    assert stop.value.exit_code == 143
    (saved,) = (tmp_path / "cut").glob("step-*")
    assert int(saved.stem[5:]) == BATCHES
    go(tmp_path / "cut", make_rule())
    assert_same(everything(tmp_path / "cut"), everything(tmp_path / "whole"))


def test_the_best_weights_are_written_before_a_state_that_knows_of_them(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(loop, "write_weights", lambda path, weights, step: order.append(("best", step)))
    monkeypatch.setattr(loop, "save_checkpoint", lambda folder, state, keep: order.append((state.best, state.step)))
    go(tmp_path, make_rule(total_steps=BATCHES), seconds=100.0)
    assert [step for _, step in order] == [BATCHES, BATCHES]
    assert order[0][0] == "best"
    assert order[1][0] is not None


def test_best_weights_are_those_of_the_best_epoch(tmp_path):
    ranks = iter([(0.5, 0.0), (0.9, 0.0), (0.7, 0.0)])
    seen = []

    def judge(state):
        seen.append({name: tensor.clone() for name, tensor in state.judged.state_dict().items()})
        return {}, next(ranks)

    go(tmp_path, make_rule(), judge=judge)
    best = load_weights(tmp_path / BEST)
    assert all(torch.equal(best[name], tensor) for name, tensor in seen[1].items())


@pytest.mark.slow  # it imports the compiler
@pytest.mark.parametrize("when", ["forward", "backward"])
def test_a_compiler_that_fails_is_gone_without(tmp_path, when):
    from torch._dynamo.backends.common import aot_autograd

    def fails(graph, inputs):
        raise OSError("libtorn.so: file too short")

    notes = []
    go(tmp_path / "plain", make_rule())
    backend = fails if when == "forward" else aot_autograd(fw_compiler=lambda g, _: g, bw_compiler=fails)
    state = make_state()
    state.compiled = True
    state.model.compile(backend=backend)
    go(tmp_path / "fallen", make_rule(note=notes.append), state=state)
    assert not is_compiled(state.model)
    assert not state.compiled
    assert len(notes) == 1
    assert "file too short" in notes[0]
    assert_same(everything(tmp_path / "fallen"), everything(tmp_path / "plain"))
