"""Everything that decides a training, as frozen dataclasses.

A config is a function in trainers/configs/: `load("myna:base", size="laptop")` calls `base` of configs/myna.py. Every
field is an option of `sonograph train`, read by trainers/command_line.py.
"""

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn
from tyro.conf import Suppress

from shards.example import Batch
from shards.problem import DataProblem, UsageProblem
from shards.words import module_named, nearest, words_in

SIZES = ("paper", "laptop", "debug")
_CONFIGS = "trainers.configs"
# What watches a training or places it, and changes rounding at most; the dataset counts by its fingerprint.
_WATCHING = (
    *("log_every_steps", "save_every_steps", "keep_checkpoints", "data.dataset", "data.prefetch_threads"),
    *("engine.zero_stage", "engine.recompute", "engine.compile", "engine.skip_budget"),
)


@runtime_checkable
class ModelConfig(Protocol):
    """What a file in trainers/models/ offers: a frozen dataclass that builds its module."""

    def build(self) -> nn.Module: ...


@runtime_checkable
class MeasuredModel(Protocol):
    """The config of a model some of whose values are measured on the training set unless they are given."""

    def measured(self, mels: Iterable[Tensor]) -> Any: ...


@runtime_checkable
class ObjectiveConfig(Protocol):
    """What a file in trainers/objectives/ offers: a frozen dataclass that wraps a built model.

    It reads two views of an example, or as many as its class says in `views`.
    """

    def build(self, model: Any) -> nn.Module: ...


@runtime_checkable
class SizedObjective(Protocol):
    """The config of an objective that remembers something of every example: it must know how many indices there are."""

    def sized(self, examples: int) -> Any: ...


@runtime_checkable
class Fitted(Protocol):
    """A built objective that measures something on the training set before its first step, and keeps it in buffers."""

    def fit(self, batches: Iterable[Batch]) -> None:
        """Be shown the whole batches of the first epoch, on every rank the same."""


@runtime_checkable
class Classed(Protocol):
    """A built objective that may treat examples by their class, that of DataConfig.pair_by."""

    def know(self, training: Tensor, validation: Tensor) -> None:
        """Be told the class of every example by its index: -1 where there is none."""


Model = TypeVar("Model", bound=ModelConfig)
Objective = TypeVar("Objective", bound=ObjectiveConfig)


@dataclass(frozen=True)
class DataConfig:
    """What a training reads: `dataset`/train for its steps, `dataset`/valid for the validation loss."""

    dataset: str
    """Folder that `sonograph build --out` made."""
    column: str
    """Feature column of the dataset."""
    batch_examples: int
    """Examples in one step, over all workers."""
    frames: int
    """Frames of a training crop; as many as the model's."""
    order: str = "global"
    """Of a training's examples: global, windowed:SHARDS, weighted:LABEL or balanced:LABEL."""
    prefetch_threads: int = 1
    """Threads of each worker that read ahead."""
    sound: str = ""
    """Change the sound of column waveform and compute the mel after it: clmr, or transpose:SEMITONES."""
    mixup: bool = False
    """Mix each view with a little of another example's."""
    pair_by: str = ""
    """Label that the examples of a pair share: each view is then of another one."""
    pair_unlike: str = ""
    """Label in which they differ where they can."""
    examples: int = 0
    """Of train that take part; 0: all."""
    valid_examples: int = 0
    """Of valid that take part; 0: all."""
    stratify: tuple[str, ...] = ()
    """Labels in whose combinations those that take part are spread as in the whole."""

    def __post_init__(self) -> None:
        _require_counts(self, "batch_examples", "frames", "prefetch_threads")
        if (self.pair_unlike and not self.pair_by) or min(self.examples, self.valid_examples) < 0:
            raise UsageProblem(
                f"pair_by='{self.pair_by}', pair_unlike='{self.pair_unlike}', examples={self.examples}, "
                f"valid_examples={self.valid_examples} name no pairs or no examples. Give pair_unlike beside pair_by "
                "only, and counts of at least 0."
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its schedule: linear warm-up, then half a cosine down to the final rate."""

    name: Literal["adam", "adamw"]
    """adam couples the decay into the gradient (L2), adamw does not."""
    lr: float
    """Peak learning rate."""
    weight_decay: float
    """Coefficient of the weight decay."""
    warmup_epochs: int = 0
    """Epochs until the peak."""
    warmup_share: float = 0.0
    """Share of all steps until the peak, instead of epochs."""
    final_lr: float = 0.0
    """Learning rate at the end."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    schedule: Literal["step", "epoch"] = "step"
    """How often the rate follows its curve."""
    decay_vectors: bool = True
    """Decay norms, biases and other vectors too, not only matrices."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_share < 1 or (self.warmup_share and self.warmup_epochs):
            raise UsageProblem(
                f"warmup_epochs={self.warmup_epochs} and warmup_share={self.warmup_share} name no single length of the "
                "warm-up. Give epochs, or a share of the steps in [0, 1), and leave the other at 0."
            )


@dataclass(frozen=True)
class EngineConfig:
    """How a step is computed."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """Split over workers: 1 optimiser, 2 also gradients, 3 also weights."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 is autocast; fp16 scales the loss, with float32 master weights."""
    accumulation_steps: int = 1
    """Parts of a batch computed one by one; negatives come from one part."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights; validation and the exported model use it."""
    recompute: bool = False
    """Recompute each block in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the model with torch.compile before the first step."""
    spike_deviations: float | None = None
    """A loss or gradient norm this many mean deviations above its running mean is a spike."""
    skip_budget: int = 0
    """Batches that may be skipped for a spike, nan or inf; beyond it the training stops."""

    def __post_init__(self) -> None:
        _require_counts(self, "accumulation_steps")
        if not (self.ema_decay is None or 0 < self.ema_decay < 1) or self.skip_budget < 0:
            raise UsageProblem(
                f"ema_decay={self.ema_decay}, skip_budget={self.skip_budget}: a decay lies in (0, 1), a budget is at "
                "least 0. Correct the one that does not."
            )


@dataclass(frozen=True)
class TrainConfig(Generic[Model, Objective]):
    """Everything that decides a training."""

    system: Suppress[str]
    variant: Suppress[str]
    size: Suppress[str]
    data: DataConfig
    model: Model
    objective: Objective
    optimizer: OptimizerConfig
    engine: EngineConfig
    epochs: int
    """How often every training example is seen."""
    seed: int = 0
    """Decides initial weights, order, crops and masks."""
    log_every_steps: int = 10
    """Steps between two lines of the log."""
    save_every_steps: int = 1000
    """Steps between checkpoints, each with a validation loss."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept, besides the best one."""

    def __post_init__(self) -> None:
        _require_counts(self, "epochs", "log_every_steps", "save_every_steps", "keep_checkpoints")

    @property
    def name(self) -> str:
        """The word on the command line: `myna:base`."""
        return f"{self.system}:{self.variant}"


@dataclass(frozen=True)
class Sweep:
    """Trainings that are compared, one config a seed: what a function in trainers/sweeps/ returns."""

    axis: str
    """What differs between the members, in words."""
    members: Mapping[str, tuple[TrainConfig[Any, Any], ...]]
    stack: int = 0
    """Members that are trained as one program, at most so many at a time; 0: one training after the other."""


def load(name: str, size: str = "paper") -> TrainConfig[Any, Any]:
    """`myna:base` -> its config. Raises UsageProblem with the nearest names for an unknown system, variant or size."""
    system, _, variant = name.partition(":")
    known = variants(system)
    if variant not in known:
        raise UsageProblem(f"{system} has no variant '{variant}', so nothing was done. {nearest(variant, known)}")
    if size not in SIZES:
        raise UsageProblem(f"{name} has no size '{size}', so nothing was done. {nearest(size, SIZES)}")
    return known[variant](size)


def systems() -> list[str]:
    """Every SYSTEM:VARIANT that `load` knows, sorted."""
    return [f"{system}:{name}" for system in words_in(_CONFIGS) for name in variants(system)]


def variants(system: str) -> dict[str, Any]:
    """The functions of trainers/configs/SYSTEM.py that make configs, by name. Raises UsageProblem for no such file."""
    module = module_named(_CONFIGS, system)
    functions = inspect.getmembers(module, inspect.isfunction)
    return {name: f for name, f in functions if f.__module__ == module.__name__ and not name.startswith("_")}


def config_to_dict(config: TrainConfig[Any, Any]) -> dict[str, Any]:
    """The config in JSON types, as run folders and checkpoint cards hold it."""
    return json.loads(json.dumps(asdict(config)))


def config_from_dict(content: Mapping[str, Any]) -> TrainConfig[Any, Any]:
    """The inverse of config_to_dict. Raises DataProblem when fields are missing or unknown to this version."""
    try:
        pattern = load(f"{content['system']}:{content['variant']}", content["size"])
    except KeyError as error:
        raise DataProblem(f"This is no config: it lacks {error}. Nothing can be built from it.") from None
    return _filled(pattern, content, "")


def flat(config: TrainConfig[Any, Any]) -> dict[str, Any]:
    """The config as one level of dotted names, like the options that override it."""
    return dict(_leaves(config_to_dict(config), ""))


def identity(config: TrainConfig[Any, Any], fingerprint: str) -> dict[str, Any]:
    """What makes two trainings the same one: every field that changes a number, and the data's fingerprint."""
    return {name: value for name, value in flat(config).items() if name not in _WATCHING} | {"data": fingerprint}


def _require_counts(part: object, *names: str) -> None:
    for name in names:
        if getattr(part, name) < 1:
            raise UsageProblem(f"{name}={getattr(part, name)} leaves nothing to do; it must be at least 1.")


def read_config(run: Path) -> TrainConfig[Any, Any]:
    """The config in RUN/config.json. Raises DataProblem when it is missing or damaged."""
    path = run / "config.json"
    try:
        return config_from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise DataProblem(
            f"{path} cannot be read ({error}), so {run} cannot be continued. Name a folder that sonograph train made: "
            "it prints it as its last line."
        ) from error


def _filled(pattern: Any, content: Any, where: str) -> Any:
    """A copy of `pattern` with the values of `content`; both must have the same fields."""
    if not is_dataclass(pattern):
        return tuple(content) if isinstance(pattern, tuple) else content
    names = {field.name for field in fields(pattern)}
    if odd := names ^ set(content):
        raise DataProblem(
            f"This config was written by another version: {', '.join(sorted(f'{where}{name}' for name in odd))} "
            "is known to one of the two only, and a guess would open another model. Use the version that wrote it."
        )
    values = {name: _filled(getattr(pattern, name), content[name], f"{where}{name}.") for name in names}
    return replace(pattern, **values)  # type: ignore[type-var]


def _leaves(content: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", value
