"""Two commands on one folder: one writes, the other says who does; nothing is left in the way, nothing mixed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from soundfile import write

from shards import lock
from shards.lock import LOCK, only_writer
from shards.manifest import MANIFEST
from shards.problem import EnvironmentProblem
from shards.verify import Verify, main
from tests.building import build_here, everything_below
from tests.command import REPOSITORY
from tests.forgery import flip

HOLD = """
import pathlib, sys
from shards.lock import only_writer

with only_writer(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the folder until its input ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    return child


def test_a_folder_that_another_process_writes_is_refused_with_its_owner(tmp_path: Path):
    with holder(tmp_path) as child:
        said = rf"is being written by process {child.pid} on .*Wait for it"
        with pytest.raises(EnvironmentProblem, match=said), only_writer(tmp_path):
            pass
        child.stdin.close()
    with only_writer(tmp_path):
        pass


def test_a_killed_owner_and_a_clock_that_jumped_leave_nothing_in_the_way(tmp_path: Path):
    with holder(tmp_path) as child:
        os.kill(child.pid, signal.SIGKILL)
    os.utime(tmp_path / LOCK, (4e9, 4e9))
    with only_writer(tmp_path):
        assert (tmp_path / LOCK).stat().st_size > 0
    assert (tmp_path / LOCK).stat().st_size == 0


def test_a_folder_made_for_nothing_goes_again_and_one_with_something_in_it_stays(tmp_path: Path):
    with only_writer(tmp_path / "out"):
        assert (tmp_path / "out" / LOCK).is_file()
    assert not (tmp_path / "out").exists()
    for _ in range(2):
        with only_writer(tmp_path / "out"):
            (tmp_path / "out" / "listing.parquet").touch()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {LOCK, "listing.parquet"}


def test_a_lock_that_its_last_owner_took_away_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened, calls = lock._opened, []

    def taken_away(folder: Path) -> BinaryIO:
        file = opened(folder)
        calls.append(file)
        if len(calls) == 1:
            (folder / LOCK).unlink()
        return file

    monkeypatch.setattr(lock, "_opened", taken_away)
    with only_writer(tmp_path), pytest.raises(EnvironmentProblem, match="is being written"), only_writer(tmp_path):
        pass
    assert len(calls) == 3


def test_a_build_leaves_a_folder_alone_that_another_command_writes(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    write(tmp_path / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    with holder(out) as child:
        with pytest.raises(EnvironmentProblem, match=f"process {child.pid}"):
            build_here("folder", "--root", tmp_path, "--out", out, "--span-seconds", 1)
        assert [path.name for path in out.iterdir()] == [LOCK], "not even what headers say is written"
        child.stdin.close()
    build_here("folder", "--root", tmp_path, "--out", out)
    assert list(out.glob("*/manifest.json"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way of a folder")
    with (
        pytest.raises(EnvironmentProblem, match=r"Nothing can be written to .*out: Not a directory"),
        only_writer(tmp_path / "file" / "out"),
    ):
        pass


NOTES = Path(__file__).parent / "data" / "nsynth"
TOGETHER = """
import os, sys, time
from shards.problem import EnvironmentProblem
from tests.building import build_here

def build():
    time.sleep(begin - time.monotonic())
    try:
        build_here("nsynth", "--root", sys.argv[1], "--out", sys.argv[2], "--shard-examples", 4)
    except EnvironmentProblem as problem:
        os.write(1, f"{problem}\\n".encode())
        os._exit(problem.exit_code)
    os._exit(0)

begin = time.monotonic() + 0.5
builders = [os.fork() or build() for _ in range(4)]
print(sorted(os.waitstatus_to_exitcode(os.waitpid(builder, 0)[1]) for builder in builders))
"""


def test_builds_that_are_started_together_end_in_one_dataset(tmp_path: Path):
    words = [sys.executable, "-c", TOGETHER, NOTES, tmp_path / "out"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=240)
    *refused, codes = done.stdout.splitlines()
    assert codes in ("[0, 0, 0, 0]", "[0, 0, 0, 4]", "[0, 0, 4, 4]", "[0, 4, 4, 4]")
    assert all("is being written by " in why for why in refused) and len(refused) == codes.count("4")
    build_here("nsynth", "--root", NOTES, "--out", tmp_path / "alone", "--shard-examples", 4)
    assert everything_below(tmp_path / "out") == everything_below(tmp_path / "alone")


def test_a_repair_moves_nothing_while_another_command_writes(tmp_path: Path):
    build_here("nsynth", "--root", NOTES, "--out", tmp_path / "out")
    flip(tmp_path / "out" / "test" / "mel" / "000000.tar", 3000)
    (tmp_path / "out" / "test" / "codec").mkdir()
    (tmp_path / "out" / "test" / "codec" / ".000000.tar.partial-1").write_text("what the other writes just now")
    before = everything_below(tmp_path / "out" / "test")
    with holder(tmp_path / "out") as child:
        with pytest.raises(EnvironmentProblem, match=f"process {child.pid}"):
            main(Verify(tmp_path / "out", repair=True))
        child.stdin.close()
    assert everything_below(tmp_path / "out" / "test") == before and MANIFEST in before
