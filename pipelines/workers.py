"""A function over tasks on many machines; the one file of this package that knows Ray."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from shards.problem import DataProblem, EnvironmentProblem, RunFailed

_CONNECT_SECONDS = 10
_WAVE_TASKS = 4096  # so many shards are planned for 150 MB; between two waves workers wait for the slowest task


@dataclass(frozen=True)
class Actors:
    """Processes that stay: each makes its function once and calls it with some tasks at a time, on a GPU of its own."""

    count: int
    tasks_at_a_time: int = 4


def run_in_actors(
    make: Callable[[], Callable[[Sequence[Any]], Sequence[Any]]], tasks: Iterable[Any], actors: Actors
) -> Iterator[Any]:
    """Yield an outcome for each task, in order of completion; `make()` gives an actor its function of several tasks.

    Actors share no GPU, and take none where the cluster has none. Raises as `run_tasks` does.
    """
    waves = _waves(tasks)
    if (first := next(waves, None)) is None:
        return
    with cluster(actors.count + 1):  # one slot is left for what feeds them
        import ray

        for some in chain([first], waves):
            blocks = -(-len(some) // actors.tasks_at_a_time)
            count = min(actors.count, blocks)
            has_gpus = ray.cluster_resources().get("GPU", 0) >= count
            placed: dict[str, Any] = {"num_gpus": 1} if has_gpus else {"num_cpus": 1}
            compute = ray.data.ActorPoolStrategy(size=count)
            shape: dict[str, Any] = {"batch_size": None, "batch_format": "numpy", "fn_constructor_args": (make,)}
            yield from _outcomes(_rows(some, blocks=blocks).map_batches(_Actor, compute=compute, **shape, **placed))


def run_tasks(function: Callable[[Any], Any], tasks: Iterable[Any], *, workers: int) -> Iterator[Any]:
    """Yield `function(task)` for every task, in order of completion, at most `workers` at a time.

    Ray Data streams the tasks, one block each, of which some thousand are taken from `tasks` at a time; a task whose
    worker dies is run again elsewhere. A DataProblem or EnvironmentProblem raised by the function is raised here;
    RunFailed when a task killed its worker every time.
    """
    waves = _waves(tasks)
    if (first := next(waves, None)) is None:
        return
    with cluster(workers):
        import ray

        for some in chain([first], waves):
            pool = ray.data.TaskPoolStrategy(size=min(workers, len(some)))
            yield from _outcomes(_rows(some, blocks=len(some)).map(_Guarded(function), num_cpus=1, compute=pool))


def _waves(tasks: Iterable[Any]) -> Iterator[list[Any]]:
    waiting = iter(tasks)
    while some := list(islice(waiting, _WAVE_TASKS)):
        yield some


def _rows(tasks: Sequence[Any], *, blocks: int) -> Any:
    """A Ray dataset of the tasks, which are put into Ray's store here."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    return ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=blocks)


def _outcomes(made: Any) -> Iterator[Any]:
    import ray

    try:
        for row in made.iter_rows():
            yield _raised_or_returned(row["outcome"])
    except ray.exceptions.RayError as error:
        raise RunFailed(_worker_lost(error)) from error


class _Guarded:
    """The function with its problems returned as values: Ray would bury their message in a remote traceback."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"outcome": _guarded(self.function, row["task"])}


class _Actor:
    """The same for an actor, which gives one outcome for each of its tasks."""

    def __init__(self, make: Callable[[], Callable[[Sequence[Any]], Sequence[Any]]]) -> None:
        self.function = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        tasks = list(batch["task"])
        exit_code, value = _guarded(self.function, tasks)
        values = value if exit_code is None else [value] * len(tasks)
        outcomes = np.empty(len(tasks), object)
        outcomes[:] = [(exit_code, one) for one in values]
        return {"outcome": outcomes}


def _guarded(function: Callable[[Any], Any], task: Any) -> tuple[int | None, Any]:
    try:
        return None, function(task)
    except (DataProblem, EnvironmentProblem) as problem:
        return problem.exit_code, str(problem)


def _raised_or_returned(outcome: tuple[int | None, Any]) -> Any:
    exit_code, value = outcome
    if exit_code is None:
        return value
    raise (DataProblem if exit_code == DataProblem.exit_code else EnvironmentProblem)(value)


@contextmanager
def cluster(workers: int) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS, or start a local one with a slot for every worker and end it again.

    What runs tasks within uses the same one, and ends it not.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.data

    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS", "")
    _require_reachable(address)
    local: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **local)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise EnvironmentProblem(_no_head(address or "local Ray", str(error).partition("\n")[0])) from error
    try:
        with redirect_stdout(sys.stderr):  # where Ray prints that a worker died; stdout is for results
            yield
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Ray itself would try for minutes. An address without a port, such as `auto`, is Ray's to look up."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise EnvironmentProblem(_no_head(address, str(error))) from error


def _no_head(address: str, cause: str) -> str:
    return (
        f"No Ray head answers at {address} ({cause}), so no task was started. Start one (make cluster-up), or unset "
        "RAY_ADDRESS to use this machine alone."
    )


def _worker_lost(error: Exception) -> str:
    return (
        f"A task failed on its worker and on every retry ({str(error).splitlines()[0]}). Finished shards are kept, no "
        " manifest was written. Look for lack of memory or a recording that crashes its decoder, then repeat the "
        "same command: it continues where it stopped."
    )
