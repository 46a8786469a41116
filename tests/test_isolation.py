"""A recording that kills, hangs or fills its process costs itself only: by real signals, and on the real Ray."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines import isolation
from pipelines.isolation import each, mark_of
from shards.manifest import read_table
from shards.problem import EnvironmentProblem
from tests.command import REPOSITORY
from tests.poison import CRASHING, GREEDY, HANGING, react

PIECES = (0.1, CRASHING, 0.2, HANGING, 0.3)


def work(piece: float) -> float:
    react(piece)
    return -piece


def given_up(piece: float, why: str) -> str:
    return f"{piece}: {why}"


def run(mark: Path, pieces: tuple[float, ...], seconds: float) -> None:
    each(work, pieces, mark=mark, given_up=given_up, piece_seconds=seconds)


def in_child(mark: Path, pieces: tuple[float, ...], seconds: float) -> int | None:
    child = multiprocessing.get_context("spawn").Process(target=run, args=(mark, pieces, seconds))
    child.start()
    child.join(120)
    return child.exitcode


def test_work_that_kills_nobody_is_done_here_and_leaves_no_mark(tmp_path: Path):
    def in_this_process(piece: int) -> tuple[int, int]:  # could not travel to another process
        return piece, os.getpid()

    mark = mark_of(tmp_path / "new", "1")
    assert each(in_this_process, [1, 2], mark=mark, given_up=given_up) == [(1, os.getpid()), (2, os.getpid())]
    assert list(mark.parent.iterdir()) == []


@pytest.mark.parametrize("pieces, ending", [((0.1, CRASHING), -signal.SIGSEGV), ((0.1, HANGING), 1)])
def test_a_second_run_gives_up_what_killed_the_first_and_nothing_else(tmp_path: Path, pieces: tuple, ending: int):
    mark = mark_of(tmp_path, "1")
    assert in_child(mark, pieces, 1.0) == ending
    assert mark.exists()
    assert each(work, PIECES, mark=mark, given_up=given_up, piece_seconds=2.0) == [
        -0.1,
        f"{CRASHING}: its decoder crashed: SIGSEGV",
        -0.2,
        f"{HANGING}: its decoder hung: it was not done after 2 s",
        -0.3,
    ]
    assert not mark.exists()


def most_memory(piece: float) -> int:
    return resource.getrlimit(resource.RLIMIT_AS)[0]


def test_a_child_may_take_what_memory_is_free_and_no_more(tmp_path: Path):
    mark = mark_of(tmp_path, "1")
    mark.write_bytes(b".")
    (limit,) = each(most_memory, [0.1], mark=mark, given_up=given_up)
    assert 0 < limit != resource.RLIM_INFINITY
    assert limit - psutil.virtual_memory().total < 64 << 30  # beside what a fresh process only reserves


def test_a_recording_that_asks_for_all_memory_is_given_up_when_the_first_run_died_of_it(tmp_path: Path):
    mark, (soft, hard) = mark_of(tmp_path, "1"), resource.getrlimit(resource.RLIMIT_AS)
    used_bytes = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + (1 << 30), hard))  # a small machine; children inherit it
    try:
        assert in_child(mark, (0.1, GREEDY), 30.0) == -signal.SIGABRT
        outcomes = each(work, (0.1, GREEDY, 0.2), mark=mark, given_up=given_up, piece_seconds=30.0)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert outcomes == [-0.1, f"{GREEDY}: its decoder crashed: SIGABRT", -0.2]


def test_a_child_that_hangs_dies_with_the_worker_that_is_killed(tmp_path: Path):
    mark = mark_of(tmp_path, "1")
    mark.write_bytes(b".")
    worker = multiprocessing.get_context("spawn").Process(target=run, args=(mark, (0.1, HANGING), 250.0))
    worker.start()
    while not (children := psutil.Process(worker.pid).children()) or children[0].status() != psutil.STATUS_SLEEPING:
        time.sleep(0.1)
    worker.kill()
    worker.join()
    assert psutil.wait_procs(children, timeout=60)[1] == []


def test_where_no_mark_can_be_left_that_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("in the way of a folder")
    with pytest.raises(EnvironmentProblem, match="Nothing can be written to .*Not a directory.*repeat the same"):
        each(work, PIECES, mark=mark_of(tmp_path / "file" / "folder", "1"), given_up=given_up)


def test_an_error_in_a_child_is_raised_here(tmp_path: Path):
    mark = mark_of(tmp_path, "1")
    mark.write_bytes(b".")
    with pytest.raises(TypeError, match="bad operand"):
        each(work, ["no number"], mark=mark, given_up=given_up)  # type: ignore[type-var]
    assert not mark.exists()


def test_a_run_that_dies_again_and_again_is_an_environment_problem(tmp_path: Path):
    mark = mark_of(tmp_path, "1")
    mark.write_bytes(b"." * isolation._MOST_RUNS)
    with pytest.raises(EnvironmentProblem, match="in 4 attempts.*fewer --workers"):
        each(work, PIECES, mark=mark, given_up=given_up)


@pytest.mark.slow
def test_on_ray_the_shards_of_poisonous_recordings_are_made_without_them(tmp_path: Path):
    firsts = [0.0, CRASHING, 0.1, 0.2, 0.3, 0.4, HANGING, 0.1]
    code = f"from pathlib import Path; from tests.poison import build; build(Path('root'), Path('out'), {firsts})"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "0 3 [(1, 'its decoder crashed: SIGSEGV')]",
        "1 3 [(6, 'its decoder hung: it was not done after 6 s')]",
    ]
    keys = [read_table(tmp_path / "out" / f"index/00000{shard}.parquet")["key"].to_pylist() for shard in (0, 1)]
    assert keys == [["0", "2", "3"], ["4", "5", "7"]]
    assert not list((tmp_path / "out").rglob(".*"))
