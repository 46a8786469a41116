"""A shard on disk: deterministic, readable by plain webdataset, and never read as what it is not."""

import io
import shutil
import tarfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import webdataset

from shards.feature import described, fingerprint
from shards.features.mel import MYNA
from shards.manifest import MANIFEST, Manifest, Rejected, read_table
from shards.problem import DataProblem
from shards.reader import Reader, npy_layout
from shards.writer import finished, has_column, npy_bytes, write_shard
from tests.corpus import LABELS, noise_example, write_noise_dataset
from tests.forgery import flip, forge_manifest


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise_dataset(
        tmp_path_factory.mktemp("whole") / "train", 20, shard_examples=8, holes=(3, 17), samples=8192
    )


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(whole, tmp_path / "train")


def write_one(folder: Path, count: int = 5):
    rng = np.random.default_rng(0)
    examples = [noise_example(index, rng, 8192) for index in range(count)]
    rejected = [Rejected(count, "x.wav", "decode", "broken")]
    return write_shard(
        folder,
        0,
        task="t",
        columns={"mel": described(MYNA)},
        labels=LABELS,
        events={},
        examples=examples,
        rejected=rejected,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_equal_examples_give_equal_bytes(tmp_path: Path):
    assert write_one(tmp_path / "a") == write_one(tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # webdataset leaves files to the collector
def test_plain_webdataset_reads_every_tar(whole: Path):
    urls = [str(path) for path in sorted((whole / "mel").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode())
    reader = Reader(whole)
    assert [int(sample["__key__"]) for sample in samples] == reader.indices.tolist()
    for row, sample in enumerate(samples):
        np.testing.assert_array_equal(sample["mel.npy"], reader.read(row))
        assert sample["json"]["pitch"] == reader.labels("pitch")[row]
        assert sample["json"]["key"] == f"noise-{sample['json']['index']}"


def test_arrays_are_aligned_and_frame_major(whole: Path):
    reader = Reader(whole)
    layout = npy_layout(npy_bytes(reader.read(0)))
    assert layout.data_offset_bytes == 128 and layout.is_fortran
    assert all((offset + 128) % 64 == 0 for offset in reader.offsets)


def test_labels_come_back_with_their_types_beside_the_right_examples(whole: Path):
    reader = Reader(whole)
    assert reader.labels("pitch").tolist() == [index % 12 for index in reader.indices]
    assert reader.labels("name").tolist() == [f"note {index}" for index in reader.indices]
    assert reader.labels("key").tolist() == [f"noise-{index}" for index in reader.indices]
    with pytest.raises(DataProblem, match="no label 'tempo'.*Labels: name, pitch"):
        reader.labels("tempo")


def test_holes_are_listed_with_their_reasons_and_move_no_other_index(whole: Path):
    assert [int(value) for value in [Reader(whole).read(row)[0, 0] for row in range(18)]] == [
        i for i in range(20) if i not in (3, 17)
    ]
    assert [(row["index"], row["reason"]) for row in read_table(whole / "rejected.parquet").to_pylist()] == [
        (3, "it is a hole"),
        (17, "it is a hole"),
    ]


def test_a_shard_is_finished_only_for_its_own_task(tmp_path: Path):
    record = write_one(tmp_path)
    assert finished(tmp_path, 0, "t") == record
    assert finished(tmp_path, 0, "another task") is None
    assert finished(tmp_path, 1, "t") is None


def test_a_column_is_there_only_for_its_own_task_and_contract_and_with_all_its_bytes(tmp_path: Path):
    write_one(tmp_path)
    contract = fingerprint(MYNA)
    assert has_column(tmp_path, 0, "mel", task="t", contract=contract)
    assert not has_column(tmp_path, 0, "mel", task="another task", contract=contract)
    assert not has_column(tmp_path, 0, "mel", task="t", contract="another contract")
    assert not has_column(tmp_path, 0, "audio", task="t", contract=contract)
    tar = tmp_path / "mel" / "000000.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    assert not has_column(tmp_path, 0, "mel", task="t", contract=contract)


def test_the_reader_refuses_a_payload_with_a_flipped_bit_and_gives_its_neighbours(dataset: Path):
    reader = Reader(dataset)
    tar = dataset / "mel" / "000000.tar"
    whole = [reader.read(row).tobytes() for row in (0, 2)]
    begin = int(reader.offsets[1])
    for byte in range(begin, begin + int(reader.sizes[1]), 97):
        flip(tar, byte, 4)
        opened = Reader(dataset)
        with pytest.raises(DataProblem, match="000000.tar is damaged at byte.*example 1.*xxh3"):
            opened.read(1)
        assert [opened.read(row).tobytes() for row in (0, 2)] == whole
        flip(tar, byte, 4)


def test_the_reader_gives_every_example_before_the_cut_of_a_tar_and_none_behind_it(dataset: Path):
    tar = dataset / "mel" / "000001.tar"
    content, reader = tar.read_bytes(), Reader(dataset)
    with tarfile.open(tar) as archive:
        boundaries = [member.offset for member in archive]
    rows = [row for row, index in enumerate(reader.indices) if 8 <= index < 16]
    for end in boundaries:
        tar.write_bytes(content[:end])
        opened = Reader(dataset)
        for row in rows:
            if reader.offsets[row] + reader.sizes[row] <= end:
                assert opened.read(row)[0, 0] == reader.indices[row]
            else:
                with pytest.raises(DataProblem, match="000001.tar is damaged"):
                    opened.read(row)


def forge(dataset: Path, **changes: object) -> None:
    """Rewrite the manifest with changes, as a buggy writer would."""
    forge_manifest(dataset, {**asdict(Manifest.read(dataset)), "fingerprint": "", **changes})


def test_a_column_of_another_contract_is_not_restored(dataset: Path):
    features = {"mel": {**Manifest.read(dataset).features["mel"], "fingerprint": "f00"}}
    forge(dataset, features=features)
    with pytest.raises(DataProblem, match="built with another 'mel:myna'"):
        _ = Reader(dataset).feature


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-20], lambda text: text.replace(b'"noise"', b'"voice"', 1), lambda text: b"[]"]
)
def test_a_damaged_manifest_is_refused(dataset: Path, damage):
    path = dataset / MANIFEST
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataProblem, match="manifest.json is damaged"):
        Reader(dataset)


def test_a_manifest_of_another_version_names_the_command_that_rebuilds_it(dataset: Path):
    forge(dataset, version=3)
    with pytest.raises(DataProblem, match="version 3.*Build it again: sonograph build noise"):
        Reader(dataset)


def test_an_unfinished_dataset_cannot_be_read(dataset: Path):
    (dataset / MANIFEST).unlink()
    with pytest.raises(DataProblem, match="has not finished"):
        Reader(dataset)


@pytest.mark.parametrize("payload", [np.array([{}, []], dtype=object), np.array(["text"])], ids=["object", "text"])
def test_an_array_that_is_no_plain_number_is_neither_written_as_pickle_nor_read(payload: np.ndarray):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, payload, version=(1, 0), allow_pickle=True)
    with pytest.raises(ValueError, match="no plain number"):
        npy_layout(buffer.getvalue())
    if payload.dtype == object:
        with pytest.raises(ValueError, match="Object arrays"):
            npy_bytes(payload)


def test_a_header_that_claims_more_than_there_is_allocates_nothing():
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (50_000_000_000,)})
    layout = npy_layout(buffer.getvalue())
    assert layout.total_bytes > 3e11
    with pytest.raises(ValueError):
        layout.array(buffer.getvalue())


def test_the_fingerprint_ignores_command_and_machine_and_notices_contents(whole: Path, tmp_path: Path):
    manifest = Manifest.read(whole)
    moved = replace(manifest, build=("build", "elsewhere"), made_with={"cpu": "other"})
    changed = replace(manifest, corpus="other")
    assert moved.fingerprint == manifest.fingerprint != changed.fingerprint
