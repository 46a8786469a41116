"""Intervals against closed forms: a Bernoulli mean, its coverage, whole clusters, paired differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trainers.results import Interval, Resampling, Scores, bootstrap, summary, table


def scores(values: np.ndarray) -> Scores:
    return Scores(np.arange(len(values)), np.asarray(values, dtype=float))


def by_example(examples: int, resamples: int = 2000) -> Resampling:
    return Resampling({"example": np.arange(examples)}, resamples, seed=0)


def test_the_interval_of_an_accuracy_is_that_of_a_bernoulli_mean():
    is_right = np.repeat([1.0, 0.0], [300, 700])
    interval = bootstrap(is_right, np.arange(1000), resamples=4000, seed=0)
    half_width = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert interval.low == pytest.approx(0.3 - half_width, abs=0.003)
    assert interval.high == pytest.approx(0.3 + half_width, abs=0.003)


def test_the_interval_equals_the_one_of_scipy(rng):
    values = rng.exponential(size=200)
    ours = bootstrap(values, np.arange(200), resamples=20_000, seed=0)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_nineteen_of_twenty_intervals_hold_the_true_accuracy(rng):
    runs = [bootstrap((rng.random(200) < 0.7) * 1.0, np.arange(200), resamples=200, seed=0) for _ in range(250)]
    covered = np.mean([run.low <= 0.7 <= run.high for run in runs])
    assert 0.90 <= covered <= 0.98


def test_notes_that_succeed_together_count_as_one_in_the_cluster_bootstrap():
    instruments = np.repeat(np.arange(50), 20)
    is_right = np.repeat(np.repeat([1.0, 0.0], [30, 20]), 20)
    interval = bootstrap(is_right, instruments, resamples=4000, seed=0)
    half_width = 1.96 * np.sqrt(0.6 * 0.4 / 50)
    assert (interval.high - interval.low) / 2 == pytest.approx(half_width, abs=0.01)
    assert interval.units == 50


def test_clusters_of_unequal_size_keep_the_mean_over_examples():
    instruments, values = np.array(["a"] * 90 + ["b"] * 10), np.array([1.0] * 90 + [0.0] * 10)
    drawn = bootstrap(values, instruments, resamples=1000, seed=0)
    assert (drawn.low, drawn.high) == (0.0, 1.0)
    metric = summary(scores(values), {}, Resampling({"instrument": instruments}, 1000, 0))
    assert metric["value"] == 0.9


@given(st.integers(0, 2**32), st.permutations(range(30)))
def test_names_and_order_of_clusters_do_not_matter(seed, order):
    values, clusters = np.random.default_rng(seed).random(90), np.repeat(np.arange(30), 3)
    renamed = np.array([f"{name:02d}" for name in range(30)])[clusters]
    assert bootstrap(values, clusters, resamples=100, seed=1) == bootstrap(values, renamed, resamples=100, seed=1)
    mean = values.mean()
    shuffled = bootstrap(values, np.array(order)[clusters], resamples=100, seed=1)
    assert shuffled.low <= mean <= shuffled.high


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.2, "better"),
        (-0.2, -0.01, "worse"),
        (-0.1, 0.1, "not distinguishable"),
        (0.0, 0.0, "not distinguishable"),
    ],
)
def test_the_verdict_is_whether_the_interval_leaves_out_zero(low, high, verdict):
    assert Interval(low, high, units=10).verdict == verdict


def test_pairing_sees_a_difference_that_the_two_intervals_hide(rng):
    theirs = (rng.random(1000) < 0.5) * 1.0
    ours = np.maximum(theirs, rng.random(1000) < 0.04)
    metric = summary(scores(ours), {"control": [scores(theirs)]}, by_example(1000))
    against = metric["against"]["control"]
    control = bootstrap(theirs, np.arange(1000), resamples=2000, seed=0)
    assert metric["intervals"]["example"]["low"] < control.high
    assert against["intervals"]["example"]["verdict"] == "better"
    assert against["difference"] == pytest.approx(ours.mean() - theirs.mean())


def test_equal_encoders_are_not_distinguishable(rng):
    values = (rng.random(300) < 0.5) * 1.0
    metric = summary(scores(values), {"itself": [scores(values)]}, by_example(300))
    assert metric["against"]["itself"]["intervals"]["example"] == {
        "low": 0.0,
        "high": 0.0,
        "units": 300,
        "verdict": "not distinguishable",
    }


def test_the_draws_of_a_control_are_averaged_example_by_example(rng):
    ours, *theirs = (scores((rng.random(200) < 0.5) * 1.0) for _ in range(4))
    against = summary(ours, {"random": theirs}, by_example(200))["against"]["random"]
    averaged = np.mean([draw.values for draw in theirs], axis=0)
    expected = bootstrap(ours.values - averaged, np.arange(200), resamples=2000, seed=0)
    assert (against["intervals"]["example"]["low"], against["intervals"]["example"]["high"]) == (
        expected.low,
        expected.high,
    )
    assert [draw["value"] for draw in against["draws"]] == [draw.mean for draw in theirs]


def test_the_table_says_for_which_unit_a_verdict_holds():
    ours, theirs = scores(np.ones(100)), scores(np.repeat([0.0, 1.0], 50))
    units = {"example": np.arange(100), "instrument": np.repeat(["a", "b"], 50)}
    metric = summary(ours, {"column:mel": [theirs]}, Resampling(units, 500, 0))
    told = {"evaluator": "probe", "checkpoint": "runs/x", "corpus": "nsynth", "examples": 100, "resamples": 500}
    shown = table({**told, "seed": 0, "metrics": {"pitch_accuracy": metric, "pitch_accuracy_mlp": metric}})
    assert "over examples better; over instruments not distinguishable" in shown
    assert shown.count("minus 0.500 of column:mel") == 1  # what only extends another metric is not compared
