"""The members of a sweep as stacks on workers: who stands in which, their progress, and their runs in MLflow.

A stack is one function with its own exact state, so plain Ray tasks carry it: one that is killed is tried again and
goes on after its last epoch, and nothing of it waits for another.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from shards.problem import RunFailed, UsageProblem
from shards.store import digest_of
from trainers.config import TrainConfig
from trainers.driver import describe
from trainers.models.multiview import MultiviewConfig
from trainers.stack_probes import probe_stack
from trainers.stack_training import newest_state, train_stack
from trainers.task import Task
from trainers.tracking import Run
from trainers.train import is_complete

log = logging.getLogger(__name__)
_POLL_SECONDS, _LOG_SECONDS = 1.0, 30.0
_OWN = ("variant", "objective", "model")  # what a member may have for itself


@dataclass(frozen=True)
class Job:
    """What one worker does: a stack, whose state lies in `folder`."""

    tasks: Sequence[Task]
    folder: Path

    @property
    def steps(self) -> int:
        """Of each member, from its beginning."""
        return self.tasks[0].steps

    @property
    def step(self) -> int:
        """How far it is."""
        state = newest_state(self.folder)
        return int(state.name.rpartition("-")[2]) if state else 0


def likeness(config: TrainConfig) -> tuple[object, ...]:
    """What members of one stack have in common: all but their losses, and that some have no decoder.

    Raises UsageProblem for a model that cannot be stacked.
    """
    if not isinstance(config.model, MultiviewConfig):
        raise UsageProblem(
            f"{config.name} is no multi-view autoencoder, and no other can be stacked. Give --stack 0, which trains "
            "one member after the other."
        )
    common = [getattr(config, each.name) for each in fields(config) if each.name not in _OWN]
    return (*common, replace(config.model, decoder=True))


def stacks_of(tasks: Iterable[Task], most: int) -> list[list[Task]]:
    """Tasks that can stand together, in their order, divided evenly into stacks of at most `most`."""
    alike: dict[tuple[object, ...], list[Task]] = {}
    for task in tasks:
        alike.setdefault(likeness(task.config), []).append(task)
    return [
        [group[place] for place in part]
        for group in alike.values()
        for part in np.array_split(np.arange(len(group)), -(-len(group) // most))
    ]


def pursue_stacks(
    stacks: Sequence[Sequence[Task]], folder: Path, *, titles: Mapping[Path, str], parent: str, workers: int
) -> None:
    """Train and probe what is not complete, and show every member in MLflow under `parent` when its stack is done.

    `titles` names the members by their run folders. Raises what a stack failed of, when all the others are done.
    """
    from trainers.launch import spread  # ray takes seconds to import

    jobs = [Job(stack, folder / digest_of([task.identity for task in stack])[:8]) for stack in stacks]
    for job in jobs:
        for task in job.tasks:
            _describe(task, titles[task.run], parent)
    began, said, first = time.monotonic(), 0.0, sum(job.step for job in jobs)
    done: set[int] = set()
    for ended in spread(work, jobs, workers=min(workers, len(jobs)), poll_seconds=_POLL_SECONDS):
        done |= set(ended)
        if ended or time.monotonic() - said > _LOG_SECONDS:
            said = time.monotonic()
            _report(jobs, done, first, said - began)
        for place in ended:
            _mirror([task.run for task in jobs[place].tasks])


def work(job: Job) -> None:
    """Train a stack, then ask about those of its members that came to their end."""
    failure = None
    try:
        train_stack(job.tasks, job.folder)
    except RunFailed as problem:
        failure = problem
    if complete := [task for task in job.tasks if is_complete(task)]:
        probe_stack(complete)
    if failure:
        raise failure


def _report(jobs: Sequence[Job], done: set[int], first: int, seconds: float) -> None:
    taken = sum(job.steps if place in done else job.step for place, job in enumerate(jobs))
    left, rate = sum(job.steps for job in jobs) - taken, (taken - first) / max(seconds, 1e-9)
    eta = f"  eta {left / rate / 60:.0f} min" if rate > 0 and left else ""
    log.info("sweep  stacks %d/%d  step %s/%s%s", len(done), len(jobs), f"{taken:,}", f"{taken + left:,}", eta)


def _describe(task: Task, title: str, parent: str) -> None:
    run = Run(task.run)
    run.title(f"sonograph/{task.config.system}-pretrain", title)
    run.tags({"mlflow.parentRunId": parent} if parent else {})
    describe(run, task)


def _mirror(folders: Sequence[Path]) -> None:
    """Copy what these runs have to tell, once; what cannot be sent waits for `sonograph sync`."""
    from trainers.mirror import Busy, Unreachable, sole_replay
    from trainers.mlflow_store import store_address

    for place, folder in enumerate(folders):
        try:
            with sole_replay(folder, store_address()) as replay:
                replay.catch_up()
        except (Unreachable, Busy) as error:
            waiting = " ".join(str(each) for each in folders[place:])
            log.warning("mlflow  %s; upload what waits with: sonograph sync %s", error, waiting)
            return
