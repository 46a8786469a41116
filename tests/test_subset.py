"""Which examples take part: shares by largest remainder, a draw that depends on seed and keys alone."""

from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shards.loading.subset import shares, stratified
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from tests.numbered import Row, write_numbered

BY = ("family", "pitch")
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=12).map(np.array)


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """120 notes in twelve cells of different sizes; one cell has one note, one note has no family."""
    rng = np.random.default_rng(0)
    families, pitches = rng.integers(3, size=120) ** 2, rng.integers(4, size=120)
    labels = [*zip(families.tolist(), pitches.tolist(), strict=True), (9, 60), (None, 1)]
    rows = [Row({"family": family, "pitch": pitch, "tags": [1]}) for family, pitch in labels]
    return write_numbered(tmp_path_factory.mktemp("subset") / "notes", rows, shard_examples=64)[0]


def cells_of(reader: Reader, rows: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(*(reader.labels(name)[rows].tolist() for name in BY), strict=True))


@given(sizes=SIZES, part=st.floats(0, 1))
def test_shares_are_proportional_and_leave_no_cell_out(sizes, part):
    count = round(part * sizes.sum())
    given_out = shares(sizes, count)
    assert given_out.sum() == count and (given_out >= 0).all() and (given_out <= sizes).all()
    if count >= len(sizes):
        assert (given_out >= 1).all()


def test_shares_go_by_largest_remainder():
    assert shares(np.array([50, 30, 20]), 7).tolist() == [4, 2, 1]  # 3.5, 2.1, 1.4
    assert shares(np.array([97, 1, 1, 1]), 10).tolist() == [7, 1, 1, 1]
    assert shares(np.array([5, 9, 7]), 2).tolist() == [0, 1, 1]


@settings(max_examples=20)
@given(count=st.integers(1, 120), seed=st.integers(0, 3))
def test_a_draw_is_repeatable_and_no_cell_is_missing(notes, count, seed):
    rows = stratified(notes, count, BY, seed)
    assert rows.tolist() == stratified(notes, count, BY, seed).tolist()
    assert len(set(rows.tolist())) == count and (np.diff(rows) > 0).all()
    possible = Counter(cells_of(notes, np.arange(120)))
    if count >= len(possible):
        assert set(cells_of(notes, rows)) == set(possible)


@settings(max_examples=20)
@given(few=st.integers(1, 120), more=st.integers(1, 120), seed=st.integers(0, 3))
def test_a_larger_draw_keeps_the_earlier_rows_of_each_cell_whose_share_did_not_shrink(notes, few, more, seed):
    assume(few < more)
    first, second = (stratified(notes, count, BY, seed) for count in (few, more))
    before, after = (Counter(cells_of(notes, rows)) for rows in (first, second))
    kept = set(second.tolist())
    for row, cell in zip(first.tolist(), cells_of(notes, first), strict=True):
        assert row in kept or after[cell] < before[cell]


def test_within_a_cell_rows_come_in_the_order_of_the_digests_of_their_keys(notes):
    rows = stratified(notes, 30, BY, seed=5)
    keys, taken = notes.labels("key"), cells_of(notes, rows)
    for cell in set(taken):
        mine = [row for row, other in enumerate(cells_of(notes, np.arange(120))) if other == cell]
        in_order = sorted(mine, key=lambda row: sha256(f"5:{keys[row]}".encode()).hexdigest())
        assert {row for row, other in zip(rows.tolist(), taken, strict=True) if other == cell} == set(
            in_order[: taken.count(cell)]
        )


def test_another_seed_draws_others_and_without_labels_all_are_one_cell(notes):
    assert stratified(notes, 40, BY, 0).tolist() != stratified(notes, 40, BY, 1).tolist()
    assert len(stratified(notes, len(notes), (), 0)) == len(notes)


def test_a_cell_of_one_example_and_examples_without_a_label_are_left_out(notes):
    assert stratified(notes, 120, BY, 0).tolist() == list(range(120))


@pytest.mark.parametrize(
    ("count", "by", "problem", "said"),
    [
        (121, BY, DataProblem, "has 120 examples to choose from by family and pitch, fewer than the 121"),
        (10, ("famly",), DataProblem, "has no label 'famly'"),
        (10, ("tags",), UsageProblem, "is a list in each example"),
    ],
)
def test_what_cannot_be_drawn_is_refused(notes, count, by, problem, said):
    with pytest.raises(problem, match=said):
        stratified(notes, count, by, 0)


def test_nothing_can_be_drawn_where_every_cell_has_one_example(tmp_path: Path):
    reader = write_numbered(tmp_path / "alone", [Row({"family": number}) for number in range(4)])[0]
    with pytest.raises(DataProblem, match="has 0 examples to choose from by family"):
        stratified(reader, 2, ("family",), 0)
