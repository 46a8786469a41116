"""Train a model from shards; the same command again continues, or says that it is complete.

    sonograph train myna:base --size laptop --data.dataset datasets/nsynth --workers 2

About 15 s pass until the first step on two cores; a checkpoint with its validation loss costs a few steps.
"""

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from shards.example import Batch
from shards.loader import Loader
from shards.problem import RunFailed
from shards.store import write_json
from trainers import checkpoint
from trainers.config import Command, config_to_dict, parse
from trainers.driver import attend, describe, register, set_aside, settle, sole_trainer
from trainers.global_batch import gather, rank, world_size
from trainers.task import TRAIN, VALID, Task, prepare, run_folder
from trainers.tracking import Run, events

log = logging.getLogger(__name__)
_NAMED_EXAMPLES = 16


def COMMAND(words: list[str]) -> Command:
    """Read the command line and fill in the run folder that it means."""
    command = parse(words)
    return replace(command, out=command.out or run_folder(command.config))


def main(command: Command) -> dict[str, object]:
    """Train to the end, or as far as a signal allows; register the best checkpoint."""
    task = prepare(command)
    if command.dry_run:
        print(json.dumps(config_to_dict(command.config), indent=1))
        return {"output": str(command.out), "metrics": {}, "steps": task.steps, "identity": task.identity}
    if command.fresh:
        set_aside(task.run)
    with sole_trainer(task.run):
        settle(task)
        step = checkpoint.newest_step(task.checkpoints, task.identity, workers=task.workers)
        if step == task.steps and _is_finished(task.run):
            log.info("train %s  step %d/%d  complete since an earlier call", task.config.name, step, step)
        else:
            pursue(task, is_trained=step == task.steps)
    return {"output": str(command.out), "metrics": _outcome(task)}


def train(task: Task, run: "Narrator") -> int:
    """The loop: runs on every worker, from the newest checkpoint on. Returns the step it came to."""
    from trainers.engine import Engine, learning_rate  # deepspeed takes seconds to import; only workers need it

    config = task.config
    loader, validation = (load(rank(), world_size()) for load in (task.training, task.validation))
    engine = Engine(
        checkpoint.build_objective(config),
        optimizer=config.optimizer,
        engine=config.engine,
        learning_rate=lambda step: learning_rate(
            step, optimizer=config.optimizer, steps_per_epoch=task.steps_per_epoch, epochs=config.epochs
        ),
        batch_examples=config.data.batch_examples,
    )
    step = checkpoint.resume(engine, task.checkpoints, identity=task.identity)
    run.tags({"training.from_step": step})
    pace = Pace(loader, step)
    for batch in loader.from_step(step, task.steps):
        batch = batch.to(engine.device)
        metrics = engine.step(batch)
        require_finite(metrics, batch, step)
        step += 1
        is_last = engine.on_any_rank(task.stop_file.exists()) or step == task.steps
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


def work(task: Task) -> int | None:
    """What one worker does: the loop, and a note for the command when a restart could not cure its end."""
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


def pursue(task: Task, *, is_trained: bool) -> None:
    """Train on workers what is not trained yet, in sight of MLflow, then register the best checkpoint."""
    from trainers.mirror import mirror  # mlflow takes seconds to import; a complete run needs none of it

    run = Run(task.run)
    with mirror(task.run, experiment=f"{task.config.system}-pretrain", run_name=task.run.name), run.alive():
        describe(run, task)
        if not is_trained:
            attend(task, work)
        register(run, task)


def require_finite(metrics: Mapping[str, float], batch: Batch, step: int) -> None:
    """Stop at a loss that is no number, on all ranks together. Raises RunFailed naming the examples."""
    if math.isfinite(metrics["loss"]):
        return
    whole = torch.stack([view.isfinite().flatten(1).all(dim=1) for view in batch.views]).all(dim=0)
    rows = gather(torch.stack([batch.index.double(), whole.double()], dim=1)).long()
    real = rows[rows[:, 0] >= 0]
    broken = real[real[:, 1] == 0]
    suspects, verdict = (broken, "hold values that are no numbers") if len(broken) else (real, "are finite themselves")
    named = ", ".join(str(int(index)) for index in suspects[:_NAMED_EXAMPLES, 0])
    raise RunFailed(
        f"The loss of step {step} is {metrics['loss']}, so its weights mean nothing and were not saved. Of the "
        f"{len(real)} examples in the batch these {verdict}: {named}{' …' if len(suspects) > _NAMED_EXAMPLES else ''}. "
        "Repair the dataset if they should not be there (sonograph verify), otherwise lower --optimizer.lr or give "
        "--engine.clip-norm; the newest checkpoint is whole."
    )


@runtime_checkable
class Narrator(Protocol):
    """What the loop tells; only rank 0 writes it down."""

    def metrics(self, step: int, values: Mapping[str, Any]) -> None: ...
    def tags(self, values: Mapping[str, Any]) -> None: ...


class Silence:
    """The Narrator of ranks above 0."""

    def metrics(self, step: int, values: Mapping[str, Any]) -> None: ...
    def tags(self, values: Mapping[str, Any]) -> None: ...


class Pace:
    """Examples a second, and the part of the time that went into waiting for data."""

    def __init__(self, loader: Loader, step: int) -> None:
        self._loader = loader
        self._mark = time.perf_counter(), loader.wait_seconds, step

    def since_last(self, step: int) -> dict[str, float]:
        """Measured since the call before, checkpoints included."""
        began, waited, first = self._mark
        self._mark = now, waits, _ = time.perf_counter(), self._loader.wait_seconds, step
        examples = (step - first) * self._loader.batch_examples
        return {"examples_per_second": examples / (now - began), "data_wait": (waits - waited) / (now - began)}


def _named(split: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in values.items()}


def _is_finished(run: Path) -> bool:
    statuses = [event.fields["status"] for event in events(run) if event.kind == "status"]
    return statuses[-1:] == ["FINISHED"]


def _outcome(task: Task) -> dict[str, object]:
    best = json.loads((task.checkpoints / checkpoint.BEST).read_bytes())
    return {"step": task.steps, "best_checkpoint": best["checkpoint"], "validation_loss": best["validation_loss"]}


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("train")
