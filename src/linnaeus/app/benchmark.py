"""How fast finished models and exported artefacts answer on this machine, all ways beside each other."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from linnaeus.app.contenders import COMPILED, Contender, Group, gather, is_artefact
from linnaeus.app.progress import Display
from linnaeus.app.timings import SIZES, Benchmark, Measured, Rated
from linnaeus.core.device import describe, pick
from linnaeus.core.errors import EnvironmentFault, LinnaeusError, RequestError
from linnaeus.deploy.benchmark import ROUNDS, Answer, Shape, Start, measure_start, noise, time_in_turns
from linnaeus.deploy.formats.base import quiet
from linnaeus.engine.guard import FAILURES, first_line
from linnaeus.explain.memory import peak

T = TypeVar("T")


def benchmark(paths: Sequence[Path], *, device: str, display: Display) -> Benchmark:
    """Times models and artefacts on images of random pixels, in the same rounds.

    A network is run eager, channels last, in bf16 where the machine has it, and compiled; artefacts by their runtimes.

    Args:
        paths: of finished runs, models and artefacts.
        device: of the networks; artefacts run on the CPU.

    Raises:
        RequestError: if a path is none of these, images differ in shape, or artefacts are to run on another device.
        EnvironmentFault: if something named is damaged, or the plainest way of a network does not run.
    """
    where = _pick(paths, device)
    load = os.getloadavg()[0]
    groups = gather(paths, where, display.say)
    contenders = [contender for group in groups for contender in group.contenders]
    shape = (SIZES[-1], *groups[0].shape)
    answers, failed = _open_all(groups, noise(shape), display)
    with display.bar("measuring", ROUNDS * len(answers) * len(SIZES), unit="parts") as advance, quiet():
        timings = time_in_turns(answers, noise(shape), SIZES, advance=advance)
    differences = {name: gap for group in groups for name, gap in _differences(group, answers, noise(shape)).items()}
    running = [contender for contender in contenders if contender.name in answers]
    answers.clear()  # their memory is not needed any more
    starts, not_started = _start_all(running, shape, where, display)
    measured = {
        contender.name: Measured(contender, timings[contender.name], start, differences[contender.name])
        for contender in running
        if (start := starts.get(contender.name))
    }
    rated = [
        Rated(group.folder, group.title, group.is_network, _of(group, measured), _of(group, failed | not_started))
        for group in groups
    ]
    return Benchmark(describe(where), load, tuple(rated))


def _of(group: Group, values: Mapping[str, T]) -> dict[str, T]:
    """What belongs to a group, by the names of its contenders, in their order."""
    return {contender.name: values[contender.name] for contender in group.contenders if contender.name in values}


def _pick(paths: Sequence[Path], device: str) -> torch.device:
    """The device; the CPU by itself where an artefact is named, which runs nowhere else."""
    named = [path for path in paths if is_artefact(path)]
    where = pick("cpu" if named and device == "auto" else device)
    if named and where.type != "cpu":
        raise RequestError(f"{named[0]}: an exported artefact runs on the CPU; --device cpu, or leave it out")
    return where


def _open_all(groups: Sequence[Group], images: Tensor, display: Display) -> tuple[dict[str, Answer], dict[str, str]]:
    """The ways that run, each loaded and called once with each number of images; and why others do not."""
    answers: dict[str, Answer] = {}
    failed: dict[str, str] = {}
    for group in groups:
        for contender in group.contenders:
            if contender.way.startswith(COMPILED):
                display.say(f"{contender.name}: compiling; this may take some minutes")
            try:
                answers[contender.name] = _open(contender, images)
            except (LinnaeusError, *FAILURES) as error:
                if contender.is_asked:
                    raise
                failed[contender.name] = first_line(error)
    return answers, failed


def _open(contender: Contender, images: Tensor) -> Answer:
    with quiet():
        answer = contender.open()
        for size in SIZES:
            answer(images[:size])
    return answer


def _differences(group: Group, answers: Mapping[str, Answer], images: Tensor) -> dict[str, float | None]:
    """The largest difference of any probability to the network's as it is; None where that was not named."""
    if not group.is_network:
        return {contender.name: None for contender in group.contenders}
    plain = answers[group.contenders[0].name](images)
    return {name: float((answer(images) - plain).abs().max()) for name, answer in _of(group, answers).items()}


def _start_all(
    contenders: Sequence[Contender], shape: Shape, device: torch.device, display: Display
) -> tuple[dict[str, Start], dict[str, str]]:
    """What each needs in a process of its own, where it started; and why others did not."""
    starts: dict[str, Start] = {}
    failed: dict[str, str] = {}
    with display.bar("starting", len(contenders), unit="processes") as advance:
        for contender in contenders:
            try:
                starts[contender.name] = measure_start(contender.open, shape, partial(peak, device))
            except EnvironmentFault as error:
                if contender.is_asked:
                    raise
                failed[contender.name] = str(error)
            advance(1)
    return starts, failed
