"""Memory that is lent again, many reads in one call, and files that change under a reader."""

import os
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.loader import Loader
from shards.loading.buffers import Buffers
from shards.loading.bulk_read import bulk_copy, bulk_read, is_present
from shards.loading.mapping import Mappings
from shards.problem import DataProblem
from shards.reader import Reader
from shards.views import Views
from tests.corpus import write_noise_dataset

NOISE = np.random.default_rng(0).bytes(5_000)


@pytest.fixture(scope="module")
def noise_file(tmp_path_factory: pytest.TempPathFactory) -> int:
    path = tmp_path_factory.mktemp("bytes") / "noise"
    path.write_bytes(NOISE)
    return os.open(path, os.O_RDONLY)


@given(st.lists(st.tuples(st.integers(0, 6_000), st.integers(0, 900)), max_size=20))
def test_every_read_lands_in_its_place_and_says_how_much_came(noise_file: int, wanted: list[tuple[int, int]]):
    offsets, sizes = (np.array([pair[part] for pair in wanted], np.int64) for part in (0, 1))
    places = np.cumsum(sizes) - sizes
    into = np.zeros(int(sizes.sum()), np.uint8)
    got = bulk_read(np.full(len(wanted), noise_file), offsets, sizes, into, places)
    expected = [NOISE[offset : offset + size] for offset, size in wanted]
    assert got.tolist() == [len(part) for part in expected]
    for place, part in zip(places.tolist(), expected, strict=True):
        assert into[place : place + len(part)].tobytes() == part


def test_a_descriptor_that_is_not_open_gives_minus_one():
    one, zero = np.ones(1, np.int64), np.zeros(1, np.int64)
    assert bulk_read(np.full(1, 10_000), zero, one, np.zeros(1, np.uint8), zero).tolist() == [-1]


def test_a_place_outside_the_buffer_is_refused_before_anything_is_read(noise_file: int):
    one, zero = np.ones(1, np.int64), np.zeros(1, np.int64)
    with pytest.raises(AssertionError):
        bulk_read(np.full(1, noise_file), zero, one, np.zeros(4, np.uint8), 4 * one)


@given(st.lists(st.integers(0, 4_000), max_size=20), st.integers(0, 1_000))
def test_every_copy_lands_in_its_place(begins: list[int], size: int):
    memory = np.frombuffer(NOISE, np.uint8)
    into = np.zeros(len(begins) * size, np.uint8)
    bulk_copy(memory.ctypes.data + np.array(begins, np.int64), size, into, np.arange(len(begins)) * size)
    assert into.tobytes() == b"".join(NOISE[begin : begin + size] for begin in begins)


def test_a_copy_to_outside_the_buffer_is_refused():
    with pytest.raises(AssertionError):
        bulk_copy(np.zeros(1, np.int64), 4, np.zeros(8, np.uint8), np.array([5]))


def test_a_mapped_piece_that_is_gone_from_its_file_is_told_of_before_it_is_touched(tmp_path: Path):
    path, size = tmp_path / "tar", 1 << 16
    path.write_bytes(bytes(size))
    tars = Mappings([str(path)], [size]).current([0])
    assert tars is not None
    whole = np.array([tars[0].address]), np.array([size])
    assert is_present(*whole)
    os.truncate(path, size // 2)
    assert not is_present(*whole)


def test_a_mapped_tar_keeps_no_file_open_and_is_mapped_again_when_another_takes_its_place(tmp_path: Path):
    path = tmp_path / "tar"
    path.write_bytes(bytes(5_000))
    mappings, opened = Mappings([str(path)], [5_000]), _open_files()
    assert mappings.current([0])[0] is mappings.current([0])[0]  # type: ignore[index]
    (tmp_path / "new").write_bytes(NOISE)
    (tmp_path / "new").rename(path)
    assert mappings.current([0])[0].memory.tobytes() == NOISE  # type: ignore[index]
    assert _open_files() == opened
    os.truncate(path, 4_000)
    assert mappings.current([0]) is None


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_memory_is_lent_again_only_when_its_last_tensor_is_gone():
    buffers = Buffers()
    tensor = torch.from_numpy(buffers.take(4096).view(np.float16)).reshape(2, -1)[1:]
    address = tensor.data_ptr() - 2048
    other = buffers.take(4096)
    assert other.ctypes.data != address
    tensor.fill_(7.0)
    other[:] = 0
    assert tensor.eq(7).all()
    del tensor
    assert buffers.take(100).ctypes.data == address


def test_memory_is_lent_to_one_thread_at_a_time():
    buffers, clashes = Buffers(), []

    def use(mark: int) -> None:
        for _ in range(2_000):
            array = buffers.take(64)
            array[:] = mark
            if (array != mark).any():
                clashes.append(mark)

    threads = [Thread(target=use, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []


def test_batches_that_are_kept_are_never_written_over(tmp_path: Path):
    folder = write_noise_dataset(tmp_path / "train", 24, samples=8192)
    loader = Loader(Reader(folder), batch_examples=4, seed=0, views=Views(2, 8), threads=3)
    kept = list(loader.from_step(0, 30))
    again = [loader.batch(step) for step in range(30)]
    for one, two in zip(kept, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.views, two.views, strict=True))


def test_tars_that_are_mapped_and_tars_that_are_read_give_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = write_noise_dataset(tmp_path / "train", 40, samples=8192)

    def batches() -> list[torch.Tensor]:
        loader = Loader(Reader(folder), batch_examples=8, seed=2, views=Views(2, 8), threads=2)
        return [view for batch in loader.from_step(0, 12) for view in batch.views]

    mapped = batches()
    monkeypatch.setattr(Mappings, "suit", lambda sizes: False)
    assert all(torch.equal(one, two) for one, two in zip(mapped, batches(), strict=True))


@pytest.fixture
def checked(tmp_path: Path) -> tuple[Loader, Path]:
    """A loader that has seen, and so checked, every example."""
    folder = write_noise_dataset(tmp_path / "train", 16, samples=8192)
    loader = Loader(Reader(folder), batch_examples=16, seed=1, views=Views(2, 8))
    assert len(loader.batch(0).index) == 16
    return loader, folder / "mel" / "000000.tar"


def test_a_file_that_changed_after_its_check_is_checked_again(checked: tuple[Loader, Path]):
    loader, tar = checked
    damaged = bytearray(tar.read_bytes())
    damaged[3000] ^= 1
    tar.write_bytes(damaged)
    with pytest.raises(DataProblem, match=r"000000.tar is damaged at byte.*do not match their xxh3"):
        loader.batch(1)


def test_a_file_cut_after_its_check_is_named_with_what_is_missing(checked: tuple[Loader, Path]):
    loader, tar = checked
    os.truncate(tar, 9_000)
    with pytest.raises(DataProblem, match=r"000000.tar is damaged at byte.*only [\d,]+ of [\d,]+ bytes can be read"):
        loader.batch(1)


def test_a_file_removed_after_its_check_is_named_with_the_build_that_restores_it(checked: tuple[Loader, Path]):
    loader, tar = checked
    tar.unlink()
    with pytest.raises(DataProblem, match=r"000000.tar cannot be opened.*repeat the build"):
        loader.batch(1)


def test_a_payload_of_another_kind_than_its_column_is_refused(tmp_path: Path):
    folder = write_noise_dataset(tmp_path / "train", 6, samples=8192, transposed=(4,))
    with pytest.raises(DataProblem, match=r"example 4.*its header says.*that of the first example"):
        Loader(Reader(folder), batch_examples=6, seed=0, views=Views(2, 8)).batch(0)
