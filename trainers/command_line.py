"""The command line of `sonograph train`: every field of a config is an option, checked by its type.

An unknown option is answered with the nearest one. Alone owns tyro here, since which options there are depends on the
config that is named first.
"""

import ast
import inspect
import textwrap
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from shards.problem import UsageProblem
from shards.stores.remote import url_of
from trainers.config import SIZES, Sweep, TrainConfig, flat, load, read_config, systems, variants

_EXAMPLE = "example: sonograph train {} --size laptop --data.dataset datasets/nsynth --workers 2"


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
    """Check everything, the data too; print the resolved config, train nothing."""
    print_config: bool = False
    """Print the resolved config as JSON, look at no data, train nothing."""


def parse(words: list[str]) -> Command:
    """Read `SYSTEM:VARIANT [--size S] [--resume RUN] [options]`; prints help where asked for, then raises SystemExit.

    Options override the config of that size, or that of the run which is resumed. A wrong option ends the program with
    code 2, as tyro does; names and contradictions raise UsageProblem.
    """
    name, options = (words[0], words[1:]) if words and not words[0].startswith("-") else (None, words)
    asks_help = bool({"-h", "--help"} & set(options))
    size, options = taken(options, "--size")
    resumed, options = taken(options, "--resume")
    if name is None and resumed is None:
        _explain_systems(asks_help)
    refuse_store("--resume", resumed)
    config = _resumed(Path(resumed), name, size) if resumed else load(str(name), size or "paper")
    if asks_help:
        print(_help(config))
        raise SystemExit(0)
    command = _overridden(Command(config, out=Path(resumed) if resumed else None), options)
    refuse_store("--out", command.out)
    if resumed and (command.fresh or command.out != Path(resumed)):
        raise UsageProblem(
            f"--resume {resumed} continues that run, which --fresh and --out contradict. Leave them out."
        )
    return command


def refuse_store(option: str, run: Path | str | None) -> None:
    """Raises UsageProblem when a run is to lie in a store: its files are locked, appended to and renamed."""
    if run is not None and (url := url_of(run)):
        raise UsageProblem(
            f"{option} {url} lies in a store, where no file can be locked, appended to or renamed as those of a run "
            "are, so nothing was done. Pass a folder, of a file system that all workers share; of what a training "
            "reads and writes, only the dataset may be a URL (--data.dataset)."
        )


def members_of(sweep: Sweep, options: list[str]) -> dict[str, list[Command]]:
    """The command of every member and seed; `options` override each of their configs."""
    return {
        name: [_overridden(Command(config), options) for config in configs] for name, configs in sweep.members.items()
    }


def words_of(config: TrainConfig[Any, Any]) -> list[str]:
    """The command line that leads to this config: `train NAME --size S` and what differs from it."""
    plain = flat(load(config.name, config.size))
    changed = {name: value for name, value in flat(config).items() if value != plain[name]}
    values = {name: value if isinstance(value, list) else [value] for name, value in changed.items()}
    options = [[f"--{name.replace('_', '-')}", *map(_shown, words)] for name, words in values.items()]
    return ["train", config.name, "--size", config.size, *(word for option in options for word in option)]


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


def taken(words: list[str], option: str) -> tuple[str | None, list[str]]:
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
    return (inspect.getdoc(variants(system)[variant]) or "").partition("\n")[0]


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
    """The string below each field of a dataclass and of those that it extends, by the field's name."""
    documents: dict[str, str] = {}
    for part in reversed([part for part in kind.__mro__ if is_dataclass(part)]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        assert isinstance(definition, ast.ClassDef)
        pairs = zip(definition.body, definition.body[1:], strict=False)
        documents |= {
            line.target.id: str(below.value.value)
            for line, below in pairs
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        }
    return documents
