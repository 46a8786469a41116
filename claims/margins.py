"""What the paper of the multi-view autoencoder claims of its grid (arXiv 2507.22995, section 4), each as a number."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from claims.grid import (
    CODES,
    KINDS,
    PRINCIPLES,
    WEIGHTS,
    Cells,
    Grid,
    Statistic,
    correlation,
    rank_correlation,
    sums_of_squares,
)
from claims.grid_figures import figures
from claims.study import Answers, Study

_SEED = 0
_TOLERANCE = 0.02  # of accuracy: what "barely matters" and "no change" mean here
CONTRASTIVE = {"pitch": "contrastive_pitch", "instrument_family": "contrastive_instrument"}


@dataclass(frozen=True)
class GridClaim:
    """A sentence as a statistic of the cells that lies above or below a bound."""

    number: int
    text: str
    name: str
    of: Callable[[Cells], float]
    sign: str
    """`>` or `<`"""
    bound: float = 0.0
    published: str = ""

    def verdict(self, found: Statistic) -> str:
        """What the interval says; undecided where the bound lies in it, or there is no number."""
        above, below = found.low > self.bound, found.high < self.bound
        if self.sign == ">=":
            above = found.low >= self.bound
        holds, fails = (below, above) if self.sign == "<" else (above, below)
        return "holds" if holds else "contradicted" if fails else "undecided"


def _error_and_accuracy(cells: Cells, task: str) -> float:
    return rank_correlation(cells.error.ravel(), cells.overall(task).ravel())


def _share_above_contrastive(cells: Cells, task: str) -> float:
    """Of the recipes in which both losses count."""
    return float((cells.overall(task)[:, :, 1:-1] > cells.references[CONTRASTIVE[task]][f"{task}_overall"]).mean())


def _by_kind_more_than_principle(cells: Cells, task: str) -> float:
    principle, kind = sums_of_squares(cells.margin(task))
    return kind - principle


def _upper_right(cells: Cells, kind: str) -> float:
    """Share of the recipes of a kind that leave both labels where they belong; those that only rebuild left out."""
    both = [cells.margin(task)[:, KINDS.index(kind), :-1] > 0 for task in cells.tasks]
    return float(np.all(both, axis=0).mean())


def _sep_more_often_than_sim(cells: Cells) -> float:
    return _upper_right(cells, "sep") - _upper_right(cells, "sim")


def _second_margin_of_sim(cells: Cells) -> float:
    return float(cells.margin(cells.tasks[1])[:, KINDS.index("sim"), :-1].mean())


def _sim_minus_reconstruction(cells: Cells) -> float:
    overall = cells.overall_mean
    return float(overall[:, KINDS.index("sim"), :-1].mean() - overall[:, :, -1].mean())


def _price(cells: Cells) -> float:
    """Correlation of the larger margin with overall accuracy, over the quarter of the recipes where it is largest."""
    largest = np.max([cells.margin(task)[:, :, :-1] for task in cells.tasks], axis=0).ravel()
    top = largest >= np.quantile(largest, 0.75)
    return correlation(largest[top], cells.overall_mean[:, :, :-1].ravel()[top])


def _spill(cells: Cells, kind: str) -> float:
    """How much an objective changes the other code, less how much it changes its own."""
    own, other = ("private", "shared") if kind == "sep" else ("shared", "private")
    changes = {code: np.mean([abs(cells.change(task, code, kind)) for task in cells.tasks]) for code in CODES[:2]}
    return float(changes[other] - changes[own])


def _squeeze(cells: Cells, kind: str, task: int, code: str) -> float:
    """How much further one accuracy falls under an objective than any of the other three does."""
    changes = {(each, c): cells.change(each, c, kind) for each in cells.tasks for c in CODES[:2]}
    own = changes.pop((cells.tasks[task], code))
    return min(changes.values()) - own


def _contrastive_minus_features(cells: Cells, task: str, column: str) -> float:
    name = f"{task}_overall"
    return cells.references[CONTRASTIVE[task]][name] - cells.references[column][name]


def claims_of(tasks: tuple[str, str], column: str) -> tuple[GridClaim, ...]:
    """Claims 1 to 9; `column` is the control that reads the features themselves."""
    return (*_of_accuracy(tasks), *_of_margins(tasks), *_of_codes(), *_of_features(tasks, column))


def _of_accuracy(tasks: tuple[str, str]) -> Iterator[GridClaim]:
    for task in tasks:
        yield GridClaim(
            1,
            f"A lower reconstruction error goes with a higher overall accuracy ({task})",
            f"rank_correlation_{task}",
            partial(_error_and_accuracy, task=task),
            "<",
        )
    for task, published in zip(tasks, ("0.71 against 0.65", "0.94 against 0.81"), strict=True):
        yield GridClaim(
            2,
            f"With both losses nearly every recipe beats contrastive training ({task})",
            f"share_above_contrastive_{task}",
            partial(_share_above_contrastive, task=task),
            ">=",
            0.9,
            published,
        )


def _of_margins(tasks: tuple[str, str]) -> Iterator[GridClaim]:
    for task in tasks:
        text = f"What is compared matters more for the margin than how ({task})"
        name = f"kind_minus_principle_{task}"
        yield GridClaim(3, text, name, partial(_by_kind_more_than_principle, task=task), ">")
    text = "Separation leaves both labels where they belong more often than similarity"
    yield GridClaim(4, text, "upper_right_sep_minus_sim", _sep_more_often_than_sim, ">")
    text = "Both together almost always do"
    yield GridClaim(4, text, "upper_right_both", partial(_upper_right, kind="both"), ">=", 0.9)
    text = f"Similarity alone gives no margin for {tasks[1]}"
    yield GridClaim(5, text, "second_margin_of_sim", _second_margin_of_sim, "<", _TOLERANCE)
    text = "Similarity alone costs overall accuracy against reconstruction alone"
    yield GridClaim(5, text, "overall_sim_minus_reconstruction", _sim_minus_reconstruction, "<")
    yield GridClaim(6, "The largest margins cost overall accuracy", "price_of_margins", _price, "<")


def _of_codes() -> Iterator[GridClaim]:
    text = "Separation changes the shared code less than its own"
    yield GridClaim(7, text, "spill_of_sep", partial(_spill, kind="sep"), "<")
    text = "Similarity changes the private code less than its own"
    yield GridClaim(7, text, "spill_of_sim", partial(_spill, kind="sim"), "<")
    text = "Separation squeezes the second label out of the private code most"
    yield GridClaim(8, text, "squeeze_of_sep", partial(_squeeze, kind="sep", task=1, code="private"), ">")
    text = "Similarity squeezes the first label out of the shared code most"
    yield GridClaim(8, text, "squeeze_of_sim", partial(_squeeze, kind="sim", task=0, code="shared"), ">")


def _of_features(tasks: tuple[str, str], column: str) -> Iterator[GridClaim]:
    for task, published in zip(tasks, ("0.65 against 0.67", "0.81 against 0.91"), strict=True):
        yield GridClaim(
            9,
            f"Contrastive training alone is worse than the features that it reads ({task})",
            f"contrastive_minus_features_{task}",
            partial(_contrastive_minus_features, task=task, column=column),
            "<",
            published=published,
        )


@dataclass(frozen=True, kw_only=True)
class GridStudy(Study):
    """The grid, its baselines, and the training set at other sizes.

    `grid` names the sweep of the 54 recipes, `baselines` the one with contrastive training alone, `sizes` the one whose
    members are RECIPE@SIZE, with SIZE half, whole or double.
    """

    tasks: tuple[str, str]
    column: str
    """The control that reads the features themselves."""
    recipe: str
    """The member that stands for the method in the table; named before anything was read on test."""
    grid: str = "paper"
    baselines: str = "baselines"
    sizes: str = "training_sizes"

    def claimed(self) -> Sequence[str]:
        return [f"{claim.number}. {claim.text}" for claim in claims_of(self.tasks, self.column)]

    def findings(self, answers: Mapping[str, Answers], *, resamples: int) -> "GridFindings":
        name = self.questions[0].name
        grid = Grid.of(self.tasks, answers[self.grid], answers[self.baselines], name)
        found = {
            claim: grid.statistic(claim.of, resamples=resamples, seed=_SEED)
            for claim in claims_of(self.tasks, self.column)
        }
        return GridFindings(self, grid, found, _sizes(answers.get(self.sizes, {}), name, self.tasks))


def _sizes(answers: Answers, question: str, tasks: tuple[str, str]) -> dict[str, float]:
    """Mean overall accuracy by member of the sweep over sizes of the training set."""
    per_task = [answers.get(f"{question}/{task}_overall", {}) for task in tasks]
    names = [name for name in per_task[0] if "@" in name]
    return {name: float(np.mean([[d.scores.mean() for d in task[name]] for task in per_task])) for name in names}


@dataclass(frozen=True)
class GridFindings:
    """Cells, the verdict on each claim, and the table of the paper."""

    study: GridStudy
    grid: Grid
    found: Mapping[GridClaim, Statistic]
    sizes: Mapping[str, float]

    def text(self) -> str:
        lines = [f"claims of {self.study.system}, --size {self.study.size}", ""]
        for claim, found in self.found.items():
            lines.append(f"{claim.verdict(found):<13}{claim.number}. {claim.text}")
            lines.append(f"{'':<13}{claim.name} {_span(found)}, claimed {claim.sign} {claim.bound:g}")
        return "\n".join(lines)

    def metrics(self) -> dict[str, float]:
        cells = self.grid.cells
        accuracies = {f"mean/{name}": float(values.mean()) for name, values in cells.accuracy.items()}
        return {f"claim/{claim.name}": found.value for claim, found in self.found.items()} | accuracies

    def rows(self) -> list[dict[str, object]]:
        return [
            {
                "claim": claim.text,
                "number": claim.number,
                "statistic": claim.name,
                "value": round(found.value, 4),
                "low": round(found.low, 4),
                "high": round(found.high, 4),
                "claimed": f"{claim.sign} {claim.bound:g}",
                "seeds": len(found.seeds),
                "verdict": claim.verdict(found),
            }
            for claim, found in self.found.items()
        ]

    def figures(self) -> Iterator[tuple[str, Figure]]:
        return figures(self.grid.cells, CONTRASTIVE)

    def page(self) -> Iterator[str]:
        """The report as Markdown; its figures lie in plots/ beside it."""
        yield f"# Claims of {self.study.system}, size {self.study.size}\n\n{self.study.caveat}\n"
        yield (
            f"54 recipes, {self.grid.seeds} seeds, {len(self.grid.units):,} test examples. Intervals are 95 %, from a "
            "bootstrap that draws seeds and examples. *Holds* and *contradicted* mean that the interval lies on one "
            "side of the bound.\n"
        )
        yield "## Verdicts\n"
        yield "| claim | statistic | found | claimed | seeds | verdict | published |\n|---|---|---|---|---|---|---|"
        for claim, found in self.found.items():
            singles = " ".join(f"{value:+.3f}" for value in found.seeds)
            yield (
                f"| {claim.number}. {claim.text} | `{claim.name}` | {_span(found)} | {claim.sign} {claim.bound:g} | "
                f"{singles} | **{claim.verdict(found)}** | {claim.published or '-'} |"
            )
        yield from self._table()
        if self.sizes:
            yield "\n## Size of the training set (claim 10)\n\n| recipe | mean overall accuracy |\n|---|---|"
            yield from (f"| {name} | {value:.3f} |" for name, value in self.sizes.items())
        for name in ("error_and_accuracy", "margins", "accuracy_by_weight"):
            yield f"\n![{name}](plots/{name}.png)"

    def _table(self) -> Iterator[str]:
        """The paper's table 1, with ours beside it."""
        cells, (pitch, family) = self.grid.cells, self.study.tasks
        p, k, w = self.study.recipe.split("-")
        place = _place(p, k, float(w))
        total = np.sum([cells.margin(task) for task in cells.tasks], axis=0)
        a, b, c = (int(number) for number in np.unravel_index(np.argmax(total), total.shape))
        best = (a, b, c)
        yield "\n## Table 1\n"
        yield "| method | pitch margin | pitch overall | family margin | family overall | published |"
        yield "|---|---|---|---|---|---|"
        chosen: dict[str, tuple[tuple[int, int, int], str]] = {
            f"{self.study.recipe}, named beforehand": (place, "0.10, 0.71, 0.17, 0.94"),
            f"largest sum of margins, chosen on test: {_name(best)}": (best, "the same"),
            "reconstruction alone": ((0, 0, -1), "0.00, 0.70, 0.01, 0.95"),
        }
        for name, (at, published) in chosen.items():
            values = [each[at] for task in (pitch, family) for each in (cells.margin(task), cells.overall(task))]
            yield f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} | {published} |"
        for encoder, own in cells.references.items():
            yield f"| {encoder} | - | {own[f'{pitch}_overall']:.3f} | - | {own[f'{family}_overall']:.3f} | - |"


def _place(principle: str, kind: str, weight: float) -> tuple[int, int, int]:
    return PRINCIPLES.index(principle), KINDS.index(kind), WEIGHTS.index(weight)


def _name(place: Sequence[int]) -> str:
    return f"{PRINCIPLES[place[0]]}-{KINDS[place[1]]}-{WEIGHTS[place[2]]:.1f}"


def _span(found: Statistic) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
