"""A Study: what is trained on what, which questions are asked, and what a paper claims of the answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Question:
    """A probe of some labels of one dataset; rows of equal `cluster`, such as one track's, are resampled together."""

    name: str
    data: str
    labels: tuple[str, ...]
    cluster: str

    def metric(self, label: str) -> str:
        """How results name the answer about one label: `music/key`."""
        return f"{self.name}/{label}"

    def command(self, checkpoint: str, seed: int | str) -> str:
        """The command that asks it alone."""
        labels = " ".join(self.labels)
        return (
            f"sonograph evaluate {checkpoint} probe --data {self.data} --labels {labels} --cluster {self.cluster} "
            f"--seed {seed}"
        )


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper as a comparison: on `metric`, `better` is above `than` by more than -`margin`.

    `better` and `than` name members of the sweep `sweep`; each of `than` is compared on its own. With a margin the
    sentence is "at least as good as"; without, "better than". `published` is the paper's own pair of values, at its
    scale.
    """

    text: str
    sweep: str
    metric: str
    better: str
    than: tuple[str, ...]
    margin: float = 0.0
    published: str = ""


@dataclass(frozen=True)
class Study:
    """All that `sonograph claims SYSTEM --size S` does, in this order.

    `preparations` are commands that render and build; `sweeps` names sweeps of the system (trainers/configs) with the
    options that all their members get; controls are checkpoints that the members are held against.
    """

    system: str
    size: str
    preparations: tuple[tuple[str, ...], ...]
    sweeps: Mapping[str, tuple[str, ...]]
    questions: tuple[Question, ...]
    claims: tuple[Claim, ...]
    controls: tuple[str, ...] = ("column:mel",)
    caveat: str = ""
    axes: Mapping[str, str] = field(default_factory=dict)
