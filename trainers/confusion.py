"""The figure of which class was taken for which: a named matrix of few classes; of many an image, and by how far."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from jaxtyping import Int, Shaped
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

MOST_NAMED_CLASSES = 30
MOST_TICKS = 12
FARTHEST_MISS = 24  # two octaves either way; farther ones are counted in the last bars
_COLOURS = "Blues"
_INK = "#333333"


def confusion_figure(
    truth: Shaped[np.ndarray, " batch"],
    answers: Shaped[np.ndarray, " batch"],
    label: Mapping[str, object],
    title: str,
) -> Figure:
    """True class down, answered class across. `label` is the manifest's entry: its type and names of classes.

    Up to 30 classes are named, and a cell is the share of its true class. More of them are an image of counts, with a
    histogram of answer minus truth beside it when classes are plain whole numbers, such as pitches.
    """
    classes, numbers = np.unique(np.concatenate([truth, answers]), return_inverse=True)
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (numbers[: len(truth)], numbers[len(truth) :]), 1)
    names = _names(classes, label)
    if len(classes) <= MOST_NAMED_CLASSES:
        figure = _matrix_page(counts, names)
    elif np.issubdtype(classes.dtype, np.integer) and not label["classes"]:
        figure = _miss_page(counts, names, answers - truth)
    else:
        figure = _image_page(counts, names)
    figure.suptitle(title, fontsize=10)
    return figure


def _names(classes: Shaped[np.ndarray, " classes"], label: Mapping[str, object]) -> list[str]:
    named = label["classes"]
    if isinstance(named, Sequence) and named and label["type"] == "int":
        return [str(named[value]) for value in classes]
    return [str(value) for value in classes]


def _matrix_page(counts: Int[np.ndarray, "classes classes"], names: Sequence[str]) -> Figure:
    side_inches = 2.4 + 0.42 * len(names)
    figure = Figure(figsize=(side_inches + 0.8, side_inches), layout="constrained")
    axes = figure.subplots()
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    image = axes.imshow(shares, cmap=_COLOURS, vmin=0, vmax=1)
    for row, column in np.argwhere(shares >= 0.005):
        colour = "white" if shares[row, column] > 0.55 else _INK
        axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), [f"{name} ({n:,})" for name, n in zip(names, totals, strict=True)], fontsize=8)
    axes.set(xlabel="answered", ylabel="true (examples)")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class (cells: %)")
    return figure


def _image_page(counts: Int[np.ndarray, "classes classes"], names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(6.2, 5.4), layout="constrained")
    _draw_counts(figure, figure.subplots(), counts, names)
    return figure


def _miss_page(
    counts: Int[np.ndarray, "classes classes"], names: Sequence[str], misses: Int[np.ndarray, " batch"]
) -> Figure:
    figure = Figure(figsize=(11, 5), layout=ConstrainedLayoutEngine(wspace=0.08))
    matrix, bars = figure.subplots(1, 2, width_ratios=[1.1, 1])
    _draw_counts(figure, matrix, counts, names)
    clipped = misses.clip(-FARTHEST_MISS, FARTHEST_MISS)
    steps, heights = np.unique(clipped, return_counts=True)
    bars.bar(steps, heights / len(misses), color=np.where(steps == 0, "#2171b5", "#9aa5b1"), width=0.85)
    bars.set(yscale="log", xlabel="answer − truth", ylabel="share of test examples", xlim=(-25, 25))
    bars.set_xticks(range(-FARTHEST_MISS, FARTHEST_MISS + 1, 6), ["≤ −24", *map(str, range(-18, 19, 6)), "≥ 24"])
    bars.grid(axis="y", alpha=0.3)
    bars.spines[["top", "right"]].set_visible(False)
    bars.set_title(f"right {np.mean(misses == 0):.1%}, within ±1 {np.mean(np.abs(misses) <= 1):.1%}", fontsize=9)
    return figure


def _draw_counts(figure: Figure, axes: Axes, counts: Int[np.ndarray, "classes classes"], names: Sequence[str]) -> None:
    drawn = np.ma.masked_equal(counts, 0)
    image = axes.imshow(
        drawn, cmap=_COLOURS, norm=LogNorm(vmin=0.5, vmax=max(counts.max(), 2)), interpolation="nearest"
    )
    shown = range(0, len(names), ceil(len(names) / MOST_TICKS))
    axes.set_xticks(
        shown, [names[place] for place in shown], fontsize=8, rotation=45 if max(map(len, names)) > 4 else 0
    )
    axes.set_yticks(shown, [names[place] for place in shown], fontsize=8)
    axes.set(xlabel="answered", ylabel="true")
    figure.colorbar(image, ax=axes, shrink=0.8, label="test examples")
