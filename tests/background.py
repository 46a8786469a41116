"""A training in other processes: the real command and its workers to be killed, or two workers and nothing else."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import distributed as dist
from torch import multiprocessing

from tests.command import REPOSITORY
from trainers.task import Task
from trainers.tracking import curves, events
from trainers.train import work_on


@contextmanager
def started(*words: object, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """The real command in the background; whatever is left of it ends with the block."""
    command = [sys.executable, "-m", "sonograph", *map(str, words)]
    paths = {"PYTHONPATH": str(REPOSITORY), **environment}
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, **paths}, stdout=file, stderr=file)
    try:
        yield process
    finally:
        for child in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
            child.kill()
        process.wait()


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, "the command ended too early"
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.05)


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]
    assert len(workers) == 2
    return workers


def last_step(run: Path) -> int:
    return max(curves(run).get("train/loss", {0: 0.0}))


def starts(run: Path) -> list[int]:
    """The steps from which workers began, one each time that they were started."""
    tags = [event.fields["values"] for event in events(run) if event.kind == "tags"]
    return [int(values["training.from_step"]) for values in tags if "training.from_step" in values]


def statuses(run: Path) -> list[str]:
    return [event.fields["status"] for event in events(run) if event.kind == "status"]


def in_two_processes(task: Task) -> None:
    multiprocessing.spawn(_one_of_two, args=(task,), nprocs=2)


def _one_of_two(rank: int, task: Task) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{task.run}/rendezvous", rank=rank, world_size=2)
    work_on(task)
    dist.destroy_process_group()
    (task.run / "rendezvous").unlink(missing_ok=True)
