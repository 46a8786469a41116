"""Who are an example's neighbours? Labels of the nearest training examples, and maps of the embedding to look at.

Nothing is fitted but the map, so that this tells what an embedding is like before any head is trained on it.
"""

import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from torch import Tensor

from shards.reader import Reader
from trainers.encoder import Encoder
from trainers.evaluators.probe import NSYNTH_LABELS, class_numbers, standardised
from trainers.results import Scores, corpus_name

_BLOCK_ROWS = 512  # distances to all training examples are held for so many at a time
_MAPPED, _LEGEND = 3_000, 20
_COLOURS = [colormaps["tab20"](number) for number in range(20)]


@dataclass(frozen=True)
class Neighbours:
    """For each label: the share of an example's nearest training examples that have its class, and a map.

    Distances are Euclidean between embeddings standardised on train. `L_neighbours` averages the share over test;
    `L_chance` is what neighbours drawn by lot would have. The map shows test by its principal components, and by UMAP
    (McInnes et al. 2018) where umap-learn is installed (pip install 'sonograph[maps]').
    """

    labels: tuple[str, ...]
    seed: int
    count: int = 10
    """How many are asked."""

    def __call__(
        self, encoder: Encoder, datasets: Mapping[str, Reader]
    ) -> Iterator[tuple[str, float | Figure | Scores]]:
        """Raises UsageProblem for a label that is unknown or not a class, DataProblem for one that cannot be asked."""
        targets = {label: class_numbers(label, datasets) for label in self.labels}
        inputs = standardised({split: encoder.embed(datasets[split]) for split in ("train", "test")})
        near = nearest(inputs["test"], inputs["train"], min(self.count, len(inputs["train"])))
        shown = _some(len(inputs["test"]), self.seed)
        maps = self._maps(inputs["test"][shown].numpy())
        for label, (classes, numbers) in targets.items():
            agree = (numbers["train"][near] == numbers["test"][:, None]).double().mean(dim=1).numpy()
            yield f"{label}_neighbours", Scores(datasets["test"].indices, agree, {"neighbours": near.shape[1]})
            shares = np.bincount(numbers["train"].numpy(), minlength=len(classes)) / len(numbers["train"])
            yield f"{label}_chance", float(np.where(numbers["test"] < 0, 0.0, shares[numbers["test"].numpy()]).mean())
            title = f"{label} of {corpus_name(datasets['test'].manifest)} · {encoder.name} · {agree.mean():.3f} alike"
            yield f"{label}_map", map_figure(maps, _named(datasets["test"], label)[shown], title)

    def _maps(self, points: Float[np.ndarray, "batch dim"]) -> dict[str, Float[np.ndarray, "batch 2"]]:
        _, _, axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
        maps = {"principal components": (points - points.mean(axis=0)) @ axes[:2].T}
        if importlib.util.find_spec("umap") and len(points) > self.count:
            maps["UMAP"] = _umap(points, self.seed)
        return maps


def load(labels: tuple[str, ...], seed: int) -> Neighbours:
    """Of these labels; of NSynth's pitch and instrument family when none is named."""
    return Neighbours(labels or NSYNTH_LABELS, seed)


def nearest(
    points: Float[Tensor, "batch dim"], among: Float[Tensor, "others dim"], count: int
) -> Int[Tensor, "batch count"]:
    """The rows of `among` nearest to each of `points`, the nearest first."""
    parts = [torch.cdist(block, among).topk(count, largest=False).indices for block in points.split(_BLOCK_ROWS)]
    return torch.cat(parts)


def map_figure(
    maps: Mapping[str, Float[np.ndarray, "batch 2"]], values: Shaped[np.ndarray, " batch"], title: str
) -> Figure:
    """One panel a map: words in colours of their own, numbers along a scale."""
    figure = Figure(figsize=(5 * len(maps) + 1.5, 4.6), layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (name, places) in zip(panels, maps.items(), strict=True):
        drawn = _dots(axes, places, values)
        axes.set(title=name, xticks=[], yticks=[])
    if drawn is None:
        panels[-1].legend(fontsize=7, markerscale=3, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        figure.colorbar(drawn, ax=list(panels), shrink=0.8)
    figure.suptitle(title, fontsize=10)
    return figure


def _named(reader: Reader, label: str) -> Shaped[np.ndarray, " batch"]:
    """A label's values, of classes with names these."""
    values, names = reader.labels(label), reader.manifest.labels[label]["classes"]
    return np.array(names)[values] if names else values


def _dots(
    axes: Axes, places: Float[np.ndarray, "batch 2"], values: Shaped[np.ndarray, " batch"]
) -> PathCollection | None:
    """What a scale can be drawn of; None for words, which have a legend."""
    x, y = places.T
    if values.dtype.kind in "iuf":
        return axes.scatter(x, y, s=4, c=values, cmap="viridis")
    words, counts = np.unique(values.astype(str), return_counts=True)
    for number, word in enumerate(words[np.argsort(-counts)]):
        label, own = word if number < _LEGEND else None, values.astype(str) == word
        axes.scatter(x[own], y[own], s=4, color=_COLOURS[number % len(_COLOURS)], alpha=0.7, label=label)
    return None


def _umap(points: Float[np.ndarray, "batch dim"], seed: int) -> Float[np.ndarray, "batch 2"]:
    import umap  # compiles for seconds

    with warnings.catch_warnings():  # it says that a seed costs parallelism, and what its own parts deprecate
        warnings.simplefilter("ignore")
        return umap.UMAP(random_state=seed, n_jobs=1).fit_transform(points)


def _some(rows: int, seed: int) -> Int[np.ndarray, " shown"]:
    """So many rows, in rising order, that a map of them can be drawn and read."""
    if rows <= _MAPPED:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, _MAPPED, replace=False))
