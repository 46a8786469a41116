"""A function over tasks on many machines; the one file of this package that knows Ray."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from shards.problem import DataProblem, EnvironmentProblem, RunFailed

_CONNECT_SECONDS = 10


def run_tasks(function: Callable[[Any], Any], tasks: Sequence[Any], *, workers: int) -> Iterator[Any]:
    """Yield `function(task)` for every task, in order of completion, at most `workers` at a time.

    Ray Data streams the tasks, one block each; a task whose worker dies is run again elsewhere. A DataProblem or
    EnvironmentProblem raised by the function is raised here; RunFailed when a task killed its worker every time.
    """
    if not tasks:
        return
    with _ray(workers):
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.enable_operator_progress_bars = False
        context.print_on_execution_start = False
        references = [ray.put(task) for task in tasks]
        rows = ray.data.range(len(tasks), override_num_blocks=len(tasks))
        pool = ray.data.TaskPoolStrategy(size=min(workers, len(tasks)))
        outcomes = rows.map(_Guarded(function, references), num_cpus=1, compute=pool)
        try:
            for row in outcomes.iter_rows():
                yield _raised_or_returned(row["outcome"])
        except ray.exceptions.RayError as error:
            raise RunFailed(_worker_lost(error)) from error


class _Guarded:
    """The function with its problems returned as values: Ray would bury their message in a remote traceback."""

    def __init__(self, function: Callable[[Any], Any], references: Sequence[Any]) -> None:
        self.function, self.references = function, references

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        task = ray.get(self.references[row["id"]])
        try:
            return {"outcome": (None, self.function(task))}
        except (DataProblem, EnvironmentProblem) as problem:
            return {"outcome": (problem.exit_code, str(problem))}


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
