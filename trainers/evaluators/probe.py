"""How much of a label can a small classifier read off the frozen embedding?

A linear and a one-hidden-layer probe are fitted on train, every choice is made on valid, and test is read once.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils import skip_init

from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.words import nearest
from trainers.confusion import confusion_figure
from trainers.encoder import Encoder
from trainers.results import Scores, corpus_name

NSYNTH_LABELS = ("pitch", "instrument_family")
L2_STRENGTHS = tuple(10.0**power for power in range(0, -6, -1))  # strong to weak: each fit starts where the last ended
HIDDEN_WIDTH = 512  # as in JukeMIR and MARBLE
LEARNING_RATES = (3e-3, 1e-3)
WEIGHT_DECAY = 1e-4  # the early stop regularises more than any value of it
BATCH_EXAMPLES = 256
ROUND_STEPS = 16  # valid is asked once a round: after every epoch, or so many steps where an epoch is shorter
MOST_ROUNDS = 60
PATIENCE_ROUNDS = 8
WORTH_THREADS = 1_000_000_000  # multiplications in one pass over train: some 25 ms on one core
UNSEEN = -1
"""Number of a class that train never shows: no probe can answer it, so it always counts as wrong."""


def load(labels: tuple[str, ...], seed: int) -> "Probe":
    """The probe of these labels; of NSynth's pitch and instrument family when none is named."""
    return Probe(labels or NSYNTH_LABELS, seed)


@dataclass(frozen=True)
class Rows:
    """One split as a probe sees it: standardised embeddings and class numbers."""

    inputs: Float[Tensor, "batch dim"]
    numbers: Int[Tensor, " batch"]


@dataclass(frozen=True)
class Fitted:
    """A probe with its settings and what it reaches on valid."""

    kind: str
    settings: Mapping[str, float]
    valid_accuracy: float
    valid_loss: float
    head: nn.Module

    def rank(self) -> tuple[float, float]:
        """What valid prefers: accuracy, the number that is reported; among equals the lower cross entropy."""
        return self.valid_accuracy, -self.valid_loss

    def predict(self, inputs: Float[Tensor, "batch dim"]) -> Int[Tensor, " batch"]:
        with torch.inference_mode():
            return self.head(inputs).argmax(dim=1)

    @property
    def about(self) -> dict[str, object]:
        return {"probe": self.kind, **self.settings, "valid_accuracy": self.valid_accuracy}


@dataclass(frozen=True)
class Probe:
    """For each label: the accuracy of both probes and of the one that valid prefers, what to hold it against, a figure.

    `L_accuracy` is the preferred one; `L_accuracy_linear` and `L_accuracy_mlp` are both; `L_majority` always answers
    train's commonest class; `L_unseen` is the share of test whose class train lacks.
    """

    labels: tuple[str, ...]
    seed: int

    def __call__(
        self, encoder: Encoder, datasets: Mapping[str, Reader]
    ) -> Iterator[tuple[str, float | Figure | Scores]]:
        """Raises UsageProblem for a label that is unknown or not a class, DataProblem for one that cannot be probed."""
        targets = {label: class_numbers(label, datasets) for label in self.labels}
        inputs = standardised({split: encoder.embed(reader) for split, reader in datasets.items()})
        for label, (classes, numbers) in targets.items():
            splits = {split: Rows(inputs[split], numbers[split]) for split in datasets}
            fitted = fit_probes(splits["train"], splits["valid"], len(classes), self.seed)
            answers = {probe.kind: probe.predict(splits["test"].inputs) for probe in fitted}
            chosen = max(fitted, key=Fitted.rank)
            for name, probe in {"": chosen, **{f"_{probe.kind}": probe for probe in fitted}}.items():
                is_right = (answers[probe.kind] == splits["test"].numbers).double().numpy()
                yield f"{label}_accuracy{name}", Scores(datasets["test"].indices, is_right, probe.about)
            yield from _references(label, splits)
            picture = self._picture(
                label, classes[answers[chosen.kind].numpy()], encoder.name, chosen, datasets["test"]
            )
            yield f"{label}_confusion", picture

    def _picture(
        self, label: str, answers: Shaped[np.ndarray, " batch"], encoder: str, chosen: Fitted, test: Reader
    ) -> Figure:
        title = (
            f"{label} of {corpus_name(test.manifest)} · {encoder}\n"
            f"{chosen.kind} probe, n = {len(test):,} test examples, seed {self.seed}"
        )
        return confusion_figure(test.labels(label), answers, test.manifest.labels[label], title)


def class_numbers(
    label: str, datasets: Mapping[str, Reader]
) -> tuple[Shaped[np.ndarray, " classes"], dict[str, Int[Tensor, " ..."]]]:
    """The classes that train shows, sorted, and each split's examples by their number among them, or UNSEEN."""
    _check_label(label, datasets["train"])
    values = {split: reader.labels(label) for split, reader in datasets.items()}
    for split, column in values.items():
        if column.dtype == object:
            raise DataProblem(
                f"{datasets[split].folder} has examples without '{label}', so its accuracy would be of an unknown "
                "part. Choose a label that every example has, or build the dataset again from complete metadata."
            )
    classes = np.unique(values["train"])
    if len(classes) < 2:
        raise DataProblem(
            f"every example of {datasets['train'].folder} has {label} = {classes.tolist()}, so a probe has nothing to "
            "tell apart. Choose another label, or build from more recordings."
        )
    return classes, {split: _numbers(column, classes) for split, column in values.items()}


def standardised(embeddings: Mapping[str, Float[np.ndarray, "_ dim"]]) -> dict[str, Float[Tensor, "_ dim"]]:
    """Every split shifted and scaled by the mean and deviation of train alone; constant dimensions are only shifted."""
    # Statistics of any other split, even without its labels, would tell the probe about the examples it is judged on.
    train = embeddings["train"].astype(np.float64)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    scale = np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)
    return {split: torch.from_numpy(((rows - mean) / scale).astype(np.float32)) for split, rows in embeddings.items()}


def fit_probes(train: Rows, valid: Rows, classes: int, seed: int) -> list[Fitted]:
    """The best probe of each kind by valid; test is no argument, so nothing can be chosen on it."""
    with _threads_for(train.inputs.numel() * classes):
        kinds = linear_probes(train, valid, classes), mlp_probes(train, valid, classes, seed)
        return [max(candidates, key=Fitted.rank) for candidates in kinds]


@contextmanager
def _threads_for(products: int) -> Iterator[None]:
    """One thread where a step takes milliseconds: more would wait for each other, five times longer on shared cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if products >= WORTH_THREADS else 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def linear_probes(train: Rows, valid: Rows, classes: int) -> Iterator[Fitted]:
    """Multinomial logistic regression by L-BFGS over all rows, for each strength of L2. Nothing in it is random."""
    head: nn.Linear = skip_init(nn.Linear, train.inputs.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    for l2 in L2_STRENGTHS:
        _descend(head, train, l2)
        yield _judged("linear", {"l2": l2}, head, valid)


def mlp_probes(train: Rows, valid: Rows, classes: int, seed: int) -> Iterator[Fitted]:
    """One hidden layer of ReLUs by Adam, judged after each round until PATIENCE_ROUNDS have brought nothing better."""
    for lr in LEARNING_RATES:
        head = _mlp(train.inputs.shape[1], classes, seed)
        optimizer = torch.optim.Adam(head.parameters(), lr=lr, weight_decay=WEIGHT_DECAY, fused=True)
        batches = _shuffled(len(train.numbers), seed)
        round_steps = max(ROUND_STEPS, ceil(len(train.numbers) / BATCH_EXAMPLES))
        best, best_round = (-1.0, 0.0), 0
        for number in range(1, MOST_ROUNDS + 1):
            _train(head, optimizer, train, islice(batches, round_steps))
            probe = _judged("mlp", {"lr": lr, "steps": number * round_steps}, head, valid)
            yield probe
            if probe.rank() > best:
                best, best_round = probe.rank(), number
            elif number - best_round >= PATIENCE_ROUNDS:
                break


def _shuffled(examples: int, seed: int) -> Iterator[Tensor]:
    """Batches of row numbers, epoch after epoch without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(examples, generator=generator).split(BATCH_EXAMPLES)


def _train(head: nn.Module, optimizer: torch.optim.Optimizer, train: Rows, batches: Iterable[Tensor]) -> None:
    for rows in batches:
        optimizer.zero_grad()
        F.cross_entropy(head(train.inputs[rows]), train.numbers[rows]).backward()
        optimizer.step()


def _mlp(width: int, classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(width, HIDDEN_WIDTH), nn.ReLU(), nn.Linear(HIDDEN_WIDTH, classes))


def _descend(head: nn.Linear, train: Rows, l2: float) -> None:
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss_with_gradients() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(train.inputs), train.numbers) + l2 / 2 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(loss_with_gradients)


def _judged(kind: str, settings: Mapping[str, float], head: nn.Module, valid: Rows) -> Fitted:
    """A copy of the probe as it stands, with its accuracy and cross entropy on valid."""
    with torch.inference_mode():
        logits = head(valid.inputs)
        accuracy = (logits.argmax(dim=1) == valid.numbers).double().mean()
        loss = F.cross_entropy(logits, valid.numbers, ignore_index=UNSEEN)
    return Fitted(kind, settings, float(accuracy), float(loss), deepcopy(head))


def _references(label: str, splits: Mapping[str, Rows]) -> Iterator[tuple[str, float]]:
    commonest = splits["train"].numbers.mode().values
    test = splits["test"].numbers
    yield f"{label}_majority", float((test == commonest).double().mean())
    yield f"{label}_unseen", float((test == UNSEEN).double().mean())


def _numbers(values: Shaped[np.ndarray, " batch"], classes: Shaped[np.ndarray, " classes"]) -> Int[Tensor, " batch"]:
    numbers = np.searchsorted(classes, values).clip(max=len(classes) - 1)
    return torch.from_numpy(np.where(classes[numbers] == values, numbers, UNSEEN))


def _check_label(label: str, dataset: Reader) -> None:
    labels = dataset.manifest.labels
    if label not in labels:
        raise UsageProblem(f"{dataset.folder} has no label '{label}', so nothing was probed. {nearest(label, labels)}")
    if labels[label]["type"] not in ("int", "str"):
        raise UsageProblem(
            f"'{label}' is of type {labels[label]['type']}, and this probe only tells classes apart: numbers would "
            f"need a regression, lists a decision for each entry. Choose from: {', '.join(_class_labels(labels))}."
        )


def _class_labels(labels: Mapping[str, Mapping[str, object]]) -> list[str]:
    return [name for name, kind in labels.items() if kind["type"] in ("int", "str")]
