"""Copies of a store's files: bounded for all processes together, whole or absent, fetched once, never other bytes."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards.problem import DataProblem, EnvironmentProblem, UsageProblem
from shards.stores.cache import Cache, Wanted, cache_of
from tests.command import REPOSITORY


def file_of(number: int, size: int = 1000) -> tuple[Wanted, bytes]:
    content = number.to_bytes(4, "big") * (size // 4)
    return Wanted(f"s3://bucket/{number}", len(content), hashlib.sha256(content).hexdigest()), content


def fetching(content: bytes) -> Callable[[Path], None]:
    def fetch(path: Path) -> None:
        path.write_bytes(content)

    return fetch


def content_of(cache: Cache, number: int, size: int = 1000) -> bytes:
    wanted, content = file_of(number, size)
    with os.fdopen(cache.open(wanted, fetching(content)), "rb") as file:
        return file.read()


def test_what_was_used_longest_ago_goes_first(tmp_path: Path):
    cache = Cache(tmp_path, 3500)
    for number in (0, 1, 2, 0, 3):
        assert content_of(cache, number) == file_of(number)[1]
    assert [number for number in range(4) if cache.has(file_of(number)[0].sha256)] == [0, 2, 3]


def test_an_open_file_is_read_to_its_end_though_it_has_left_the_cache(tmp_path: Path):
    cache = Cache(tmp_path, 1500)
    wanted, content = file_of(0)
    with os.fdopen(cache.open(wanted, fetching(content)), "rb") as file:
        content_of(cache, 1)
        assert not cache.has(wanted.sha256)
        assert file.read() == content


def test_many_threads_stay_within_the_bound_and_get_their_own_bytes(tmp_path: Path):
    used: list[int] = []

    def get(number: int) -> bool:
        cache = Cache(tmp_path, 5000)  # each as another process would have it

        def fetch(path: Path) -> None:
            used.append(cache.used_bytes)
            path.write_bytes(file_of(number % 12)[1])

        with os.fdopen(cache.open(file_of(number % 12)[0], fetch), "rb") as file:
            return file.read() == file_of(number % 12)[1]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(get, range(96)))
    assert max(used) <= 5000


def test_a_file_that_many_want_is_fetched_once(tmp_path: Path):
    cache, (wanted, content), fetched = Cache(tmp_path, 5000), file_of(7), []

    def fetch(path: Path) -> None:
        fetched.append(path)
        path.write_bytes(content)

    with ThreadPoolExecutor(6) as pool:
        for file in pool.map(lambda _: cache.open(wanted, fetch), range(12)):
            os.close(file)
    assert len(fetched) == 1


@pytest.mark.parametrize(("wrong", "reason"), [(b"short", "it has 5 bytes, not 1,000"), (bytes(1000), "SHA-256")])
def test_other_bytes_than_the_manifest_lists_are_never_kept(tmp_path: Path, wrong: bytes, reason: str):
    cache = Cache(tmp_path, 5000)
    with pytest.raises(DataProblem, match=f"s3://bucket/1 is not what its manifest lists.*{reason}"):
        cache.open(file_of(1)[0], fetching(wrong))
    assert cache.used_bytes == 0


def test_a_file_larger_than_the_cache_is_refused_with_the_variable_to_set(tmp_path: Path):
    with pytest.raises(EnvironmentProblem, match="SONOGRAPH_CACHE_GIB"):
        content_of(Cache(tmp_path, 999), 0)


def test_what_a_killed_process_had_reserved_is_free_again(tmp_path: Path):
    code = (
        "import os, signal, pathlib, tests.test_cache as t\n"
        f"cache = t.Cache(pathlib.Path({str(tmp_path)!r}), 1500)\n"
        "cache.open(t.file_of(0)[0], lambda path: os.kill(os.getpid(), signal.SIGKILL))"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(tmp_path.glob(".partial-*"))) == 1
    assert content_of(Cache(tmp_path, 1500), 1) == file_of(1)[1]
    assert not list(tmp_path.glob(".partial-*"))


def test_the_variables_say_where_and_how_much(tmp_path: Path):
    cache = cache_of({"SONOGRAPH_CACHE": str(tmp_path), "SONOGRAPH_CACHE_GIB": "0.5"})
    assert (cache.folder, cache.limit_bytes) == (tmp_path, 1 << 29)
    assert cache_of({"XDG_CACHE_HOME": str(tmp_path)}).folder == tmp_path / "sonograph"
    for wrong in ("many", "0", "-1", "nan", "inf"):
        with pytest.raises(UsageProblem, match="SONOGRAPH_CACHE_GIB is"):
            cache_of({"SONOGRAPH_CACHE_GIB": wrong})
