"""Train many configs to compare them: one group of workers, one MLflow run with a nested run for each.

    sonograph sweep myna:masking_ratio --size laptop --data.dataset datasets/nsynth --workers 2

A sweep is a function of trainers/sweeps/; each of its trainings is the one that `sonograph train` would run, in the
same folder, so what is finished is not done again. Other options override the config of every member. Small models are
stacked: many members are then one program, whose state is kept after every epoch.
"""

import inspect
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shards.problem import UsageProblem
from shards.store import digest_of
from shards.words import module_named, nearest, words_in
from trainers.command_line import Command, members_of, refuse_store, taken
from trainers.config import SIZES, Sweep, config_to_dict
from trainers.driver import settle, sole_trainer
from trainers.task import Task, prepare, run_folder
from trainers.tracking import Run, curves
from trainers.train import is_complete, outcome, pursue

log = logging.getLogger(__name__)
_SWEEPS = "trainers.sweeps"
_ATTACH_SECONDS = 10.0


@dataclass(frozen=True)
class Plan:
    """A sweep with its trainings resolved and checked: member -> one Task a seed."""

    name: str
    sweep: Sweep
    tasks: Mapping[str, Sequence[Task]]
    out: Path
    workers: int
    dry_run: bool

    @property
    def every(self) -> list[Task]:
        """Each training once, however many members it stands for."""
        return [*{task.run: task for tasks in self.tasks.values() for task in tasks}.values()]

    @property
    def titles(self) -> dict[Path, str]:
        """Run folder -> the first member that it stands for, and its seed."""
        named = [(task, name) for name, tasks in self.tasks.items() for task in tasks]
        return {task.run: f"{name}-s{task.config.seed}" for task, name in reversed(named)}


def COMMAND(words: list[str]) -> Plan:
    """Read `SYSTEM:SWEEP [--size S] [--seeds N] [--stack N] [--workers N] [--out DIR] [--dry-run] [options]`."""
    if not words or {"-h", "--help"} & set(words):
        _explain(asked=bool(words))
    name, words = words[0], words[1:]
    size, words = taken(words, "--size")
    seeds, words = taken(words, "--seeds")
    out, words = taken(words, "--out")
    refuse_store("--out", out)
    stack, words = taken(words, "--stack")
    dry_run = "--dry-run" in words
    sweep = _sweep(name, size or "paper", seeds)
    sweep = replace(sweep, stack=_count(stack, "--stack") if stack else sweep.stack)
    commands = members_of(sweep, [word for word in words if word != "--dry-run"])
    tasks = _stackable(commands) if sweep.stack else _prepared(commands)
    digest = digest_of([[task.identity for task in per_seed] for per_seed in tasks.values()])[:8]
    place = Path(out or f"runs/sweep-{name.replace(':', '-')}-{size or 'paper'}-{digest}")
    workers = next(iter(commands.values()))[0].workers
    return Plan(name, sweep, tasks, place, workers, dry_run)


def main(plan: Plan) -> dict[str, object]:
    """Train what is not trained yet; the best validation losses of all members are the parent's table."""
    members = {name: {str(t.config.seed): str(_from_here(t.run)) for t in each} for name, each in plan.tasks.items()}
    if plan.dry_run:
        return {"output": _outline(plan), "members": members}
    with ExitStack() as held:
        for task in plan.every:
            held.enter_context(sole_trainer(task.run))
            settle(task)
        if waiting := [task for task in plan.every if not is_complete(task)]:
            log.info("sweep %s  %d of %d trainings to do", plan.name, len(waiting), len(plan.every))
            with _parent(plan) as (run, parent):
                if plan.sweep.stack:
                    _pursue_stacks(plan, parent)
                else:
                    pursue(waiting, parent=parent)
                run.table("members", _rows(plan))
        else:
            log.info("sweep %s  all %d trainings complete since an earlier call", plan.name, len(plan.every))
    return {"output": f"{_table(plan)}\n{plan.out}", "members": members, "metrics": _losses(plan)}


@contextmanager
def _parent(plan: Plan) -> Iterator[tuple[Run, str]]:
    """The sweep's own run, shown while the block runs, and its name in MLflow, empty when no server answers."""
    from trainers.mirror import mirror  # mlflow takes seconds to import

    run, system = Run(plan.out), plan.name.partition(":")[0]
    with mirror(plan.out, experiment=f"{system}-pretrain", run_name=plan.out.name) as link, run.alive():
        run.params({"sweep": plan.name, "axis": plan.sweep.axis, "members": list(plan.tasks)})
        end = time.monotonic() + _ATTACH_SECONDS
        while not link.run_id and time.monotonic() < end:
            time.sleep(0.1)
        yield run, link.run_id
        run.results(0, _losses(plan))


def _sweep(name: str, size: str, seeds: str | None) -> Sweep:
    system, _, wanted = name.partition(":")
    known = _known(system)
    if wanted not in known:
        raise UsageProblem(f"{system} has no sweep '{wanted}', so nothing was done. {nearest(wanted, known)}")
    if size not in SIZES:
        raise UsageProblem(f"{name} has no size '{size}', so nothing was done. {nearest(size, SIZES)}")
    sweep: Sweep = known[wanted](size)
    if seeds is None:
        return sweep
    most = len(next(iter(sweep.members.values())))
    if not 1 <= _count(seeds, "--seeds") <= most:
        raise UsageProblem(f"--seeds {seeds} is no number from 1 to {most}, so nothing was done. Give one of these.")
    return replace(sweep, members={member: configs[: int(seeds)] for member, configs in sweep.members.items()})


def _count(text: str, option: str) -> int:
    if not text.isdecimal():
        raise UsageProblem(f"{option} {text} is no whole number of at least 0, so nothing was done. Give one.")
    return int(text)


def _known(system: str) -> dict[str, Any]:
    module = module_named(_SWEEPS, system)
    functions = inspect.getmembers(module, inspect.isfunction)
    return {name: f for name, f in functions if f.__module__ == module.__name__ and not name.startswith("_")}


def _prepared(commands: Mapping[str, Sequence[Command]]) -> dict[str, list[Task]]:
    return {name: [prepare(_placed(command)) for command in per_seed] for name, per_seed in commands.items()}


def _placed(command: Command) -> Command:
    return replace(command, out=run_folder(command.config))


def _stackable(commands: Mapping[str, Sequence[Command]]) -> dict[str, list[Task]]:
    """The same for trainings of one worker each; those that could stand in one stack are checked once."""
    from trainers.stack_training import require_stackable
    from trainers.stacks import likeness

    first: dict[tuple[object, ...], Task] = {}
    tasks: dict[str, list[Task]] = {}
    for name, per_seed in commands.items():
        for command in per_seed:
            placed, kind = replace(_placed(command), workers=1), likeness(command.config)
            if kind not in first:
                first[kind] = prepare(placed)
                require_stackable(first[kind])
            tasks.setdefault(name, []).append(first[kind].like(placed))
    return tasks


def _pursue_stacks(plan: Plan, parent: str) -> None:
    from trainers.stacks import pursue_stacks, stacks_of

    stacks = stacks_of(plan.every, plan.sweep.stack)
    waiting = [stack for stack in stacks if not all(is_complete(task) for task in stack)]
    pursue_stacks(waiting, plan.out / "stacks", titles=plan.titles, parent=parent, workers=plan.workers)


def _losses(plan: Plan) -> dict[str, float]:
    return {
        f"valid/loss/{name}-seed-{task.config.seed}": float(str(outcome(task)["validation_loss"]))
        for name, tasks in plan.tasks.items()
        for task in tasks
    }


def _rows(plan: Plan) -> list[dict[str, object]]:
    """A row a member and seed, with the answers of evaluators about it; what a member lacks is left empty."""
    answers = {task.run: _answers(task) for task in plan.every}
    names = dict.fromkeys(name for found in answers.values() for name in found)
    return [
        {plan.sweep.axis: name, "seed": task.config.seed, **outcome(task)}
        | {answer: answers[task.run].get(answer, "") for answer in names}
        | {"run": str(_from_here(task.run))}
        for name, tasks in plan.tasks.items()
        for task in tasks
    ]


def _answers(task: Task) -> dict[str, float]:
    """Evaluator's metric -> its latest value, `eval/CORPUS/pitch_margin` as pitch_margin."""
    found = {name: points for name, points in curves(task.run).items() if name.startswith("eval/")}
    return {name.rpartition("/")[2]: points[max(points)] for name, points in found.items()}


def _table(plan: Plan) -> str:
    rows = _rows(plan)
    width = max(len(str(row[plan.sweep.axis])) for row in rows)
    return "\n".join(
        f"  {row[plan.sweep.axis]!s:<{width}}  seed {row['seed']}  validation loss {row['validation_loss']:.3f}  "
        f"{row['run']}"
        for row in rows
    )


def _outline(plan: Plan) -> str:
    lines = [
        f"{name}  seed {task.config.seed}  {task.steps:,} steps  {_from_here(task.run)}"
        for name, tasks in plan.tasks.items()
        for task in tasks
    ]
    config = json.dumps(config_to_dict(plan.every[0].config), indent=1)
    return "\n".join([f"the first of them: {config}", *lines, str(plan.out)])


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _explain(*, asked: bool) -> None:
    names = [f"{system}:{name}" for system in words_in(_SWEEPS) for name in _known(system)]
    if not asked:
        raise UsageProblem(f"sweep needs a SYSTEM:SWEEP, so nothing was done. Choose from: {', '.join(names)}.")
    summaries = (
        f"  {name:<22}{(inspect.getdoc(_known(name.partition(':')[0])[name.partition(':')[2]]) or '').splitlines()[0]}"
        for name in names
    )
    options = (
        "  --size SIZE           paper, laptop or debug (default: paper)\n"
        "  --seeds N             of each member, at most as many as the sweep has\n"
        "  --stack N             members trained as one program, 0: each by itself (default: the sweep's)\n"
        "  --workers N           worker processes, one a GPU where there are GPUs (default: 2)\n"
        "  --out DIR             of the comparison (default: runs/sweep-SYSTEM-SWEEP-SIZE-DIGEST)\n"
        "  --dry-run             check everything, list the trainings, train nothing"
    )
    usage = "usage: sonograph sweep SYSTEM:SWEEP [options] [options of sonograph train]"
    print("\n\n".join([(__doc__ or "").strip(), usage, "\n".join(summaries), options]))
    raise SystemExit(0)


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("sweep")
