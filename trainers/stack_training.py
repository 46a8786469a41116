"""A stack from its first step to its members' run folders: features in memory, exact state after every epoch.

Each member sees the batches that `sonograph train` would show it, is validated at the same steps, and ends as a run
folder like any other: config, checkpoints with cards, the best one by validation.
"""

import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shards.example import Batch
from shards.loader import Loader
from shards.problem import RunFailed, UsageProblem
from shards.store import PARTIAL, write_json
from trainers import checkpoint
from trainers.config import EngineConfig
from trainers.models.multiview import Multiview
from trainers.objectives.multiview import MultiviewObjective
from trainers.schedule import learning_rate
from trainers.stacked import Seen, Stack, numbers
from trainers.task import Task
from trainers.tensor_files import TensorFiles, write_tensors
from trainers.tracking import Run
from trainers.train import is_complete

log = logging.getLogger(__name__)
PROGRESS = "progress.json"
_READ_EXAMPLES = 256
_LOSSES = ("best_loss", "last_loss")
_SETTINGS = ("precision", "accumulation_steps", "clip_norm", "ema_decay", "spike_deviations")
Metrics = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Held:
    """The features of a split in memory, and which of them each batch shows."""

    features: Float[Tensor, "rows steps bands"]
    rows: Int[np.ndarray, " rows"]
    loader: Loader

    @property
    def batches(self) -> int:
        """In an epoch."""
        return self.loader.steps_per_epoch

    def seen(self, steps: range) -> Iterator[Seen]:
        """The batches that the loader would give at `steps`."""
        share = self.loader.share(steps)
        shown = self.loader.lineups[0].shown(share.draw, seed=self.loader.seed)
        views = self.loader.views.count
        rows = np.broadcast_to(shown.rows, (len(shown.rows), views)).reshape(len(steps), -1, views)
        places = torch.from_numpy(np.searchsorted(self.rows, rows)).mT
        for place, index in zip(places, torch.from_numpy(shown.index).view(len(steps), -1), strict=True):
            device = self.features.device
            yield Seen(self.features[place.to(device)], index.to(device))

    def batched(self, steps: range) -> Iterator[Batch]:
        """The same for an objective of one member, before anything is standardised."""
        for seen in self.seen(steps):
            count = len(seen.index)
            seeds = torch.zeros(count, len(seen.features), dtype=torch.int64)
            yield Batch(seen.index, torch.ones(count), tuple(seen.features.mT.unbind()), seeds)


@dataclass
class Standing:
    """How far a stack has come, and the best of each member."""

    step: int
    best_loss: list[float]
    best_step: list[int]
    """0: no validation loss was a number yet."""
    last_loss: list[float]

    def written(self) -> dict[str, Any]:
        """In JSON types, which have no inf and no nan."""
        plain = {name: [x if math.isfinite(x) else None for x in getattr(self, name)] for name in _LOSSES}
        return {**vars(self), **plain}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Standing":
        """The inverse of `written`."""
        return cls(**{**content, **{name: [math.inf if x is None else x for x in content[name]] for name in _LOSSES}})


def held(loader: Loader, model: Multiview) -> Held:
    """Read every row that can be shown, once. Raises UsageProblem where views are crops: they differ every epoch."""
    (lineup,), frames = loader.lineups, loader.views.frames
    rows, reader = lineup.cast.anchors, lineup.reader
    if (reader.frames[rows] != frames).any():
        raise UsageProblem(
            f"{reader.folder} has examples of more than {frames} frames, of which every epoch shows others, so they "
            "cannot be kept in memory for a stack. Give --data.frames and --model.frames the length of all, or --stack "
            "0, which trains one member after the other."
        )
    parts = []
    for chunk in np.array_split(rows, math.ceil(len(rows) / _READ_EXAMPLES)):
        stored = torch.stack([torch.from_numpy(array) for array in reader.arrays(chunk)])
        raw = model.raw(reader.restore(stored))
        parts.append(raw if raw.ndim == 3 else raw[:, None])
    return Held(torch.cat(parts), rows, loader)


def require_stackable(task: Task) -> None:
    """Raises UsageProblem for a training whose steps a stack does not take."""
    engine, plain = task.config.engine, EngineConfig()
    if odd := [name for name in _SETTINGS if getattr(engine, name) != getattr(plain, name)]:
        given = ", ".join(f"engine.{name}={getattr(engine, name)}" for name in odd)
        raise UsageProblem(
            f"{given} is more than a stack does: its members step in float32, each with its whole batch, without "
            "clipping or averages. Leave these options out, or give --stack 0, which trains one member after the other."
        )


def train_stack(tasks: Sequence[Task], folder: Path) -> None:
    """Train the members that are not complete, from the stack's newest state on; afterwards all are, or have failed.

    `folder` holds the state of this stack alone. Raises RunFailed, when all the others are complete, for members whose
    loss was never a number.
    """
    if all(is_complete(task) for task in tasks):
        return
    training = _Training.begun(tasks, folder)
    for run in training.runs:
        run.tags({"training.from_step": training.standing.step})
    for epoch in range(training.standing.step // training.train.batches, tasks[0].config.epochs):
        training.run_epoch(epoch)
        training.write()
    training.finish()
    shutil.rmtree(folder)


class _Training:
    """A stack with its data, what is best, and where its state lies."""

    def __init__(self, tasks: Sequence[Task], folder: Path, objectives: list[MultiviewObjective], data: Sequence[Held]):
        self.tasks, self.folder, self.config = tasks, folder, tasks[0].config
        device, model = "cuda" if torch.cuda.is_available() else "cpu", objectives[0].model
        self.stack = Stack(objectives, self.config.optimizer, device)
        self.train, self.valid = (replace(e, features=model.standardised(e.features).to(device)) for e in data)
        self.runs = [Run(task.run) for task in tasks]
        self.best = {name: weight.detach().clone() for name, weight in self.stack.weights.items()}
        members = len(tasks)
        self.standing = Standing(0, [math.inf] * members, [0] * members, [math.inf] * members)

    @classmethod
    def begun(cls, tasks: Sequence[Task], folder: Path) -> "_Training":
        """From the newest state, with the members that it has; without one all that are not complete, from step 0."""
        state, named = newest_state(folder), {task.run.name: task for task in tasks}
        progress = json.loads((state / PROGRESS).read_bytes()) if state else {}
        if state:
            tasks = [named[name] for name in progress["members"]]
        else:
            tasks = [task for task in tasks if not is_complete(task)]
        objectives = [_objective(task) for task in tasks]
        data = [held(loader, objectives[0].model) for loader in (tasks[0].training(), tasks[0].validation())]
        if state is None:
            for objective in objectives:
                objective.fit(data[0].batched(range(data[0].batches)))
            return cls(tasks, folder, objectives, data)
        with TensorFiles(state) as saved:
            for objective in objectives:
                for name in Multiview.fitted:
                    objective.model.get_buffer(name).copy_(saved[name])
            training = cls(tasks, folder, objectives, data)
            training.stack.fill(saved, progress["standing"]["step"])
            training.best = {name: saved[f"best/{name}"].to(best, copy=True) for name, best in training.best.items()}
        training.standing = Standing.read(progress["standing"])
        return training

    def run_epoch(self, epoch: int) -> None:
        """Every step as trainers/train.py takes it, judged where that judges."""
        config, batches = self.config, self.train.batches
        for seen in self.train.seen(range(epoch * batches, (epoch + 1) * batches)):
            step = self.standing.step
            rate = learning_rate(step, optimizer=config.optimizer, steps_per_epoch=batches, epochs=config.epochs)
            metrics = self.stack.step(seen, rate)
            self.standing.step = step + 1
            if (step + 1) % config.save_every_steps == 0 or step + 1 == config.epochs * batches:
                self._tell("train", {**numbers(metrics), "learning_rate": dict.fromkeys(range(len(self.tasks)), rate)})
                self._judge()

    def write(self) -> None:
        """The exact state, whole or absent, in place of the one before."""
        final = self.folder / f"step-{self.standing.step:08d}"
        partial = final.with_name(f".{final.name}{PARTIAL}")
        shutil.rmtree(partial, ignore_errors=True)
        model = self.stack.objectives[0].model
        fitted = ((name, model.get_buffer(name)) for name in Multiview.fitted)
        best = ((f"best/{name}", weight) for name, weight in self.best.items())
        tensors = (pair for pairs in (self.stack.state(), best, fitted) for pair in pairs)
        write_tensors(partial, ((name, tensor.cpu()) for name, tensor in tensors))
        members = [task.run.name for task in self.tasks]
        write_json(partial / PROGRESS, {"members": members, "standing": self.standing.written()})
        partial.rename(final)
        for older in self.folder.glob("step-*"):
            if older != final:
                shutil.rmtree(older)

    def finish(self) -> None:
        """The best and the last weights of every member as checkpoints."""
        failed = []
        standing = self.standing
        for number, task in enumerate(self.tasks):
            if is_complete(task):  # the command was killed between two members
                continue
            if not standing.best_step[number]:
                self.runs[number].status("FAILED", "its validation loss was never a number")
                failed.append(task.run.name)
                continue
            best = _Finished(standing.best_step[number], self.stack.member(self.best, number))
            _commit(task, best, standing.best_loss[number])
            if best.steps != standing.step and math.isfinite(standing.last_loss[number]):
                last = _Finished(standing.step, self.stack.member(self.stack.weights, number))
                _commit(task, last, standing.last_loss[number])
            self.runs[number].status("FINISHED")
        if failed:
            raise RunFailed(
                f"The validation loss of {', '.join(failed)} was never a number, so there is no best checkpoint. All "
                "other members are complete. Lower --optimizer.lr, or leave this member out."
            )

    def _judge(self) -> None:
        found = numbers(self.stack.evaluate(self.valid.seen(range(self.valid.batches))))
        self._tell("valid", found)
        standing, losses = self.standing, found["loss"]
        better = [number for number, loss in losses.items() if loss < standing.best_loss[number]]
        for number in better:
            standing.best_loss[number], standing.best_step[number] = losses[number], standing.step
        standing.last_loss = [losses[number] for number in range(len(self.tasks))]
        for part, owners in self.stack.owners.items():
            places = [owners.index(number) for number in better if number in owners]
            for name in self.stack.names[part]:
                self.best[name][places] = self.stack.weights[name].detach()[places]

    def _tell(self, split: str, metrics: Metrics) -> None:
        for number, run in enumerate(self.runs):
            own = {f"{split}/{name}": values[number] for name, values in metrics.items() if number in values}
            run.metrics(self.standing.step, own)


def _objective(task: Task) -> MultiviewObjective:
    """With its initial weights. Raises UsageProblem for a training of another system, which stacks do not know."""
    built = task.built()
    if not isinstance(built, MultiviewObjective):
        raise UsageProblem(
            f"{task.config.name} is no multi-view autoencoder, and no other can be stacked. Give --stack 0, which "
            "trains one member after the other."
        )
    return built


def newest_state(folder: Path) -> Path | None:
    """Where a stack's state lies, if there is one."""
    return max((place for place in folder.glob("step-*")), default=None)


@dataclass(frozen=True)
class _Finished:
    """A member's weights at some step, as checkpoints want it; a training that is over needs no moments any more."""

    steps: int
    tensors: Mapping[str, Tensor]

    def weights(self) -> dict[str, Tensor]:
        return dict(self.tensors)

    def save(self, folder: Path) -> None:
        write_json(folder / PROGRESS, {"steps": self.steps})

    def load(self, folder: Path) -> None:
        raise RunFailed(
            f"{folder} is of a member of a stack and has no moments to go on from, so its training cannot be "
            "continued. Repeat the sweep: it continues whole stacks."
        )

    def wait(self) -> None:
        pass

    def from_rank_zero(self, value: int) -> int:
        return value


def _commit(task: Task, finished: _Finished, loss: float) -> None:
    about: dict[str, Any] = {**task.about, "validation_loss": loss}
    checkpoint.save(finished, task.checkpoints, about=about, keep=1)
