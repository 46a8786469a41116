"""Studies whose claims say that one kind of training is better than another: verdicts, a table, figures, a page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claims.study import Answers, Study
from claims.verdict import Estimate, difference, mean

_SEED = 0
_INK, _DOT = "#333333", "#2a6f97"


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper as a comparison: on `metric`, `better` is above `than` by more than -`margin`.

    `better` and `than` name members of the sweep `sweep`; each of `than` is compared on its own. With a margin the
    sentence is "at least as good as"; without, "better than". `published` is the paper's own pair of values, at its
    scale.
    """

    text: str
    sweep: str
    metric: str
    better: str
    than: tuple[str, ...]
    margin: float = 0.0
    published: str = ""


@dataclass(frozen=True)
class Comparison:
    """A claim against one of what it names: the difference on its metric, and what that says."""

    claim: Claim
    than: str
    found: Estimate
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Comparisons(Study):
    """A study of such claims; `axes` names those sweeps whose members are numbers on an axis."""

    claims: tuple[Claim, ...]
    axes: Mapping[str, str] = field(default_factory=dict)

    def claimed(self) -> Sequence[str]:
        return [f"{each.text}: {each.better} against {', '.join(each.than)} on {each.metric}" for each in self.claims]

    def only(self, sweeps: Sequence[str]) -> "Comparisons":
        kept = super().only(sweeps)
        return replace(kept, claims=tuple(claim for claim in self.claims if claim.sweep in kept.sweeps))

    def findings(self, answers: Mapping[str, Answers], *, resamples: int) -> "Compared":
        """Means of every encoder and the difference that each claim is about."""
        options = {"resamples": resamples, "seed": _SEED}
        estimates = {
            sweep: {
                metric: {name: mean(draws, **options) for name, draws in encoders.items()}
                for metric, encoders in asked.items()
            }
            for sweep, asked in answers.items()
        }
        comparisons = []
        for claim in self.claims:
            encoders = answers[claim.sweep][claim.metric]
            for than in claim.than:
                found = difference(encoders[claim.better], encoders[than], **options)
                comparisons.append(Comparison(claim, than, found, found.verdict(claim.margin)))
        return Compared(self, estimates, tuple(comparisons))


@dataclass(frozen=True)
class Compared:
    """Everything the report shows: sweep -> metric -> encoder -> estimate, and the comparisons."""

    study: Comparisons
    estimates: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    comparisons: tuple[Comparison, ...]

    def metrics(self) -> dict[str, float]:
        """Every number by a name that MLflow can chart: `variants/music/key/base`."""
        return {
            f"{sweep}/{metric}/{name.replace(':', '_').replace(' ', '_')}": estimate.value
            for sweep, by_metric in self.estimates.items()
            for metric, encoders in by_metric.items()
            for name, estimate in encoders.items()
        }

    def rows(self) -> list[dict[str, object]]:
        """The comparisons as a table of plain values."""
        return [
            {
                "claim": each.claim.text,
                "metric": each.claim.metric,
                "better": each.claim.better,
                "than": each.than,
                "difference": round(each.found.value, 4),
                "low": round(each.found.low, 4),
                "high": round(each.found.high, 4),
                "margin": each.claim.margin,
                "seeds": len(each.found.seeds),
                "recordings": each.found.recordings,
                "verdict": each.verdict,
            }
            for each in self.comparisons
        ]

    def text(self) -> str:
        """The comparisons for a terminal."""
        lines = [f"claims of {self.study.system}, --size {self.study.size}", ""]
        for each in self.comparisons:
            lines.append(f"{each.verdict:<13}{each.claim.text}")
            lines.append(
                f"{'':<13}{each.claim.better} minus {each.than} on {each.claim.metric}: {_span(each.found, True)}"
            )
        return "\n".join(lines)

    def page(self) -> Iterator[str]:
        """The report as Markdown; its figures lie in plots/ beside it."""
        yield f"# Claims of {self.study.system}, size {self.study.size}\n"
        yield f"{self.study.caveat}\n"
        yield (
            "Intervals are 95 %, from a bootstrap that draws whole test recordings and trainings; values of single "
            "seeds stand behind them. *Holds* and *contradicted* mean that the interval lies on one side.\n"
        )
        yield "## Verdicts\n"
        yield "| claim | compared on | difference | seeds | verdict | published, at full scale |"
        yield "|---|---|---|---|---|---|"
        for each in self.comparisons:
            compared = f"{each.claim.better} - {each.than}, {each.claim.metric}"
            allowed = f" (margin {each.claim.margin})" if each.claim.margin else ""
            values = " ".join(f"{value:+.3f}" for value in each.found.seeds)
            yield (
                f"| {each.claim.text} | {compared} | {_span(each.found, True)}{allowed} | {values} | "
                f"**{each.verdict}** | {each.claim.published or '-'} |"
            )
        for sweep, by_metric in self.estimates.items():
            yield from _table_of(sweep, by_metric)

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """For each sweep a panel a metric: a curve where its members are numbers on an axis, else a row an encoder."""
        for sweep, by_metric in self.estimates.items():
            figure = Figure(figsize=(4.2 * len(by_metric), 3.6), layout="constrained")
            panels = figure.subplots(1, len(by_metric), squeeze=False)[0]
            for axes, (metric, encoders) in zip(panels, by_metric.items(), strict=True):
                (_curve if sweep in self.study.axes else _dots)(axes, encoders)
                axes.set_title(metric, fontsize=10)
                if sweep in self.study.axes:
                    axes.set_xlabel(self.study.axes[sweep])
            figure.suptitle(
                f"{self.study.system} {sweep}, size {self.study.size}: probe accuracy, 95 % intervals", fontsize=10
            )
            yield sweep, figure


def _table_of(sweep: str, by_metric: Mapping[str, Mapping[str, Estimate]]) -> Iterator[str]:
    first = next(iter(by_metric.values()))
    yield f"\n## {sweep}\n"
    yield f"| encoder | {' | '.join(by_metric)} |\n|---|{'---|' * len(by_metric)}"
    for name in first:
        yield f"| {name} | {' | '.join(_span(by_metric[metric][name], False) for metric in by_metric)} |"
    sizes = ", ".join(
        f"{metric}: {next(iter(encoders.values())).examples:,} examples of "
        f"{next(iter(encoders.values())).recordings:,} recordings"
        for metric, encoders in by_metric.items()
    )
    yield f"\nAccuracies; {sizes}.\n\n![{sweep}](plots/{sweep}.png)"


def _span(estimate: Estimate, is_difference: bool) -> str:
    sign = "+" if is_difference else ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def _dots(axes: Axes, encoders: Mapping[str, Estimate]) -> None:
    for place, each in enumerate(reversed(list(encoders.values()))):
        axes.plot([each.low, each.high], [place, place], color=_INK, linewidth=1)
        axes.plot(each.seeds, [place] * len(each.seeds), "|", color=_DOT)
        axes.plot(each.value, place, "o", color=_DOT)
    axes.set_yticks(range(len(encoders)), list(encoders)[::-1], fontsize=8)


def _curve(axes: Axes, encoders: Mapping[str, Estimate]) -> None:
    numbered = {float(name): each for name, each in encoders.items() if _is_number(name)}
    places = sorted(numbered)
    found = [numbered[place] for place in places]
    axes.fill_between(places, [e.low for e in found], [e.high for e in found], color=_DOT, alpha=0.2, linewidth=0)
    axes.plot(places, [each.value for each in found], "o-", color=_DOT)
    for name, each in encoders.items():
        if not _is_number(name):
            axes.axhline(each.value, color=_INK, linewidth=0.8, linestyle=":", label=name)
            axes.annotate(name, (places[0], each.value), fontsize=7, color=_INK)


def _is_number(name: str) -> bool:
    return name.replace(".", "", 1).isdigit()
