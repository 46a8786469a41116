"""A dataset in a store, read as if it lay in a folder: the same batches, the same checks, a bounded local cache."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.loader import Loader
from shards.loading.dataset import Dataset
from shards.problem import DataProblem
from shards.reader import Reader
from shards.stores.remote import Store
from shards.views import Views
from tests.corpus import write_noise_dataset
from tests.s3_server import S3, s3_in_environment

EXAMPLES = 40
MANY_BYTES, FEW_BYTES = 1 << 30, 100_000
"""Room in the cache: for all tars, or for one at a time."""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_in_environment("music") as server:
        yield server


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SONOGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def give_room(monkeypatch: pytest.MonkeyPatch, room_bytes: int) -> None:
    monkeypatch.setenv("SONOGRAPH_CACHE_GIB", str(room_bytes / 2**30))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise_dataset(tmp_path_factory.mktemp("noise") / "train", EXAMPLES, shard_examples=8, samples=8192)


@pytest.fixture(scope="module")
def stored(s3: S3, local: Path) -> str:
    """The same dataset in the bucket."""
    put(local, "s3://music/noise/train")
    return "s3://music/noise/train"


def put(folder: Path, url: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            Store(url).upload(path, path.relative_to(folder).as_posix())


def batches(reader: Reader, steps: int = 12) -> list[torch.Tensor]:
    loader = Loader(reader, batch_examples=8, seed=3, views=Views(2, 8), threads=2)
    return [tensor for batch in loader.from_step(0, steps) for tensor in (batch.index, batch.seeds, *batch.views)]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


@pytest.mark.parametrize("room_bytes", [MANY_BYTES, FEW_BYTES])
def test_batches_from_a_store_are_those_of_the_folder_whether_tars_fit_the_cache_or_not(
    local: Path, stored: str, own_cache: Path, room_bytes: int, monkeypatch: pytest.MonkeyPatch
):
    give_room(monkeypatch, room_bytes)
    there, here = Reader(stored), Reader(local)
    assert same(batches(there), batches(here))
    assert there.labels("pitch").tolist() == here.labels("pitch").tolist()
    assert all(
        np.array_equal(*pair) for pair in zip(there.arrays(range(EXAMPLES)), here.arrays(range(EXAMPLES)), strict=True)
    )
    assert there.restore(torch.ones(1)) == here.restore(torch.ones(1))
    assert sum(path.stat().st_size for path in (own_cache / "files").rglob("*") if path.is_file()) <= room_bytes


def test_a_dataset_in_memory_is_read_alike(local: Path):
    put(local, "memory://noise/train")
    assert same(batches(Reader("memory://noise/train")), batches(Reader(local)))


def test_tars_that_fit_the_cache_are_fetched_once_for_all_readers(s3: S3, stored: str):
    batches(Reader(stored))
    s3.log()
    batches(Reader(stored))
    assert [line for line in s3.log() if "manifest.json" not in line] == []


def test_global_order_of_a_column_too_large_for_the_cache_reads_ranges_and_says_what_it_costs(
    s3: S3, stored: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    give_room(monkeypatch, FEW_BYTES)
    caplog.set_level("INFO", "shards.stores.files")
    reader = Reader(stored)
    s3.log()
    batches(reader, 5)
    tars = [line for line in s3.log() if ".tar" in line]
    assert all("bytes=" in line for line in tars)
    assert len(tars) <= EXAMPLES + 1
    told = [record.getMessage() for record in caplog.records if "read by ranges" in record.getMessage()]
    assert len(told) == 1
    assert "about 40 requests and 0.2 MiB an epoch" in told[0]


def test_who_reads_shard_by_shard_gets_whole_tars_within_the_bound(
    s3: S3, stored: str, monkeypatch: pytest.MonkeyPatch
):
    give_room(monkeypatch, 150_000)
    reader = Reader(stored)
    reader.files.comes_in_runs()
    s3.log()
    for row in range(len(reader)):
        reader.read(row)
    assert [line for line in s3.log() if "bytes=" in line] == []


def test_windowed_order_fetches_each_tar_of_a_large_column_once_an_epoch(
    s3: S3, local: Path, stored: str, monkeypatch: pytest.MonkeyPatch
):
    give_room(monkeypatch, 200_000)
    loaders = [
        Loader(Dataset(Reader(place), order="windowed:2"), batch_examples=8, seed=3, views=Views(2, 8))
        for place in (stored, local)
    ]
    s3.log()
    there, here = ([batch.views[0] for batch in loader.from_step(0, 5)] for loader in loaders)
    assert same(there, here)
    tars = [line.rpartition("/")[2] for line in s3.log() if ".tar" in line]
    assert sorted(tars) == [f"00000{number}.tar" for number in range(5)]


@pytest.mark.parametrize("room_bytes", [MANY_BYTES, FEW_BYTES])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_an_object_that_is_cut_changed_or_gone_is_found(
    s3: S3, local: Path, tmp_path: Path, damage: str, room_bytes: int, monkeypatch: pytest.MonkeyPatch
):
    give_room(monkeypatch, room_bytes)
    url, key = f"s3://music/{tmp_path.name}", f"{tmp_path.name}/mel/000002.tar"
    put(local, url)
    content = bytearray((local / "mel" / "000002.tar").read_bytes())
    content[3000] ^= 1
    if damage == "gone":
        s3.client().delete_object(Bucket="music", Key=key)
    else:
        s3.client().put_object(Bucket="music", Key=key, Body=content[:9000] if damage == "cut" else content)
    with pytest.raises(DataProblem, match="000002.tar is (damaged at byte|not what|not there)"):
        batches(Reader(url), 5)


def test_a_stale_copy_is_never_read_and_a_spoiled_one_is_fetched_again(s3: S3, local: Path, tmp_path: Path):
    url = f"s3://music/{tmp_path.name}"
    put(local, url)
    batches(Reader(url))
    other = write_noise_dataset(tmp_path / "train", 24, shard_examples=8, samples=8192)
    put(other, url)
    assert same(batches(Reader(url)), batches(Reader(other)))
    for path in (tmp_path / "cache" / "files").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-2000] + bytes(2000))
    with pytest.raises(DataProblem, match="copy on this machine.*dropped"):
        Reader(url)


def test_a_folder_of_splits_or_nothing_at_all_is_no_dataset(stored: str):
    with pytest.raises(DataProblem, match=r"s3://music/noise is no dataset.*Name one split"):
        Reader("s3://music/noise")
