"""Orders of an epoch beyond the global one, and datasets taking turns: proportions, completeness, purity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.loading.interleave import interleaved, whole_shares
from shards.order import Balanced, Order, Sequential, Shuffled, Weighted, Windowed, permuted

_SEEDS = st.integers(0, 2**63 - 1)
_COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


def whole(order: Order, seed: int, epoch: int = 0) -> np.ndarray:
    return order.visits(np.arange(len(order)), seed=seed, epoch=epoch)[0]


def windowed(counts: list[int], window_shards: int) -> Windowed:
    shard = np.repeat(np.arange(len(counts)), counts)
    return Windowed(np.arange(len(shard)) * 3, shard, window_shards)


@given(counts=_COUNTS, window_shards=st.integers(1, 14), seed=_SEEDS, epoch=st.integers(0, 99))
def test_a_windowed_epoch_has_every_row_once_and_leaves_a_window_before_the_next(counts, window_shards, seed, epoch):
    order = windowed(counts, window_shards)
    rows = whole(order, seed, epoch)
    assert sorted(rows) == order.eligible.tolist()
    shards = list(dict.fromkeys(order.shard[rows // 3].tolist()))
    turns = [shards.index(shard) // window_shards for shard in order.shard[rows // 3].tolist()]
    assert turns == sorted(turns)


def test_a_window_of_all_shards_shuffles_all_rows_and_of_one_shard_those_within():
    all_at_once, one_by_one = (whole(windowed([50] * 20, shards), seed=1) // 3 for shards in (20, 1))
    assert abs(np.corrcoef(all_at_once[:-1], all_at_once[1:])[0, 1]) < 0.1
    runs = one_by_one.reshape(20, 50) // 50
    assert (runs == runs[:, :1]).all() and (np.diff(runs[:, 0]) != 1).any()
    assert all((np.diff(row) != 1).any() for row in one_by_one.reshape(20, 50))


@given(
    weights=st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=60).filter(any),
    seed=_SEEDS,
    epoch=st.integers(0, 99),
)
def test_a_weighted_epoch_has_each_row_as_often_as_its_weight_says_to_within_one(weights, seed, epoch):
    order = Weighted(np.arange(len(weights)) + 5, np.array(weights))
    counts = np.bincount(whole(order, seed, epoch) - 5, minlength=len(weights))
    expected = len(weights) * order.weight / order.weight.sum()
    assert (np.abs(counts - expected) < 1 + 1e-9).all()
    assert (counts[order.weight == 0] == 0).all()


def test_weights_hold_exactly_over_many_epochs():
    order = Weighted(np.arange(5), np.array([0.4, 1.0, 0.1, 3.0, 0.5]))
    counts = sum(np.bincount(whole(order, 3, epoch), minlength=5) for epoch in range(1000))
    assert np.abs(counts / counts.sum() - order.weight / 5).max() < 0.01


@given(rows=st.integers(1, 60), seed=_SEEDS)
def test_equal_weights_give_every_row_once(rows: int, seed: int):
    assert sorted(whole(Weighted(np.arange(rows), np.full(rows, 0.1)), seed)) == list(range(rows))


@given(counts=_COUNTS, seed=_SEEDS, epoch=st.integers(0, 99))
def test_a_balanced_epoch_has_every_class_in_turn_and_rows_of_a_class_equally_often(counts, seed, epoch):
    classes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    order = Balanced(np.arange(len(classes)) + 7, classes)
    rows = whole(order, seed, epoch) - 7
    there = np.unique(classes)
    for first in range(0, len(rows), len(there)):
        turn = classes[rows[first : first + len(there)]]
        assert len(set(turn.tolist())) == len(turn)
    visits = np.bincount(rows, minlength=len(classes))
    assert all(np.ptp(visits[classes == one]) <= 1 for one in there)


_ORDERS: dict[str, Order] = {
    "sequential": Sequential(np.arange(40) * 3),
    "global": Shuffled(np.arange(40) * 3),
    "windowed": windowed([7, 0, 9, 8, 3, 13], 2),
    "weighted": Weighted(np.arange(40) * 3, np.arange(40.0)),
    "balanced": Balanced(np.arange(40) * 3, np.arange(40) ** 2 % 7),
}


@pytest.mark.parametrize("order", _ORDERS.values(), ids=_ORDERS.keys())
@given(seed=_SEEDS, epoch=st.integers(0, 99), position=st.integers(0, 39))
def test_a_position_has_the_same_row_whoever_asks(order: Order, seed: int, epoch: int, position: int):
    alone = order.visits(np.array([position]), seed=seed, epoch=epoch)
    together = order.visits(np.arange(40), seed=seed, epoch=epoch)
    assert [part[0] for part in alone] == [part[position] for part in together]


@pytest.mark.parametrize("order", _ORDERS.values(), ids=_ORDERS.keys())
@given(seed=_SEEDS, epoch=st.integers(0, 99))
def test_no_two_visits_of_a_row_in_an_epoch_are_the_same_visit(order: Order, seed: int, epoch: int):
    visits = zip(*(part.tolist() for part in order.visits(np.arange(40), seed=seed, epoch=epoch)), strict=True)
    assert len(set(visits)) == 40


@pytest.mark.parametrize("order", list(_ORDERS.values())[1:], ids=list(_ORDERS)[1:])
def test_two_epochs_and_two_seeds_differ(order: Order):
    first, second, third = whole(order, 0, 0), whole(order, 0, 1), whole(order, 1, 0)
    assert (first != second).sum() > 20 and (first != third).sum() > 20 and (second != third).sum() > 20


@given(data=st.data(), sizes=st.lists(st.integers(1, 50), min_size=1, max_size=20), seed=_SEEDS)
def test_permutations_of_many_sizes_at_once_are_those_of_each(data: st.DataObject, sizes: list[int], seed: int):
    values = np.array([data.draw(st.integers(0, size - 1)) for size in sizes])
    keys = np.arange(len(sizes)) % 3
    together = permuted(values, np.array(sizes), seed, keys)
    alone = [int(permuted(values[i : i + 1], sizes[i], seed, int(keys[i]))[0]) for i in range(len(sizes))]
    assert together.tolist() == alone


_WEIGHTS = st.lists(st.integers(1, 50), min_size=1, max_size=6)


@given(weights=_WEIGHTS, seed=_SEEDS, start=st.integers(0, 10**12))
def test_datasets_take_turns_by_their_weights_and_give_their_examples_in_turn(weights, seed, start):
    shares = whole_shares(weights)
    dataset, own = interleaved(np.arange(start, start + 500), shares, seed=seed)
    for number, share in enumerate(shares):
        drawn = own[dataset == number]
        assert (np.diff(drawn) == 1).all()
        assert np.abs(np.cumsum(dataset == number) - np.arange(1, 501) * share / sum(shares)).max() <= len(shares) + 1
        assert not len(drawn) or abs(drawn[0] - start * share / sum(shares)) <= len(shares)


@given(weights=_WEIGHTS, seed=_SEEDS)
def test_shares_are_exact_over_a_period_and_every_draw_comes_once(weights: list[int], seed: int):
    shares = whole_shares(weights)
    dataset, own = interleaved(np.arange(3 * sum(shares)), shares, seed=seed)
    for number, share in enumerate(shares):
        assert own[dataset == number].tolist() == list(range(3 * share))


@given(weights=_WEIGHTS, seed=_SEEDS, position=st.integers(0, 999))
def test_whose_turn_it_is_depends_on_the_position_alone(weights: list[int], seed: int, position: int):
    together = interleaved(np.arange(1000), weights, seed=seed)
    alone = interleaved(np.array([position]), weights, seed=seed)
    assert [part[position] for part in together] == [part[0] for part in alone]


@pytest.mark.parametrize(
    ("weights", "shares"), [((0.7, 0.3), (7, 3)), ((2, 4, 6), (1, 2, 3)), ((1.0,), (1,)), ((1e-3, 1), (1, 1000))]
)
def test_weights_are_taken_as_they_are_written(weights: tuple[float, ...], shares: tuple[int, ...]):
    assert whole_shares(weights) == shares


def test_weights_of_no_simple_ratio_are_kept_to_a_billionth():
    shares = whole_shares([np.pi, np.e, 1e-12])
    assert shares[0] / shares[1] == pytest.approx(np.pi / np.e, rel=1e-9)
    assert shares[2] == 1 and sum(shares) <= 2**31 + 1
