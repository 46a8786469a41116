"""A Study: what is trained on what, which questions are asked of it, and what is found in the answers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

from matplotlib.figure import Figure

from claims.verdict import Answer
from shards.problem import UsageProblem
from shards.words import nearest

Answers = dict[str, dict[str, list[Answer]]]
"""Metric -> encoder -> one Answer a training."""


@dataclass(frozen=True)
class Question:
    """What an evaluator asks about some labels; rows of equal `cluster`, such as one track's, are resampled together.

    Of a probe only the accuracy that counts is kept, of others every score. Without labels it asks about its default.
    """

    name: str
    data: str
    labels: tuple[str, ...] = ()
    cluster: str = ""
    evaluator: str = "probe"

    def metric(self, score: str) -> str | None:
        """How results name a score of the evaluator: `music/key`. None for those that are not kept."""
        if self.evaluator != "probe":
            return f"{self.name}/{score}"
        label = score.removesuffix("_accuracy")
        return f"{self.name}/{label}" if label in self.labels and label != score else None

    def command(self, checkpoint: str, seed: int | str) -> str:
        """The command that asks it alone."""
        labels = f" --labels {' '.join(self.labels)}" if self.labels else ""
        cluster = f" --cluster {self.cluster}" if self.cluster else ""
        return f"sonograph evaluate {checkpoint} {self.evaluator} --data {self.data}{labels}{cluster} --seed {seed}"


@runtime_checkable
class Findings(Protocol):
    """What a study makes of its answers, in every form that is shown."""

    def text(self) -> str:
        """For a terminal."""

    def metrics(self) -> dict[str, float]:
        """Numbers by names that MLflow can chart: `variants/music/key/base`."""

    def rows(self) -> list[dict[str, object]]:
        """One row a verdict, in plain values."""

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """Figures by name."""

    def page(self) -> Iterator[str]:
        """Lines of the report in Markdown; figures lie in plots/ beside it."""


@dataclass(frozen=True, kw_only=True)
class Study(ABC):
    """All that `sonograph claims SYSTEM --size S` does, in this order.

    `preparations` are commands that render and build; `sweeps` names sweeps of the system (trainers/sweeps) with the
    options that all their members get; controls are checkpoints that the members are held against.
    """

    system: str
    size: str
    preparations: tuple[tuple[str, ...], ...]
    sweeps: Mapping[str, tuple[str, ...]]
    questions: tuple[Question, ...]
    controls: tuple[str, ...] = ("column:mel",)
    caveat: str = ""

    @abstractmethod
    def claimed(self) -> Sequence[str]:
        """The sentences that get a verdict."""

    @abstractmethod
    def findings(self, answers: Mapping[str, Answers], *, resamples: int) -> Findings:
        """What the answers, by sweep, say about the claims."""

    def only(self, sweeps: Sequence[str]) -> Self:
        """The study with some of its sweeps, all when none is named. Raises UsageProblem for an unknown one."""
        if unknown := [name for name in sweeps if name not in self.sweeps]:
            raise UsageProblem(
                f"The study {self.system} at size {self.size} has no sweep '{unknown[0]}', so nothing was done. "
                f"{nearest(unknown[0], self.sweeps)}"
            )
        return replace(self, sweeps={name: o for name, o in self.sweeps.items() if not sweeps or name in sweeps})

    def training(self, sweep: str, workers: int) -> tuple[str, ...]:
        """The words of the command that trains a sweep's members."""
        return ("sweep", f"{self.system}:{sweep}", "--size", self.size, "--workers", str(workers), *self.sweeps[sweep])

    def outline(self, workers: int) -> str:
        """What would be run and compared."""
        commands = [*self.preparations, *(self.training(sweep, workers) for sweep in self.sweeps)]
        asked = [question.command("CHECKPOINT", "SEED") for question in self.questions]
        return "\n".join([*(f"sonograph {' '.join(words)}" for words in commands), *asked, *self.claimed()])
