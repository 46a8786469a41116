"""One training, resolved and checked: what a worker needs to know, before any worker starts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shards.features.mel import Mel
from shards.loader import Loader
from shards.loading.classes import NO_CLASS, classes_of
from shards.loading.dataset import Dataset
from shards.loading.subset import stratified
from shards.manifest import Manifest
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.store import digest_of
from shards.stores.remote import place_of
from shards.views import Pairs, Viewing, Views
from trainers.augmentation import SAMPLE_RATE_HZ
from trainers.checkpoint import build_objective
from trainers.command_line import Command
from trainers.config import Classed, Fitted, MeasuredModel, SizedObjective, TrainConfig, config_to_dict, identity
from trainers.hearing import COLUMN, chain_of, hear, mix, samples_of
from trainers.pace import flops_per_example, peak_flops

TRAIN, VALID = "train", "valid"
_MEASURED_BATCHES = 16
_COUNTED_EXAMPLES = 2  # the fewest that can be told apart


@dataclass(frozen=True)
class Task:
    """A config with the places it works in; paths are absolute, since workers have folders of their own."""

    config: TrainConfig[Any, Any]
    dataset: Path
    run: Path
    workers: int
    manifest: Manifest

    @property
    def checkpoints(self) -> Path:
        return self.run / "checkpoints"

    @property
    def stop_file(self) -> Path:
        """Its presence asks the workers to end after this step, with a checkpoint."""
        return self.run / "stop"

    @property
    def problem_file(self) -> Path:
        """Where a worker leaves a problem that no restart can cure."""
        return self.run / "problem.json"

    @cached_property
    def identity(self) -> dict[str, Any]:
        return identity(self.config, self.manifest.fingerprint)

    @cached_property
    def steps_per_epoch(self) -> int:
        return self.training().steps_per_epoch

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint's card says of its origin; `contract` is the manifest's entry of the column."""
        return {
            "config": config_to_dict(self.config),
            "identity": self.identity,
            "column": self.config.data.column,
            "contract": self.manifest.features[self.config.data.column],
            "dataset": {
                "path": self.config.data.dataset,
                "corpus": self.manifest.corpus,
                "split": self.manifest.split,
                "rendered": self.manifest.rendered,
                "fingerprint": self.manifest.fingerprint,
            },
            "run": self.run.name,
        }

    def like(self, command: Command) -> "Task":
        """Another training that sees the same batches for as long: what follows from these is not worked out again."""
        assert command.out is not None
        other = replace(self, config=command.config, run=place_of(command.out).absolute(), workers=command.workers)
        vars(other)["steps_per_epoch"] = self.steps_per_epoch  # of cached_property
        return other

    def objective(self) -> nn.Module:
        """What is trained, with its initial weights, fitted to the training set where there is something to measure.

        A training that continues finds what was measured in its checkpoint.
        """
        built = self.built()
        if isinstance(built, Fitted) and not any(self.checkpoints.glob("step-*")):
            built.fit(self.unchanged.training().from_step(0, self.steps_per_epoch))
        return built

    def built(self) -> nn.Module:
        """The same before anything is measured; sized for the dataset where it remembers every example."""
        config, objective = self.config, self.config.objective
        if isinstance(objective, SizedObjective):
            config = replace(config, objective=objective.sized(self.manifest.planned))
        built, data = build_objective(config), config.data
        if data.pair_by and isinstance(built, Classed):
            built.know(self._classes(TRAIN), self._classes(VALID))
        if data.sound:
            hear(built, self._mel(), sound=data.sound, frames=data.frames)
        if data.mixup:
            mix(built)
        return built

    @property
    def hears_mels(self) -> bool:
        """Whether its column is a spectrogram that can be looked at."""
        return isinstance(Reader(self.dataset / TRAIN, self.config.data.column).feature, Mel)

    @property
    def unchanged(self) -> "Task":
        """The same training on its column as it is: what pictures of the data and a model's inputs are of."""
        data = replace(self.config.data, sound="", mixup=False)
        return replace(self, config=replace(self.config, data=data))

    def measured(self) -> "Task":
        """The same with the values of the model that are left to be measured, from its first batches."""
        if not isinstance(self.config.model, MeasuredModel):
            return self
        model = self.config.model.measured(_mels(self.unchanged.training()))
        return replace(self, config=replace(self.config, model=model))

    def costs(self, device: torch.device) -> dict[str, float]:
        """FLOPs of one example in a step, and FLOPs a second of all workers; all of them measure together."""
        examples = self._loader(TRAIN, _COUNTED_EXAMPLES, 0, 1).batch(0)
        return {
            "flops_per_example": flops_per_example(self.built, examples, device),
            "peak_flops": peak_flops(device, self.config.engine.precision),
        }

    def names(self, index: np.ndarray) -> list[str]:
        """Examples of the training split as people look for them: `5 (guitar_acoustic_010-060-100)`."""
        reader = Reader(self.dataset / TRAIN, self.config.data.column)
        keys = reader.labels("key")[np.searchsorted(reader.indices, index)]
        return [f"{number} ({key})" for number, key in zip(index.tolist(), keys.tolist(), strict=True)]

    def training(self, rank: int = 0, world: int = 1) -> Loader:
        """This rank's part of the training batches."""
        return self._loader(TRAIN, self.config.data.batch_examples, rank, world)

    def validation(self, rank: int = 0, world: int = 1) -> Loader:
        """This rank's part of the validation batches; a split smaller than a batch is one batch."""
        examples = len(self._loader(VALID, 1, 0, 1).lineups[0])
        return self._loader(VALID, min(self.config.data.batch_examples, examples), rank, world)

    @property
    def _column(self) -> str:
        return COLUMN if self.config.data.sound else self.config.data.column

    def _mel(self) -> Mel:
        """The mel of the column that is trained for. Raises UsageProblem where it is none of Myna's rate."""
        feature = Reader(self.dataset / TRAIN, self.config.data.column).feature
        if not isinstance(feature, Mel) or feature.sample_rate_hz != SAMPLE_RATE_HZ:
            raise UsageProblem(
                f"data.sound={self.config.data.sound} changes sound of {SAMPLE_RATE_HZ:,} Hz before its mel, and "
                f"column '{self.config.data.column}' is no mel of that rate. Train on column mel, or without it."
            )
        return feature

    def _loader(self, split: str, batch_examples: int, rank: int, world: int) -> Loader:
        data = self.config.data
        order = data.order if split == TRAIN else "global"
        return Loader(
            Dataset(Reader(self.dataset / split, self._column), order=order, only=self._taking_part[split]),
            batch_examples=batch_examples,
            seed=self.config.seed,
            views=self._views,
            rank=rank,
            world=world,
            threads=data.prefetch_threads,
        )

    @property
    def _views(self) -> Viewing:
        """Crops of each example, or of it and of partners."""
        data, count = self.config.data, getattr(self.config.objective, "views", 2)
        frames = samples_of(data.frames) if data.sound else data.frames
        if data.pair_by:
            return Pairs(data.pair_by, frames, data.pair_unlike or None, count)
        return Views(count, frames)

    @cached_property
    def _taking_part(self) -> Mapping[str, np.ndarray | None]:
        """Rows of each split; None: all."""
        data = self.config.data
        return {
            split: stratified(Reader(self.dataset / split, self._column), count, data.stratify, self.config.seed)
            if count
            else None
            for split, count in ((TRAIN, data.examples), (VALID, data.valid_examples))
        }

    def _classes(self, split: str) -> Tensor:
        """The class of each example that pairs are made by, at its index; -1 where there is none."""
        reader = Reader(self.dataset / split, self._column)
        found = torch.full((reader.manifest.planned,), NO_CLASS)
        classes = classes_of(self.config.data.pair_by, reader.labels, np.arange(len(reader)))
        found[torch.from_numpy(reader.indices)] = torch.from_numpy(classes)
        return found


def run_folder(config: TrainConfig[Any, Any]) -> Path:
    """runs/SYSTEM-VARIANT-SIZE-DIGEST: the same training, the same folder. Raises DataProblem without a dataset."""
    digest = digest_of(identity(config, _manifest(config).fingerprint))
    return Path("runs") / f"{config.system}-{config.variant}-{config.size}-{digest[:8]}"


def prepare(command: Command) -> Task:
    """Check that the data fits the config, before anything is written. Raises DataProblem or UsageProblem."""
    config = command.config
    assert command.out is not None
    dataset, run = place_of(config.data.dataset).absolute(), place_of(command.out).absolute()
    task = Task(config, dataset, run, command.workers, _manifest(config))
    contract = _contract(dataset / TRAIN, config.data.column)
    if _contract(dataset / VALID, config.data.column)["fingerprint"] != contract["fingerprint"]:
        raise DataProblem(
            f"{dataset / TRAIN} and {dataset / VALID} hold different columns '{config.data.column}', so the validation "
            "loss would be of another input. Build both splits with one command."
        )
    _require_frames(config)
    if config.data.sound:
        chain_of(config.data.sound), task._mel()
    _require_division(config, command.workers)
    assert task.steps and task.validation().steps_per_epoch  # raises DataProblem when a split cannot fill one batch
    _require_bands(config, Reader(dataset / TRAIN, config.data.column))
    return task.measured()


def _mels(loader: Loader) -> Iterator[Tensor]:
    for step in range(min(_MEASURED_BATCHES, loader.steps_per_epoch)):
        for view in loader.batch(step).to("cpu").views:
            yield from view


def _manifest(config: TrainConfig[Any, Any]) -> Manifest:
    return Manifest.read(place_of(config.data.dataset).absolute() / TRAIN)


def _contract(folder: Path, column: str) -> Mapping[str, Any]:
    reader = Reader(folder, column)
    assert reader.feature  # raises DataProblem when this version computes something else by that name
    return reader.manifest.features[column]


def _require_bands(config: TrainConfig[Any, Any], reader: Reader) -> None:
    """The numbers of a frame, whatever they are of, must be as many as the model takes."""
    if config.model.bands != (bands := reader.layout.shape[0]):
        raise DataProblem(
            f"{config.data.dataset} has {bands} bands in its column '{config.data.column}', the model takes "
            f"{config.model.bands}, so it cannot read one example. Pass --model.bands {bands}, or build a column of "
            f"{config.model.bands} bands."
        )


def _require_frames(config: TrainConfig[Any, Any]) -> None:
    if config.model.frames != config.data.frames:
        raise UsageProblem(
            f"data.frames={config.data.frames} and model.frames={config.model.frames} differ, so crops would not have "
            "the length that the model is made for. Give both the same value."
        )


def _require_division(config: TrainConfig[Any, Any], workers: int) -> None:
    parts = config.engine.accumulation_steps
    if workers < 1 or workers > config.data.batch_examples:
        raise UsageProblem(
            f"{workers} workers cannot share a batch of {config.data.batch_examples} examples, so some would have "
            "nothing to do. Give --workers at least 1 and at most the batch."
        )
    if parts > 1 and config.data.batch_examples % (workers * parts):
        raise UsageProblem(
            f"A batch of {config.data.batch_examples} examples does not divide into {parts} parts on each of {workers} "
            "workers, so some examples would weigh more than others. Choose --data.batch-examples as a multiple of "
            f"{workers * parts}."
        )
