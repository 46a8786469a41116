"""A function on N workers that share a process group, started again when one is lost. Alone imports ray here.

    last_step = on_workers(work, task, workers=2, folder=run / "ray")

Uses the cluster that RAY_ADDRESS names, as inside a Ray job, otherwise a local Ray that ends with the command. About
15 s pass until the function runs, on two cores.
"""

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths keep their meaning in a worker

import ray
import ray.train
import torch
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer

from shards.problem import EnvironmentProblem, RunFailed
from trainers.eviction import heed

log = logging.getLogger(__name__)
Argument = TypeVar("Argument")
_RESTARTS = 3
_CONNECT_SECONDS = 10.0
_COLLECTIVE_SECONDS = 1800


def on_workers(work: Callable[[Argument], Any], argument: Argument, *, workers: int, folder: Path) -> Any:
    """Run `work(argument)` on every worker; returns what rank 0 returns.

    When a worker dies, all are started again, at most three times: `work` must continue from its own checkpoints.
    A worker that is told to end by SIGTERM goes on: `work` has to ask trainers/eviction.py, and to return soon.
    Raises EnvironmentProblem when the cluster cannot be reached, RunFailed when the workers keep failing.
    """
    with _cluster(workers):
        resources = ray.cluster_resources()
        on_gpus = resources.get("GPU", 0) >= workers
        if (cores := int(resources.get("CPU", 0))) < workers:
            log.warning("the cluster has %d CPUs for %d workers; waiting until it has more", cores, workers)
        trainer = TorchTrainer(
            _work_in_group,
            train_loop_config={"work": work, "argument": argument},
            torch_config=_Group("nccl" if on_gpus else "gloo", timeout_s=_COLLECTIVE_SECONDS),
            scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=on_gpus),
            run_config=ray.train.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent),
                failure_config=ray.train.FailureConfig(max_failures=_RESTARTS),
            ),
        )
        try:
            return trainer.fit().return_value  # type: ignore[attr-defined]
        except ray.train.TrainingFailedError as error:
            raise RunFailed(_failure(error)) from error


def spread(
    work: Callable[[Argument], Any], arguments: Sequence[Argument], *, workers: int, poll_seconds: float
) -> Iterator[list[int]]:
    """Run `work` on every argument, `workers` at a time, each alone in a process; gives the places that are done.

    Gives an empty list every `poll_seconds` while nothing ends. When a process dies, its argument is tried again, at
    most three times: `work` must continue from its own state. When one fails, the others go on, and its problem is
    raised at the end.
    """
    with _cluster(workers):
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))  # Ray's own handler prints a stack trace
        cores = int(ray.cluster_resources().get("CPU", workers))
        gpus = min(1.0, ray.cluster_resources().get("GPU", 0) / workers)
        begin: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_RESTARTS)(_alone)
        waiting, running, problems = [*range(len(arguments))], dict[Any, int](), list[Exception]()
        while waiting or running:
            while waiting and len(running) < workers:
                place = waiting.pop(0)
                running[begin.remote(work, arguments[place], max(1, cores // workers))] = place
            ended, _ = ray.wait([*running], timeout=poll_seconds)
            problems += [problem for each in ended if (problem := _problem_of(each))]
            yield [running.pop(each) for each in ended]
        if problems:
            raise problems[0]


def _alone(work: Callable[[Argument], Any], argument: Argument, threads: int) -> None:
    torch.set_num_threads(threads)
    work(argument)


def _problem_of(ended: Any) -> Exception | None:
    """What a task failed of, in our own words where it has some."""
    try:
        ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        return error.cause if hasattr(error.cause, "exit_code") else RunFailed(str(error).strip().splitlines()[-1])
    except ray.exceptions.RayError as error:
        return RunFailed(f"A worker was lost {_RESTARTS + 1} times: {str(error).splitlines()[0]}. Repeat the command.")
    return None


def shut_down() -> None:
    """End a local Ray, or leave the cluster, whatever it is doing; `on_workers` then raises in its own thread."""
    ray.shutdown()


class _Group(TorchConfig):
    """A process group whose members heed SIGTERM, at which Ray's own workers exit at once."""

    @property
    def backend_cls(self) -> type[Backend]:
        class Heeding(super().backend_cls):  # type: ignore[misc]
            def on_training_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
                super().on_training_start(worker_group, backend_config)
                worker_group.execute(heed)  # in the main thread; the work runs in another

        return Heeding


def _work_in_group(config: dict[str, Any]) -> Any:
    """Runs on a worker: its share of the machine's cores, then the work."""
    neighbours = ray.train.get_context().get_local_world_size()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // neighbours))
    return config["work"](config["argument"])


@contextmanager
def _cluster(workers: int) -> Iterator[None]:
    address = os.environ.get("RAY_ADDRESS", "")
    if address:
        _require_reachable(address)
    local: dict[str, Any] = (
        {} if address else {"num_cpus": max(len(os.sched_getaffinity(0)), workers), "include_dashboard": False}
    )
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise EnvironmentProblem(_no_cluster(address or "local Ray", str(error).partition("\n")[0])) from error
    try:
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
        raise EnvironmentProblem(_no_cluster(address, str(error))) from error


def _no_cluster(address: str, cause: str) -> str:
    return (
        f"No Ray cluster answers at {address} ({cause}), so nothing was trained. Start one (make cluster-up) or "
        "correct RAY_ADDRESS and the token; without RAY_ADDRESS a local Ray is started for the command."
    )


def _failure(error: ray.train.TrainingFailedError) -> str:
    failures = {f"worker {rank}": cause for rank, cause in getattr(error, "worker_failures", {}).items()}
    who, cause = next(iter(failures.items()), ("Ray Train itself", error))
    last_line = str(cause).strip().splitlines()[-1]
    return (
        f"The workers could not go on, after at most {_RESTARTS} restarts; in the end {who} said: {last_line}. The "
        "checkpoints are whole. Remove the cause (logs: /tmp/ray/session_latest/logs), then repeat the command: it "
        "continues."
    )
