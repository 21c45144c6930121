"""Where memory is too small for a step, its micro-batches are halved, the batch stays, and the run goes on."""

from dataclasses import replace

import pytest
import torch

from linnaeus.core.errors import EnvironmentFault
from linnaeus.engine.checkpoint import load_newest
from linnaeus.engine.guard import is_out_of_memory
from linnaeus.engine.step import take_step

from .small import BATCHES, SIZE, Images, Tiny, assert_same, everything, go, make_rule, make_state


class Narrow(Tiny):
    """Has memory for so many images at a time; it fails where real networks do, late, when statistics have moved."""

    limit = SIZE

    def forward(self, images):
        logits = super().forward(images)
        if len(images) > self.limit and self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return logits


class Plain(Narrow):
    def __init__(self):
        super().__init__()
        self.body[2] = torch.nn.Identity()  # BatchNorm cannot train on a single image of one pixel


def narrow(limit: int, kind: type[Tiny] = Narrow):
    state = make_state(kind=kind)
    state.model.limit = limit
    return state


@pytest.mark.parametrize(("limit", "parts"), [(8, 1), (5, 2), (4, 2), (3, 4), (2, 4)])
def test_the_step_is_the_one_that_was_cut_so_from_the_beginning(limit, parts):
    notes, batch = [], next(Images().epoch(0))
    state, plain = narrow(limit), make_state()
    take_step(state, batch, make_rule(note=notes.append))
    take_step(plain, batch, make_rule(accumulate=parts))
    assert state.micro_batches == parts
    assert len(notes) == parts.bit_length() - 1
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, state.model.state_dict()[name]), name
    assert torch.equal(plain.sums, state.sums)
    if notes:
        assert f"from here on {-(-SIZE // parts)} images at a time; a step is still one of {SIZE} images" in notes[-1]
        assert "BatchNorm sees only those of a part" in notes[-1]


def test_a_backward_pass_that_fails_begins_the_step_anew():
    state, plain, batch = make_state(), make_state(), next(Images().epoch(0))
    failures = iter([True, False, False])

    def out_of_memory(gradient):
        if next(failures):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory")

    state.model.body[1].weight.register_hook(out_of_memory)
    take_step(state, batch, make_rule())
    take_step(plain, batch, make_rule(accumulate=2))
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, state.model.state_dict()[name]), name


def test_without_batchnorm_nothing_is_said_of_it():
    notes, state = [], narrow(4, Plain)
    take_step(state, next(Images().epoch(0)), make_rule(note=notes.append))
    assert "BatchNorm" not in notes[0]


@pytest.mark.parametrize("mixes", [False, True])
def test_memory_too_small_for_the_smallest_part_is_one_line(mixes):
    rule = make_rule(mix=(lambda images, targets, valid, step: (images, targets)) if mixes else None)
    smallest = 2 if mixes else 1
    with pytest.raises(EnvironmentFault, match=rf"too small for {smallest} image\(s\) at a time.*--image-size"):
        take_step(narrow(smallest - 1, Plain), next(Images().epoch(0)), rule)
    state = narrow(smallest, Plain)
    take_step(state, next(Images().epoch(0)), rule)
    assert state.micro_batches == SIZE // smallest


def test_the_micro_batch_in_force_is_part_of_the_state_and_saved_at_once(tmp_path):
    def step(state, batch, rule):
        state.model.limit = 8 if state.step < BATCHES + 2 else 2  # memory becomes scarce
        take_step(state, batch, rule)

    def killed(state, batch, rule):
        step(state, batch, rule)
        if state.step == BATCHES + 4:
            raise KeyboardInterrupt

    go(tmp_path / "whole", make_rule(), state=narrow(8), step=step)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "killed", make_rule(), state=narrow(8), step=killed, seconds=100.0)
    restored = narrow(8)
    load_newest(tmp_path / "killed", restored)
    assert (restored.step, restored.micro_batches) == (BATCHES + 3, 4)
    # There is memory again, as on another day: the run goes on as it was, and ends the same.
    go(tmp_path / "killed", make_rule(), state=narrow(8))
    assert_same(everything(tmp_path / "killed"), everything(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_another_error_is_not_swallowed():
    def broken(logits, targets, valid):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        take_step(make_state(), next(Images().epoch(0)), replace(make_rule(), loss=broken))


def test_what_the_allocator_of_the_cpu_raises_is_known():
    def greedy(logits, targets, valid):
        if len(logits) > 2:
            torch.empty(2**46)  # 256 TiB, more than a process can address
        return (logits.sum(1) * valid).sum()

    state = make_state()
    take_step(state, next(Images().epoch(0)), make_rule(loss=greedy))
    assert state.micro_batches == SIZE // 2


@pytest.mark.gpu
def test_a_gpu_whose_memory_is_too_small_is_cut_as_well():
    device = torch.device("cuda")
    state = make_state()
    state.model.to(device)
    state.ema.module.to(device)
    state.sums, state.faults = state.sums.to(device), state.faults.to(device)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.002)

    def greedy(logits, targets, valid):
        wasted = torch.empty(len(logits) * 2**25, device=device)  # 128 MiB an image
        return (logits.sum(1) * valid).sum() + 0 * wasted[0]

    try:
        rule = replace(make_rule(loss=greedy), preprocess=make_rule().preprocess.to(device))
        take_step(state, next(Images().epoch(0)).to(device), rule)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert state.micro_batches > 1
