"""Linear probes of many embeddings at once: one stacked program in which every head is as if it were trained alone.

A head is dropout and one linear layer under cross entropy, by Adam, stopped early on valid. Members bring inputs of one
width; all their heads, for every target and learning rate, share the order of the rows and the dropout masks that the
seed gives, so equal inputs get equal heads. Speed beside heads trained in turn: tests/benchmarks/stacked.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class HeadConfig:
    """How heads are trained; the published text gives dropout, one layer and cross entropy, the values are ours."""

    rates: tuple[float, ...] = (1e-3, 1e-2)
    """Learning rates of Adam; valid chooses one for every member."""
    dropout: float = 0.2
    """Share of the inputs that a step does not see."""
    batch_examples: int = 256
    epochs: int = 100
    """At most."""
    patience: int = 10
    """Epochs without a better accuracy on valid after which a head stops."""


@dataclass(frozen=True)
class Parts:
    """Rows of the inputs that heads are fitted on, chosen by and judged on."""

    train: Int[np.ndarray, " train"]
    valid: Int[np.ndarray, " valid"]
    test: Int[np.ndarray, " test"]


@dataclass(frozen=True)
class Target:
    """What is to be told: the class number of every row of the inputs; rows of no part may hold anything."""

    numbers: Int[Tensor, " rows"]
    classes: int


@dataclass(frozen=True)
class Answer:
    """What the heads of one target say on test, and what was chosen before test was read."""

    predictions: Int[Tensor, "members test"]
    valid_accuracy: Float[Tensor, " members"]
    rate: Float[Tensor, " members"]
    epoch: Int[Tensor, " members"]
    """Of which the weights are, from 1."""

    def of(self, member: int) -> "Answer":
        """That of one member."""
        one = slice(member, member + 1)
        return Answer(self.predictions[one], self.valid_accuracy[one], self.rate[one], self.epoch[one])


def fit_heads(
    inputs: Float[Tensor, "members rows width"],
    targets: Sequence[Target],
    parts: Parts,
    config: HeadConfig,
    *,
    seed: int,
) -> list[Answer]:
    """One Answer a target: for each member the head of the rate that valid prefers, the first among equals.

    Inputs are standardised by each member's own training rows; constant columns are only shifted.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a step's products take less than a millisecond: more threads would wait for each other
    try:
        with torch.no_grad():
            return _Stack(inputs, targets, parts, config, seed).answers()
    finally:
        torch.set_num_threads(threads)


class _Stack:
    """All heads of all members, and the rows that they see."""

    def __init__(self, inputs: Tensor, targets: Sequence[Target], parts: Parts, config: HeadConfig, seed: int) -> None:
        self.config, self.targets = config, targets
        self.generator = torch.Generator().manual_seed(seed)
        self.train, self.valid, self.test = (torch.from_numpy(rows) for rows in (parts.train, parts.valid, parts.test))
        self.inputs = _with_ones(_standardised(inputs, self.train))
        self.banks = [
            [_Bank(initial_head(inputs.shape[2], target.classes, seed), len(inputs), rate) for rate in config.rates]
            for target in targets
        ]

    def answers(self) -> list[Answer]:
        """Train all, then read test once."""
        given, present = self.inputs, torch.arange(len(self.inputs))
        held_out = given.index_select(1, self.valid)
        for epoch in range(1, self.config.epochs + 1):
            self._train(given)
            going = torch.stack(
                [
                    bank.judge(held_out, target.numbers[self.valid], epoch, self.config.patience)
                    for target, bank in self._open()
                ]
            ).any(dim=0)
            if not going.all():  # those that are done leave: they would only cost time
                given, held_out, present = given[going], held_out[going], present[going]
                for _, bank in self._open():
                    bank.keep(going)
            if not len(present):
                break
        final = self.inputs.index_select(1, self.test)
        return [_chosen(banks, final) for banks in self.banks]

    def _open(self) -> Iterator[tuple[Target, "_Bank"]]:
        """Banks with a head that still learns."""
        pairs = ((target, bank) for target, banks in zip(self.targets, self.banks, strict=True) for bank in banks)
        return (pair for pair in pairs if pair[1].is_open)

    def _train(self, given: Float[Tensor, "present rows inputs"]) -> None:
        """An epoch; the generator advances alike however many members are left."""
        order = self.train[torch.randperm(len(self.train), generator=self.generator)]
        for rows in order.split(self.config.batch_examples):
            seen = given.index_select(1, rows)
            seen[..., :-1] *= self._mask(len(rows), given.shape[2] - 1)
            for target, bank in self._open():
                bank.step(seen, target.numbers[rows])

    def _mask(self, rows: int, width: int) -> Float[Tensor, "rows width"]:
        kept = torch.rand(rows, width, generator=self.generator) >= self.config.dropout
        return kept / (1 - self.config.dropout)


class _Bank:
    """The heads of one target at one rate, for the members that are present; the best of each for all members."""

    def __init__(self, start: Float[Tensor, "classes inputs"], members: int, rate: float) -> None:
        self.rate, self.is_open = rate, True
        self.weight = start.expand(members, -1, -1).clone()
        self.optimizer = torch.optim.Adam([self.weight], lr=rate, fused=True)
        self.present = torch.arange(members)
        self.best_weight = self.weight.clone()
        self.best_accuracy = torch.full((members,), -1.0, dtype=torch.float64)
        self.best_epoch = torch.zeros(members, dtype=torch.int64)

    def step(self, seen: Float[Tensor, "present batch inputs"], numbers: Int[Tensor, " batch"]) -> None:
        """Adam on the cross entropy, whose gradient for the logits is softmax minus one at the class."""
        slope = torch.bmm(self.weight, seen.mT).softmax(dim=1)  # (classes, batch): four times as fast for few classes
        slope[:, numbers, torch.arange(len(numbers))] -= 1
        self.weight.grad = torch.bmm(slope.div_(len(numbers)), seen)
        self.optimizer.step()

    def judge(
        self, held_out: Float[Tensor, "present valid inputs"], numbers: Int[Tensor, " valid"], epoch: int, patience: int
    ) -> Bool[Tensor, " present"]:
        """Remember what is better than before, and say who is still learning."""
        accuracy = (torch.bmm(self.weight, held_out.mT).argmax(dim=1) == numbers).double().mean(dim=1)
        better = (accuracy > self.best_accuracy[self.present]) & self._is_learning(epoch - 1, patience)
        who = self.present[better]
        self.best_accuracy[who], self.best_epoch[who] = accuracy[better], epoch
        self.best_weight[who] = self.weight[better]
        learning = self._is_learning(epoch, patience)
        self.is_open = bool(learning.any())
        return learning

    def _is_learning(self, epoch: int, patience: int) -> Bool[Tensor, " present"]:
        """Whether a head that nothing improves any more would still be asked after `epoch`."""
        return epoch - self.best_epoch[self.present] < patience

    def keep(self, which: Bool[Tensor, " present"]) -> None:
        """Let the other members go, with their part of Adam's state."""
        state = self.optimizer.state.pop(self.weight)
        self.present, self.weight = self.present[which], self.weight[which]
        kept = {name: value[which] if value.ndim else value for name, value in state.items()}
        self.optimizer = torch.optim.Adam([self.weight], lr=self.rate, fused=True)
        self.optimizer.state[self.weight] = kept


def _chosen(banks: Sequence[_Bank], final: Float[Tensor, "members test inputs"]) -> Answer:
    """Of each member the rate with the highest accuracy on valid."""
    accuracy = torch.stack([bank.best_accuracy for bank in banks])
    best = accuracy.argmax(dim=0)
    members = torch.arange(len(best))
    weight = torch.stack([bank.best_weight for bank in banks])[best, members]
    return Answer(
        torch.bmm(weight, final.mT).argmax(dim=1),
        accuracy[best, members],
        torch.tensor([bank.rate for bank in banks], dtype=torch.float64)[best],
        torch.stack([bank.best_epoch for bank in banks])[best, members],
    )


def _standardised(
    inputs: Float[Tensor, "members rows width"], train: Int[Tensor, " train"]
) -> Float[Tensor, "members rows width"]:
    """Statistics of any other rows, even without their labels, would tell a head about what it is judged on."""
    deviation, mean = torch.std_mean(inputs.index_select(1, train), dim=1, correction=0, keepdim=True)
    return (inputs - mean) / torch.where(deviation > 1e-6 * mean.abs(), deviation, 1.0)


def _with_ones(inputs: Float[Tensor, "members rows width"]) -> Float[Tensor, "members rows inputs"]:
    """The bias as one more column of the weight: one product and one update instead of two."""
    return torch.cat([inputs, inputs.new_ones(*inputs.shape[:2], 1)], dim=2)


def initial_head(width: int, classes: int, seed: int) -> Float[Tensor, "classes inputs"]:
    """torch's default linear layer from the seed, its bias as the last column."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(width, classes)
    return torch.cat([layer.weight.detach(), layer.bias.detach()[:, None]], dim=1)
