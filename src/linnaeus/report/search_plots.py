"""Pictures of a search: how the best score rose, and which settings mattered."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linnaeus.core.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREY, DARK = "#1f6feb", "#b4bcc6", "#30363d"


def history_plot(path: Path, scores: Sequence[tuple[float | None, bool]], *, measure: str, shared: str) -> None:
    """Writes an SVG with a dot for each trial, and the best so far as a line.

    Args:
        scores: (best score on val, or None; whether it came to its end) of each trial, the first with the defaults.
        measure: what the score is.
        shared: what all trials have in common, for the title.
    """
    figure, axes = canvas(7.2, 3.8)
    done = {number: score for number, (score, to_end) in enumerate(scores) if to_end and score is not None}
    cut = {number: score for number, (score, to_end) in enumerate(scores) if not to_end and score is not None}
    best = [max(score for n, score in done.items() if n <= number) for number in range(len(scores))]
    axes.axhline(done[0], color=DARK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    axes.step(range(len(scores)), best, where="post", color=BLUE, linewidth=1.6, zorder=2, label="best so far")
    axes.scatter(list(done), list(done.values()), s=34, color=BLUE, zorder=3, label="to its end")
    axes.scatter(list(cut), list(cut.values()), s=26, c="white", edgecolors=GREY, zorder=3, label="given up")
    axes.annotate(
        "defaults", (len(scores) - 1, done[0]), (0, 4), textcoords="offset points", ha="right", color=DARK, size=8
    )
    axes.set_xlabel("trial")
    axes.set_ylabel(measure)
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # of the locator it has
    axes.set_title(f"{len(scores)} trials, {shared}", loc="left", size=10)
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(1.0, 0.0))
    save(figure, path)


def importance_plot(path: Path, shares: Mapping[str, float], *, trials: int) -> None:
    """Writes an SVG with a bar for each setting, the longest on top.

    Args:
        shares: setting -> its share; they sum to 1.
        trials: how many the shares rest on.
    """
    figure, axes = canvas(7.2, 1.3 + 0.36 * len(shares))
    names = sorted(shares, key=lambda name: shares[name])
    bars = axes.barh(names, [shares[name] for name in names], color=BLUE, height=0.62)
    axes.bar_label(bars, [f"{shares[name]:.0%}" for name in names], padding=4, size=9, color=DARK)
    axes.set_xlim(0, 1.12 * max(shares.values()))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"What told good trials from others (PED-ANOVA, {trials} trials to their end)", loc="left", size=10)
    save(figure, path)


def canvas(width: float, height: float) -> "tuple[Figure, Axes]":
    """An empty plot, so many inches wide and high."""
    # Imported here: it takes half a second, and most commands draw nothing. Without pyplot, which keeps figures.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=9)
    return figure, axes


def save(figure: "Figure", path: Path) -> None:
    """Writes a figure as SVG, the same bytes each time but for the names in it."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
