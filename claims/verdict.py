"""Is one kind of training better than another? Means over seeds, with intervals over test recordings and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

COVERAGE = 0.95


@dataclass(frozen=True)
class Answer:
    """One encoder's score of each test example, and the recording that each example is of."""

    scores: Float[np.ndarray, " batch"]
    units: Shaped[np.ndarray, " batch"]


@dataclass(frozen=True)
class Estimate:
    """A mean (or a difference of means) with its 95 % interval; `seeds` are the values of single trainings."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]
    recordings: int
    examples: int

    def verdict(self, margin: float) -> str:
        """What the interval says about `value > -margin`."""
        if self.low > -margin:
            return "holds"
        return "contradicted" if self.high < -margin else "undecided"


def mean(answers: Sequence[Answer], *, resamples: int, seed: int) -> Estimate:
    """The mean score over examples and trainings."""
    sums, counts = _by_recording(answers)
    draws = [_drawn_mean(sums, counts, *draw) for draw in _draws(len(answers), len(counts), resamples, seed)]
    values = tuple((sums.sum(axis=1) / counts.sum()).tolist())
    return _estimate(float(np.mean(values)), draws, values, counts)


def difference(ours: Sequence[Answer], theirs: Sequence[Answer], *, resamples: int, seed: int) -> Estimate:
    """Mean of ours minus mean of theirs, paired by recording: both are resampled to the same recordings.

    Trainings are drawn too, each side's on its own, so that the interval knows how much one seed says. The paired
    two-level bootstrap is wider than one over examples, which takes the trainings for granted.
    """
    for answer in (*ours, *theirs):
        assert np.array_equal(answer.units, ours[0].units), "answers must be about the same examples"
    (sums, counts), (their_sums, _) = _by_recording(ours), _by_recording(theirs)
    their_trainings = _draws(len(theirs), 1, resamples, seed + 1)
    draws = [
        _drawn_mean(sums, counts, trainings, recordings) - _drawn_mean(their_sums, counts, others, recordings)
        for (trainings, recordings), (others, _) in zip(
            _draws(len(ours), len(counts), resamples, seed), their_trainings, strict=True
        )
    ]
    values = [float(part.sum() / counts.sum()) for part in sums], [float(p.sum() / counts.sum()) for p in their_sums]
    paired = tuple(a - b for a, b in zip(*values, strict=False))
    return _estimate(float(np.mean(values[0]) - np.mean(values[1])), draws, paired, counts)


def _by_recording(answers: Sequence[Answer]) -> tuple[Float[np.ndarray, "trainings units"], Int[np.ndarray, " units"]]:
    """Sum of the scores of each recording in each training, and how many examples each recording has."""
    _, unit = np.unique(answers[0].units, return_inverse=True)
    sums = np.stack([np.bincount(unit, weights=answer.scores) for answer in answers])
    return sums, np.bincount(unit)


def _draws(trainings: int, recordings: int, resamples: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(trainings, size=trainings), rng.integers(recordings, size=recordings)) for _ in range(resamples)
    ]


def _drawn_mean(sums: np.ndarray, counts: np.ndarray, trainings: np.ndarray, recordings: np.ndarray) -> float:
    return float(sums[np.ix_(trainings, recordings)].sum() / (len(trainings) * counts[recordings].sum()))


def _estimate(value: float, draws: Sequence[float], seeds: tuple[float, ...], counts: np.ndarray) -> Estimate:
    low, high = np.quantile(draws, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Estimate(value, float(low), float(high), seeds, len(counts), int(counts.sum()))


def best_of(estimates: Mapping[str, Estimate]) -> str:
    """The name of the highest mean."""
    return max(estimates, key=lambda name: estimates[name].value)
