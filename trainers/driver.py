"""What the command does around its workers: holds the run folder, starts them, passes signals on, shows the outcome."""

import fcntl
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from shards.manifest import Manifest
from shards.problem import DataProblem, EnvironmentProblem, RunFailed, UsageProblem
from shards.store import write_json
from trainers import checkpoint
from trainers.command_line import words_of
from trainers.config import config_to_dict, identity, read_config
from trainers.progress import Progress
from trainers.provenance import provenance
from trainers.spectrogram import views_figure
from trainers.task import TRAIN, VALID, Task
from trainers.tracking import Run, Signature

log = logging.getLogger(__name__)
CONFIG, _LOCK = "config.json", "train.lock"
_POLL_SECONDS, _GRACE_SECONDS, _ATTEMPTS = 0.5, 60.0, 8
_TERMINATED = 128 + signal.SIGTERM
_PROBLEMS = {problem.exit_code: problem for problem in (UsageProblem, DataProblem, EnvironmentProblem, RunFailed)}


@contextmanager
def sole_trainer(folder: Path) -> Iterator[None]:
    """Hold the run folder; a killed holder frees it. Raises EnvironmentProblem when another command trains there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentProblem(
                f"Another command is training in {folder}, and two would overwrite each other's checkpoints. Wait for "
                "it, or choose another --out."
            ) from None
        yield


def set_aside(folder: Path) -> None:
    """Rename an earlier run, so that its name is free. Nothing is deleted."""
    if not (folder / CONFIG).exists():
        return
    number = 1
    while (place := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    with sole_trainer(folder):
        folder.rename(place)
    log.info("the earlier run is now %s", place)


def settle(task: Task) -> None:
    """Make the run folder, or recognise it. Raises UsageProblem or DataProblem when it holds something else."""
    path = task.run / CONFIG
    if path.exists():
        there = identity(read_config(task.run), task.manifest.fingerprint)
        checkpoint.require_same(there, task.identity, task.run)
    elif odd := {entry.name for entry in task.run.iterdir()} - {"RESULT.json", _LOCK}:
        raise UsageProblem(
            f"{task.run} is no run folder: it holds {min(odd)} and no {CONFIG}, so nothing was written into it. Choose "
            "an --out that does not exist yet."
        )
    write_json(path, config_to_dict(task.config))


def attend(tasks: Sequence[Task], work: Callable[[Sequence[Task]], Any]) -> None:
    """Run the workers, show their progress, pass signals on to them, and raise the problem that ended them.

    One group of workers does all `tasks` in turn. Ctrl-C and SIGTERM let the step end and write a checkpoint; a second
    one does not wait for it. A SIGTERM that a worker got ends the command in the same way.
    """
    for task in tasks:
        task.stop_file.unlink(missing_ok=True)
        task.problem_file.unlink(missing_ok=True)
    every, outcome = [Progress(task) for task in tasks], Future[Any]()
    threading.Thread(target=_launch, args=(tasks, work, outcome), name="launch", daemon=True).start()
    several = f" for {len(tasks)} trainings" if len(tasks) > 1 else ""
    log.info("train %s  starting %d workers%s", tasks[0].config.name, tasks[0].workers, several)
    try:
        while not outcome.done():
            wait([outcome], timeout=_POLL_SECONDS)
            _keep_signals()
            for progress in every:
                progress.report()
    except (KeyboardInterrupt, SystemExit):
        if any(progress.began for progress in every):
            log.info("train %s  stopping: the workers end this step and write a checkpoint", tasks[0].config.name)
            _stop(tasks, outcome)
            for progress in every:
                progress.report()
        _abandon(outcome)
        raise
    for task in tasks:
        if task.problem_file.exists():
            problem = json.loads(task.problem_file.read_bytes())
            raise _PROBLEMS.get(problem["exit_code"], RunFailed)(problem["message"])
    outcome.result()
    if any(task.stop_file.exists() for task in tasks):
        raise SystemExit(_TERMINATED)


def _stop(tasks: Sequence[Task], outcome: "Future[Any]") -> None:
    """Ask the workers to end, and wait for their checkpoint as long as a scheduler would."""
    for task in tasks:
        task.stop_file.touch()
    wait([outcome], timeout=_GRACE_SECONDS)
    for task in tasks:
        task.stop_file.unlink(missing_ok=True)


def describe(run: Run, task: Task) -> None:
    """Settings, inputs and a look at the data, for whoever compares runs."""
    repeat = ["sonograph", *words_of(task.config), "--workers", str(task.workers), "--out", _from_here(task.run)]
    run.tags({**provenance(repeat), "data.digest": task.manifest.fingerprint})
    run.params({**config_to_dict(task.config), "workers": task.workers, "steps": task.steps})
    for split, context in ((TRAIN, "training"), (VALID, "validation")):
        manifest = Manifest.read(task.dataset / split)
        source = str(task.dataset / split)
        run.dataset(
            f"{manifest.corpus}/{split}", digest=manifest.fingerprint, source=source, context=context, split=split
        )
    if task.hears_mels and not (run.folder / "plots" / "views.png").exists():
        run.figure("views", views_figure(task.unchanged.training().batch(0).to("cpu")))


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def register(run: Run, task: Task) -> None:
    """Offer the checkpoint of the lowest validation loss as `candidate` of the registered model SYSTEM-VARIANT."""
    folder = checkpoint.checkpoint_folder(task.run)
    model, _ = checkpoint.open_model(folder)
    example = task.unchanged.validation().batch(0).to("cpu").views[0][:2]
    with torch.inference_mode():
        width = model(example).shape[1]
    signature = Signature((-1, *example.shape[1:]), (-1, width))
    name = f"{task.config.system}-{task.config.variant}"
    run.model(folder, name, alias="candidate", signature=signature, example=example.numpy())


def _keep_signals() -> None:
    """Take SIGTERM back from Ray, whose own handler prints a stack trace and delivers the signal twice."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _abandon(outcome: "Future[Any]") -> None:
    """End Ray under the thread that still waits for it: the interpreter would crash on leaving both."""
    from trainers.launch import shut_down

    for _ in range(_ATTEMPTS):  # it may be starting just now, and can be ended only when it has
        if not outcome.done():
            shut_down()
            wait([outcome], timeout=1.0)


def _launch(tasks: Sequence[Task], work: Callable[[Sequence[Task]], Any], outcome: "Future[Any]") -> None:
    try:
        from trainers.launch import on_workers

        outcome.set_result(on_workers(work, tasks, workers=tasks[0].workers, folder=tasks[0].run / "ray"))
    except BaseException as error:
        outcome.set_exception(error)
