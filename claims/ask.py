"""Re-test what a system's paper claims: render, build, train, probe, compare, and say what was found.

    sonograph claims myna --size laptop --workers 2

Ordinary commands in a row, each of which can be repeated alone; what is finished is not done again. Verdicts come from
intervals over test recordings and seeds: holds, contradicted or undecided, as found.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import FlagCreatePairsOff, Positional, arg

from claims import report
from claims.commands import run
from claims.study import Question, Study
from claims.verdict import Answer
from shards.problem import DataProblem, UsageProblem
from shards.store import write_json
from shards.words import module_named, nearest
from trainers.tracking import Run

log = logging.getLogger(__name__)
FINDINGS = "findings.json"


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
    study = chosen(module_named("claims.studies", command.system).study(command.size), command.sweeps)
    if command.dry_run:
        return {"output": report.outline(study, command.workers), "metrics": {}}
    for words in study.preparations:
        run(*words)
    answers: dict[str, report.Answers] = {}
    for sweep, options in study.sweeps.items():
        words = (f"{study.system}:{sweep}", "--size", study.size, "--workers", str(command.workers), *options)
        answers[sweep] = _answers(study, run("sweep", *words).result["members"])
    findings = report.findings(study, answers, resamples=command.resamples)
    _show(command, study, findings)
    return {"output": f"{report.table(study, findings)}\n{command.out}", "metrics": report.metrics(findings)}


def chosen(study: Study, sweeps: Sequence[str]) -> Study:
    """The study with some of its sweeps; with all of them when none is named. Raises UsageProblem for an unknown."""
    if unknown := [name for name in sweeps if name not in study.sweeps]:
        raise UsageProblem(
            f"The study {study.system} at size {study.size} has no sweep '{unknown[0]}', so nothing was done. "
            f"{nearest(unknown[0], study.sweeps)}"
        )
    kept = {name: options for name, options in study.sweeps.items() if not sweeps or name in sweeps}
    return replace(study, sweeps=kept, claims=tuple(claim for claim in study.claims if claim.sweep in kept))


def _answers(study: Study, members: Mapping[str, Mapping[str, str]]) -> "report.Answers":
    """The scores of every member of a sweep and of the controls: metric -> encoder -> one Answer a seed."""
    found: report.Answers = {}
    for name, runs in members.items():
        for place in runs.values():
            _ask(study, name, place, 0, found)
    first = next(iter(next(iter(members.values())).values()))
    for control in study.controls:
        _ask(study, control, control, 0, found)
    for seed in range(len(next(iter(members.values())))):
        _ask(study, "random weights", f"random:{first}", seed, found)
    return found


def _ask(study: Study, name: str, checkpoint: str, seed: int, found: "report.Answers") -> None:
    """Every question to one encoder; in this process, since most of a small command is importing torch."""
    from trainers import evaluate

    for question in study.questions:
        asked = evaluate.Evaluate(
            checkpoint, "probe", Path(question.data), question.labels, cluster=question.cluster, seed=seed
        )
        log.info("\n$ %s", question.command(checkpoint, seed))
        folder = Path(str(evaluate.main(asked)["folder"]))
        for metric, answer in _read(folder, question):
            found.setdefault(metric, {}).setdefault(name, []).append(answer)


def _read(folder: Path, question: Question) -> Iterator[tuple[str, Answer]]:
    try:
        with np.load(folder / "scores.npz", allow_pickle=False) as scores:
            units = scores[f"unit.{question.cluster}"]
            for label in question.labels:
                yield question.metric(label), Answer(scores[f"score.{label}_accuracy"], units)
    except (OSError, KeyError, ValueError) as error:
        raise DataProblem(
            f"{folder} does not hold the score of every example ({error}), so nothing can be compared with it. Remove "
            "that folder and repeat the command: it asks again."
        ) from error


def _show(command: Claims, study: Study, findings: "report.Findings") -> None:
    """The report in the folder and in MLflow; findings.json comes last."""
    from trainers.mirror import mirror  # mlflow takes seconds to import

    record = Run(command.out)
    with mirror(command.out, experiment="claims", run_name=command.out.name), record.alive():
        record.params({"system": study.system, "size": study.size, "resamples": command.resamples})
        record.results(0, report.metrics(findings))
        for name, figure in report.figures(study, findings):
            record.figure(name, figure)
        record.table("claims", report.rows(findings))
        report.write(command.out / "report.md", study, findings)
        record.artifact(Path("report.md"))
    write_json(command.out / FINDINGS, json.loads(json.dumps(_plain(findings))))


def _plain(findings: "report.Findings") -> dict[str, Any]:
    return asdict(findings)


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("claims")
