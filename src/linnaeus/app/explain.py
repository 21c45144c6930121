"""Why a finished model says what it says: heat maps of images, as pictures and as a page."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from linnaeus.app.predict import expand
from linnaeus.app.progress import Display
from linnaeus.app.run import check_free
from linnaeus.core.classifier import Classifier
from linnaeus.core.device import pick
from linnaeus.core.errors import RequestError
from linnaeus.core.files import atomic, write_text
from linnaeus.data.decode import UnreadableImage, load_image
from linnaeus.data.findings import printable
from linnaeus.deploy.bundle import Bundle, load_bundle
from linnaeus.explain.attention import attention_layers, rollout, weighted_attention
from linnaeus.explain.attribution import integrated_gradients, occlusion
from linnaeus.explain.gradcam import gradcam
from linnaeus.report.overlay import Explanation, Map, explanation_page, explanation_picture

AUTO, ALL = "auto", "all"
CELLS = 56
"""Squares of pixels across a map of integrated gradients, whose single pixels no eye can read."""
ON_A_PAGE = 200
"""Images on a page at most; 200 with three maps are about 15 MB. Pictures are written of all."""


@dataclass(frozen=True)
class Explained:
    """What was said of one image, and why.

    Attributes:
        image: its path.
        label, probability: the most probable class, and its calibrated probability; "" and 0 where it has `error`.
        explained: the class that the maps are of, and
        explained_probability: its own probability.
        picture: the PNG file with the maps; "" where there is none.
        error: why the image could not be read, or "".
        notes: method -> what its strongest value is, in words.
    """

    image: str
    label: str = ""
    probability: float = 0.0
    explained: str = ""
    explained_probability: float = 0.0
    picture: str = ""
    error: str = ""
    notes: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {**asdict(self), "notes": dict(self.notes)}


def explain(
    folder: Path,
    images: Sequence[str],
    *,
    methods: Sequence[str],
    label: str | None,
    out: Path | None,
    device: str,
    display: Display,
) -> tuple[Path, list[Explained]]:
    """Writes a picture for each image and a page, `explanations.html`, for all.

    Args:
        folder: of a run or a model.
        images: files, folders (searched at any depth) and glob patterns.
        methods: keys of `METHODS`; "auto" for those that suit the network and need no extra, "all" for all that suit.
        label: the class that is looked for; by default the most probable one of each image.
        out: a folder that does not exist or is empty; by default `explain-1`, or the next free number, in `folder`.

    Returns:
        The page, and a row for each image, in order.

    Raises:
        RequestError: for an unknown class or method, a method that does not suit the network or needs an extra.
    """
    bundle = load_bundle(folder).to(pick(device))
    bundle.model.requires_grad_(False)  # gradients are wanted of maps and images alone
    if label is not None and label not in bundle.classes:
        known = f"{', '.join(bundle.classes[:10])}{' ...' if len(bundle.classes) > 10 else ''}"
        raise RequestError(f"the model does not know the class '{label}': its classes are {known}")
    check_free(out)
    chosen = choose_methods(bundle.model, methods)
    paths = [path for image in images for path in expand(image)]
    rows, shown = [], []
    with display.bar("explaining", len(paths)) as advance:
        for number, path in enumerate(paths, start=1):
            row, explanation = _explain_one(bundle, path, label, chosen)
            if number == 1:  # not before the methods have proved to work
                out = _make_folder(folder, out)
            assert out is not None
            if explanation.seen is not None:
                row = _with_picture(row, out / f"{number:03d}-{path.stem[:80]}.png", explanation)
            rows.append(row)
            shown.append(explanation)
            advance(1)
    assert out is not None  # there is an image
    page = out / "explanations.html"
    write_text(page, explanation_page(str(folder), _lines(bundle, chosen, len(paths)), shown[:ON_A_PAGE]))
    return page, rows


Heat = Callable[[Classifier, Tensor, Tensor], tuple[Tensor, str]]
"""Network, (B, C, S, S) normalised images, (B,) classes -> (B, h, w) heat, and a remark."""


def _gradcam(model: Classifier, images: Tensor, classes: Tensor) -> tuple[Tensor, str]:
    return gradcam(model, images, classes), ""


def _attention(model: Classifier, images: Tensor, classes: Tensor) -> tuple[Tensor, str]:
    return weighted_attention(model, images, classes), ""


def _rollout(model: Classifier, images: Tensor, _: Tensor) -> tuple[Tensor, str]:
    return rollout(model, images), ""


def _integrated_gradients(model: Classifier, images: Tensor, classes: Tensor) -> tuple[Tensor, str]:
    found = integrated_gradients(model, images, classes)
    side = max(1, images.shape[-1] // CELLS)
    remark = f"sum {float(found.values.sum()):+.2f} logits, off by {float(found.gap.abs().max()):.1g}"
    return F.avg_pool2d(found.values[:, None], side)[:, 0], remark


def _occlusion(model: Classifier, images: Tensor, classes: Tensor) -> tuple[Tensor, str]:
    return occlusion(model, images, classes), ""


@dataclass(frozen=True)
class Method:
    """How a map is made, what it shows, in words, and the unit of its values."""

    title: str
    heat: Heat
    signed: bool
    shows: str
    unit: str = ""


METHODS: dict[str, Method] = {
    "gradcam": Method("Grad-CAM", _gradcam, False, "where the last map of the network holds the class"),
    "attention": Method("Attention × gradient", _attention, False, "the patches whose attention speaks for the class"),
    "rollout": Method("Attention rollout", _rollout, False, "the patches that attention looks at, for any class"),
    "integrated-gradients": Method(
        "Integrated gradients",
        _integrated_gradients,
        True,
        "what pixels add to the logit on the way from the mean colour; shown as averages of small squares",
    ),
    "occlusion": Method(
        "Occlusion", _occlusion, True, "how far the logit falls under a square of the mean colour", " logits"
    ),
}


def choose_methods(model: Classifier, names: Sequence[str]) -> list[str]:
    """Keys of `METHODS`, in its order; those that were named are not checked.

    Raises:
        RequestError: for an unknown name.
    """
    for name in names:
        if name not in (*METHODS, AUTO, ALL):
            raise RequestError(f"there is no method '{name}': expected {', '.join((AUTO, ALL, *METHODS))}")
    own = ["attention", "rollout"] if attention_layers(model) else ["gradcam"]
    wanted = {*names} - {AUTO, ALL}
    if AUTO in names:
        wanted |= {*own}
    if ALL in names:
        wanted |= {*own, "integrated-gradients", "occlusion"}
    return [name for name in METHODS if name in wanted]


def _explain_one(
    bundle: Bundle, path: Path, label: str | None, methods: Sequence[str]
) -> tuple[Explained, Explanation]:
    name = printable(str(path))
    try:
        pixels = load_image(path)
    except (UnreadableImage, OSError) as error:
        reason = str(error) if isinstance(error, UnreadableImage) else f"cannot be read ({error.strerror or error})"
        return Explained(str(path), error=reason), Explanation(name, f"Cannot be read: {reason}", None)
    seen = bundle.preprocess.fit(pixels)
    probabilities = bundle.probabilities(seen[None])[0]
    best = int(probabilities.argmax())
    target = best if label is None else bundle.classes.index(label)
    images = bundle.preprocess(seen[None].to(bundle.device))
    maps = [map_of(bundle, method, images, target) for method in methods]
    p = probabilities.tolist()
    row = Explained(str(path), bundle.classes[best], p[best], bundle.classes[target], p[target])
    verdict = f"{row.label} {row.probability:.1%}"
    if target != best:
        verdict += f"; explained: {row.explained} {row.explained_probability:.1%}"
    notes = tuple((method, chart.note) for method, chart in zip(methods, maps, strict=True))
    shown = Explanation(name, verdict, seen.permute(1, 2, 0).numpy(), maps)  # (C, S, S) -> (S, S, C)
    return replace(row, notes=notes), shown


def map_of(bundle: Bundle, name: str, images: Tensor, target: int) -> Map:
    """The map of one image, (1, C, S, S) normalised, for a position in the classes, by a method of `METHODS`."""
    method = METHODS[name]
    heats, remark = method.heat(bundle.model, images, torch.tensor([target], device=images.device))
    heat = heats[0].cpu().numpy()
    peak = float(np.abs(heat).max())
    strongest = f"up to {peak:.3g}{method.unit}" if peak else "nothing speaks for it"
    note = f"{strongest}; {remark}" if remark else strongest
    return Map(method.title, heat.astype(np.float32), method.signed, note)


def _make_folder(folder: Path, out: Path | None) -> Path:
    number = 1
    while out is None or (out.exists() and any(out.iterdir())):
        out, number = folder / f"explain-{number}", number + 1
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{out} cannot be made: {error.strerror}") from None
    return out


def _with_picture(row: Explained, path: Path, explanation: Explanation) -> Explained:
    with atomic(path) as temporary:
        temporary.write_bytes(explanation_picture(explanation))
    return replace(row, picture=str(path))


def _lines(bundle: Bundle, methods: Sequence[str], count: int) -> list[str]:
    about = bundle.about["architecture"]
    lines = [f"{about['name']}, {len(bundle.classes):,} classes; {count:,} images as the network sees them"]
    if count > ON_A_PAGE:
        lines.append(f"The first {ON_A_PAGE}; the folder has pictures of all")
    lines += [f"{METHODS[name].title}: {METHODS[name].shows}" for name in methods]
    return [*lines, "A map shows what moved this network's answer, and not whether the answer is right"]
