"""What a batch shows of an example: a partner with its label, all stems of its mixture."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.example import Batch
from shards.loader import Loader
from shards.loading.dataset import Dataset
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.views import Pairs, Stems, Viewing, Views
from tests.numbered import Row, write_numbered

FRAMES = 8
FAMILIES = [*["bass"] * 7, *["flute"] * 5, "gong", *["organ"] * 11]  # one gong
KINDS = ("mix", "bass", "drums", "piano")


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Notes of four families; organs have one pitch, others several; one note has no family."""
    rows = [
        Row({"family": family, "pitch": 60 if family == "organ" else index % 3}, seconds=1.0 + index % 3)
        for index, family in enumerate(FAMILIES)
    ]
    rows.insert(9, Row({"family": None, "pitch": 1}))
    return write_numbered(tmp_path_factory.mktemp("views") / "notes", rows)[0]


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Tracks cut in pieces, each piece as mix and stems; every third piece has no drums."""
    rows = [
        Row({"track": f"Track{track}", "kind": kind}, start_seconds=2.0 * piece, seconds=2.0)
        for track in range(4)
        for piece in range(3)
        for kind in KINDS
        if not (kind == "drums" and piece == 2)
    ]
    return write_numbered(tmp_path_factory.mktemp("views") / "tracks", rows)[0]


def loader(reader: Reader | Dataset, views: Viewing, batch: int = 4, **options: object) -> Loader:
    return Loader(reader, **{"batch_examples": batch, "seed": 3, "views": views, **options})


def shown(batch: Batch) -> list[list[int]]:
    """Which example each view of each row of a batch is of."""
    return np.stack([view[:, 0, 0].long().numpy() for view in batch.views], axis=1).tolist()


def begins(batch: Batch) -> np.ndarray:
    return np.stack([view[:, 1, 0].numpy() for view in batch.views], axis=1)


@settings(max_examples=15)
@given(batch=st.integers(2, 20), seed=st.integers(0, 2**40), count=st.integers(2, 4), step=st.integers(0, 40))
def test_a_pair_is_two_examples_of_one_label_and_the_first_is_the_anchor(notes, batch, seed, count, step):
    families = notes.labels("family")
    given = loader(notes, Pairs("family", FRAMES, count=count), batch, seed=seed).batch(step)
    for index, examples in zip(given.index.tolist(), shown(given), strict=True):
        assert examples[0] == index and len(examples) == count
        assert {families[example] for example in examples} == {families[index]}
        assert index not in examples[1:]


def test_an_epoch_of_pairs_has_every_example_that_has_a_partner_as_its_anchor(notes, caplog):
    batches = loader(notes, Pairs("family", FRAMES), drop_last=False)
    anchors = [index for step in range(batches.steps_per_epoch) for index in batches.batch(step).index.tolist()]
    lonely = {9, 1 + FAMILIES.index("gong")}
    assert sorted(index for index in anchors if index >= 0) == sorted(set(range(len(notes))) - lonely)
    assert "2 examples have no partner of the same family and are left out" in caplog.text


def partners(reader: Reader, views: Pairs, anchor: int, epochs: int) -> Counter[int]:
    """How often each example is the anchor's partner."""
    rows = np.full(epochs, anchor)
    drawn = views.cast(np.arange(len(reader)), reader.labels).rows(rows, rows, seed=3, epoch=np.arange(epochs))
    assert (drawn[:, 0] == anchor).all()
    return Counter(drawn[:, 1].tolist())


def test_partners_are_uniform_over_the_others_of_the_class(notes: Reader):
    counts = partners(notes, Pairs("family", FRAMES), anchor=2, epochs=12_000)
    assert sorted(counts) == [0, 1, 3, 4, 5, 6]
    assert sum((count - 2_000) ** 2 / 2_000 for count in counts.values()) < 20.5  # chi-square, 5 degrees, p = 0.001


def test_partners_differ_in_a_second_label_and_are_uniform_over_those_that_do(notes: Reader):
    counts = partners(notes, Pairs("family", FRAMES, unlike="pitch"), anchor=3, epochs=6_000)
    assert sorted(counts) == [1, 2, 4, 5]
    assert sum((count - 1_500) ** 2 / 1_500 for count in counts.values()) < 16.3  # 3 degrees


def test_where_none_differs_in_it_any_other_of_the_class_is_a_partner(notes: Reader):
    organs = np.flatnonzero(notes.labels("family") == "organ").tolist()
    counts = partners(notes, Pairs("family", FRAMES, unlike="pitch"), anchor=organs[0], epochs=150)
    assert sorted(counts) == organs[1:]


@settings(max_examples=15)
@given(world=st.integers(1, 5), batch=st.integers(1, 22), epoch=st.integers(0, 20))
def test_a_pair_depends_on_seed_epoch_and_index_alone(notes: Reader, world: int, batch: int, epoch: int):
    views = Pairs("family", FRAMES)
    everything = loader(notes, views, 23).batch(epoch)
    expected = {(*pair, *place) for pair, place in zip(shown(everything), begins(everything).tolist(), strict=True)}
    for rank in range(world):
        part = loader(notes, views, batch, world=world, rank=rank)
        given = part.batch(epoch * part.steps_per_epoch)
        real = (given.weight > 0).tolist()
        found = [(*pair, *place) for pair, place in zip(shown(given), begins(given).tolist(), strict=True)]
        assert {pair for pair, is_real in zip(found, real, strict=True) if is_real} <= expected


@settings(max_examples=15)
@given(
    batch=st.integers(1, 8),
    seed=st.integers(0, 2**40),
    step=st.integers(0, 30),
    classes=st.permutations(KINDS).flatmap(lambda kinds: st.integers(1, 4).map(lambda n: tuple(kinds[:n]))),
)
def test_stems_are_of_one_track_and_time_one_of_each_class_in_their_order(tracks, batch, seed, step, classes):
    kinds = tracks.labels("kind")
    places = list(zip(tracks.labels("track"), tracks.labels("start_seconds"), strict=True))
    given = loader(tracks, Stems(classes, FRAMES), batch, seed=seed).batch(step)
    for index, examples in zip(given.index.tolist(), shown(given), strict=True):
        assert tuple(kinds[example] for example in examples) == classes
        assert len({places[example] for example in examples}) == 1
        assert examples[0] == index
    assert (np.ptp(begins(given), axis=1) == 0).all()


def test_an_epoch_of_stems_has_every_whole_group_once_and_tells_of_the_others(tracks, caplog):
    batches = loader(tracks, Stems(("bass", "drums"), FRAMES))
    anchors = [index for step in range(batches.steps_per_epoch) for index in batches.batch(step).index.tolist()]
    assert len(set(anchors)) == len(anchors) == 8
    assert "4 groups lack one of bass, drums and are left out" in caplog.text


def test_groups_are_cut_at_different_places(tracks: Reader):
    assert len(np.unique(begins(loader(tracks, Stems(("mix", "bass"), FRAMES), 12).batch(0)))) > 6


def test_a_class_that_nothing_has_is_refused_with_those_there_are(tracks: Reader):
    with pytest.raises(UsageProblem, match="No example has kind=flute.*There are: bass, drums, mix, piano"):
        loader(tracks, Stems(("bass", "flute"), FRAMES))


def test_a_label_that_is_a_list_pairs_nothing(tmp_path: Path):
    rows = [Row({"tags": [index % 2]}) for index in range(6)]
    with pytest.raises(UsageProblem, match="'tags' is a list in each example"):
        loader(write_numbered(tmp_path / "train", rows)[0], Pairs("tags", FRAMES))


def test_a_dataset_where_nobody_has_a_partner_gives_no_batch(tmp_path: Path):
    rows = [Row({"name": f"note {index}"}) for index in range(6)]
    with pytest.raises(DataProblem, match="has 0 examples"):
        loader(write_numbered(tmp_path / "train", rows)[0], Pairs("name", FRAMES))


def test_partners_and_stems_come_from_the_rows_that_take_part(notes: Reader, tracks: Reader):
    some = np.array([0, 1, 4, 12, 13, 20, 21])
    batches = loader(Dataset(notes, only=some), Pairs("family", FRAMES))
    seen = {example for step in range(60) for pair in shown(batches.batch(step)) for example in pair}
    assert seen <= set(some.tolist())
    assert len(loader(Dataset(tracks, only=np.arange(8)), Views(1, FRAMES)).lineups[0]) == 8
