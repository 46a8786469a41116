"""Readers that know nothing of us read our tars; the ready pipeline reads them, and nothing that is not as written."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
import numpy as np
import pytest
import webdataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from shards.decode import decode
from shards.plain import pipeline
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from tests.command import REPOSITORY
from tests.forgery import flip, forge_tar, parts_of, write_sounding_dataset

EXAMPLES = 7


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sounding_dataset(tmp_path_factory.mktemp("whole") / "train", EXAMPLES)


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(whole, tmp_path / "train")


def tars_of(dataset: Path, column: str = "mel") -> list[str]:
    return [str(path) for path in sorted((dataset / column).glob("*.tar"))]


def require_equal(dataset: Path, found: Sequence[tuple[str, np.ndarray, dict]]) -> None:
    """Every example once, in order, with its own values and labels."""
    reader = Reader(dataset)
    assert [int(key) for key, _, _ in found] == reader.indices.tolist()
    for row, (_, array, about) in enumerate(found):
        np.testing.assert_array_equal(array, reader.read(row), strict=True)
        assert about == {"index": row, "key": f"noise-{row}", "name": f"note {row}", "pitch": row}


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # webdataset leaves files to the collector
def test_webdataset_reads_the_tars_of_every_column(whole: Path):
    samples = list(webdataset.WebDataset(tars_of(whole), shardshuffle=False, empty_check=False).decode())
    require_equal(whole, [(sample["__key__"], sample["mel.npy"], sample["json"]) for sample in samples])
    sounds = list(webdataset.WebDataset(tars_of(whole, "audio"), shardshuffle=False, empty_check=False))
    assert [sample["audio.flac"] for sample in sounds] == [Reader(whole, "audio").payload(row) for row in range(7)]


class Tars(IterableDataset):
    """What somebody writes who has the standard library and numpy."""

    def __init__(self, tars: list[str]) -> None:
        self.tars = tars

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, dict]]:
        worker = get_worker_info()
        for path in self.tars[worker.id :: worker.num_workers] if worker else self.tars:
            with tarfile.open(path) as tar:
                files = {member.name: tar.extractfile(member).read() for member in tar}
            for name in sorted(name for name in files if name.endswith(".npy")):
                key = name.partition(".")[0]
                yield key, np.load(io.BytesIO(files[name])), json.loads(files[f"{key}.json"])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_data_loader_of_torch_reads_the_tars(whole: Path, workers: int):
    found = list(DataLoader(Tars(tars_of(whole)), batch_size=None, num_workers=workers, collate_fn=lambda row: row))
    require_equal(whole, sorted(found, key=lambda row: row[0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["datasets", "ray"])
def test_hugging_face_datasets_and_ray_data_read_the_tars(whole: Path, tmp_path: Path, name: str):
    apart = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    read = subprocess.run(
        [sys.executable, "-m", "tests.foreign_readers", name, *tars_of(whole)],
        cwd=REPOSITORY,
        env={**os.environ, **apart},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert read.returncode == 0, read.stderr
    found = json.loads(read.stdout.splitlines()[-1])
    require_equal(whole, [(row["key"], np.array(row["array"], np.float16), row["labels"]) for row in found])


def test_the_ready_pipeline_gives_arrays_sound_and_labels_of_each_example(whole: Path):
    samples = list(pipeline(whole, ["mel", "audio"]))
    require_equal(whole, [(sample["__key__"], sample["mel.npy"], sample["json"]) for sample in samples])
    sound = Reader(whole, "audio")
    for row, sample in enumerate(samples):
        waveform, rate_hz = sample["audio.flac"]
        np.testing.assert_array_equal(waveform, decode(sound.payload(row)).waveform)
        assert rate_hz == 16_000 and sample["__url__"] == tars_of(whole)[row // 3]


def test_the_ready_pipeline_is_shuffled_and_batched_as_any_other_and_gives_what_plain_webdataset_gives(whole: Path):
    batches = list(pipeline(whole).shuffle(100).to_tuple("__key__", "mel.npy").batched(4))
    assert [len(keys) for keys, _ in batches] == [4, 3]
    found = {int(key): array for keys, arrays in batches for key, array in zip(keys, arrays, strict=True)}
    assert sorted(found) == list(range(EXAMPLES))
    assert all(np.array_equal(found[row], Reader(whole).read(row)) for row in found)


def test_loader_workers_share_the_shards_of_the_ready_pipeline(whole: Path):
    loaded = webdataset.WebLoader(pipeline(whole, shuffle_seed=3), batch_size=None, num_workers=2)
    assert sorted(int(sample["__key__"]) for sample in loaded) == list(range(EXAMPLES))


def test_shards_are_shuffled_by_the_seed_anew_each_epoch(whole: Path):
    def orders(seed: int) -> list[list[str]]:
        shuffled = pipeline(whole, shuffle_seed=seed)
        return [[sample["__key__"] for sample in shuffled] for _ in range(5)]

    assert orders(1) == orders(1) != orders(2)
    assert len({tuple(order) for order in orders(1)}) > 1


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Iterator[fsspec.AbstractFileSystem]:
    """The files of the dataset in a store, below one folder."""
    memory = fsspec.filesystem("memory")
    for path in [*whole.glob("*/*"), *whole.glob("*.*")]:
        memory.pipe(f"/{tmp_path.name}/{path.relative_to(whole)}", path.read_bytes())
    yield memory
    memory.rm(f"/{tmp_path.name}", recursive=True)


def test_a_dataset_in_a_store_is_read_where_it_lies_or_where_its_urls_say(
    whole: Path, store: fsspec.AbstractFileSystem, tmp_path: Path
):
    urls = [f"memory://{tmp_path.name}/mel/{Path(path).name}" for path in tars_of(whole)]
    for remote in (pipeline(f"memory://{tmp_path.name}"), pipeline(whole, urls={"mel": urls})):
        samples = list(remote)
        require_equal(whole, [(sample["__key__"], sample["mel.npy"], sample["json"]) for sample in samples])
        assert {sample["__url__"] for sample in samples} == set(urls)
    with pytest.raises(UsageProblem, match="2 URLs were given for the 3 tars"):
        pipeline(whole, urls={"mel": urls[:2]})
    store.rm(f"/{tmp_path.name}/mel/000001.tar")
    with pytest.raises(DataProblem, match=r"mel/000001.tar is not what its manifest lists"):
        list(pipeline(whole, urls={"mel": urls}))


def test_a_remote_tar_of_several_pieces_is_read_in_order(
    whole: Path, store: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shards.stores.remote._STREAM_BYTES", 1000)
    samples = list(pipeline(f"memory://{tmp_path.name}"))
    require_equal(whole, [(sample["__key__"], sample["mel.npy"], sample["json"]) for sample in samples])


def test_a_column_that_is_not_there_is_named(whole: Path):
    with pytest.raises(DataProblem, match="no column 'codec', only audio, mel"):
        pipeline(whole, ["codec"])


def reason(dataset: Path, *columns: str) -> str:
    with pytest.raises(DataProblem) as raised:
        list(pipeline(dataset, columns or ["mel"]))
    return str(raised.value)


def test_every_flipped_bit_and_every_cut_ends_the_ready_pipeline(dataset: Path):
    tar = dataset / "mel" / "000001.tar"
    original = tar.read_bytes()
    for begin in range(0, len(original), 512):
        flip(tar, begin + begin // 512 % 512, begin // 512 % 8)
        assert "000001.tar is not what its manifest lists" in reason(dataset)
        tar.write_bytes(original[:begin])
        assert "is cut off" in reason(dataset)
        tar.write_bytes(original)
    assert len(list(pipeline(dataset))) == EXAMPLES


def test_examples_that_appear_again_lack_a_member_or_are_missing_end_the_ready_pipeline(dataset: Path):
    parts = parts_of(dataset / "mel" / "000000.tar")
    for wrong, why in [
        ([*parts, *parts[:2]], "the example 000000000 appears again, or late"),
        ([*parts[:2], *parts[4:], *parts[2:4]], "the example 000000001 appears again, or late"),
        ([*parts[:3], *parts[4:]], "the example 000000001 lacks its .json"),
        (parts[:-1], "the example 000000002 lacks its .json"),
        (parts[1:], "it holds 000000000.json where 000000000.mel.npy should be"),
        (parts[:4], "it holds 2 examples, 3 were written"),
        ([], "it holds 0 examples, 3 were written"),
    ]:
        forge_tar(dataset, wrong)
        assert why in reason(dataset)


def test_columns_that_disagree_about_their_examples_end_the_ready_pipeline(dataset: Path):
    parts = parts_of(dataset / "audio" / "000000.tar")
    later = parts_of(dataset / "audio" / "000001.tar")
    forge_tar(dataset, [*parts[:4], *later[:2]], column="audio")
    assert "hold 000000002 and 000000003 in the same place" in reason(dataset, "mel", "audio")
