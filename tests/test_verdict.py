"""Verdicts: means and differences of known truth, and intervals that know of recordings and of seeds."""

import numpy as np
import pytest

from claims.verdict import Answer, difference, mean

OPTIONS = {"resamples": 500, "seed": 0}


def answers(rng: np.random.Generator, *, accuracies: list[float], recordings: int = 60, each: int = 5) -> list[Answer]:
    """One Answer for each training; the examples of one recording succeed or fail together."""
    units = np.repeat(np.arange(recordings), each)
    return [Answer(np.repeat(rng.random(recordings) < share, each).astype(float), units) for share in accuracies]


def test_the_mean_is_over_examples_and_trainings_and_names_each_training():
    made = [
        Answer(np.array([1.0, 1.0, 0.0]), np.array(["a", "a", "b"])),
        Answer(np.zeros(3), np.array(["a", "a", "b"])),
    ]
    found = mean(made, **OPTIONS)
    assert found.value == pytest.approx(1 / 3)
    assert found.seeds == pytest.approx((2 / 3, 0.0))
    assert (found.recordings, found.examples) == (2, 3)
    assert found.low <= found.value <= found.high


def test_a_large_difference_holds_its_reverse_is_contradicted_and_none_is_undecided():
    rng = np.random.default_rng(1)
    high, low = answers(rng, accuracies=[0.9, 0.88, 0.92]), answers(rng, accuracies=[0.4, 0.42, 0.38])
    same = answers(rng, accuracies=[0.41, 0.4, 0.39])
    assert difference(high, low, **OPTIONS).verdict(0.0) == "holds"
    assert difference(low, high, **OPTIONS).verdict(0.0) == "contradicted"
    assert difference(same, low, **OPTIONS).verdict(0.0) == "undecided"


def test_a_margin_turns_better_into_at_least_as_good():
    rng = np.random.default_rng(2)
    made = answers(rng, accuracies=[0.5] * 3, recordings=400)
    assert difference(made, made, **OPTIONS).verdict(0.0) == "undecided"
    assert difference(made, made, **OPTIONS).verdict(0.3) == "holds"


def test_trainings_that_disagree_widen_the_interval():
    rng = np.random.default_rng(3)
    agreeing, disagreeing = answers(rng, accuracies=[0.6] * 3), answers(rng, accuracies=[0.2, 0.6, 1.0])
    base = answers(rng, accuracies=[0.5] * 3)
    widths = [
        found.high - found.low
        for found in (difference(agreeing, base, **OPTIONS), difference(disagreeing, base, **OPTIONS))
    ]
    assert widths[1] > 1.5 * widths[0]


def test_the_interval_of_one_training_is_the_cluster_bootstrap_of_its_mean():
    made = answers(np.random.default_rng(4), accuracies=[0.7], recordings=200)
    found = mean(made, resamples=2000, seed=0)
    expected = 1.96 * np.sqrt(found.value * (1 - found.value) / 200)  # 200 independent recordings
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.15)


def test_nineteen_of_twenty_intervals_of_a_difference_hold_the_truth():
    rng, hits, rounds = np.random.default_rng(5), 0, 100
    for _ in range(rounds):
        ours = answers(rng, accuracies=list(rng.normal(0.6, 0.03, 8)))
        theirs = answers(rng, accuracies=list(rng.normal(0.5, 0.03, 8)))
        found = difference(ours, theirs, resamples=200, seed=0)
        hits += found.low <= 0.1 <= found.high
    assert hits >= 0.88 * rounds
