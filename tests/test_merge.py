"""One dataset of several: every example once, its bytes as they were, indices, digests and counts of their own."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import merge
from shards.manifest import MANIFEST, Manifest
from shards.problem import DataProblem, EnvironmentProblem, UsageProblem
from shards.reader import Reader
from shards.regroup import copying
from shards.statistics import statistics_of
from tests.building import build_here, everything_below
from tests.copies import contents, damage, rejected, run, write_labelled
from tests.corpus import write_noise_dataset
from tests.labelled import changed
from tests.test_columns import versions
from tests.test_faults import files_no_larger_than

PLACES = {"pitch": {"type": "int", "classes": None}}
GENRES = {"genre": {"type": "int", "classes": ["folk", "jazz", "rock"]}}


def merged(out: Path, *words: object) -> Path:
    run(merge, "merge", *words, "--out", out)
    return out


def labelled(folder: Path, *pitches: int | None, **more: object) -> Path:
    rows = [None if pitch is None else {"pitch": pitch} for pitch in pitches]
    return write_labelled(folder, rows, labels=PLACES, **more)  # type: ignore[arg-type]


def test_each_example_is_there_once_with_its_bytes_and_the_holes_stay(tmp_path: Path):
    one = labelled(tmp_path / "one" / "train", 1, None, 3, 4)
    two = labelled(tmp_path / "two" / "train", None, 2, None, None, None, None, 9, name="other")
    found = merged(tmp_path / "both", one, two) / "train"
    assert contents(found) == contents(one) | contents(two)
    assert damage(found) == []
    manifest = Manifest.read(found)
    assert (manifest.planned, manifest.examples, manifest.rejected) == (11, 5, 6)
    assert Reader(found).indices.tolist() == [0, 2, 3, 5, 10]
    assert rejected(found) == [(1, "1.wav"), (4, "0.wav"), *((index, f"{index - 4}.wav") for index in (6, 7, 8, 9))]
    assert manifest.seconds == pytest.approx(5 * 4096 / 16_000)


@settings(max_examples=8)
@given(parts=st.lists(st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=7), min_size=2, max_size=4))
def test_whatever_is_merged_nothing_is_lost_and_all_is_accounted_for(
    parts: Sequence[Sequence[int | None]], tmp_path_factory: pytest.TempPathFactory
):
    root = tmp_path_factory.mktemp("parts")
    usable = [part if any(pitch is not None for pitch in part) else [*part, 0] for part in parts]
    folders = [labelled(root / f"{n}" / "train", *part, name=f"set-{n}") for n, part in enumerate(usable)]
    found = merged(root / "all", *folders) / "train"
    assert contents(found) == {key: row for folder in folders for key, row in contents(folder).items()}
    assert damage(found) == []
    manifest = Manifest.read(found)
    accounted = sorted([*Reader(found).indices.tolist(), *(index for index, _ in rejected(found))])
    assert accounted == list(range(manifest.planned)) == list(range(sum(map(len, usable))))


def test_the_statistics_are_those_of_all_sources_together(tmp_path: Path):
    folders = [
        write_noise_dataset(tmp_path / name / "train", 9 + place, shard_examples=4) for place, name in enumerate("ab")
    ]
    found = merged(tmp_path / "both", *folders) / "train"
    said = Manifest.read(found).statistics["mel"]
    values = np.concatenate([array for folder in folders for array in Reader(folder).arrays(range(9))], 1)
    assert said["count"] == values.shape[1] + Reader(folders[1]).read(9).shape[1]
    numbers = [shard.number for shard in Manifest.read(found).shards]
    assert statistics_of(found, ["mel"], numbers)["mel"] == said


def test_folders_are_merged_split_by_split_and_one_name_makes_one_split(tmp_path: Path):
    for name in ("a", "b"):
        for split in ("train", "test")[: 1 + (name == "a")]:
            labelled(tmp_path / name / split, 1, 2, name=f"{name}-{split}")
    each = merged(tmp_path / "each", tmp_path / "a", tmp_path / "b")
    assert {path.parent.name: Manifest.read(path.parent).examples for path in each.glob(f"*/{MANIFEST}")} == {
        "train": 4,
        "test": 2,
    }
    together = merged(tmp_path / "together", tmp_path / "a", tmp_path / "b", "--split", "all") / "all"
    assert Manifest.read(together).split == "all" and len(contents(together)) == 6
    assert damage(tmp_path) == []


def test_keys_that_occur_twice_get_the_name_of_their_dataset(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folders = [
        labelled(tmp_path / name / "train", *pitches, name="note") for name, pitches in (("a", (1, 2)), ("b.c", (3,)))
    ]
    with caplog.at_level(logging.WARNING, logger="shards"):
        found = merged(tmp_path / "both", *folders) / "train"
    keys = Reader(found).labels("key").tolist()
    assert keys[:2] == ["a.note-0", "a.note-1"] and keys[2].startswith("b_c--") and keys[2].endswith(".note-0")
    assert "some keys occur twice" in caplog.text
    assert damage(found) == []


def test_classes_in_another_order_are_numbered_as_the_first_dataset_has_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    events = {"beats": {"type": "int", "classes": ["one", "two"]}, "chords": {"type": "str", "classes": ["C", "G"]}}
    others = {"beats": {"type": "int", "classes": ["two", "one"]}, "chords": {"type": "str", "classes": ["G", "A"]}}
    happens = {"beats": [(0.0, 0.0, 0), (0.1, 0.1, 1)], "chords": [(0.0, 0.2, "G")]}
    one = write_labelled(
        tmp_path / "one" / "train",
        [{"genre": 0}, {"genre": 2}],
        labels=GENRES,
        events=events,
        happens=happens,
        name="x",
    )
    swapped = {"genre": {"type": "int", "classes": ["jazz", "pop", "folk"]}}
    two = write_labelled(
        tmp_path / "two" / "train", [{"genre": 0}, {"genre": 1}, {}], labels=swapped, events=others, happens=happens
    )
    with caplog.at_level(logging.WARNING, logger="shards"):
        found = merged(tmp_path / "both", one, two) / "train"
    assert "classes of its label 'genre' are numbered anew" in caplog.text
    manifest = Manifest.read(found)
    assert manifest.labels["genre"]["classes"] == ["folk", "jazz", "rock", "pop"]
    assert Reader(found).labels("genre").tolist() == [0, 2, 1, 3, None]
    assert [said[1][1].get("genre") for said in contents(found).values()] == [0, 2, 1, 3, None]
    assert [[value for *_, value in row] for row in Reader(found).events("beats")] == [[0, 1]] * 2 + [[1, 0]] * 3
    assert manifest.events["chords"]["classes"] == ["C", "G", "A"]
    assert damage(found) == []


def test_labels_and_events_that_a_dataset_does_not_have_are_null_in_its_rows(tmp_path: Path):
    beats = {"beats": {"type": "float", "classes": None}}
    one = labelled(tmp_path / "one" / "train", 5, 6, events=beats, happens={"beats": [(0.0, 0.0, 1.0)]})
    two = write_labelled(
        tmp_path / "two" / "train", [{"mood": "calm"}], labels={"mood": {"type": "str", "classes": None}}, name="y"
    )
    found = Reader(merged(tmp_path / "both", one, two) / "train")
    assert found.labels("pitch").tolist() == [5, 6, None] and found.labels("mood").tolist() == [None, None, "calm"]
    assert [len(row) for row in found.events("beats")] == [1, 1, 0]
    assert damage(found.folder) == []


@pytest.mark.parametrize(
    "other, said",
    [
        ({"pitch": {"type": "str", "classes": None}}, r"label 'pitch' has str in .*two.* and int in .*one"),
        ({"pitch": {"type": "int", "classes": ["c"]}}, r"label 'pitch' has int with classes in .*two"),
    ],
)
def test_a_field_that_means_two_things_is_an_error_that_names_it(tmp_path: Path, other: dict, said: str):
    one = labelled(tmp_path / "one" / "train", 5)
    value = {"str": "c"}.get(other["pitch"]["type"], 0)
    two = write_labelled(tmp_path / "two" / "train", [{"pitch": value}], labels=other, name="y")
    with pytest.raises(DataProblem, match=said):
        merged(tmp_path / "both", one, two)
    assert not (tmp_path / "both").exists()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two datasets of their own corpora, by the real build: a sound column, and mels of unlike contracts."""
    root = tmp_path_factory.mktemp("built")
    found = {}
    for name, features in (("a", ["audio", "codec:low128", "mel"]), ("b", ["audio", "codec:low128", "mel:vit1d"])):
        corpus = root / f"corpus-{name}"
        write_sounds(corpus, name)
        out = root / name
        build_here("folder", "--root", corpus, "--out", out, "--shard-examples", 3, "--features", *features)
        found[name] = out
    return found


def write_sounds(corpus: Path, name: str) -> None:
    import soundfile

    rng = np.random.default_rng(list(name.encode()))
    corpus.mkdir()
    for number in range(6):
        noise = 0.3 * rng.standard_normal((number + 2) * 8000).cumsum() / 100
        soundfile.write(corpus / f"{name}{number}.wav", noise.clip(-0.9, 0.9), 16_000)


def test_columns_that_not_all_have_are_left_out_and_told(
    built: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, logger="shards"):
        found = merged(tmp_path / "both", *built.values())
    assert "mel is left out" in caplog.text and "mel-vit1d is left out" in caplog.text
    manifests = [Manifest.read(path.parent) for path in found.glob(f"*/{MANIFEST}")]
    assert all(list(manifest.features) == ["audio", "codec-low128"] for manifest in manifests)
    assert sum(manifest.examples for manifest in manifests) == 12
    assert damage(found) == []


def test_one_column_of_unlike_contracts_is_an_error_that_names_what_differs(tmp_path: Path):
    one = labelled(tmp_path / "one" / "train", 1)
    features = {"mel": {**Manifest.read(one).features["mel"], "hop_samples": 999, "fingerprint": "f" * 64}}
    two = labelled(tmp_path / "two" / "train", 2, name="y", features=features)
    with pytest.raises(DataProblem, match=r"'mel' of .*two.* is another function .* its hop_samples is 999"):
        merged(tmp_path / "both", one, two)


def test_a_merge_that_was_stopped_makes_only_what_is_missing(built: dict[str, Path], tmp_path: Path):
    found = merged(tmp_path / "both", *built.values(), "--workers", 1)
    whole, before = everything_below(found), versions(found)
    (found / "train" / MANIFEST).unlink()
    (found / "train" / "audio" / "000001.parquet").unlink()
    merged(tmp_path / "both", *built.values(), "--workers", 3)
    assert everything_below(found) == whole
    changed_files = {name for name, version in versions(found).items() if before[name] != version}
    assert {name for name in changed_files if not name.endswith(MANIFEST)} == {
        "train/audio/000001.parquet",
        "train/audio/000001.tar",
    }


def test_a_full_disk_stops_a_merge_in_good_order_and_space_lets_it_continue(tmp_path: Path):
    folders = [labelled(tmp_path / name / "train", *range(7), name=name) for name in "ab"]
    whole = everything_below(merged(tmp_path / "whole", *folders))
    for most_bytes in (500, 5_000):
        with pytest.raises(EnvironmentProblem, match="File too large"), files_no_larger_than(most_bytes):
            merged(tmp_path / "out", *folders)
        left = everything_below(tmp_path / "out")
        assert {name: whole[name] for name in left} == left and f"train/{MANIFEST}" not in left
    assert everything_below(merged(tmp_path / "out", *folders)) == whole


def test_a_column_added_to_all_sources_is_all_that_a_repeated_merge_copies(built: dict[str, Path], tmp_path: Path):
    at_once = merged(tmp_path / "at once", *built.values())
    found = merged(tmp_path / "in turn", *built.values(), "--columns", "audio")
    before = versions(found)
    merged(found, *built.values(), "--columns", "codec-low128")
    assert {name for name, version in versions(found).items() if before.get(name, version) != version} == {
        f"{path.parent.name}/{MANIFEST}" for path in found.glob(f"*/{MANIFEST}")
    }
    for split in (path.parent for path in at_once.glob(f"*/{MANIFEST}")):
        assert Manifest.read(found / split.name).fingerprint == Manifest.read(split).fingerprint
    assert damage(found) == []


def test_weights_that_were_fitted_on_a_source_come_along(built: dict[str, Path], tmp_path: Path):
    corpus = built["a"].parent / "corpus-a"
    build_here("folder", "--root", corpus, "--out", tmp_path / "a", "--features", "codec:linear")
    found = merged(tmp_path / "one", tmp_path / "a", "--split", "all") / "all"
    weights = [folder / "codec-linear" / "weights.npz" for folder in (tmp_path / "a" / "train", found)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert damage(found) == []


@pytest.mark.parametrize("at", [-1525, 700])
def test_what_is_damaged_is_not_copied(tmp_path: Path, at: int):
    one, two = (labelled(tmp_path / name / "train", 1, 2, 3, name=name) for name in "ab")
    tar = two / "mel" / "000000.tar"
    content = bytearray(tar.read_bytes())
    content[at] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DataProblem, match=r"b/train/mel/000000\.tar cannot be copied: .*b-"):
        merged(tmp_path / "both", one, two)
    assert not (tmp_path / "both" / "train" / MANIFEST).exists()


def test_the_index_of_another_build_is_not_copied(tmp_path: Path):
    one, two, three = (
        labelled(tmp_path / name / "train", *range(2 + len(name)), name=name) for name in ("a", "b", "cc")
    )
    (two / "index" / "000000.parquet").write_bytes((three / "index" / "000000.parquet").read_bytes())
    with pytest.raises(DataProblem, match=r"index/000000\.parquet cannot be copied"):
        merged(tmp_path / "both", one, two)


def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path: Path):
    one, two = (labelled(tmp_path / name / "train", 1, 2, name=name) for name in "ab")
    foreign = changed(two, tmp_path / "c" / "train", split="../../elsewhere")
    for words, said in (
        ((one,), "is not several datasets"),
        ((one, changed(one, tmp_path / "d" / "train")), "the very same examples"),
        ((one, two, "--columns", "audio"), "Not every dataset has a column 'audio'"),
        ((one, two, "--split", "../x"), "names no folder"),
        ((one, two, "--workers", 0), "Pass 1 or more"),
    ):
        with pytest.raises(UsageProblem, match=said):
            merged(tmp_path / "out", *words)
    with pytest.raises(UsageProblem, match="lies inside the dataset"):
        merged(one / "more", one, two)
    with pytest.raises(DataProblem, match="no name of a folder|names no folder"):
        merged(tmp_path / "out", one, foreign)
    assert not (tmp_path / "out").exists() and not (one / "more").exists()


def test_another_merge_is_not_mixed_into_the_first(tmp_path: Path):
    folders = [labelled(tmp_path / name / "train", 1, 2, name=name) for name in "abc"]
    found = merged(tmp_path / "out", *folders[:2])
    whole = everything_below(found)
    with pytest.raises(DataProblem, match="holds another dataset: its sources"):
        merged(tmp_path / "out", *folders)
    assert everything_below(found) == whole


def test_a_dry_run_says_what_would_be_made_and_writes_nothing(tmp_path: Path):
    folders = [labelled(tmp_path / name / "train", 1, 2, name=name) for name in "ab"]
    said = run(merge, "merge", *folders, "--out", tmp_path / "out", "--dry-run")["output"]
    assert "4 examples of 2 datasets, 2 shards (0 are whole)" in said
    assert not (tmp_path / "out").exists()


def test_a_dataset_too_large_for_its_indices_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folders = [labelled(tmp_path / name / "train", 1, 2, name=name) for name in "ab"]
    monkeypatch.setattr(copying, "_MOST_EXAMPLES", 3)
    with pytest.raises(UsageProblem, match="would hold 4 examples"):
        merged(tmp_path / "out", *folders)
    assert not list((tmp_path / "out").glob("*/*"))


def test_the_manifest_names_the_command_and_the_fingerprints_of_its_sources(tmp_path: Path):
    folders = [labelled(tmp_path / name / "train", 1, 2, name=name) for name in "ab"]
    manifest = Manifest.read(merged(tmp_path / "out", *folders) / "train")
    assert list(manifest.build) == ["merge", *map(str, folders)]
    assert {name: made for name, made in manifest.made_with.items() if name != "pyarrow"} == {
        str(folder): Manifest.read(folder).fingerprint for folder in folders
    }


def test_keys_are_compared_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(merge, "_KEYS_AT_ONCE", 1)
    folders = [labelled(tmp_path / name / "train", ord(name), 2, name="same") for name in "ab"]
    assert Reader(merged(tmp_path / "out", *folders) / "train").labels("key").tolist() == [
        f"{name}.same-{number}" for name in "ab" for number in range(2)
    ]
