"""What was found: the table of all encoders, a verdict for each claim, figures, and the page that says all of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from claims.study import Claim, Study
from claims.verdict import Answer, Estimate, difference, mean
from shards.store import whole_file

Answers = dict[str, dict[str, list[Answer]]]
"""Metric -> encoder -> one Answer a training."""
_SEED = 0
_INK, _DOT = "#333333", "#2a6f97"


@dataclass(frozen=True)
class Comparison:
    """A claim against one of what it names: the difference on its metric, and what that says."""

    claim: Claim
    than: str
    found: Estimate
    verdict: str


@dataclass(frozen=True)
class Findings:
    """Everything the report shows: sweep -> metric -> encoder -> estimate, and the comparisons."""

    estimates: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    comparisons: tuple[Comparison, ...]


def findings(study: Study, answers: Mapping[str, Answers], *, resamples: int) -> Findings:
    """Means of every encoder and the difference that each claim is about; a claim on an absent sweep is left out."""
    options = {"resamples": resamples, "seed": _SEED}
    estimates = {
        sweep: {
            metric: {name: mean(draws, **options) for name, draws in encoders.items()}
            for metric, encoders in asked.items()
        }
        for sweep, asked in answers.items()
    }
    comparisons = []
    for claim in (claim for claim in study.claims if claim.sweep in answers):
        encoders = answers[claim.sweep][claim.metric]
        for than in claim.than:
            found = difference(encoders[claim.better], encoders[than], **options)
            comparisons.append(Comparison(claim, than, found, found.verdict(claim.margin)))
    return Findings(estimates, tuple(comparisons))


def metrics(found: Findings) -> dict[str, float]:
    """Every number by a name that MLflow can chart: `variants/music/key/base`."""
    return {
        f"{sweep}/{metric}/{name.replace(':', '_').replace(' ', '_')}": estimate.value
        for sweep, by_metric in found.estimates.items()
        for metric, encoders in by_metric.items()
        for name, estimate in encoders.items()
    }


def rows(found: Findings) -> list[dict[str, object]]:
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
        for each in found.comparisons
    ]


def outline(study: Study, workers: int) -> str:
    """What would be run and compared."""
    trainings = [
        f"sonograph sweep {study.system}:{sweep} --size {study.size} --workers {workers} {' '.join(options)}"
        for sweep, options in study.sweeps.items()
    ]
    asked = [question.command("CHECKPOINT", "SEED") for question in study.questions]
    said = [f"{claim.text}: {claim.better} against {', '.join(claim.than)} on {claim.metric}" for claim in study.claims]
    return "\n".join([*(f"sonograph {' '.join(words)}" for words in study.preparations), *trainings, *asked, *said])


def table(study: Study, found: Findings) -> str:
    """The comparisons for a terminal."""
    lines = [f"claims of {study.system}, --size {study.size}", ""]
    for each in found.comparisons:
        lines.append(f"{each.verdict:<13}{each.claim.text}")
        lines.append(f"{'':<13}{each.claim.better} minus {each.than} on {each.claim.metric}: {_span(each.found, True)}")
    return "\n".join(lines)


def write(path: Path, study: Study, found: Findings) -> None:
    """The report as Markdown, with the figures that lie beside it."""
    with whole_file(path) as file:
        file.write("\n".join(_page(study, found)).encode())


def _page(study: Study, found: Findings) -> Iterator[str]:
    yield f"# Claims of {study.system}, size {study.size}\n"
    yield f"{study.caveat}\n"
    yield (
        "Intervals are 95 %, from a bootstrap that draws whole test recordings and trainings; values of single seeds "
        "stand behind them. *Holds* and *contradicted* mean that the interval lies on one side.\n"
    )
    yield "## Verdicts\n"
    yield "| claim | compared on | difference | seeds | verdict | published, at full scale |\n|---|---|---|---|---|---|"
    for each in found.comparisons:
        compared = f"{each.claim.better} - {each.than}, {each.claim.metric}"
        allowed = f" (margin {each.claim.margin})" if each.claim.margin else ""
        values = " ".join(f"{value:+.3f}" for value in each.found.seeds)
        yield (
            f"| {each.claim.text} | {compared} | {_span(each.found, True)}{allowed} | {values} | **{each.verdict}** | "
            f"{each.claim.published or '-'} |"
        )
    for sweep, by_metric in found.estimates.items():
        yield from _table_of(sweep, by_metric)


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


def figures(study: Study, found: Findings) -> Iterator[tuple[str, Figure]]:
    """For each sweep a panel a metric: a curve where its members are numbers on an axis, else a row an encoder."""
    for sweep, by_metric in found.estimates.items():
        figure = Figure(figsize=(4.2 * len(by_metric), 3.6), layout="constrained")
        panels = figure.subplots(1, len(by_metric), squeeze=False)[0]
        for axes, (metric, encoders) in zip(panels, by_metric.items(), strict=True):
            (_curve if sweep in study.axes else _dots)(axes, encoders)
            axes.set_title(metric, fontsize=10)
            if sweep in study.axes:
                axes.set_xlabel(study.axes[sweep])
        figure.suptitle(f"{study.system} {sweep}, size {study.size}: probe accuracy, 95 % intervals", fontsize=10)
        yield sweep, figure


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
