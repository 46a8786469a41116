"""Re-test what a system's paper claims: render, build, train, probe, compare, and say what was found.

    sonograph claims myna --size laptop --workers 2

Ordinary commands in a row, each of which can be repeated alone; what is finished is not done again. Verdicts come from
intervals over test recordings and seeds: holds, contradicted or undecided, as found.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import FlagCreatePairsOff, Positional, arg

from claims.commands import run
from claims.study import Answers, Findings, Question, Study
from claims.verdict import Answer
from shards.problem import DataProblem
from shards.store import whole_file, write_json
from shards.words import module_named
from trainers.tracking import Run

log = logging.getLogger(__name__)
FINDINGS = "findings.json"
RANDOM = "random weights"


@dataclass(frozen=True)
class Claims:
    system: Annotated[Positional[str], arg(metavar="SYSTEM")]
    """whose claims: a file of claims/studies"""
    size: Literal["paper", "laptop", "debug"] = "paper"
    """of the corpora and models; paper trains what the paper trained"""
    sweeps: Annotated[tuple[str, ...], arg(metavar="SWEEP ...")] = ()
    """of its comparisons, these only, and the claims that need no other"""
    workers: int = 2
    """workers of each training"""
    out: Path = Path("runs/claims-{system}-{size}")
    """folder of the report"""
    resamples: int = 2000
    """draws of the bootstrap"""
    dry_run: FlagCreatePairsOff[bool] = False
    """list the commands and the claims, run nothing"""

    def __post_init__(self) -> None:
        place = str(self.out).replace("{system}", self.system).replace("{size}", self.size)
        object.__setattr__(self, "out", Path(place))


COMMAND = Claims


def main(command: Claims) -> dict[str, object]:
    """Run everything that is missing, then write the report and show it in MLflow."""
    study: Study = module_named("claims.studies", command.system).study(command.size).only(command.sweeps)
    if command.dry_run:
        return {"output": study.outline(command.workers), "metrics": {}}
    for words in study.preparations:
        run(*words)
    answers: dict[str, Answers] = {}
    for sweep in study.sweeps:
        answers[sweep] = _answers(study, run(*study.training(sweep, command.workers)).result["members"])
    findings = study.findings(answers, resamples=command.resamples)
    _show(command, study, findings)
    return {"output": f"{findings.text()}\n{command.out}", "metrics": findings.metrics()}


def _answers(study: Study, members: Mapping[str, Mapping[str, str]]) -> Answers:
    """The scores of every member of a sweep and of the controls: metric -> encoder -> one Answer a seed."""
    found: Answers = {}
    for name, runs in members.items():
        for seed, place in runs.items():
            _ask(study, name, place, int(seed), found)
    first = next(iter(next(iter(members.values())).values()))
    for control in study.controls:
        _ask(study, control, control, 0, found)
    for number in range(len(next(iter(members.values())))):
        _ask(study, RANDOM, f"random:{first}", number, found)
    return found


def _ask(study: Study, name: str, checkpoint: str, seed: int, found: Answers) -> None:
    """Every question to one encoder; in this process, since most of a small command is importing torch."""
    from trainers import evaluate

    for question in study.questions:
        asked = evaluate.Evaluate(
            checkpoint, question.evaluator, Path(question.data), question.labels, cluster=question.cluster, seed=seed
        )
        log.info("\n$ %s", question.command(checkpoint, seed))
        folder = Path(str(evaluate.main(asked)["folder"]))
        for metric, answer in _read(folder, question):
            found.setdefault(metric, {}).setdefault(name, []).append(answer)


def _read(folder: Path, question: Question) -> Iterator[tuple[str, Answer]]:
    try:
        with np.load(folder / "scores.npz", allow_pickle=False) as scores:
            units = scores[f"unit.{question.cluster or 'example'}"]
            names = [name.removeprefix("score.") for name in scores if name.startswith("score.")]
            kept = {name: metric for name in names if (metric := question.metric(name))}
            for name, metric in kept.items():
                yield metric, Answer(scores[f"score.{name}"], units)
    except (OSError, KeyError, ValueError) as error:
        raise DataProblem(
            f"{folder} does not hold the score of every example ({error}), so nothing can be compared with it. Remove "
            "that folder and repeat the command: it asks again."
        ) from error


def _show(command: Claims, study: Study, findings: Findings) -> None:
    """The report in the folder and in MLflow; findings.json comes last."""
    from trainers.mirror import mirror  # mlflow takes seconds to import

    record = Run(command.out)
    with mirror(command.out, experiment="claims", run_name=command.out.name), record.alive():
        record.params({"system": study.system, "size": study.size, "resamples": command.resamples})
        record.results(0, findings.metrics())
        for name, figure in findings.figures():
            record.figure(name, figure)
        record.table("claims", findings.rows())
        with whole_file(command.out / "report.md") as file:
            file.write("\n".join(findings.page()).encode())
        record.artifact(Path("report.md"))
    write_json(command.out / FINDINGS, {"metrics": findings.metrics(), "verdicts": findings.rows()})


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("claims")
