"""The grid of 54 recipes: statistics against reference implementations, verdicts on grids made to fulfil a claim."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from claims.grid import CODES, KINDS, PRINCIPLES, WEIGHTS, Grid, correlation, rank_correlation, sums_of_squares
from claims.margins import GridFindings, claims_of
from claims.studies import multiview
from claims.study import Answers, Findings
from claims.verdict import Answer
from shards.problem import DataProblem

TASKS = ("pitch", "instrument_family")
EXAMPLES, SEEDS, COLUMN = 200, 3, "column:logmel_stats"
SHAPE = (len(PRINCIPLES), len(KINDS), len(WEIGHTS))


def as_claimed(task: str, code: str, principle: str, kind: str, weight: float) -> float:
    """An accuracy as the paper has it: separation empties the private code of the family, similarity the other."""
    base = {"private": 0.6, "shared": 0.6, "overall": 0.7}[code]
    if weight == 1:
        return base
    strength = 1 - weight
    if (task, code) == ("instrument_family", "private") and kind in ("sep", "both"):
        return base - 0.4 * strength
    if (task, code) == ("pitch", "shared"):
        return base - {"sim": 0.3, "both": 0.3, "sep": 0.15}[kind] * strength
    if (task, code) == ("instrument_family", "shared") and kind == "sim":
        return base - 0.1 * strength
    return base - 0.1 * strength * (code == "overall")


def answers(accuracy=as_claimed, *, missing: str = "") -> tuple[Answers, Answers]:
    """Of the grid and of the baselines: as many right examples as the accuracy wants, the same ones in every cell."""
    units = np.arange(EXAMPLES) // 2

    def draws(value: float) -> list[Answer]:
        return [
            Answer((np.arange(EXAMPLES) < round(value * EXAMPLES) - seed).astype(float), units) for seed in range(SEEDS)
        ]

    cells: Answers = {}
    for principle, kind, weight in ((p, k, w) for p in PRINCIPLES for k in KINDS for w in WEIGHTS):
        name = f"{principle}-{kind}-{weight:.1f}"
        if name == missing:
            continue
        for task in TASKS:
            for code in CODES:
                value = accuracy(task, code, principle, kind, weight)
                cells.setdefault(f"notes/{task}_{code}", {})[name] = draws(value)
        if weight:
            error = [Answer(np.full(EXAMPLES, 1.0 - 0.5 * weight), units) for _ in range(SEEDS)]
            cells.setdefault("notes/mse", {})[name] = error
    levels = {COLUMN: 0.68, "contrastive_pitch": 0.5, "contrastive_instrument": 0.5}
    others = {f"notes/{task}_overall": {name: draws(level) for name, level in levels.items()} for task in TASKS}
    return cells, others


def found(accuracy=as_claimed) -> GridFindings:
    cells, others = answers(accuracy)
    return multiview.study("laptop").findings({"paper": cells, "baselines": others}, resamples=100)


def test_the_grid_holds_what_was_answered_and_a_hole_is_an_error():
    cells, others = answers()
    grid = Grid.of(TASKS, cells, others, "notes")
    assert grid.cells.accuracy["pitch_overall"].shape == SHAPE
    assert grid.cells.accuracy["pitch_private"][0, 0, -1] == pytest.approx(0.6 - 1 / EXAMPLES)
    assert np.isnan(grid.cells.error[..., 0]).all() and np.isfinite(grid.cells.error[..., 1:]).all()
    with pytest.raises(DataProblem, match="cosine-sep-0.4"):
        Grid.of(TASKS, *answers(missing="cosine-sep-0.4"), "notes")


def test_margins_are_signed_by_where_a_label_belongs():
    cells = Grid.of(TASKS, *answers(), "notes").cells
    private, shared = cells.accuracy["pitch_private"], cells.accuracy["pitch_shared"]
    np.testing.assert_allclose(cells.margin("pitch"), private - shared)
    own, other = cells.accuracy["instrument_family_shared"], cells.accuracy["instrument_family_private"]
    np.testing.assert_allclose(cells.margin("instrument_family"), own - other)


def test_a_grid_as_the_paper_has_it_fulfils_every_claim_and_its_mirror_image_contradicts():
    verdicts = {claim.name: claim.verdict(statistic) for claim, statistic in found().found.items()}
    expected_to_hold = {
        *("rank_correlation_pitch", "rank_correlation_instrument_family", "upper_right_both", "second_margin_of_sim"),
        *("share_above_contrastive_pitch", "share_above_contrastive_instrument_family", "upper_right_sep_minus_sim"),
        *("overall_sim_minus_reconstruction", "spill_of_sep", "squeeze_of_sep", "squeeze_of_sim"),
        *("contrastive_minus_features_pitch", "contrastive_minus_features_instrument_family"),
    }
    assert {name for name, verdict in verdicts.items() if verdict == "holds"} >= expected_to_hold

    def mirrored(task: str, code: str, principle: str, kind: str, weight: float) -> float:
        return 1.2 - as_claimed(task, code, principle, kind, weight)

    verdicts = {claim.name: claim.verdict(statistic) for claim, statistic in found(mirrored).found.items()}
    for name in ("rank_correlation_pitch", "upper_right_both", "overall_sim_minus_reconstruction", "squeeze_of_sep"):
        assert verdicts[name] == "contradicted"


def test_what_is_found_is_shown_in_every_form(tmp_path):
    findings = found()
    assert isinstance(findings, Findings)
    assert len(findings.rows()) == len(claims_of(TASKS, COLUMN)) == len(multiview.study("laptop").claimed())
    assert [name for name, _ in findings.figures()] == ["error_and_accuracy", "margins", "accuracy_by_weight"]
    for name, figure in findings.figures():
        figure.savefig(tmp_path / f"{name}.png")
    page = "\n".join(findings.page())
    assert "| infonce-both-0.4, named beforehand |" in page and "**holds**" in page and "rendered" in page
    assert all(f"plots/{name}.png" in page for name, _ in findings.figures())
    assert "holds" in findings.text()


@given(arrays(float, 20, elements=st.integers(0, 9)), arrays(float, 20, elements=st.integers(0, 9)))
def test_ranks_correlate_as_in_the_reference(x, y):
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert rank_correlation(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    else:
        assert np.isnan(rank_correlation(x, y))
    assert np.isnan(correlation(x[:2], y[:2]))


@given(arrays(float, SHAPE, elements=st.floats(-1, 1, width=16)))
def test_sums_of_squares_are_those_of_a_two_way_analysis(values):
    principle, kind = sums_of_squares(values)
    total = ((values - values.mean()) ** 2).sum()
    by_principle = sum(18 * (values[p].mean() - values.mean()) ** 2 for p in range(3))
    by_kind = sum(18 * (values[:, k].mean() - values.mean()) ** 2 for k in range(3))
    if total > 1e-9:
        assert (principle * total, kind * total) == (pytest.approx(by_principle), pytest.approx(by_kind))
        assert 0 <= principle + kind <= 1 + 1e-9
