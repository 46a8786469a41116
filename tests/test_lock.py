"""Two commands on one folder: one writes, the other says who does; a killed owner leaves nothing in the way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from soundfile import write

from shards.lock import LOCK, only_writer
from shards.problem import EnvironmentProblem
from tests.building import build_here

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


def test_a_build_leaves_a_folder_alone_that_another_command_writes(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    write(tmp_path / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    with holder(out) as child:
        with pytest.raises(EnvironmentProblem, match=f"process {child.pid}"):
            build_here("folder", "--root", tmp_path, "--out", out)
        assert not list(out.glob("*/plan.json"))
        child.stdin.close()
    build_here("folder", "--root", tmp_path, "--out", out)
    assert list(out.glob("*/manifest.json"))
