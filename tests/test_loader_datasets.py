"""Several columns side by side, several datasets by weight, and every kind of loader: the same batches however made."""

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.example import Batch
from shards.feature import load_feature
from shards.loader import Loader
from shards.loading.dataset import Column, Dataset, frame_rate_hz
from shards.order import Weighted
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.views import Pairs, Stems, Views
from tests.numbered import COARSE, FINE, Row, write_numbered

EXAMPLES, OTHERS, FRAMES = 45, 14, 16
COARSE_HZ, FINE_HZ = Fraction(125, 4), 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def columns(folder: Path) -> list[Reader]:
    """Two columns of one dataset, at 31.25 and 100 frames a second."""
    rows = [
        Row({"family": "abcde"[i % 5], "wanted": i % 4, "track": f"{i // 5}", "kind": "abcde"[i % 5]}, 0.0, 1.0 + i % 2)
        for i in range(EXAMPLES)
    ]
    return write_numbered(folder / "train", rows, words=(COARSE, FINE))


@pytest.fixture(scope="module")
def others(folder: Path) -> Reader:
    return write_numbered(folder / "others", [Row({"family": "a"}, seconds=2.0)] * OTHERS)[0]


def loader(datasets: object, batch: int = 6, **options: object) -> Loader:
    return Loader(datasets, **{"batch_examples": batch, "seed": 5, "views": Views(2, FRAMES), **options})


def values(batch: Batch) -> list[torch.Tensor]:
    others = [view for column in batch.columns.values() for view in column.views]
    return [batch.index, batch.weight, batch.seeds, *batch.views, *others]


def joined(parts: list[Batch]) -> list[torch.Tensor]:
    """The real rows of a global batch, put together from all ranks."""
    real = torch.cat([part.weight for part in parts]) > 0
    return [torch.cat(some)[real] for some in zip(*map(values, parts), strict=True)]


KINDS: dict[str, Callable[[list[Reader], Reader], dict[str, object]]] = {
    "global": lambda c, o: {"datasets": c[0]},
    "windowed": lambda c, o: {"datasets": Dataset(c[0], order="windowed:2")},
    "weighted": lambda c, o: {"datasets": Dataset(c[0], order="weighted:wanted")},
    "balanced": lambda c, o: {"datasets": Dataset(c[0], order="balanced:family")},
    "columns": lambda c, o: {"datasets": Dataset(c[1], columns=(Column(c[0]),))},
    "pairs": lambda c, o: {"datasets": Dataset(c[0], columns=(Column(c[1], 9),)), "views": Pairs("family", FRAMES)},
    "stems": lambda c, o: {"datasets": Dataset(c[0], columns=(Column(c[1]),)), "views": Stems(("b", "a"), FRAMES)},
    "datasets": lambda c, o: {"datasets": [Dataset(c[0], weight=0.7), Dataset(o, order="sequential", weight=0.3)]},
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(world=st.integers(2, 5), batch=st.integers(1, 9), start=st.integers(0, 12), threads=st.integers(1, 4))
def test_a_loader_of_any_kind_gives_one_sequence_on_any_ranks_threads_and_resumption(
    columns, others, kind, world, batch, start, threads
):
    options = KINDS[kind](columns, others) | {"batch": batch, "drop_last": False}
    alone = loader(**options)
    whole = [joined([alone.batch(step)]) for step in range(start, start + 3)]
    ranks = [loader(**options, world=world, rank=rank, threads=threads) for rank in range(world)]
    resumed = list(zip(*(rank.from_step(start, start + 3) for rank in ranks), strict=True))
    for expected, parts in zip(whole, resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, joined(list(parts)), strict=True))


@pytest.mark.parametrize("order", ["global", "windowed:1", "windowed:3", "sequential"])
@settings(max_examples=15)
@given(world=st.integers(1, 4), batch=st.integers(1, 50), epoch=st.integers(0, 3))
def test_every_example_comes_once_an_epoch_in_every_order_that_repeats_none(columns, order, world, batch, epoch):
    ranks = [
        loader(Dataset(columns[0], order=order), batch, world=world, rank=rank, drop_last=False)
        for rank in range(world)
    ]
    steps = range(epoch * ranks[0].steps_per_epoch, (epoch + 1) * ranks[0].steps_per_epoch)
    indices = [i for step in steps for rank in ranks for i in rank.batch(step).index.tolist() if i >= 0]
    assert sorted(indices) == list(range(EXAMPLES))


def test_an_example_that_comes_twice_in_an_epoch_is_cut_anew(columns: list[Reader]):
    order = lambda rows: Weighted(rows, np.where(rows == 7, 100.0, 1.0))  # noqa: E731
    batch = loader(Dataset(columns[0], order=order), 45).batch(0)
    mine = batch.index == 7
    assert mine.sum() > 25
    assert len(torch.unique(batch.views[0][mine, 1, 0])) > 8 and len(torch.unique(batch.seeds[mine])) == 2 * mine.sum()


@given(step=st.integers(0, 60), frames=st.integers(1, 31))
def test_columns_show_the_same_examples_and_the_same_time(columns: list[Reader], step: int, frames: int):
    coarse, fine = columns
    batch = loader(Dataset(coarse, columns=(Column(fine),)), views=Views(2, frames)).batch(step)
    other = batch.columns[fine.column]
    assert other.views[0].shape[2] == round(frames * FINE_HZ / COARSE_HZ)
    for view, beside in zip(batch.views, other.views, strict=True):
        assert torch.equal(view[:, 0, 0], beside[:, 0, 0]) and torch.equal(beside[:, 0, 0].long(), batch.index)
        apart = beside[:, 1, 0].double() / FINE_HZ - view[:, 1, 0].double() / float(COARSE_HZ)
        # A rounded start and length, and the last frame: a column's frames need not end where another's do.
        assert apart.abs().max() <= 1 / FINE_HZ + 1 / COARSE_HZ


def test_the_other_column_is_restored_by_its_own_feature_and_follows_to_the_device(columns: list[Reader]):
    coarse, fine = columns
    stored = loader(Dataset(coarse, columns=(Column(fine),))).batch(0)
    restored = stored.to("cpu").columns[fine.column]
    assert torch.equal(restored.views[1], stored.columns[fine.column].views[1].float() ** 2)
    assert restored.restore is None and torch.equal(restored.index, stored.index)


def test_a_column_with_a_length_of_its_own_is_cut_in_places_of_its_own(columns: list[Reader]):
    coarse, fine = columns
    batch = loader(Dataset(coarse, columns=(Column(fine, 20),)), 45).batch(0)
    beside = batch.columns[fine.column].views[0]
    assert beside.shape[2] == 20 and torch.equal(beside[:, 0, 0].long(), batch.index)
    assert abs(np.corrcoef(beside[:, 1, 0], batch.views[0][:, 1, 0])[0, 1]) < 0.9


@pytest.mark.parametrize(
    ("word", "rate_hz"), [(COARSE, COARSE_HZ), (FINE, FINE_HZ), ("mel:hop_samples=441,sample_rate_hz=44100", 100)]
)
def test_a_frame_rate_is_measured_exactly(word: str, rate_hz: Fraction | int):
    assert frame_rate_hz(load_feature(word)) == rate_hz


def test_columns_of_different_datasets_or_twice_the_same_are_refused(columns: list[Reader], others: Reader):
    with pytest.raises(DataProblem, match="hold different examples.*Name columns of one dataset"):
        loader(Dataset(columns[1], columns=(Column(others),)))
    with pytest.raises(UsageProblem, match="two have one name"):
        loader(Dataset(columns[0], columns=(Column(columns[0], 8),)))


@settings(max_examples=15)
@given(seed=st.integers(0, 2**40), weight=st.integers(1, 9), batch=st.integers(1, 12))
def test_of_several_datasets_each_gives_every_example_once_before_any_twice(columns, others, seed, weight, batch):
    batches = loader([Dataset(columns[0], weight=weight), Dataset(others)], batch, seed=seed)
    indices = [index for step in range(120 // batch) for index in batches.batch(step).index.tolist()]
    first = [index for index in indices if index < EXAMPLES]
    second = [index - EXAMPLES for index in indices if index >= EXAMPLES]
    assert abs(len(first) - len(indices) * weight / (weight + 1)) <= 2
    for drawn, size in ((first, EXAMPLES), (second, OTHERS)):
        assert {index % size for index in drawn} == set(drawn)
        for epoch in range(0, len(drawn), size):
            assert max(Counter(drawn[epoch : epoch + size]).values()) == 1


def test_values_of_several_datasets_are_those_of_the_example_that_the_index_names(columns, others):
    batch = loader([others, columns[0]], 40).batch(1)
    inside = torch.where(batch.index < OTHERS, batch.index, batch.index - OTHERS)
    assert all(torch.equal(view[:, 0, 0].long(), inside) for view in batch.views)
    assert 0 < (batch.index < OTHERS).sum() < 40


def test_an_epoch_of_several_datasets_is_as_many_steps_as_all_their_examples_make(columns, others):
    assert loader([columns[0], others], 10).steps_per_epoch == (EXAMPLES + OTHERS) // 10


def test_datasets_of_different_features_are_not_mixed(columns: list[Reader], others: Reader):
    with pytest.raises(DataProblem, match="were built with different contracts"):
        loader([columns[1], others])


@pytest.mark.parametrize("weights", [(), (0.0,), (1.0, -1.0), (float("nan"), 1.0), (float("inf"),)])
def test_weights_must_be_above_nothing(others: Reader, weights: tuple[float, ...]):
    with pytest.raises(UsageProblem, match="cannot be mixed"):
        loader([Dataset(others, weight=weight) for weight in weights])


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("globl", "There is no order 'globl'.*Did you mean global"),
        ("windowed", "There is no order 'windowed'"),
        ("windowed:0", "windowed:0 names no number of shards"),
        ("global:3", "There is no order 'global:3'"),
        ("weighted:family", "The label 'family' cannot be a weight"),
    ],
)
def test_an_order_that_means_nothing_is_refused(columns: list[Reader], order: str, message: str):
    with pytest.raises(UsageProblem, match=message):
        loader(Dataset(columns[0], order=order))


def test_rows_without_the_label_are_left_out_of_a_balance(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [Row({"family": None if index % 4 == 0 else "ab"[index % 2]}) for index in range(20)]
    batches = loader(Dataset(write_numbered(tmp_path / "train", rows)[0], order="balanced:family"), 15)
    counts = Counter("ab"[index % 2] for index in batches.batch(0).index.tolist())
    assert sorted(counts.values()) == [7, 8]
    assert "5 examples have no 'family' and are left out" in caplog.text


@pytest.mark.gpu
def test_batches_for_a_gpu_lie_in_page_locked_memory_and_arrive_whole(columns: list[Reader]):
    torch.cuda.init()
    batches = loader(columns[0], threads=2)
    for step, batch in enumerate(batches.from_step(0, 50)):
        assert all(view.is_pinned() for view in batch.views)
        here, there = batches.batch(step).to("cpu"), batch.to("cuda")
        assert all(torch.equal(a, b.cpu()) for a, b in zip(here.views, there.views, strict=True))
