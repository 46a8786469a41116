"""A function over tasks on many machines; the one file of this package that knows Ray."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np

from shards.problem import DataProblem, EnvironmentProblem, RunFailed

_CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Actors:
    """Processes that stay: each makes its function once and calls it with some tasks at a time, on a GPU of its own."""

    count: int
    tasks_at_a_time: int = 4


def run_in_actors(
    make: Callable[[], Callable[[Sequence[Any]], Sequence[Any]]], tasks: Sequence[Any], actors: Actors
) -> Iterator[Any]:
    """Yield an outcome for each task, in order of completion; `make()` gives an actor its function of several tasks.

    Actors share no GPU, and take none where the cluster has none. Raises as `run_tasks` does.
    """
    if not tasks:
        return
    with _ray(actors.count + 1):  # one slot is left for what feeds them
        import ray

        count = min(actors.count, -(-len(tasks) // actors.tasks_at_a_time))
        placed: dict[str, Any] = {"num_gpus": 1} if ray.cluster_resources().get("GPU", 0) >= count else {"num_cpus": 1}
        compute = ray.data.ActorPoolStrategy(size=count)
        rows = _rows(tasks, blocks=-(-len(tasks) // actors.tasks_at_a_time))
        given = (make, [ray.put(task) for task in tasks])
        shape: dict[str, Any] = {"batch_size": None, "batch_format": "numpy", "fn_constructor_args": given}
        yield from _outcomes(rows.map_batches(_Actor, compute=compute, **shape, **placed))


def run_tasks(function: Callable[[Any], Any], tasks: Sequence[Any], *, workers: int) -> Iterator[Any]:
    """Yield `function(task)` for every task, in order of completion, at most `workers` at a time.

    Ray Data streams the tasks, one block each; a task whose worker dies is run again elsewhere. A DataProblem or
    EnvironmentProblem raised by the function is raised here; RunFailed when a task killed its worker every time.
    """
    if not tasks:
        return
    with _ray(workers):
        import ray

        pool = ray.data.TaskPoolStrategy(size=min(workers, len(tasks)))
        references = [ray.put(task) for task in tasks]
        rows = _rows(tasks, blocks=len(tasks))
        yield from _outcomes(rows.map(_Guarded(function, references), num_cpus=1, compute=pool))


def _rows(tasks: Sequence[Any], *, blocks: int) -> Any:
    """A Ray dataset of the tasks' numbers."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    return ray.data.range(len(tasks), override_num_blocks=blocks)


def _outcomes(made: Any) -> Iterator[Any]:
    import ray

    try:
        for row in made.iter_rows():
            yield _raised_or_returned(row["outcome"])
    except ray.exceptions.RayError as error:
        raise RunFailed(_worker_lost(error)) from error


class _Guarded:
    """The function with its problems returned as values: Ray would bury their message in a remote traceback."""

    def __init__(self, function: Callable[[Any], Any], references: Sequence[Any]) -> None:
        self.function, self.references = function, references

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        return {"outcome": _guarded(self.function, ray.get(self.references[row["id"]]))}


class _Actor:
    """The same for an actor, which gives one outcome for each of its tasks."""

    def __init__(self, make: Callable[[], Callable[[Sequence[Any]], Sequence[Any]]], references: Sequence[Any]) -> None:
        self.function, self.references = make(), references

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import ray

        tasks = ray.get([self.references[number] for number in batch["id"]])
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
def _ray(workers: int) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS, or start a local one with a slot for every worker and end it again."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.data

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
