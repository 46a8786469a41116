"""The 54 recipes of the multi-view autoencoder as arrays, and statistics of them with bootstrap intervals.

Principles, kinds and reconstruction weights span the grid; what single claims are about is a function of its cells.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, Shaped

from claims.study import Answers
from claims.verdict import COVERAGE, Answer
from shards.problem import DataProblem

PRINCIPLES, KINDS = ("infonce", "cosine", "vicreg"), ("sim", "sep", "both")
WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
CODES = ("private", "shared", "overall")
_SHAPE = (len(PRINCIPLES), len(KINDS), len(WEIGHTS))
Cellwise = Float[np.ndarray, "principles kinds weights"]


@dataclass(frozen=True)
class Cells:
    """Means over seeds and examples. `tasks` are the label of the private code, then of the shared one."""

    tasks: tuple[str, str]
    accuracy: Mapping[str, Cellwise]
    """By `TASK_CODE`: of a linear head on a code."""
    error: Cellwise
    """Mean squared error of the reconstruction; nan where nothing is decoded."""
    references: Mapping[str, Mapping[str, float]]
    """Encoder -> `TASK_overall` -> accuracy: what the grid is held against."""

    def margin(self, task: str) -> Cellwise:
        """How much better the label is read off the code where it belongs than off the other."""
        own, other = CODES[:2] if task == self.tasks[0] else CODES[1::-1]
        return self.accuracy[f"{task}_{own}"] - self.accuracy[f"{task}_{other}"]

    def overall(self, task: str) -> Cellwise:
        return self.accuracy[f"{task}_overall"]

    @property
    def overall_mean(self) -> Cellwise:
        """Over both tasks."""
        return np.mean([self.overall(task) for task in self.tasks], axis=0)

    def change(self, task: str, code: str, kind: str) -> float:
        """What an objective of this kind does to an accuracy: its mean over the grid less reconstruction alone."""
        values = self.accuracy[f"{task}_{code}"]
        return float(values[:, KINDS.index(kind), :-1].mean() - values[:, :, -1].mean())


@dataclass(frozen=True)
class Statistic:
    """A number of the cells, its 95 % interval, and the values of single seeds."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class Grid:
    """Scores of every cell, seed and example."""

    tasks: tuple[str, str]
    scores: Mapping[str, Float[np.ndarray, "seeds principles kinds weights examples"]]
    errors: Float[np.ndarray, "seeds principles kinds weights examples"]
    references: Mapping[str, Mapping[str, Float[np.ndarray, "draws examples"]]]
    units: Shaped[np.ndarray, " examples"]

    @classmethod
    def of(cls, tasks: tuple[str, str], cells: Answers, others: Answers, question: str) -> "Grid":
        """From the answers of the sweep, and of encoders beside it. Raises DataProblem where a cell has none."""
        names = [f"{task}_{code}" for task in tasks for code in CODES]
        scores = {name: _stacked(cells[f"{question}/{name}"]) for name in names}
        references: dict[str, dict[str, np.ndarray]] = {}
        for task in tasks:
            for encoder, draws in others[f"{question}/{task}_overall"].items():
                values = np.stack([draw.scores for draw in draws])
                references.setdefault(encoder, {})[f"{task}_overall"] = values
        units = next(iter(cells[f"{question}/{names[0]}"].values()))[0].units
        return cls(tasks, scores, _stacked(cells[f"{question}/mse"], missing=np.nan), references, units)

    @property
    def seeds(self) -> int:
        return len(self.errors)

    @cached_property
    def cells(self) -> Cells:
        """Of all seeds and examples."""
        return self._cells(np.arange(self.seeds), np.ones(len(self.units)), None)

    def statistic(self, of: Callable[[Cells], float], *, resamples: int, seed: int) -> Statistic:
        """A bootstrap that draws seeds and examples, whole units of them where several examples are of one."""
        drawn = [of(cells) for cells in self._draws(resamples, seed)]
        tail = 100 * (1 - COVERAGE) / 2
        low, high = np.nanpercentile(drawn, [tail, 100 - tail])
        singles = tuple(of(self._cells(np.array([one]), np.ones(len(self.units)), None)) for one in range(self.seeds))
        return Statistic(of(self.cells), float(low), float(high), singles)

    def _draws(self, resamples: int, seed: int) -> Iterator[Cells]:
        rng, (units, member) = np.random.default_rng(seed), np.unique(self.units, return_inverse=True)
        for _ in range(resamples):
            counts = np.bincount(rng.integers(len(units), size=len(units)), minlength=len(units))[member]
            yield self._cells(rng.integers(self.seeds, size=self.seeds), counts.astype(float), rng)

    def _cells(
        self, seeds: Int[np.ndarray, " seeds"], counts: Float[np.ndarray, " examples"], rng: np.random.Generator | None
    ) -> Cells:
        shares = counts / counts.sum()
        references = {
            encoder: {name: float((values @ shares)[_chosen(len(values), rng)].mean()) for name, values in own.items()}
            for encoder, own in self.references.items()
        }
        accuracy = {name: (values @ shares)[seeds].mean(axis=0) for name, values in self.scores.items()}
        return Cells(self.tasks, accuracy, (self.errors @ shares)[seeds].mean(axis=0), references)


def _chosen(count: int, rng: np.random.Generator | None) -> Int[np.ndarray, " draws"]:
    return np.arange(count) if rng is None else rng.integers(count, size=count)


def _stacked(
    found: Mapping[str, Sequence[Answer]], missing: float | None = None
) -> Float[np.ndarray, "seeds principles kinds weights examples"]:
    """One metric's scores; cells that have none are `missing`, which must be a number then."""
    first = next(iter(found.values()))
    whole = np.full((len(first), *_SHAPE, len(first[0].scores)), np.nan if missing is None else missing)
    for p, principle in enumerate(PRINCIPLES):
        for k, kind in enumerate(KINDS):
            for w, weight in enumerate(WEIGHTS):
                draws = found.get(f"{principle}-{kind}-{weight:.1f}")
                if draws is None and missing is None:
                    raise DataProblem(
                        f"The recipe {principle}-{kind}-{weight:.1f} has no answer, so the grid has a hole. Repeat the "
                        "command: what is there is not done again."
                    )
                for number, draw in enumerate(draws or ()):
                    whole[number, p, k, w] = draw.scores
    return whole


# Statistics of the cells. -------------------------------------------------------------------------------------------


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho over the cells where both are numbers; equal values share the mean of their ranks."""
    known = np.isfinite(x) & np.isfinite(y)
    return correlation(_ranks(x[known]), _ranks(y[known]))


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's; nan where one side is constant or fewer than three cells are left."""
    if len(x) < 3 or not x.std() or not y.std():
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def sums_of_squares(values: Cellwise) -> tuple[float, float]:
    """How much of the variance of the cells lies between principles, and between kinds (two-way analysis, shares)."""
    total = float(((values - values.mean()) ** 2).sum())
    per = [
        float(((values.mean(axis=others) - values.mean()) ** 2).sum() * values.size / values.shape[axis])
        for axis, others in ((0, (1, 2)), (1, (0, 2)))
    ]
    return (per[0] / total, per[1] / total) if total else (0.0, 0.0)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]
