"""Figures 2 to 4 of arXiv 2507.22995: what reconstruction, margins and the weight between the losses have to do."""

from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from claims.grid import CODES, KINDS, PRINCIPLES, WEIGHTS, Cells

_COLOURS = {"sim": "#2a6f97", "sep": "#c1121f", "both": "#7b2cbf"}
_PRINCIPLE_COLOURS = {"infonce": "#2a6f97", "cosine": "#e07a1f", "vicreg": "#3a7d44"}
_MARKERS = {"sim": "o", "sep": "s", "both": "^"}
_INK = "#333333"


def figures(cells: Cells, contrastive: Mapping[str, str]) -> Iterator[tuple[str, Figure]]:
    """F1, F2 and F3; `contrastive` names the baseline of each label."""
    yield "error_and_accuracy", _errors(cells, contrastive)
    yield "margins", _margins(cells)
    yield "accuracy_by_weight", _by_weight(cells)


def _errors(cells: Cells, contrastive: Mapping[str, str]) -> Figure:
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    for axes, task in zip(figure.subplots(1, 2), cells.tasks, strict=True):
        for (p, k, w), error in np.ndenumerate(cells.error):
            if not np.isfinite(error):
                continue
            accuracy = cells.overall(task)[p, k, w]
            marker, colour = _MARKERS[KINDS[k]], _PRINCIPLE_COLOURS[PRINCIPLES[p]]
            axes.plot(error, accuracy, marker, color=colour, markersize=5)
            axes.annotate(f"{WEIGHTS[w]:.1f}", (error, accuracy), xytext=(3, 3), textcoords="offset points", fontsize=6)
        level = cells.references[contrastive[task]][f"{task}_overall"]
        axes.axhline(level, color=_INK, linewidth=0.8, linestyle="--", label=contrastive[task].replace("_", " "))
        axes.set(title=task, xlabel="mean squared error, of standardised features", ylabel="overall accuracy")
        axes.legend(handles=[*_legend(_PRINCIPLE_COLOURS, "o"), *_shapes(), *axes.get_lines()[-1:]], fontsize=7)
    return figure


def _margins(cells: Cells) -> Figure:
    figure = Figure(figsize=(5.6, 5), layout="constrained")
    axes, (first, second) = figure.subplots(), cells.tasks
    x, y = cells.margin(first), cells.margin(second)
    for k, kind in enumerate(KINDS):
        sizes = 10 + 180 * cells.overall_mean[:, k, :-1].ravel() ** 2
        axes.scatter(x[:, k, :-1].ravel(), y[:, k, :-1].ravel(), sizes, color=_COLOURS[kind], alpha=0.6, label=kind)
    axes.plot(x[0, 0, -1], y[0, 0, -1], "*", color=_INK, markersize=12, label="reconstruction alone")
    axes.axhline(0, color=_INK, linewidth=0.6)
    axes.axvline(0, color=_INK, linewidth=0.6)
    axes.set(
        xlabel=f"margin of {first}", ylabel=f"margin of {second}", title="one dot a recipe; area: overall accuracy"
    )
    axes.legend(fontsize=8)
    return figure


def _by_weight(cells: Cells) -> Figure:
    """Panels A to D: the second label and the first in the private code, then in the shared one."""
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    panels = [(task, code) for code in CODES[:2] for task in cells.tasks[::-1]]
    for letter, axes, (task, code) in zip("ABCD", figure.subplots(2, 2, sharex=True).flat, panels, strict=True):
        _lines(axes, cells.accuracy[f"{task}_{code}"])
        axes.set_title(f"{letter}  {task} from the {code} code", fontsize=10)
        axes.set(xlabel="weight of reconstruction", ylabel="accuracy")
    axes.legend(fontsize=8)
    return figure


def _lines(axes: Axes, accuracy: np.ndarray) -> None:
    for k, kind in enumerate(KINDS):
        axes.plot(WEIGHTS[:-1], accuracy[:, k, :-1].mean(axis=0), "o-", color=_COLOURS[kind], label=kind)
    axes.axhline(accuracy[0, 0, -1], color=_INK, linewidth=0.8, linestyle="--", label="reconstruction alone")


def _legend(colours: Mapping[str, str], marker: str) -> list[Line2D]:
    return [Line2D([], [], marker=marker, color=colour, linestyle="", label=name) for name, colour in colours.items()]


def _shapes() -> list[Line2D]:
    return [Line2D([], [], marker=marker, color=_INK, linestyle="", label=kind) for kind, marker in _MARKERS.items()]
