"""Train a model from shards; the same command again continues, or says that it is complete.

    sonograph train myna:base --size laptop --data.dataset datasets/nsynth --workers 2

About 15 s pass until the first step on two cores; a checkpoint with its validation loss costs a few steps.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch

from shards.example import Batch
from shards.problem import RunFailed
from shards.store import write_json
from trainers import checkpoint
from trainers.command_line import Command, parse
from trainers.config import config_to_dict
from trainers.driver import attend, describe, register, set_aside, settle, sole_trainer
from trainers.eviction import is_told
from trainers.global_batch import gather, rank, world_size
from trainers.pace import Pace
from trainers.schedule import learning_rate
from trainers.task import TRAIN, VALID, Task, prepare, run_folder
from trainers.tracking import Run, events

if TYPE_CHECKING:
    from trainers.engine import Engine

log = logging.getLogger(__name__)
_NAMED_EXAMPLES = 16


def COMMAND(words: list[str]) -> Command:
    """Read the command line and fill in the run folder that it means; a config that is only printed has none."""
    command = parse(words)
    return command if command.print_config else replace(command, out=command.out or run_folder(command.config))


def main(command: Command) -> dict[str, object]:
    """Train to the end, or as far as a signal allows; register the best checkpoint."""
    if command.print_config:
        return {"output": json.dumps(config_to_dict(command.config), indent=1)}
    task = prepare(command)
    if command.dry_run:
        print(json.dumps(config_to_dict(command.config), indent=1))
        return {"output": str(command.out), "metrics": {}, "steps": task.steps, "identity": task.identity}
    if command.fresh:
        set_aside(task.run)
    with sole_trainer(task.run):
        settle(task)
        if is_complete(task):
            log.info("train %s  step %d/%d  complete since an earlier call", task.config.name, task.steps, task.steps)
        else:
            pursue([task])
    return {"output": str(command.out), "metrics": outcome(task)}


def train(task: Task, run: "Narrator") -> int:
    """The loop: runs on every worker, from the newest checkpoint on. Returns the step it came to."""
    from trainers.engine import Engine  # deepspeed takes seconds to import; only workers need it

    config = task.config
    loader, validation = (load(rank(), world_size()) for load in (task.training, task.validation))
    engine = Engine(
        task.objective(),
        optimizer=config.optimizer,
        engine=config.engine,
        learning_rate=lambda step: learning_rate(
            step, optimizer=config.optimizer, steps_per_epoch=task.steps_per_epoch, epochs=config.epochs
        ),
        batch_examples=config.data.batch_examples,
    )
    step = checkpoint.resume(engine, task.checkpoints, identity=task.identity)
    run.tags({"training.from_step": step})
    pace = Pace(loader, step, **task.costs(engine.device))
    for batch in loader.from_step(step, task.steps):
        batch = batch.to(engine.device)
        metrics = engine.step(batch)
        if engine.refusal:
            metrics = pass_over(task, engine, batch, run)
        step += 1
        is_asked_to_end = engine.on_any_rank(is_told() or task.stop_file.exists())
        if is_asked_to_end:
            task.stop_file.touch()  # a command whose worker was told to end ends as if it had been told itself
        is_last = is_asked_to_end or step == task.steps
        if is_last or step % config.log_every_steps == 0:
            run.metrics(step, _named(TRAIN, {**metrics, **pace.since_last(step)}))
        if is_last or step % config.save_every_steps == 0:
            held_out = engine.evaluate(validation.from_step(0, validation.steps_per_epoch))
            run.metrics(step, _named(VALID, held_out))
            about = {**task.about, "validation_loss": held_out["loss"]}
            checkpoint.save(engine, task.checkpoints, about=about, keep=config.keep_checkpoints)
        if is_last:
            break
    return step


def work(tasks: Sequence[Task]) -> None:
    """What one worker does: one training after the other, until one of them is stopped or fails."""
    for task in tasks:
        if work_on(task) != task.steps:
            return


def work_on(task: Task) -> int | None:
    """The loop, and a note for the command when a restart could not cure its end: then None."""
    if task.problem_file.exists():
        return None
    try:
        return train(task, Run(task.run) if rank() == 0 else Silence())
    except (RuntimeError, OSError):  # a lost neighbour looks like this: the group is started again
        raise
    except Exception as error:
        message = str(error) if hasattr(error, "exit_code") else f"{type(error).__name__}: {error}"
        write_json(task.problem_file, {"message": message, "exit_code": getattr(error, "exit_code", 1)})
        if isinstance(error, RunFailed):  # found by all ranks at once, so all end here
            return None
        raise


def pursue(tasks: Sequence[Task], *, parent: str = "") -> None:
    """Train on workers what is not trained yet, in sight of MLflow, and register the best checkpoint of each.

    `parent` is the MLflow run under which these are shown.
    """
    from trainers.mirror import mirror  # mlflow takes seconds to import; a complete run needs none of it

    waiting = [task for task in tasks if checkpoint.newest_step(task.checkpoints, task.identity) < task.steps]
    with ExitStack() as shown:
        for task in tasks:
            run = Run(task.run)
            shown.enter_context(mirror(task.run, experiment=f"{task.config.system}-pretrain", run_name=task.run.name))
            shown.enter_context(run.alive())
            run.tags({"mlflow.parentRunId": parent} if parent else {})
            describe(run, task)
        if waiting:
            attend(waiting, work)
        for task in tasks:
            register(Run(task.run), task)


def pass_over(task: Task, engine: "Engine", batch: Batch, run: "Narrator") -> dict[str, float]:
    """Note a batch whose gradient was refused, by its step and its examples; returns what is logged instead.

    Raises RunFailed on all ranks together when the budget of such batches is used up.
    """
    step, budget = engine.steps - 1, task.config.engine.skip_budget
    suspects = _suspects(task, batch)
    if engine.refused <= budget:
        run.tags({f"skipped.step-{step:08d}": f"{engine.refusal}. {suspects}"})
        return {"skipped": float(engine.refused)}
    raise RunFailed(
        f"The batch of step {step} was refused: {engine.refusal}, and it changed no weight. {suspects} "
        f"{engine.refused - 1} batches were skipped before it, {budget} may be. Repair the dataset if they should not "
        "be there (sonograph verify), otherwise lower --optimizer.lr, give --engine.clip-norm or a larger "
        "--engine.skip-budget; the newest checkpoint is whole."
    )


def _suspects(task: Task, batch: Batch) -> str:
    """The examples of a batch that hold no numbers; all of them when none does."""
    whole = torch.stack([view.isfinite().flatten(1).all(dim=1) for view in batch.views]).all(dim=0)
    rows = gather(torch.stack([batch.index.double(), whole.double()], dim=1)).long()
    real = rows[rows[:, 0] >= 0]
    broken = real[real[:, 1] == 0]
    suspects, verdict = (broken, "hold values that are no numbers") if len(broken) else (real, "are finite themselves")
    names = task.names(suspects[:_NAMED_EXAMPLES, 0].cpu().numpy().astype(np.int64))
    more = " …" if len(suspects) > _NAMED_EXAMPLES else ""
    return f"Of its {len(real)} examples these {verdict}: {', '.join(names)}{more}."


@runtime_checkable
class Narrator(Protocol):
    """What the loop tells; only rank 0 writes it down."""

    def metrics(self, step: int, values: Mapping[str, Any]) -> None: ...
    def tags(self, values: Mapping[str, Any]) -> None: ...


class Silence:
    """The Narrator of ranks above 0."""

    def metrics(self, step: int, values: Mapping[str, Any]) -> None: ...
    def tags(self, values: Mapping[str, Any]) -> None: ...


def _named(split: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in values.items()}


def is_complete(task: Task) -> bool:
    """Whether nothing is left to do. Raises DataProblem when the folder's checkpoints are of another training."""
    trained = checkpoint.newest_step(task.checkpoints, task.identity) == task.steps
    statuses = [event.fields["status"] for event in events(task.run) if event.kind == "status"]
    return trained and statuses[-1:] == ["FINISHED"]


def outcome(task: Task) -> dict[str, object]:
    """Where the training ended, and its best checkpoint."""
    best = json.loads((task.checkpoints / checkpoint.BEST).read_bytes())
    return {"step": task.steps, "best_checkpoint": best["checkpoint"], "validation_loss": best["validation_loss"]}


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("train")
