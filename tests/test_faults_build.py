"""Real builds on the real Ray, whose drivers, workers and actors die at many random moments, or whose disk fills up."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shards.manifest import MANIFEST
from shards.verify import verify
from tests.building import everything_below
from tests.command import REPOSITORY

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
KILLS, WORKERS = 12, (1, 2, 4)


def start(root: Path, out: Path, *words: object) -> subprocess.Popen:
    """Begin a build in a child process, which writes what it says beside `out`."""
    given = ["build", "nsynth", "--root", root, "--out", out, "--shard-examples", 16, *words]
    log_of(out).parent.mkdir(parents=True, exist_ok=True)
    with log_of(out).open("w") as log:
        command, environment = [sys.executable, "-m", "sonograph"], {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen([*command, *map(str, given)], cwd=REPOSITORY, env=environment, stdout=log, stderr=log)


def log_of(out: Path) -> Path:
    return out.parent.with_suffix(".log")


def contents(out: Path) -> dict[str, bytes]:
    """Every byte of the datasets."""
    return {name: content for name, content in everything_below(out).items() if "/" in name}


def finished(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in out.glob("*/index/*.parquet")}


def begun(process: subprocess.Popen, out: Path, draw: random.Random) -> None:
    """Wait until a build has made some more shards, and for a moment, or until it has ended."""
    wanted, deadline = len(finished(out)) + draw.randint(0, 2), time.monotonic() + 240
    while len(finished(out)) < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(draw.uniform(0.0, 0.5))


def kill_a_worker(process: subprocess.Popen, draw: random.Random) -> int:
    """SIGKILL one process in which Ray runs a task or an actor of the build; waits for one to be there."""
    while process.poll() is None:
        below = psutil.Process(process.pid).children(recursive=True)
        if running := [child for child in below if _has_task(child)]:
            draw.choice(running).kill()
            return 1
    return 0


def _has_task(child: psutil.Process) -> bool:
    try:
        return "".join(child.cmdline()).startswith("ray::Map")
    except psutil.NoSuchProcess:  # gone meanwhile, or a zombie
        return False


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    for child in psutil.Process().children():
        if "sonograph" in child.cmdline():
            child.kill()


@pytest.fixture(scope="module")
def undisturbed(rendered_nsynth: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "nsynth"
    process = start(rendered_nsynth, out, "--workers", 2)
    assert process.wait(900) == 0, log_of(out).read_text()
    return contents(out)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_driver_killed_again_and_again_while_its_workers_live_on(
    rendered_nsynth: Path, undisturbed: dict[str, bytes], tmp_path: Path, seed: int
):
    """The next one starts at once, with another number of workers, beside orphans that may still be writing."""
    out, draw = tmp_path / "killed" / "nsynth", random.Random(seed)
    kept, orphans = finished(out), []
    for number in range(KILLS):
        process = start(rendered_nsynth, out, "--workers", WORKERS[number % 3])
        begun(process, out, draw)
        orphans += psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        assert process.wait(60) in (0, -signal.SIGKILL)
        assert finished(out).items() >= kept.items(), "a finished shard was made again"
        kept = finished(out)
    process = start(rendered_nsynth, out, "--workers", 2)
    assert process.wait(900) == 0, log_of(out).read_text()
    assert psutil.wait_procs(orphans, timeout=240)[1] == []
    assert finished(out).items() >= kept.items()
    assert contents(out) == undisturbed


@pytest.mark.parametrize("words", [("--workers", 2), ("--workers", 4), ("--actors", 2)])
def test_workers_killed_again_and_again_under_a_driver_that_lives(
    rendered_nsynth: Path, undisturbed: dict[str, bytes], tmp_path: Path, words: tuple[object, ...]
):
    draw, killed = random.Random(str(words)), 0
    for number in range(2):
        out = tmp_path / f"{number}" / "nsynth"
        process = start(rendered_nsynth, out, *words)
        for _ in range(3):
            begun(process, out, draw)
            killed += kill_a_worker(process, draw)
        assert process.wait(900) == 0, log_of(out).read_text()
        assert contents(out) == undisturbed
        assert not list(out.rglob(".*partial*"))
    assert killed >= 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disk")
def test_a_disk_that_is_full_at_every_size(rendered_nsynth: Path, undisturbed: dict[str, bytes], tmp_path: Path):
    disk, size = tmp_path / "disk", 64
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine allows no mount")
    out = disk / "small" / "nsynth"
    try:
        while (code := _filled(rendered_nsynth, out)) == 4:
            said = (disk.parent / "said").read_text()
            assert "No space left on device" in said and "repeat the same command" in said, said
            assert all(list(verify(manifest.parent)) == [] for manifest in out.glob(f"*/{MANIFEST}"))
            size = size * 2
            subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)
        assert code == 0, (disk.parent / "said").read_text()
        assert size > 1_000
        assert contents(out) == undisturbed
        assert not list(out.rglob(".*partial*"))
    finally:
        subprocess.run(["umount", disk], check=True)


def _filled(root: Path, out: Path) -> int:
    """The exit code of a build whose words lie on another disk."""
    words = [sys.executable, "-m", "sonograph", "build", "nsynth", "--root", root, "--out", out]
    with (out.parents[2] / "said").open("w") as said:
        options = {"cwd": REPOSITORY, "stdout": said, "stderr": said, "timeout": 600}
        return subprocess.run([*map(str, words), "--shard-examples", "16", "--workers", "2"], **options).returncode
