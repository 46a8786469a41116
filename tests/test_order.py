"""The order of an epoch is a permutation, keyed, and computed point by point."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shards.order import random_bits, shuffled_rows
from shards.views import Views, view_starts

_SEEDS = st.integers(0, 2**63 - 1)


@given(rows=st.integers(1, 3000), seed=_SEEDS, epoch=st.integers(0, 10_000))
def test_an_epoch_visits_every_row_exactly_once(rows: int, seed: int, epoch: int):
    visited = shuffled_rows(np.arange(rows), rows=rows, seed=seed, epoch=epoch)
    assert sorted(visited) == list(range(rows))


@given(rows=st.integers(1, 3000), seed=_SEEDS, data=st.data())
def test_a_position_has_the_same_row_whoever_asks_for_it_and_with_whatever_others(
    rows: int, seed: int, data: st.DataObject
):
    position = data.draw(st.integers(0, rows - 1))
    alone = shuffled_rows(np.array([position]), rows=rows, seed=seed, epoch=0)
    together = shuffled_rows(np.arange(rows), rows=rows, seed=seed, epoch=0)
    assert alone[0] == together[position]


def test_epochs_and_seeds_give_orders_that_agree_no_more_than_chance():
    orders = [shuffled_rows(np.arange(1000), rows=1000, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    for first in range(4):
        for second in range(first):
            assert (orders[first] == orders[second]).sum() < 8  # one is expected, eight has a chance of 1e-5


def test_neighbours_in_the_index_are_not_neighbours_in_the_order():
    order = shuffled_rows(np.arange(10_000), rows=10_000, seed=3, epoch=0)
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 0.05


def test_positions_are_spread_evenly_over_the_rows():
    firsts = [shuffled_rows(np.array([0]), rows=10, seed=seed, epoch=0)[0] for seed in range(5000)]
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # chi-square with 9 degrees of freedom, p = 0.001


def test_random_bits_are_balanced_in_every_bit_and_differ_for_every_word():
    bits = random_bits(7, np.arange(20_000), 1)
    ones = ((bits[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 0.02
    assert len(set(bits.tolist())) == 20_000
    assert random_bits(1, 2) != random_bits(2, 1)


@given(words=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_random_bits_of_plain_integers_are_those_of_arrays(words: list[int]):
    assert random_bits(*words) == random_bits(*(np.array(word) for word in words))


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=50, unique=True), _SEEDS, st.integers(0, 100))
def test_a_view_is_a_function_of_seed_epoch_index_and_view_alone(index: list[int], seed: int, epoch: int):
    views, together = Views(2, 96), np.array(index)
    spare = np.full((len(index), 1), 313 - 96)
    starts = view_starts(views, together, spare, seed=seed, epoch=epoch)
    for row in range(len(index)):
        alone = view_starts(views, together[row : row + 1], spare[:1], seed=seed, epoch=np.array([epoch]))
        assert (alone[0] == starts[row]).all()
    assert ((starts >= 0) & (starts <= 313 - 96)).all()


def test_crops_reach_both_ends_of_the_closed_range_and_are_uniform():
    starts = view_starts(Views(2, 96), np.arange(30_000), np.full((30_000, 1), 4), seed=0, epoch=0)
    counts = np.bincount(starts.ravel(), minlength=5)
    assert len(counts) == 5
    assert np.abs(counts / 60_000 - 0.2).max() < 0.01


def test_an_example_as_long_as_its_views_is_seen_whole():
    assert (view_starts(Views(2, 96), np.arange(50), np.zeros((50, 1), np.int64), seed=0, epoch=0) == 0).all()
