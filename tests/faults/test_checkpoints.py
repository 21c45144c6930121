"""A checkpoint that is torn, altered or gone is named, and the one before it used; a full disk loses nothing."""

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from linnaeus.app.progress import Display
from linnaeus.app.run import Run
from linnaeus.app.train import _check_best
from linnaeus.core.errors import EnvironmentFault
from linnaeus.engine.checkpoint import BEST, load_newest, load_weights, read_checkpoint, remove_torn, save_checkpoint
from linnaeus.engine.step import take_step

from .small import BATCHES, Images, assert_same, everything, go, make_rule, make_state


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGE = {
    "empty": lambda path, content: path.write_bytes(b""),
    "torn": lambda path, content: path.write_bytes(content[: len(content) // 2]),
    "last byte missing": lambda path, content: path.write_bytes(content[:-1]),
    "longer": lambda path, content: path.write_bytes(content + b"\0"),
    "zeros": lambda path, content: path.write_bytes(bytes(len(content))),
    "another file": lambda path, content: path.write_bytes((path.parent / BEST).read_bytes()),
    "a folder": lambda path, content: (path.unlink(), path.mkdir()),
}


@pytest.fixture
def run(tmp_path) -> tuple[Path, Path, Path]:
    """A run with two checkpoints: folder, older, newer."""
    go(tmp_path, make_rule(), seconds=100.0)
    older, newer = sorted(tmp_path.glob("step-*"))
    return tmp_path, older, newer


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(run, how):
    folder, older, newer = run
    DAMAGE[how](newer, newer.read_bytes())
    state = make_state()
    (problem,) = load_newest(folder, state)
    assert problem.startswith(f"{newer} is damaged")
    assert state.step == read_checkpoint(older)[1]["step"] == 2 * BATCHES


def test_no_flipped_bit_goes_unnoticed(run):
    folder, _, newer = run
    content = newer.read_bytes()
    # More of them in the header, where a flip can also make another valid name or number, than in the tensors.
    header = int.from_bytes(content[:8], "little")
    for place in [*range(0, header + 8, 61), *range(header + 8, len(content), 997), len(content) - 1]:
        newer.write_bytes(flip(content, place))
        state = make_state()
        (problem,) = load_newest(folder, state)
        assert str(newer) in problem
        assert state.step == 2 * BATCHES


def test_a_missing_checkpoint_is_replaced_by_the_one_before_it_and_the_run_ends_the_same(run):
    folder, _, newer = run
    whole = everything(folder)
    newer.unlink()
    go(folder, make_rule())
    assert_same(everything(folder), whole)


def test_without_a_whole_checkpoint_all_are_named(run):
    folder, older, newer = run
    for path in (older, newer):
        path.write_bytes(b"")
    with pytest.raises(EnvironmentFault) as fault:
        load_newest(folder, make_state())
    assert str(older) in str(fault.value)
    assert str(newer) in str(fault.value)


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(run):
    folder, older, newer = run
    for torn in (f".{newer.name}.ab12cd34", ".tmpPiefHE"):  # ours, and that of safetensors
        (folder / torn).write_bytes(b"half")
    remove_torn(folder)
    assert sorted(folder.iterdir()) == sorted([older, newer, folder / BEST])


def test_a_state_of_version_0_1_is_read(run):
    folder, _, _ = run
    import linnaeus.engine.checkpoint as module

    state = make_state()
    tensors = {name: t for name, t in module._tensors(state).items() if name != "faults"}
    module.save_tensors(folder / "step-000000099.safetensors", module.KIND, 1, tensors, {"step": 99, "best": [0.5, -1]})
    assert load_newest(folder, state) == []
    assert (state.step, state.best, state.micro_batches, state.due) == (99, (0.5, -1), 1, False)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a small disk needs mount, and there is none")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_and_is_freed_costs_nothing(small_disk, tmp_path):
    go(tmp_path / "whole", make_rule())
    folder, filler, notes = small_disk / "run", small_disk / "filler", []

    def step(state, batch, rule):
        if state.step == 3:
            with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
                file.write(bytes(2**20))
        if state.step == 2 * BATCHES + 2:
            filler.unlink()
        before = {path: path.read_bytes() for path in folder.glob("step-*")}
        take_step(state, batch, rule)
        if filler.exists():
            assert load_newest(folder, make_state()) == []
            assert before == {path: path.read_bytes() for path in folder.glob("step-*")}

    go(folder, make_rule(note=notes.append), step=step)
    assert any("could not be saved" in note and "No space left on device" in note for note in notes)
    assert_same(everything(folder), everything(tmp_path / "whole"))
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_limit_on_file_sizes_is_a_full_disk_too(tmp_path):
    state, notes = make_state(), []
    save_checkpoint(tmp_path, state, keep=2)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(EnvironmentFault, match="could not be saved; the newest is that of step 0"):
            go(tmp_path, make_rule(total_steps=2, note=notes.append))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "could not be saved" in notes[0]
    assert load_newest(tmp_path, make_state()) == []


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    notes = []
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(EnvironmentFault, match="there is no earlier one"):
            go(tmp_path, make_rule(total_steps=2, note=notes.append))
    finally:
        tmp_path.chmod(0o700)
    assert "Permission denied" in notes[0]


def test_best_weights_are_checked_as_checkpoints_are(run):
    folder, _, _ = run
    content = (folder / BEST).read_bytes()
    (folder / BEST).write_bytes(flip(content, len(content) - 5))
    with pytest.raises(EnvironmentFault, match="does not match its checksum"):
        load_weights(folder / BEST)


def test_a_later_state_becomes_the_best_where_the_weights_of_the_best_are_lost(tmp_path, capsys):
    run, state = Run(tmp_path), make_state()
    go(run.checkpoints, make_rule())
    load_newest(run.checkpoints, state)
    _check_best(run, state, Display())
    assert state.best is not None
    (run.checkpoints / BEST).unlink()
    _check_best(run, state, Display())
    assert state.best is None
    assert "the best weights so far are lost" in capsys.readouterr().err


def test_the_state_to_go_back_to_is_kept_beside_the_newest(tmp_path):
    state = make_state()
    state.anchor = 0
    for batch in Images().epoch(0):
        save_checkpoint(tmp_path, state, keep=2)
        take_step(state, batch, make_rule())
    assert [int(path.stem[5:]) for path in sorted(tmp_path.glob("step-*"))] == [0, BATCHES - 2, BATCHES - 1]
    assert torch.equal(read_checkpoint(tmp_path / "step-000000000.safetensors")[0]["sums"], torch.zeros(3).double())
