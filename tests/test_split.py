"""Parts of a dataset: every example in one of them, no group in two, bytes as they were, all digests of their own."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import merge, split
from shards.example import Example
from shards.manifest import MANIFEST, Manifest, index_path, read_table
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from tests import copies
from tests.building import everything_below
from tests.copies import contents, damage, run, write_labelled
from tests.test_columns import versions

KINDS = {
    "genre": {"type": "int", "classes": ["folk", "jazz", "hip hop"]},
    "artist": {"type": "str", "classes": None},
    "tags": {"type": "list[int]", "classes": None},
}
SHARES = ("train=0.8", "valid=0.1", "test=0.1")


def divided(dataset: Path, out: Path, *words: object) -> dict[str, Path]:
    """The parts by their folders' names below OUT."""
    run(split, "split", dataset, *words, "--out", out)
    return {path.parent.relative_to(out).as_posix(): path.parent for path in sorted(out.rglob(MANIFEST))}


def songs(folder: Path, count: int, *, artists: int = 7, holes: Sequence[int] = ()) -> Path:
    rng = np.random.default_rng(count)
    rows = [
        None if index in holes else {"genre": int(rng.integers(3)), "artist": f"artist {rng.integers(artists)}"}
        for index in range(count)
    ]
    return write_labelled(folder, rows, labels=KINDS, name="song", shard_examples=32)


def column(folder: Path, name: str) -> list:
    tables = [read_table(folder / index_path(shard.number), [name]) for shard in Manifest.read(folder).shards]
    return [value for table in tables for value in table[name].to_pylist()]


def test_each_value_of_a_label_gets_a_dataset_and_all_together_are_the_whole(tmp_path: Path):
    dataset = songs(tmp_path / "all" / "train", 41, holes=(3, 20))
    parts = divided(dataset, tmp_path / "by", "--by", "genre", "--shard-examples", 5)
    assert [name.partition("--")[0] for name in parts] == ["folk/train", "hip_hop", "jazz/train"]
    found = [contents(part) for part in parts.values()]
    assert {key: row for part in found for key, row in part.items()} == contents(dataset)
    assert sum(map(len, found)) == 39
    assert [set(column(part, "label.genre")) for part in parts.values()] == [{0}, {2}, {1}]
    for part in parts.values():
        manifest = Manifest.read(part)
        assert Reader(part).indices.tolist() == list(range(manifest.planned)) and manifest.rejected == 0
        assert [shard.examples for shard in manifest.shards[:-1]] == [5] * (len(manifest.shards) - 1)
    assert damage(tmp_path / "by") == []


@settings(max_examples=5)
@given(
    genres=st.lists(st.sampled_from([0, 1, 2, None]), min_size=1, max_size=20),
    shard_examples=st.integers(1, 9),
    words=st.sampled_from(
        [("--by", "genre"), ("--fractions", *SHARES), ("--fractions", "a=1/3", "b=2/3", "--group", "genre")]
    ),
)
def test_merging_what_was_divided_gives_the_whole_but_for_its_order(
    genres: Sequence[int | None], shard_examples: int, words: Sequence[str], tmp_path_factory: pytest.TempPathFactory
):
    root = tmp_path_factory.mktemp("divided")
    rows = [{} if genre is None else {"genre": genre} for genre in genres]
    dataset = write_labelled(root / "all" / "train", rows, labels={"genre": KINDS["genre"]}, name="song")
    parts = divided(dataset, root / "parts", *words, "--shard-examples", shard_examples)
    assert damage(root / "parts") == []
    if len(parts) > 1:
        run(merge, "merge", *parts.values(), "--split", "train", "--out", root / "again")
        again = root / "again" / "train"
        assert contents(again) == contents(dataset) and damage(again) == []
    else:
        assert contents(*parts.values()) == contents(dataset)


def test_no_group_is_in_two_parts_and_none_moves_when_data_are_added(tmp_path: Path):
    few, many = songs(tmp_path / "few", 40, artists=25), songs(tmp_path / "many", 110, artists=25)
    homes = []
    for dataset in (few, many):
        parts = divided(dataset, tmp_path / f"of {dataset.name}", "--fractions", *SHARES, "--group", "artist")
        artists = {name: set(column(part, "label.artist")) for name, part in parts.items()}
        assert sum(map(len, artists.values())) == len(set.union(*artists.values()))
        homes.append({artist: name for name, each in artists.items() for artist in each})
        assert damage(tmp_path / f"of {dataset.name}") == []
    assert homes[0].items() <= homes[1].items()
    assert set(homes[1].values()) == {"train", "valid", "test"}


def test_shares_have_their_sizes_and_another_seed_draws_others(tmp_path: Path):
    dataset = songs(tmp_path / "all", 200)
    first = divided(dataset, tmp_path / "a", "--fractions", "one=0.75", "two=0.25")
    other = divided(dataset, tmp_path / "b", "--fractions", "one=0.75", "two=0.25", "--seed", 1)
    assert abs(len(contents(first["one"])) - 150) < 25
    assert contents(first["two"]).keys() != contents(other["two"]).keys()
    assert Manifest.read(first["one"]).split == "one"


def test_pieces_of_one_recording_stay_together(tmp_path: Path):
    dataset = write_labelled(tmp_path / "all", [{}] * 60, labels={}, name="song")
    renamed = {f"song-{index}": f"song-{index // 6}@{16_000 * (index % 6)}" for index in range(60)}
    dataset = rekeyed(dataset, tmp_path / "cut", renamed)
    parts = divided(dataset, tmp_path / "parts", "--fractions", "a=0.5", "b=0.5")
    recordings = [{key.partition("@")[0] for key in column(part, "key")} for part in parts.values()]
    assert len(recordings) == 2 and recordings[0].isdisjoint(recordings[1])


def rekeyed(dataset: Path, folder: Path, names: dict[str, str]) -> Path:
    """The dataset written again with other keys."""
    plain = copies._example
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "_example", lambda index, *rest: _with_key(plain(index, *rest), names))
        return write_labelled(folder, [{}] * len(names), labels={}, name="song")


def _with_key(example: Example, names: dict[str, str]) -> Example:
    return Example(**{**vars(example), "key": names[example.key]})


def test_a_group_goes_as_a_whole_where_most_of_it_belongs(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [("a", 0), ("a", 1), ("a", 1), ("b", 0), ("b", 0), (None, 2)]
    labels = [{"genre": genre} | ({"artist": artist} if artist else {}) for artist, genre in rows]
    dataset = write_labelled(tmp_path / "all", labels, labels=KINDS)
    with caplog.at_level(logging.WARNING, logger="shards"):
        parts = divided(dataset, tmp_path / "by", "--by", "genre", "--group", "artist")
    assert "1 values of 'artist' have several of 'genre'" in caplog.text
    artists = [set(column(part, "label.artist")) for part in parts.values()]
    assert artists == [{"b"}, {None}, {"a"}]


def test_listed_keys_make_a_dataset_of_each_split_that_has_them(tmp_path: Path):
    for name, count in (("train", 9), ("test", 4)):
        write_labelled(tmp_path / "all" / name, [{}] * count, labels={}, name=name)
    listed = tmp_path / "keys.txt"
    listed.write_text("train-7\n\ntest-0\ntrain-2\n")
    parts = divided(tmp_path / "all", tmp_path / "chosen", "--keys", listed)
    assert {name: column(part, "key") for name, part in parts.items()} == {
        "test": ["test-0"],
        "train": ["train-2", "train-7"],
    }
    assert damage(tmp_path / "chosen") == []
    listed.write_text("train-7\nnobody\n")
    with pytest.raises(DataProblem, match=r"lists 2 keys, of which 1 are in no example, such as 'nobody'"):
        divided(tmp_path / "all", tmp_path / "none", "--keys", listed)


def test_splits_of_a_folder_stay_apart_by_a_label_and_are_one_for_shares(tmp_path: Path):
    for place, name in enumerate(("train", "test")):
        write_labelled(
            tmp_path / "all" / name,
            [{"genre": number % 2} for number in range(6 + place)],
            labels={"genre": KINDS["genre"]},
            name=name,
        )
    by = divided(tmp_path / "all", tmp_path / "by", "--by", "genre")
    assert list(by) == ["folk/test", "folk/train", "jazz/test", "jazz/train"]
    shares = divided(tmp_path / "all", tmp_path / "shares", "--fractions", "a=0.5", "b=0.5")
    assert sum(len(contents(part)) for part in shares.values()) == 13
    assert damage(tmp_path) == []


def test_hostile_values_name_folders_below_out_and_none_twice(tmp_path: Path):
    moods = ["../../etc", "..", "/", "a b", "a_b", "a-b", "", "_unlabelled", "x" * 300, "RESULT.json", None]
    rows = [{} if mood is None else {"mood": mood} for mood in moods]
    dataset = write_labelled(tmp_path / "all", rows, labels={"mood": {"type": "str", "classes": None}})
    parts = divided(dataset, tmp_path / "deep" / "by", "--by", "mood")
    assert len(parts) == len(moods) and "_unlabelled/all" in parts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "deep"]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["by"]


def test_the_statistics_of_a_part_are_those_of_its_own_frames(tmp_path: Path):
    dataset = songs(tmp_path / "all", 30)
    for part in divided(dataset, tmp_path / "by", "--by", "genre").values():
        said = Manifest.read(part).statistics["mel"]
        values = np.concatenate(
            [array.astype(np.float64) for array in Reader(part).arrays(range(len(Reader(part))))], 1
        )
        assert said["count"] == values.shape[1]
        np.testing.assert_allclose(said["mean"], values.mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(said["deviation"], values.std(axis=1), rtol=1e-9)


def test_a_split_that_was_stopped_makes_only_what_is_missing(tmp_path: Path):
    dataset = songs(tmp_path / "all", 40)
    words = ("--fractions", *SHARES, "--shard-examples", 6)
    parts = divided(dataset, tmp_path / "parts", *words, "--workers", 1)
    whole, before = everything_below(tmp_path / "parts"), versions(tmp_path / "parts")
    (parts["train"] / MANIFEST).unlink()
    (parts["train"] / "index" / "000002.parquet").unlink()
    divided(dataset, tmp_path / "parts", *words, "--workers", 3)
    assert everything_below(tmp_path / "parts") == whole
    touched = {name for name, version in versions(tmp_path / "parts").items() if before[name] != version}
    assert {name for name in touched if not name.endswith(MANIFEST)} == {
        f"train/{name}" for name in ("index/000002.parquet", "mel/000002.parquet", "mel/000002.tar")
    }


def test_rejected_recordings_belong_to_no_part_and_that_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    dataset = songs(tmp_path / "all", 12, holes=(1, 2))
    with caplog.at_level(logging.WARNING, logger="shards"):
        divided(dataset, tmp_path / "parts", "--fractions", "most=0.999999999", "none=0.000000001")
    assert "2 rejected examples have neither labels nor keys" in caplog.text
    assert "none  no example falls into it" in caplog.text
    assert not (tmp_path / "parts" / "none").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        ((), "0 of --by, --fractions and --keys"),
        (("--by", "genre", "--fractions", "a=1"), "2 of --by, --fractions and --keys"),
        (("--by", "gener"), r"'gener' is no label of .* Did you mean genre"),
        (("--by", "tags"), "'tags' is a list in each example"),
        (("--fractions", "a=0.8", "b=0.1"), "makes 0.9 of the examples"),
        (("--fractions", "a=0.5", "a=0.5"), "makes 0.5 of the examples"),
        (("--fractions", "../a=1"), "is no NAME=SHARE"),
        (("--fractions", "a=x"), "is no NAME=SHARE"),
        (("--fractions", "a=1/0"), "is no NAME=SHARE"),
        (("--fractions", "a=-1", "b=2"), "is no NAME=SHARE"),
        (("--fractions", "a=1", "--group", "tags"), "'tags' is a list"),
        (("--keys", "nowhere.txt"), "cannot be read"),
        (("--by", "genre", "--shard-examples", 0), "must be 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path: Path, words: Sequence[object], said: str):
    dataset = songs(tmp_path / "all", 3)
    with pytest.raises(UsageProblem, match=said):
        divided(dataset, tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_a_label_of_too_many_values_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(split, "_MOST_PARTS", 2)
    with pytest.raises(UsageProblem, match="'genre' has more than 2 values"):
        divided(songs(tmp_path / "all", 30), tmp_path / "out", "--by", "genre")


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path):
    said = run(split, "split", songs(tmp_path / "all", 30), "--by", "genre", "--out", tmp_path / "out", "--dry-run")
    assert sum(int(line.split()[-2]) for line in said["output"].splitlines()) == 30
    assert not (tmp_path / "out").exists()
