"""Which of two labels can be read off which part of the embedding? (arXiv 2507.22995)

The test split alone is asked, divided once more: linear heads are fitted on its larger part, every choice is made on
the second, and the third is read once. So no head ever hears an instrument that the encoder was trained on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from trainers.encoder import Encoder
from trainers.evaluators.probe import NSYNTH_LABELS, class_numbers
from trainers.heads import Answer, HeadConfig, Parts, Target, fit_heads
from trainers.models.multiview import Multiview
from trainers.results import Scores

OVERALL = "overall"
RIDGES = tuple(10.0**power for power in range(-6, 3))  # times the number of rows
Reading = Mapping[str, Answer]
"""Name of a part of the embedding, or OVERALL -> what its heads answered about one label."""


@dataclass(frozen=True)
class Division:
    """Rows of the test split that are asked about, and what about them: numbers in `parts` and `targets` count these.

    `classes` are the kept values of each label, in the order of their numbers.
    """

    rows: Int[np.ndarray, " rows"]
    indices: Int[np.ndarray, " rows"]
    parts: Parts
    targets: Mapping[str, Target]
    classes: Mapping[str, Sequence[object]]


@dataclass(frozen=True)
class Margins:
    """For both labels the accuracy of a linear head on the private, the shared and the whole embedding, and margins.

    The first label belongs into the private code, the second into the shared one: `FIRST_margin` is the accuracy from
    private less that from shared, `SECOND_margin` the reverse. `mse` is the squared error of a reconstruction, of
    standardised features, so that 1 is their mean; `X_from_Y_r2` is how much of code X a linear map of code Y explains.
    An encoder without codes has only the accuracies from all of it. Division and heads are ours: the paper's are lost.
    """

    labels: tuple[str, str]
    seed: int
    heads: HeadConfig = field(default_factory=HeadConfig)
    shares: tuple[float, float] = (0.15, 0.15)
    """Of the test split that choose and that judge; heads are fitted on the rest."""
    fewest: int = 10
    """Clips without which a class is not asked about."""
    division_seed: int = 17

    def __call__(self, encoder: Encoder, datasets: Mapping[str, Reader]) -> Iterator[tuple[str, float | Scores]]:
        """Raises UsageProblem for a label that is unknown or no class, DataProblem where too little is left to ask."""
        division = self.divide(datasets["test"])
        embedding = torch.from_numpy(encoder.embed(datasets["test"])[division.rows])
        (readings,) = self.read(embedding[None], codes_of(encoder), division)
        yield from self.answers(encoder, datasets, division, embedding, readings)

    def answers(
        self,
        encoder: Encoder,
        datasets: Mapping[str, Reader],
        division: Division,
        embedding: Float[Tensor, "rows width"],
        readings: Mapping[str, Reading],
    ) -> Iterator[tuple[str, float | Scores]]:
        """All that is said of one encoder, whose heads have answered."""
        yield from self.scores(readings, division)
        yield from _references(division)
        yield from _leakage(embedding, codes_of(encoder), division.parts)
        if isinstance(encoder.model, Multiview) and encoder.model.decoder is not None:
            errors = squared_errors(encoder, datasets["test"])[division.rows]
            yield "mse", _judged(division, errors, {})
            yield "mse_valid", float(squared_errors(encoder, datasets["valid"]).mean())

    def divide(self, test: Reader) -> Division:
        """Leave out rare classes, then deal the rows out, alike in every class of either label; always the same way."""
        found = {label: class_numbers(label, {"train": test}) for label in self.labels}
        numbers = {label: split["train"].numpy() for label, (_, split) in found.items()}
        rows = np.flatnonzero(_common([*numbers.values()], self.fewest))
        for label in self.labels:
            if len(np.unique(numbers[label][rows])) < 2:
                raise DataProblem(
                    f"{test.folder} has fewer than two classes of '{label}' with {self.fewest} clips each, so there is "
                    "nothing to tell apart. Build a larger test split, or choose another label."
                )
        kept = {label: np.unique(numbers[label][rows], return_inverse=True) for label in self.labels}
        parts = _dealt(*(own for _, own in kept.values()), shares=self.shares, seed=self.division_seed)
        for label, (_, own) in kept.items():
            if unseen := set(own[parts.test]) - set(own[parts.train]):
                value = found[label][0][kept[label][0][min(unseen)]]
                raise DataProblem(
                    f"{test.folder}: no clip of {label}={value} fell to the part that heads are fitted on, so those "
                    "that judge would all be wrong. Build a larger test split."
                )
        return Division(
            rows,
            test.indices[rows],
            parts,
            {label: Target(torch.from_numpy(own), len(values)) for label, (values, own) in kept.items()},
            {label: found[label][0][values].tolist() for label, (values, _) in kept.items()},
        )

    def read(
        self, embeddings: Float[Tensor, "members rows width"], codes: Mapping[str, slice], division: Division
    ) -> Sequence[Mapping[str, Reading]]:
        """For each member, label -> part of the embedding -> answers; all heads of one width are one program."""
        targets, members = [*division.targets.values()], len(embeddings)
        stacks = {OVERALL: embeddings} | {name: embeddings[:, :, place] for name, place in codes.items()}
        found = [{label: dict[str, Answer]() for label in division.targets} for _ in range(members)]
        for width in {stack.shape[2] for stack in stacks.values()}:
            alike = [name for name, stack in stacks.items() if stack.shape[2] == width]
            inputs = torch.cat([stacks[name] for name in alike])
            answers = fit_heads(inputs, targets, division.parts, self.heads, seed=self.seed)
            for label, answer in zip(division.targets, answers, strict=True):
                for place, name in enumerate(alike):
                    for member in range(members):
                        found[member][label][name] = answer.of(place * members + member)
        return found

    def scores(self, readings: Mapping[str, Reading], division: Division) -> Iterator[tuple[str, Scores]]:
        """Accuracies of one member, and the margins where it has both codes."""
        for number, (label, reading) in enumerate(readings.items()):
            truth = division.targets[label].numbers[division.parts.test]
            right = {name: (answer.predictions[0] == truth).double().numpy() for name, answer in reading.items()}
            for name, answer in reading.items():
                about = {**_about(answer), "classes": division.classes[label]}
                yield f"{label}_{name}", Scores(_indices(division), right[name], about)
            if {"private", "shared"} <= set(reading):
                own, other = ("private", "shared") if number == 0 else ("shared", "private")
                yield f"{label}_margin", Scores(_indices(division), right[own] - right[other], {})


def load(labels: tuple[str, ...], seed: int) -> Margins:
    """Of the label that belongs into the private code, then the shared one; NSynth's pitch and family by default."""
    first, *others = labels or NSYNTH_LABELS
    if len(others) != 1 or others[0] == first:
        raise UsageProblem(
            f"--labels {' '.join(labels)} are not two labels, and margins compare what two labels say of two codes. "
            "Name first the label that views of a pair differ in, then the one they share."
        )
    return Margins((first, others[0]), seed)


def codes_of(encoder: Encoder) -> Mapping[str, slice]:
    """Where the private and the shared code lie in the embedding; empty where a model has no codes."""
    return getattr(encoder.model, "subspaces", {})


def squared_errors(encoder: Encoder, reader: Reader) -> Float[np.ndarray, " batch"]:
    """Mean squared error of each row's reconstruction, in the model's standardised space."""
    assert isinstance(encoder.model, Multiview)
    return replace(encoder, model=_Errors(encoder.model)).embed(reader)[:, 0]


class _Errors(nn.Module):
    """Embeds features as the error of their reconstruction: windows and batches are then those of any embedding."""

    def __init__(self, model: Multiview) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Float[Tensor, "batch bands frames"]) -> Float[Tensor, "batch 1"]:
        pooled = self.model.pooled(features)
        rebuilt = self.model.rebuilt(*self.model.codes(pooled))
        return (rebuilt.float() - pooled).square().flatten(1).mean(dim=1, keepdim=True)


def explained(inputs: Float[Tensor, "rows width"], outputs: Float[Tensor, "rows _"], parts: Parts) -> Float[Tensor, ""]:
    """R2 on test of the linear map from inputs to outputs, each dimension of the outputs counting alike.

    Ridge regression on train, its strength by valid. 1 where outputs follow from inputs, about 0 where they do not.
    """
    given, wanted = (_standardised(side.double(), parts.train) for side in (inputs, outputs))
    values, axes = torch.linalg.eigh(given[parts.train].mT @ given[parts.train])
    projected = axes.mT @ given[parts.train].mT @ wanted[parts.train]
    strengths = [ridge * len(parts.train) for ridge in RIDGES]
    maps = [axes @ (projected / (values.clamp(min=0) + strength)[:, None]) for strength in strengths]
    best = min(maps, key=lambda found: float((given[parts.valid] @ found - wanted[parts.valid]).square().mean()))
    lost = (given[parts.test] @ best - wanted[parts.test]).square().sum()
    return 1 - lost / wanted[parts.test].square().sum()


def _standardised(rows: Float[Tensor, "rows width"], train: Int[np.ndarray, " train"]) -> Float[Tensor, "rows width"]:
    deviation, mean = torch.std_mean(rows[train], dim=0, correction=0)
    return (rows - mean) / torch.where(deviation > 1e-6 * mean.abs(), deviation, 1.0)


def _leakage(
    embedding: Float[Tensor, "rows width"], codes: Mapping[str, slice], parts: Parts
) -> Iterator[tuple[str, float]]:
    """How much of each code is in the other, too."""
    if codes:
        private, shared = embedding[:, codes["private"]], embedding[:, codes["shared"]]
        yield "shared_from_private_r2", float(explained(private, shared, parts))
        yield "private_from_shared_r2", float(explained(shared, private, parts))


def _references(division: Division) -> Iterator[tuple[str, float]]:
    """What answers without an embedding reach: always train's commonest class, and any class by chance."""
    for label, target in division.targets.items():
        commonest = target.numbers[division.parts.train].mode().values
        yield f"{label}_majority", float((target.numbers[division.parts.test] == commonest).double().mean())
        yield f"{label}_chance", 1 / target.classes


def _about(answer: Answer) -> dict[str, object]:
    return {
        "probe": "linear",
        "lr": float(answer.rate),
        "epoch": int(answer.epoch),
        "valid_accuracy": float(answer.valid_accuracy),
    }


def _judged(division: Division, values: Float[np.ndarray, " rows"], about: Mapping[str, object]) -> Scores:
    return Scores(_indices(division), values[division.parts.test].astype(np.float64), about)


def _indices(division: Division) -> Int[np.ndarray, " test"]:
    return division.indices[division.parts.test]


def _common(labels: Sequence[Int[np.ndarray, " rows"]], fewest: int) -> Bool[np.ndarray, " rows"]:
    """Rows whose classes all have `fewest` rows left, after the others have gone."""
    kept = np.ones(len(labels[0]), bool)
    while True:
        counts = [np.bincount(numbers[kept], minlength=numbers.max() + 1) for numbers in labels]
        still = kept & np.all([count[numbers] >= fewest for count, numbers in zip(counts, labels, strict=True)], axis=0)
        if (still == kept).all():
            return kept
        kept = still


def _dealt(
    first: Int[np.ndarray, " rows"], second: Int[np.ndarray, " rows"], *, shares: tuple[float, float], seed: int
) -> Parts:
    """Rows sorted by `first`, within it by `second`, are dealt out at even distances: every class gives its share.

    The classes of `second` come in a new random order within each of `first`, or the distances could beat with them.
    """
    rng = np.random.default_rng(seed)
    places = rng.random((first.max() + 1, second.max() + 1))[first, second]
    order = np.lexsort((rng.random(len(first)), places, first))
    test = _every(len(order), shares[1], rng.random())
    valid = np.zeros_like(test)
    valid[~test] = _every(int((~test).sum()), shares[0] / (1 - shares[1]), rng.random())
    return Parts(order[~(valid | test)], order[valid], order[test])


def _every(places: int, share: float, phase: float) -> Bool[np.ndarray, " rows"]:
    """Marks `share` of the places, at distances that differ by one at most."""
    return (np.arange(places) * share + phase) % 1 < share
