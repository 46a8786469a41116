"""Ask a question of a checkpoint, and of controls on the same examples.

    sonograph evaluate runs/x probe --data datasets/nsynth --against random:runs/x column:mel --cluster instrument

CHECKPOINT and controls: RUN, RUN/checkpoints/step-N, models:/NAME@ALIAS, random:RUN or random:SYSTEM:VARIANT (fresh
weights), column:mel (the mean spectrogram). A command that was answered before only shows its answer.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from matplotlib.figure import Figure
from tyro.conf import FlagCreatePairsOff, Positional, arg

from shards.manifest import MANIFEST, Manifest
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.store import digest_of, whole_file, write_json
from shards.words import module_named
from trainers.encoder import Encoder, open_encoder, require_contract
from trainers.results import Resampling, Scores, corpus_name, summary, table, write_scores
from trainers.tracking import Run

log = logging.getLogger(__name__)
SPLITS = ("train", "valid", "test")
RESULTS, TABLE, SCORES = "results.json", "table.txt", "scores.npz"
Answers = dict[str, float | Figure | Scores]
_FEWEST_RESAMPLES = 100


@runtime_checkable
class Evaluator(Protocol):
    """What `load` of a file in trainers/evaluators/ returns."""

    def __call__(
        self, encoder: Encoder, datasets: Mapping[str, Reader]
    ) -> Iterator[tuple[str, float | Figure | Scores]]: ...


@dataclass(frozen=True)
class Evaluate:
    """What is asked of which encoder, and against what."""

    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """what is asked"""
    evaluator: Annotated[Positional[str], arg(metavar="EVALUATOR")] = "probe"
    """the question"""
    data: Path = Path("datasets/nsynth")
    """folder of train, valid and test"""
    labels: Annotated[tuple[str, ...], arg(metavar="LABEL ...")] = ()
    """what the question is about"""
    against: Annotated[tuple[str, ...], arg(metavar="CHECKPOINT ...")] = ()
    """controls, asked the same"""
    random_seeds: int = 3
    """draws of a random control, averaged"""
    size: Literal["paper", "laptop", "debug"] = "paper"
    """of random:SYSTEM:VARIANT"""
    cluster: Annotated[str, arg(metavar="LABEL")] = ""
    """also resample whole groups of it"""
    resamples: int = 2000
    """draws of the bootstrap"""
    seed: int = 0
    """of weights and of resampling"""
    fresh: FlagCreatePairsOff[bool] = False
    """answer again"""
    dry_run: FlagCreatePairsOff[bool] = False
    """check all, show what would be asked"""


COMMAND = Evaluate


@dataclass(frozen=True)
class Inquiry:
    """A command with everything opened and checked, before anything is computed."""

    command: Evaluate
    question: Evaluator
    subject: Encoder
    controls: Mapping[str, Sequence[Encoder]]
    test: Reader
    resampling: Resampling

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        return {split: Manifest.read(self.command.data / split) for split in SPLITS}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides the answer: equal identities have equal answers."""
        command = self.command
        return {
            "evaluator": command.evaluator,
            "labels": list(command.labels),
            "seed": command.seed,
            "resamples": command.resamples,
            "cluster": command.cluster,
            "encoder": self.subject.about,
            "controls": {name: [draw.about for draw in draws] for name, draws in self.controls.items()},
            "data": {split: manifest.fingerprint for split, manifest in self.manifests.items()},
        }

    @property
    def folder(self) -> Path:
        """Where the answer lies: in the run of the checkpoint, or in runs/ when it is of no run."""
        name = f"{self.command.evaluator}-{digest_of(self.identity)[:8]}"
        return (self.subject.run or Path("runs")) / "evaluations" / name

    def shown(self, examples: int) -> dict[str, Any]:
        """What a reader of the answer wants to know first; a question may be judged on a part of the test split."""
        return {
            "evaluator": self.command.evaluator,
            "checkpoint": self.subject.name,
            "corpus": corpus_name(self.test.manifest),
            "data": str(self.command.data),
            "examples": examples,
            "seed": self.command.seed,
            "resamples": self.command.resamples,
        }


def main(command: Evaluate) -> dict[str, object]:
    """Answer, keep the answer beside the checkpoint, and show it in the checkpoint's MLflow run."""
    inquiry = prepare(command)
    path = inquiry.folder / RESULTS
    if command.dry_run:
        return {"output": f"{json.dumps(inquiry.identity, indent=1)}\n{inquiry.folder}", "metrics": {}}
    if command.fresh or not path.is_file():
        answer(inquiry)
    else:
        log.info("evaluate %s  complete since an earlier call; --fresh asks again", command.evaluator)
    metrics, text = json.loads(path.read_bytes())["metrics"], (inquiry.folder / TABLE).read_text()
    return {"output": f"{text}\n{inquiry.folder}", "folder": str(inquiry.folder), "metrics": metrics}


def prepare(command: Evaluate) -> Inquiry:
    """Open encoders and datasets. Raises UsageProblem or DataProblem before anything costly begins."""
    if command.random_seeds < 1 or command.resamples < _FEWEST_RESAMPLES:
        raise UsageProblem(
            f"--random-seeds {command.random_seeds} --resamples {command.resamples} would give intervals that mean "
            f"nothing. Give at least 1 and at least {_FEWEST_RESAMPLES}; 2000 resamples settle two digits."
        )
    question = module_named("trainers.evaluators", command.evaluator).load(command.labels, command.seed)
    subject, *_ = open_draws(command.checkpoint, 1, command)
    controls = {name: open_draws(name, command.random_seeds, command) for name in command.against}
    for encoder in (draw for draws in ([subject], *controls.values()) for draw in draws):
        test = open_splits(command.data, encoder)["test"]
    units = {"example": test.indices}
    if command.cluster:
        units[command.cluster] = test.labels(command.cluster)
    return Inquiry(command, question, subject, controls, test, Resampling(units, command.resamples, command.seed))


def open_draws(reference: str, count: int, command: Evaluate) -> list[Encoder]:
    """The encoder; of random weights `count` of them, from one seed each."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seeds = range(command.seed, command.seed + (count if reference.startswith("random:") else 1))
    return [open_encoder(reference, size=command.size, seed=seed, device=device) for seed in seeds]


def open_splits(data: Path, encoder: Encoder) -> dict[str, Reader]:
    """A Reader of the encoder's column for each split. Raises DataProblem when one is missing, empty or different."""
    missing = [split for split in SPLITS if not (data / split / MANIFEST).is_file()]
    if missing:
        hint = f"Name its parent: {data.parent}" if (data / MANIFEST).is_file() else "Build it: sonograph build CORPUS"
        raise DataProblem(
            f"{data} has no finished dataset for {', '.join(missing)}, and a probe is fitted on train, chosen on valid "
            f"and judged on test. {hint}"
        )
    readers = {split: Reader(data / split, encoder.column) for split in SPLITS}
    if empty := [str(reader.folder) for reader in readers.values() if not len(reader)]:
        raise DataProblem(
            f"{', '.join(empty)} holds no example, so nothing can be answered from it. See why: "
            f"sonograph inspect {empty[0]}"
        )
    probed = readers["train"].manifest.features[encoder.column]
    for reader in readers.values():
        require_contract(encoder.name, encoder.contract, reader)
        require_contract(f"a probe on {readers['train'].folder}", probed, reader)
    return readers


def answer(inquiry: Inquiry) -> None:
    """Ask the encoder and its controls, keep the answer, and show it in the checkpoint's run."""
    own = _ask(inquiry, inquiry.subject)
    controls = {name: [_ask(inquiry, draw) for draw in draws] for name, draws in inquiry.controls.items()}
    metrics = keep(inquiry, own, controls)
    if inquiry.subject.run is not None:
        show(inquiry, inquiry.subject.run, metrics)


def keep(inquiry: Inquiry, own: Answers, controls: Mapping[str, Sequence[Answers]]) -> Mapping[str, Mapping[str, Any]]:
    """Write the answer into its folder, results.json last; returns the metrics of results.json."""
    resampling = inquiry.resampling.of([value for value in own.values() if isinstance(value, Scores)])
    metrics = {
        name: _metric(name, value, controls, resampling) for name, value in own.items() if not isinstance(value, Figure)
    }
    for name, value in own.items():
        if isinstance(value, Figure):
            with whole_file(inquiry.folder / f"{name}.png") as file:
                value.savefig(file, format="png", dpi=144)
    with whole_file(inquiry.folder / SCORES) as file:
        write_scores(file, own, resampling)
    examples = len(resampling.units["example"])
    results = {**inquiry.shown(examples), "metrics": metrics, "identity": inquiry.identity}
    with whole_file(inquiry.folder / TABLE) as file:
        file.write(f"{table(results)}\n".encode())
    write_json(inquiry.folder / RESULTS, results)
    return metrics


def show(inquiry: Inquiry, run_folder: Path, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """The answer in the checkpoint's run, and that run in MLflow."""
    from trainers.mirror import mirror  # mlflow takes seconds to import; an answer that exists needs none of it

    tell(inquiry, run_folder, metrics)
    with mirror(run_folder, experiment="evaluations", run_name=run_folder.name):
        log.info("evaluate %s  shown in the MLflow run of %s", inquiry.command.evaluator, run_folder)


def tell(inquiry: Inquiry, run_folder: Path, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Tell the checkpoint's run: numbers at its step, the datasets that were asked, table and pictures."""
    run, corpus = Run(run_folder), corpus_name(inquiry.test.manifest)
    values = {f"eval/{corpus}/{name}": metric["value"] for name, metric in metrics.items()}
    for name, metric in metrics.items():
        for control, against in metric.get("against", {}).items():
            values[f"eval/{corpus}/{name}_minus_{_short(control)}"] = against["difference"]
    run.results(inquiry.subject.step, values)
    for split, manifest in inquiry.manifests.items():
        source = str((inquiry.command.data / split).absolute())
        run.dataset(f"{corpus}/{split}", digest=manifest.fingerprint, source=source, context="evaluation", split=split)
    run.artifact(inquiry.folder.absolute(), f"evaluations/{inquiry.folder.name}")


def _ask(inquiry: Inquiry, encoder: Encoder) -> Answers:
    began = time.monotonic()
    answers = dict(inquiry.question(encoder, open_splits(inquiry.command.data, encoder)))
    log.info("evaluate %s  %s  %.0f s", inquiry.command.evaluator, encoder.name, time.monotonic() - began)
    return answers


def _metric(
    name: str, value: float | Scores, controls: Mapping[str, Sequence[Answers]], resampling: Resampling
) -> dict[str, object]:
    if not isinstance(value, Scores):
        return {"value": value}
    asked = {control: [draw.get(name) for draw in draws] for control, draws in controls.items()}
    theirs = {control: [said for said in draws if isinstance(said, Scores)] for control, draws in asked.items()}
    return summary(value, {control: said for control, said in theirs.items() if said}, resampling)


def _short(control: str) -> str:
    """A control in the name of a metric, where a slash would open a group: random weights of any kind are `random`."""
    return "random" if control.startswith("random:") else control.replace("/", "_")


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("evaluate")
