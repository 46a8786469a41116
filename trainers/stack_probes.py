"""The margins of all members of a stack: their heads are one program, each answer is kept as `evaluate` keeps it."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from shards.problem import DataProblem
from trainers.evaluate import RESULTS, SPLITS, Answers, Evaluate, Inquiry, keep, open_splits, prepare, tell
from trainers.evaluators.margins import Margins, codes_of
from trainers.task import Task

log = logging.getLogger(__name__)
EVALUATOR = "margins"


def probe_stack(tasks: Sequence[Task]) -> None:
    """Ask about the best checkpoint of every complete member of one seed that was not asked about before.

    `sonograph evaluate RUN margins --data DATASET --seed SEED` then finds its answer. A dataset without a test split,
    or with too small a one, is not asked.
    """
    if missing := [split for split in SPLITS if not (tasks[0].dataset / split).is_dir()]:
        log.warning("%s has no %s, so margins are not measured", tasks[0].dataset, ", ".join(missing))
        return
    inquiries = [prepare(_question(task)) for task in tasks]
    if waiting := [inquiry for inquiry in inquiries if not (inquiry.folder / RESULTS).is_file()]:
        _answer(waiting)


def _answer(inquiries: Sequence[Inquiry]) -> None:
    margins, test = inquiries[0].question, inquiries[0].test
    assert isinstance(margins, Margins)
    try:
        division = margins.divide(test)
    except DataProblem as problem:
        log.warning("%s Margins are not measured.", problem)
        return
    encoders = [inquiry.subject for inquiry in inquiries]
    embeddings = torch.stack([torch.from_numpy(encoder.embed(test)[division.rows]) for encoder in encoders])
    readings = margins.read(embeddings, codes_of(encoders[0]), division)
    for inquiry, embedding, reading in zip(inquiries, embeddings, readings, strict=True):
        datasets = open_splits(inquiry.command.data, inquiry.subject)
        answers: Answers = dict(margins.answers(inquiry.subject, datasets, division, embedding, reading))
        assert inquiry.subject.run is not None
        tell(inquiry, inquiry.subject.run, keep(inquiry, answers, {}))


def _question(task: Task) -> Evaluate:
    return Evaluate(str(_from_here(task.run)), EVALUATOR, data=_from_here(task.dataset), seed=task.config.seed)


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
