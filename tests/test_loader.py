"""Every example exactly once an epoch, in one global order, for any number of ranks and any point of resumption."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.example import Batch
from shards.loader import Loader
from shards.loading.dataset import Dataset
from shards.problem import DataProblem
from shards.reader import Reader
from shards.views import Views
from tests.corpus import write_noise_dataset

EXAMPLES, HOLES = 53, (5, 30)
EXISTING = [index for index in range(EXAMPLES) if index not in HOLES]
VIEWS = Views(count=2, frames=8)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = write_noise_dataset(tmp_path_factory.mktemp("loader") / "train", EXAMPLES, holes=HOLES, samples=8192)
    return Reader(folder)


def loader(reader: Reader | Dataset, batch: int = 8, **options: object) -> Loader:
    return Loader(reader, **{"batch_examples": batch, "seed": 1, "views": VIEWS, **options})


def global_indices(reader: Reader | Dataset, steps: range, world: int, **options: object) -> list[list[int]]:
    """Indices of each global batch, put together from all ranks in rank order."""
    ranks = [
        list(loader(reader, rank=rank, world=world, **options).from_step(steps.start, steps.stop))
        for rank in range(world)
    ]
    return [[int(i) for batch in step for i in batch.index if i >= 0] for step in zip(*ranks, strict=True)]


@given(world=st.integers(1, 6), batch=st.integers(1, 60), epoch=st.integers(0, 3), seed=st.integers(0, 2**40))
def test_every_example_comes_exactly_once_an_epoch(reader: Reader, world: int, batch: int, epoch: int, seed: int):
    steps = loader(reader, batch, drop_last=False).steps_per_epoch
    batches = global_indices(
        reader, range(epoch * steps, (epoch + 1) * steps), world, batch_examples=batch, seed=seed, drop_last=False
    )
    assert sorted(index for indices in batches for index in indices) == EXISTING


@given(world=st.integers(1, 6), batch=st.integers(1, 25), start=st.integers(0, 20), length=st.integers(0, 12))
def test_the_global_order_is_the_same_on_any_number_of_ranks_and_from_any_point(
    reader: Reader, world: int, batch: int, start: int, length: int
):
    alone = global_indices(reader, range(start + length), 1, batch_examples=batch)
    resumed = global_indices(reader, range(start, start + length), world, batch_examples=batch)
    assert resumed == alone[start:]


@given(world=st.integers(1, 5), batch=st.integers(1, 60))
def test_every_rank_takes_the_same_number_of_rows_at_every_step(reader: Reader, world: int, batch: int):
    lengths = {
        len(each.index)
        for rank in range(world)
        for each in loader(reader, batch, rank=rank, world=world, drop_last=False).from_step(0, 5)
    }
    assert lengths == {-(-batch // world)}


def test_padding_rows_have_no_weight_no_index_and_no_sound(reader: Reader):
    last = loader(reader, 50, drop_last=False).batch(1)
    assert last.weight.tolist() == [1.0] + [0.0] * 49
    assert (last.index[1:] == -1).all()
    assert all(view[1:].abs().max() == 0 for view in last.views)


def equal(first: Batch, second: Batch) -> bool:
    pairs = zip(
        (first.index, first.weight, first.seeds, *first.views),
        (second.index, second.weight, second.seeds, *second.views),
        strict=True,
    )
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_resumed_loader_gives_the_same_tensors_bit_for_bit(reader: Reader):
    whole = list(loader(reader).from_step(0, 15))
    resumed = list(loader(reader, threads=3).from_step(7, 15))
    assert all(equal(a, b) for a, b in zip(whole[7:], resumed, strict=True))


def test_views_are_crops_of_their_own_example_restored_to_power(reader: Reader):
    rows = {int(index): row for row, index in enumerate(reader.indices)}
    batch = loader(reader).batch(0).to("cpu")
    for slot, index in enumerate(batch.index.tolist()):
        power = reader.restore(torch.from_numpy(np.ascontiguousarray(reader.read(rows[index]))))
        crops = power.unfold(1, VIEWS.frames, 1)  # bands, start, frames
        for view in batch.views:
            assert (crops == view[slot][:, None]).all(dim=(0, 2)).any()
            assert view[slot][0, 0] == index**2


def test_the_two_views_of_an_example_and_the_same_view_in_two_epochs_differ(reader: Reader):
    one, two = loader(reader, 51).batch(0), loader(reader, 51).batch(1)
    assert (one.seeds[:, 0] != one.seeds[:, 1]).all()
    order = [one.index.tolist().index(index) for index in two.index.tolist()]
    assert (one.seeds[order] != two.seeds).all()
    assert any(not torch.equal(one.views[0][row], one.views[1][row]) for row in range(51))


def test_without_shuffling_the_order_is_the_index(reader: Reader):
    in_order = Dataset(reader, order="sequential")
    assert global_indices(in_order, range(6), 2, batch_examples=10, drop_last=False)[0] == EXISTING[:10]


def test_examples_shorter_than_a_view_are_left_out_and_counted(reader: Reader, caplog: pytest.LogCaptureFixture):
    with pytest.raises(DataProblem, match="0 examples of at least 96 frames.*Lower --data.batch-examples"):
        loader(reader, views=Views(frames=96))
    assert "51 examples are shorter than 96 frames" in caplog.text


def test_a_batch_larger_than_the_dataset_is_refused(reader: Reader):
    with pytest.raises(DataProblem, match="51 examples.*fewer than one batch of 52"):
        loader(reader, 52)


def test_resuming_far_into_a_training_costs_nothing(reader: Reader):
    batch = loader(reader).batch(10**9)
    assert sorted(set(batch.index.tolist())) == sorted(batch.index.tolist())


def test_damage_met_while_reading_ahead_reaches_the_training_loop(tmp_path: Path):
    folder = write_noise_dataset(tmp_path / "train", 16, samples=8192)
    tar = folder / "mel" / "000000.tar"
    damaged = bytearray(tar.read_bytes())
    damaged[3000] ^= 1
    tar.write_bytes(damaged)
    with pytest.raises(DataProblem, match="is damaged at byte"):
        list(loader(Reader(folder), 16).from_step(0, 3))
