"""Scores of an evaluator, one an example, and how sure one may be of their mean and of a difference between two."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Int, Shaped

from shards.manifest import Manifest

COVERAGE = 0.95
FEW_UNITS = 20  # below it the percentile interval is markedly too narrow


@dataclass(frozen=True)
class Scores:
    """A number for each example of the test split, or of the part of it that is asked; the metric is their mean.

    `indices` names the examples, `about` says what was chosen before test was read (probe, settings, valid score).
    """

    indices: Int[np.ndarray, " batch"]
    values: Float[np.ndarray, " batch"]
    about: Mapping[str, object] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return float(self.values.mean())


@dataclass(frozen=True)
class Interval:
    """Where 95 % of the resampled means lie; `units` examples, or whole instruments, were drawn each time."""

    low: float
    high: float
    units: int

    @property
    def verdict(self) -> str:
        """What the interval of a difference says about its sign."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "not distinguishable"


@dataclass(frozen=True)
class Resampling:
    """What is drawn with replacement, how often, from which seed.

    `units` gives each row's unit under a name: {"example": indices} is the ordinary bootstrap, {"instrument": names}
    the cluster bootstrap, wider where the notes of one instrument succeed or fail together.
    """

    units: Mapping[str, Shaped[np.ndarray, " batch"]]
    resamples: int
    seed: int

    def of(self, scores: Sequence[Scores]) -> "Resampling":
        """The same for scores of some of the rows alone, which unit "example" names; all must be of the same ones."""
        if not scores:
            return self
        assert all(np.array_equal(scores[0].indices, other.indices) for other in scores), "of different examples"
        row = {index: number for number, index in enumerate(self.units["example"].tolist())}
        rows = [row[index] for index in scores[0].indices.tolist()]
        return replace(self, units={name: np.asarray(units)[rows] for name, units in self.units.items()})

    def intervals(self, values: Float[np.ndarray, " batch"]) -> dict[str, Interval]:
        """An interval of the mean of `values` for each kind of unit."""
        options = {"resamples": self.resamples, "seed": self.seed}
        return {name: bootstrap(values, units, **options) for name, units in self.units.items()}


def write_scores(file: BinaryIO, answers: Mapping[str, object], resampling: Resampling) -> None:
    """Every example's score of every metric as a plain .npz: `score.METRIC`, and `unit.NAME` of what is resampled.

    Whoever compares two answers later pairs them by it, example by example.
    """
    scores = {f"score.{name}": value.values for name, value in answers.items() if isinstance(value, Scores)}
    units = {f"unit.{name}": np.asarray(values) for name, values in resampling.units.items()}
    np.savez(file, allow_pickle=False, **scores, **units)


def corpus_name(manifest: Manifest) -> str:
    """The corpus as results name it: a rendered one is never shown as the published recordings."""
    return f"{manifest.corpus}-rendered" if manifest.rendered else manifest.corpus


def bootstrap(
    values: Float[np.ndarray, " batch"], units: Shaped[np.ndarray, " batch"], *, resamples: int, seed: int
) -> Interval:
    """95 % percentile interval of the mean when whole units are drawn with replacement (Efron 1979).

    Rows of equal `units` are drawn together. With few units (FEW_UNITS) it is too narrow.
    """
    unit_of_row = np.unique(units, return_inverse=True)[1]
    sums, counts = np.bincount(unit_of_row, weights=values), np.bincount(unit_of_row)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for number in range(resamples):
        drawn = rng.integers(len(sums), size=len(sums))
        means[number] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(low), float(high), len(sums))


def summary(ours: Scores, controls: Mapping[str, Sequence[Scores]], resampling: Resampling) -> dict[str, object]:
    """A metric in JSON types: its value and intervals, and for each control the difference, paired by example.

    A control of several draws, such as random weights of several seeds, is the mean score of each example over them.
    """
    intervals = resampling.intervals(ours.values)
    return {
        "value": ours.mean,
        "examples": len(ours.values),
        "about": dict(ours.about),
        "intervals": {unit: asdict(interval) for unit, interval in intervals.items()},
        "against": {name: _against(ours, draws, resampling) for name, draws in controls.items()},
    }


def _against(ours: Scores, draws: Sequence[Scores], resampling: Resampling) -> dict[str, object]:
    assert all(np.array_equal(ours.indices, draw.indices) for draw in draws), "pairs must be of the same examples"
    theirs = np.mean([draw.values for draw in draws], axis=0)
    intervals = resampling.intervals(ours.values - theirs)
    return {
        "value": float(theirs.mean()),
        "draws": [{"value": draw.mean, "about": dict(draw.about)} for draw in draws],
        "difference": float((ours.values - theirs).mean()),
        "intervals": {unit: {**asdict(interval), "verdict": interval.verdict} for unit, interval in intervals.items()},
    }


def table(results: Mapping[str, Any]) -> str:
    """An answer as aligned text: each metric with its intervals, below it the paired differences to the controls.

    A metric whose name only extends another's, as `x_accuracy_mlp` does `x_accuracy`, is shown without controls.
    """
    metrics = results["metrics"]
    measured = [metric for metric in metrics.values() if "intervals" in metric]
    units = {unit: interval["units"] for metric in measured for unit, interval in metric["intervals"].items()}
    rows = [["", "", *(_heading(unit, count) for unit, count in units.items())]]
    for name, metric in metrics.items():
        is_detail = any(name.startswith(f"{other}_") for other in metrics)
        shown = name if is_detail else _named(name, metric)
        rows.append([shown, f"{metric['value']:.3f}", *_spans(metric, "{low:.3f} … {high:.3f}")])
        rows.extend([] if is_detail else _differences(metric))
    told = "{evaluator} of {checkpoint} on {corpus} test: {examples:,} examples, {resamples:,} resamples, seed {seed}"
    return f"{told.format(**results)}\n\n{_aligned(rows)}"


def _heading(unit: str, count: int) -> str:
    return f"95 % over {count:,} {unit}s" + (" (few: too narrow)" if count < FEW_UNITS else "")


def _named(name: str, metric: Mapping[str, Any]) -> str:
    """The metric with what valid chose, as far as that is a word: `pitch_accuracy (mlp)`."""
    words = [value for value in metric.get("about", {}).values() if isinstance(value, str)]
    return f"{name} ({', '.join(words)})" if words else name


def _differences(metric: Mapping[str, Any]) -> Iterator[list[str]]:
    for control, against in metric.get("against", {}).items():
        draws = [draw["value"] for draw in against["draws"]]
        spread = f", {len(draws)} draws in {min(draws):.3f} … {max(draws):.3f}" if len(draws) > 1 else ""
        name = f"  minus {against['value']:.3f} of {control}{spread}"
        verdicts = {unit: interval["verdict"] for unit, interval in against["intervals"].items()}
        split = "; ".join(f"over {unit}s {verdict}" for unit, verdict in verdicts.items())
        agreed = set(verdicts.values())
        yield [
            name,
            f"{against['difference']:+.3f}",
            *_spans(against, "{low:+.3f} … {high:+.3f}"),
            agreed.pop() if len(agreed) == 1 else split,
        ]


def _spans(metric: Mapping[str, Any], pattern: str) -> list[str]:
    return [pattern.format(**interval) for interval in metric.get("intervals", {}).values()]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
