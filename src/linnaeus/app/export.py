"""A finished model leaves PyTorch: artefacts for other runtimes, each judged on real images, or refused."""

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from linnaeus import __version__
from linnaeus.app.exports import Attempt, read_attempts, size_of, write_attempts
from linnaeus.app.held import HeldImages
from linnaeus.app.progress import Display
from linnaeus.app.report import renew_exports
from linnaeus.core.errors import LinnaeusError, RequestError
from linnaeus.deploy.artefact import GOLDEN, GOLDEN_GAP, GOLDEN_GAP_REDUCED, golden_gap, open_run, write_about
from linnaeus.deploy.bundle import Bundle, load_bundle
from linnaeus.deploy.coverage import Coverage, Trained, count_coverage, sensitivity, trained_layers
from linnaeus.deploy.formats import FORMATS, check_takes, parse_target
from linnaeus.deploy.formats.base import Job, Takes, Unchanged, Unrunnable, first_line
from linnaeus.deploy.formats.onnx import describe
from linnaeus.deploy.gate import Held, Limits, Verdict, judge
from linnaeus.deploy.graph import Graph
from linnaeus.deploy.qat import Images, Tuning, count_steps, tuned
from linnaeus.deploy.quantize import Quantized, write_within
from linnaeus.deploy.snippets import write_snippets
from linnaeus.deploy.standalone import ask_standalone

FOLDER = "exports"
STATIC = "int8"
EXPORTERS_RAISE = (RuntimeError, ValueError, TypeError, KeyError, AssertionError)
"""On networks that they cannot convert; `NotImplementedError` is a `RuntimeError`."""
SENSED = 16
"""Images that tell how each layer bears quantization."""
ASKED = 128
"""Images of val that tell whether tuned weights bear it better."""


@dataclass(frozen=True)
class Wanted:
    """What is to be exported, and how much it may lose.

    Attributes:
        targets: (format, precision) pairs.
        batch: images at once; None for any number.
        qat: the weights are tuned to bear quantization, before it.
        takes: `any` for artefacts that resize and crop by themselves; they take one image at once.
    """

    targets: tuple[tuple[str, str], ...]
    batch: int | None = None
    limits: Limits = field(default_factory=Limits)
    qat: bool = False
    takes: Takes = "prepared"

    def name(self, form: str, precision: str) -> str:
        """`onnx:f32`, or `onnx:f32:any`."""
        return f"{form}:{precision}" if self.takes == "prepared" else f"{form}:{precision}:{self.takes}"


@dataclass
class _Source:
    """The network that is exported, and what is found out about it once for all its artefacts."""

    bundle: Bundle
    images: HeldImages
    qat: bool
    display: Display

    @cached_property
    def graph(self) -> Graph:
        return Graph(self.bundle)

    @cached_property
    def layers(self) -> list[Trained]:
        return trained_layers(self.graph)

    @cached_property
    def judging(self) -> Held:
        return self.images.judging()

    @cached_property
    def choosing(self) -> Held:
        return self.images.choosing()

    @cached_property
    def calibration(self) -> Any:
        return self.images.calibration()

    @cached_property
    def sensitivity(self) -> dict[str, float]:
        return sensitivity(self.integers[0], torch.from_numpy(self.calibration[:SENSED]))

    @cached_property
    def integers(self) -> tuple[Graph, Tuning | None]:
        """The network that is quantized, and what was done to its weights before."""
        if not self.qat:
            return self.graph, None
        arrays = (self.images.tuning(), self.calibration, self.choosing.images[:ASKED], self.choosing.expected[:ASKED])
        images = Images(*(torch.from_numpy(array) for array in arrays))
        with self.display.bar("tuning weights", count_steps(len(images.training)), unit="steps") as advance:
            graph, tuning = tuned(self.graph, images, advance=advance)
        self.display.say(f"--qat: {tuning.in_words()}")
        return graph, tuning


def export(folder: Path, wanted: Wanted, *, data: str | None, display: Display) -> list[Attempt]:
    """Exports a model to each target and judges what comes out; what passes is in `exports/` of the folder.

    The report of a run, if there is one, tells of it too.

    Args:
        folder: of a run, or of a model with `data`.
        data: images to judge on instead of the run's test images.

    Raises:
        RequestError: if there is no model, a package that a target takes is not installed, or `qat` has no effect.
    """
    _check_tunable(wanted)
    check_takes(wanted.takes, wanted.targets, wanted.batch)
    bundle = load_bundle(folder)
    source = _Source(bundle, HeldImages(folder, bundle, data, display), wanted.qat, display)
    _check_installed(wanted.targets)
    if wanted.qat:
        _ = source.integers  # before anything is written
    home = folder / FOLDER
    home.mkdir(exist_ok=True)
    done = []
    for name, precision in wanted.targets:
        display.say(f"{wanted.name(name, precision)}: exporting")
        attempt = _attempt(source, name, precision, wanted, home)
        if not attempt.verdict.passed:  # nor is one of before delivered any more: the folder is what exports.json says
            shutil.rmtree(home / attempt.place, ignore_errors=True)
        for line in attempt.lines():
            display.say(line)
        write_attempts(folder, [*(old for old in read_attempts(folder) if old.name != attempt.name), attempt])
        done.append(attempt)
    renew_exports(folder, display)
    return done


def parse_targets(words: str) -> tuple[tuple[str, str], ...]:
    """`onnx,onnx:int8` -> pairs; `all` is all that can be written on this machine.

    Raises:
        RequestError: if there is no such format or precision, or one stands twice.
    """
    if words.strip() == "all":
        everything = [(name, precision) for name, form in FORMATS.items() for precision in form.precisions]
        return tuple((name, precision) for name, precision in everything if not FORMATS[name].missing(precision))
    targets = tuple(parse_target(word.strip()) for word in words.split(",") if word.strip())
    if not targets or len(set(targets)) < len(targets):
        raise RequestError(f"--to {words}: expected formats, each once, such as onnx,openvino:int8; or all")
    return targets


def _check_tunable(wanted: Wanted) -> None:
    if wanted.qat and STATIC not in {precision for _, precision in wanted.targets}:
        known = ", ".join(f"{name}:{STATIC}" for name, form in FORMATS.items() if STATIC in form.precisions)
        raise RequestError(f"--qat has no effect on what is asked for by --to: expected one of {known} among it")


def left_out() -> dict[str, str]:
    """What `all` leaves out on this machine: target -> the command that installs what it takes."""
    missing = {}
    for name, form in FORMATS.items():
        for precision in form.precisions:
            if form.missing(precision):
                missing[f"{name}:{precision}"] = f"pip install 'linnaeus[{form.extra}]'"
    return missing


def _check_installed(targets: tuple[tuple[str, str], ...]) -> None:
    for name, precision in targets:
        if missing := FORMATS[name].missing(precision):
            raise RequestError(
                f"{name}:{precision} needs {', '.join(missing)}, which is not installed: "
                f"pip install 'linnaeus[{FORMATS[name].extra}]'"
            )


def _attempt(source: _Source, name: str, precision: str, wanted: Wanted, home: Path) -> Attempt:
    """Writes one artefact beside its place, and moves it there if the gate lets it pass."""
    label = wanted.name(name, precision)
    place = home / label.replace(":", "-")
    with TemporaryDirectory(prefix=f".{place.name}.", dir=home) as scratch:
        made = Path(scratch) / place.name
        made.mkdir()
        try:
            attempt = _make(source, name, precision, wanted, made)
        except (Unrunnable, Unchanged) as error:
            return Attempt(label, Verdict("refused", (str(error),), None))
        except EXPORTERS_RAISE as error:
            if isinstance(error, LinnaeusError):
                raise
            reason = f"it could not be written: {type(error).__name__}: {first_line(error)}"
            return Attempt(label, Verdict("refused", (reason,), None))
        if attempt.verdict.passed:
            if place.exists():
                shutil.rmtree(place)
            made.rename(place)
    return attempt


def _make(source: _Source, name: str, precision: str, wanted: Wanted, folder: Path) -> Attempt:
    form, batch = FORMATS[name], wanted.batch or (1 if name == "coreml" or wanted.takes == "any" else None)
    job = Job(source.graph, precision, batch)
    coverage: Coverage | None = None
    quantized: Quantized | None = None
    if precision == STATIC:
        job = Job(source.integers[0], precision, batch, source.calibration)
        quantized = write_within(
            form, job, folder, held=source.choosing, limits=wanted.limits, worst=lambda: list(source.sensitivity)
        )
        states = quantized.states
    else:
        states = form.write(job, folder)
    if "int8" in precision:
        coverage = count_coverage(source.layers, states)
        if not any(state != "float" for state in states.values()):
            raise Unchanged(f"'{precision}' changes no layer of this network: nothing would be smaller or faster")
    if wanted.takes == "any" and form.widen:
        form.widen(folder, source.bundle.preprocess)
    about = source.bundle.about
    if name == "onnx":
        describe(folder, {"classes": "\n".join(about["classes"]), "made_by": f"linnaeus {__version__}"})
    write_snippets(folder, name, precision, batch, about, wanted.takes)
    content = _content(source, name, precision, batch, coverage, quantized)
    if wanted.takes == "any":
        content |= {"name": wanted.name(name, precision), "takes": "any"}
        content["input"]["shape"] = [1, None, None, source.graph.channels]
    return _judge(content, source, wanted.limits, folder, coverage, quantized)


def _judge(
    content: dict[str, Any],
    source: _Source,
    limits: Limits,
    folder: Path,
    coverage: Coverage | None,
    quantized: Quantized | None,
) -> Attempt:
    """The gate, and then `artefact.json` with what it says."""
    held, name, precision = source.judging, content["format_name"], content["precision"]
    takes: Takes = content.get("takes", "prepared")
    golden = held.golden(GOLDEN, takes)
    try:
        run = open_run(folder, name, precision, content["batch"])
    except Unrunnable as error:
        if name == "coreml":
            write_about(folder, content, golden, held.expected[:GOLDEN])
            return Attempt(content["name"], Verdict("not scored", (str(error),), None), coverage, size_of(folder))
        raise
    verdict = judge(run, held, precision=precision, limits=limits, takes=takes)
    if verdict.passed:
        said = np.concatenate([run(image[None]) for image in golden])
        content = write_about(folder, {**content, "gate": verdict.to_json()}, golden, said)
        gap = golden_gap(ask_standalone(folder), content)
        if gap > GOLDEN_GAP.get(precision, GOLDEN_GAP_REDUCED):
            verdict = verdict.refused_for(f"without Linnaeus, golden samples give other probabilities, by {gap:.2g}")
    kept = quantized.tries[-1].kept if quantized else ()
    return Attempt(content["name"], verdict, coverage, size_of(folder), kept, source.integers[1] if quantized else None)


def _content(
    source: _Source,
    name: str,
    precision: str,
    batch: int | None,
    coverage: Coverage | None,
    quantized: Quantized | None,
) -> dict[str, Any]:
    """`artefact.json`, without what is known last."""
    about = source.bundle.about
    side, channels = source.graph.side, source.graph.channels
    content: dict[str, Any] = {
        "name": f"{name}:{precision}",
        "format_name": name,
        "precision": precision,
        "batch": batch,
        "input": {"name": "images", "type": "uint8", "shape": [batch, side, side, channels], "colours": "RGB"},
        "output": {"name": "probabilities", "type": "float32", "shape": [batch, len(about["classes"])]},
        "made_by": {"linnaeus": __version__, "torch": torch.__version__},
        "model": dict(about),
    }
    if coverage is not None:
        content["coverage"] = coverage.to_json()
    if quantized is not None:
        content["float_layers"] = list(quantized.tries[-1].kept)
        content["sensitivity"] = source.sensitivity
        if tuning := source.integers[1]:
            content["tuning"] = tuning.to_json()
    return content
