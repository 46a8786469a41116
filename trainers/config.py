"""Everything that decides a training, as frozen dataclasses, and the command line that overrides them.

A config is a function in trainers/configs/: `load("myna:base", size="laptop")` calls `base` of configs/myna.py. Every
field is an option of `sonograph train`; its type is checked, and an unknown one is answered with the nearest.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import tyro
from torch import nn
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from shards.problem import DataProblem, UsageProblem
from shards.words import module_named, nearest, words_in

SIZES = ("paper", "laptop", "debug")
_CONFIGS = "trainers.configs"
_EXAMPLE = "example: sonograph train {} --size laptop --data.dataset datasets/nsynth --workers 2"
# What watches a training or places it, and changes no number in it; the dataset counts by its fingerprint.
_WATCHING = ("log_every_steps", "save_every_steps", "keep_checkpoints", "data.dataset", "data.prefetch_threads")


@runtime_checkable
class ModelConfig(Protocol):
    """What a file in trainers/models/ offers: a frozen dataclass that builds its module."""

    def build(self) -> nn.Module: ...


@runtime_checkable
class ObjectiveConfig(Protocol):
    """What a file in trainers/objectives/ offers: a frozen dataclass that wraps a built model."""

    def build(self, model: Any) -> nn.Module: ...


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

    def __post_init__(self) -> None:
        _require_counts(self, "batch_examples", "frames", "prefetch_threads")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its schedule: linear warm-up, then half a cosine down to zero."""

    name: Literal["adam", "adamw"]
    """adam couples the decay into the gradient (L2), adamw does not."""
    lr: float
    """Peak learning rate."""
    weight_decay: float
    """Coefficient of the weight decay."""
    warmup_epochs: int
    """Epochs until the peak."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    schedule: Literal["step", "epoch"] = "step"
    """How often the rate follows its curve."""


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

    def __post_init__(self) -> None:
        _require_counts(self, "accumulation_steps")


@dataclass(frozen=True)
class TrainConfig(Generic[Model, Objective]):
    """Everything that decides a training."""

    system: tyro.conf.Suppress[str]
    variant: tyro.conf.Suppress[str]
    size: tyro.conf.Suppress[str]
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
class Command:
    """One `sonograph train`: the resolved config, and where and how it runs."""

    config: Annotated[tyro.conf.FlagConversionOff[TrainConfig[Any, Any]], tyro.conf.arg(name="")]
    workers: int = 2
    """Worker processes, one a GPU where there are GPUs."""
    out: Path | None = None
    """Run folder; by default runs/SYSTEM-VARIANT-SIZE-DIGEST."""
    fresh: bool = False
    """Set aside what an earlier run left in the run folder."""
    dry_run: bool = False
    """Check everything, print the resolved config, train nothing."""


def load(name: str, size: str = "paper") -> TrainConfig[Any, Any]:
    """`myna:base` -> its config. Raises UsageProblem with the nearest names for an unknown system, variant or size."""
    system, _, variant = name.partition(":")
    variants = _variants(module_named(_CONFIGS, system))
    if variant not in variants:
        raise UsageProblem(f"{system} has no variant '{variant}', so nothing was done. {nearest(variant, variants)}")
    if size not in SIZES:
        raise UsageProblem(f"{name} has no size '{size}', so nothing was done. {nearest(size, SIZES)}")
    return variants[variant](size)


def systems() -> list[str]:
    """Every SYSTEM:VARIANT that `load` knows, sorted."""
    return [f"{system}:{name}" for system in words_in(_CONFIGS) for name in _variants(module_named(_CONFIGS, system))]


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


def words_of(config: TrainConfig[Any, Any]) -> list[str]:
    """The command line that leads to this config: `train NAME --size S` and what differs from it."""
    plain = flat(load(config.name, config.size))
    changed = {name: value for name, value in flat(config).items() if value != plain[name]}
    options = [[f"--{name.replace('_', '-')}", *_shown(value).split()] for name, value in changed.items()]
    return ["train", config.name, "--size", config.size, *(word for option in options for word in option)]


def identity(config: TrainConfig[Any, Any], fingerprint: str) -> dict[str, Any]:
    """What makes two trainings the same one: every field that changes a number, and the data's fingerprint."""
    return {name: value for name, value in flat(config).items() if name not in _WATCHING} | {"data": fingerprint}


def parse(words: list[str]) -> Command:
    """Read `SYSTEM:VARIANT [--size S] [--resume RUN] [options]`; prints help where asked for, then raises SystemExit.

    Options override the config of that size, or that of the run which is resumed. A wrong option ends the program with
    code 2, as tyro does; names and contradictions raise UsageProblem.
    """
    name, options = (words[0], words[1:]) if words and not words[0].startswith("-") else (None, words)
    asks_help = bool({"-h", "--help"} & set(options))
    size, options = _taken(options, "--size")
    resumed, options = _taken(options, "--resume")
    if name is None and resumed is None:
        _explain_systems(asks_help)
    config = _resumed(Path(resumed), name, size) if resumed else load(str(name), size or "paper")
    if asks_help:
        print(_help(config))
        raise SystemExit(0)
    command = _overridden(Command(config, out=Path(resumed) if resumed else None), options)
    if resumed and (command.fresh or command.out != Path(resumed)):
        raise UsageProblem(
            f"--resume {resumed} continues that run, which --fresh and --out contradict. Leave them out."
        )
    return command


def _require_counts(part: object, *names: str) -> None:
    for name in names:
        if getattr(part, name) < 1:
            raise UsageProblem(f"{name}={getattr(part, name)} leaves nothing to do; it must be at least 1.")


def _overridden(command: Command, options: list[str]) -> Command:
    config = command.config
    kind = TrainConfig[type(config.model), type(config.objective)]  # type: ignore[misc, valid-type]
    typed = Annotated[tyro.conf.FlagConversionOff[kind], tyro.conf.arg(name="")]  # type: ignore[valid-type]
    shape = type("Command", (Command,), {"__annotations__": {"config": typed}})
    registry = ConstructorRegistry()
    registry.primitive_rule(_boolean)
    filled = tyro.cli(
        dataclass(frozen=True)(shape),
        prog=f"sonograph train {config.name}",
        args=options,
        default=shape(**vars(command)),
        config=(tyro.conf.FlagCreatePairsOff,),
        registry=registry,
    )
    return Command(**vars(filled))


def _boolean(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[bool] | None:
    """Booleans of a config are written out, in any case: `--model.log1p true`."""
    if kind.type is not bool:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="true|false",
        instance_from_str=lambda words: _truth(words[0]),
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value).lower()],
    )


def _truth(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise ValueError(f"'{word}' is neither true nor false")
    return word.lower() == "true"


def _taken(words: list[str], option: str) -> tuple[str | None, list[str]]:
    """Take `option VALUE` or `option=VALUE` out of the words; the last one counts."""
    value, rest, waiting = None, [], False
    for word in words:
        if waiting or word.startswith(f"{option}="):
            value, waiting = word.removeprefix(f"{option}="), False
        elif word == option:
            waiting = True
        else:
            rest.append(word)
    if waiting:
        raise UsageProblem(f"{option} lacks its value, so nothing was done. See: sonograph train --help")
    return value, rest


def _resumed(run: Path, name: str | None, size: str | None) -> TrainConfig[Any, Any]:
    """The config that a run folder was started with. Raises UsageProblem when the words name another one."""
    config = read_config(run)
    if name not in (None, config.name) or size not in (None, config.size):
        raise UsageProblem(
            f"{run} is a run of {config.name} --size {config.size}, not of {name or config.name} --size "
            f"{size or config.size}, and cannot be continued as one. Repeat without those words, or without --resume."
        )
    return config


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


def _variants(module: ModuleType) -> dict[str, Any]:
    functions = inspect.getmembers(module, inspect.isfunction)
    return {name: f for name, f in functions if f.__module__ == module.__name__ and not name.startswith("_")}


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


def _explain_systems(asked: bool) -> None:
    if not asked:
        raise UsageProblem(f"train needs a SYSTEM:VARIANT, so nothing was done. Choose from: {', '.join(systems())}.")
    lines = [
        "Train a model from shards. The same command again continues, or says that it is complete.",
        "usage: sonograph train SYSTEM:VARIANT [--size SIZE] [options]\n       sonograph train --resume RUN [options]",
        "\n".join(_row(name, "", _summary(name)) for name in systems()),
        _row("--size", "paper", f"One of {', '.join(SIZES)}; paper has the published values.")
        + f"\n{_row('--resume', '', 'Continue the training in this run folder.')}"
        + f"\n{_options(Command, Command(load(systems()[0])), '')}",
        "Every value of the config is an option too; to see them: sonograph train SYSTEM:VARIANT --help",
        _EXAMPLE.format("myna:base"),
    ]
    print("\n\n".join(lines))
    raise SystemExit(0)


def _summary(name: str) -> str:
    system, _, variant = name.partition(":")
    return (inspect.getdoc(_variants(module_named(_CONFIGS, system))[variant]) or "").partition("\n")[0]


def _help(config: TrainConfig[Any, Any]) -> str:
    """Every option with its value and meaning, one a line: tyro's own page would take two screens."""
    parts = [(field.name, getattr(config, field.name)) for field in fields(config)]
    groups = [_options(type(part), part, f"{name}.") for name, part in parts if is_dataclass(part)]
    return "\n".join(
        [
            f"{_summary(config.name)} Defaults are those of --size {config.size}.",
            f"usage: sonograph train {config.name} [--size {'|'.join(SIZES)}] [--resume RUN] [options]",
            _options(Command, Command(config), ""),
            _options(TrainConfig, config, ""),
            *groups,
            _EXAMPLE.format(config.name),
        ]
    )


def _options(kind: type, values: Any, prefix: str) -> str:
    rows = _field_documents(kind).items()
    return "\n".join(
        _row(f"--{prefix}{name.replace('_', '-')}", _shown(getattr(values, name)), text) for name, text in rows
    )


def _row(option: str, value: str, meaning: str) -> str:
    return f"  {option:<29} {value:<15} {meaning}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _field_documents(kind: type) -> dict[str, str]:
    """The string below each field of a dataclass, by the field's name."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    pairs = zip(definition.body, definition.body[1:], strict=False)
    return {
        line.target.id: str(below.value.value)
        for line, below in pairs
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }
