"""SogCLR between two masked views: a moving average for each example of the data stands in for a larger batch.

Global contrastive loss of Yuan et al. 2022, in the dynamic form that Myna's public training script runs. Its loss is
not comparable with that of InfoNCE; its gradient, without memory, is temperature times that of InfoNCE in both
directions.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shards.example import Batch
from shards.problem import DataProblem, UsageProblem
from trainers.global_batch import gather
from trainers.pairs import PairsConfig, mean_of, similarities
from trainers.projector import Projector
from trainers.similarity import Similarities, reduced

_LARGEST_EXPONENT = 80.0  # of e in float32, with a digit to spare


@dataclass(frozen=True)
class SogclrConfig(PairsConfig):
    """The defaults are those of the public script."""

    gamma: float = 0.9
    """Weight of the newest batch in an example's moving average, in (0, 1]; the smallest one of a cosine schedule."""
    gamma_schedule: Literal["constant", "cosine"] = "constant"
    """How an example's gamma goes on after its first visit, which always has 1."""
    gamma_epochs: int = 500
    """Visits of an example over which a cosine falls from 1 to `gamma`."""
    floor: float = 1e-8
    """Least moving average that similarities are divided by."""
    examples: int = 0
    """Indices of the data: those of a batch are below it. A training sets it from its dataset."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.gamma <= 1 and self.gamma_epochs > 0 and self.temperature * _LARGEST_EXPONENT >= 1):
            raise UsageProblem(
                f"gamma={self.gamma}, gamma_epochs={self.gamma_epochs}, temperature={self.temperature} give moving "
                "averages that are never updated or no float32 numbers. Choose a gamma in (0, 1], at least one epoch "
                f"and a temperature of at least {1 / _LARGEST_EXPONENT}."
            )

    def sized(self, examples: int) -> "SogclrConfig":
        """The same for data whose indices are below `examples`."""
        return replace(self, examples=examples)

    def build(self, model: Any) -> "Sogclr":
        """The objective that trains `model`, with a new projector and no memory. Raises UsageProblem unless sized."""
        return Sogclr(model, self)


class Sogclr(nn.Module):
    """The encoder, its projector, and what is remembered of every example: equal on all ranks, part of the state."""

    visits: Int[Tensor, " examples"]
    average_bits: Int[Tensor, "patchings examples"]

    def __init__(self, model: Any, config: SogclrConfig) -> None:
        super().__init__()
        if not config.examples:
            raise UsageProblem(
                "objective.examples=0 leaves no room for the moving averages of any example, so SogCLR cannot run. "
                "Give the number of indices of the data."
            )
        self.model = model
        self.config = config
        self.linear_head = Projector(config.projector, model.pass_width, *config.projector_widths)
        self.register_buffer("visits", torch.zeros(config.examples, dtype=torch.int32))
        # Kept as bits: training in half precision rounds every buffer of floats, and these must stay float32.
        shape = len(model.patchings), config.examples
        self.register_buffer("average_bits", torch.zeros(shape, dtype=torch.int32))

    @property
    def averages(self) -> Float[Tensor, "patchings examples"]:
        """Moving averages of exp(cosine / temperature) of each example's negatives; 0 before its first visit."""
        return self.average_bits.view(torch.float32)

    def forward(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """This rank's share of the loss, whose mean over ranks is the loss of the global batch, and global metrics.

        In training the moving averages of the global batch are updated; in evaluation, where an index means another
        dataset's example, none is used. Raises DataProblem when a batch has an index that `examples` does not count.
        """
        rows = self._rows(batch)
        gamma = gammas(self.visits[rows], self.config) if self.training else torch.ones_like(batch.weight)
        found, updates = [], []
        for patching, past in zip(self.model.patchings, self.averages, strict=True):
            similar = similarities(self.model, self.linear_head, batch, self.config, patching)
            of_anchors, averages = sogclr(similar, past[rows], gamma, floor=self.config.floor)
            found.append(reduced(similar, of_anchors))
            updates.append(averages)
        if self.training:
            self._remember(rows, batch.weight, torch.stack(updates, dim=1))
        return mean_of(found)

    def _rows(self, batch: Batch) -> Int[Tensor, " batch"]:
        """Places of our examples in the memory; padding, which changes nothing, reads the first."""
        highest = int(batch.index.max())
        if self.training and highest >= self.config.examples:
            raise DataProblem(
                f"A batch has example {highest}, but SogCLR remembers indices below {self.config.examples} only, so it "
                "would take another's moving average. Train on the dataset that the objective was sized for."
            )
        return batch.index.clamp(min=0, max=self.config.examples - 1)

    @torch.no_grad()
    def _remember(
        self, rows: Int[Tensor, " batch"], weight: Float[Tensor, " batch"], averages: Float[Tensor, "batch patchings"]
    ) -> None:
        """Write the averages of all ranks, on every rank; of an example that came twice, the larger one."""
        real = gather(weight) > 0
        rows, averages = gather(rows)[real], gather(averages)[real]
        self.visits[rows] = self.visits[rows] + 1
        # Reduction in place of assignment: which of two equal rows comes last is open on a GPU.
        self.averages.scatter_reduce_(1, rows.expand(averages.T.shape), averages.T, "amax", include_self=False)


def gammas(visits: Int[Tensor, " batch"], config: SogclrConfig) -> Float[Tensor, " batch"]:
    """Weight of the newest batch for examples that were seen so often: 1 the first time, then by the schedule.

    An example's visits are its own epochs; the public code counts those of the data, and calls a batch new, not an
    example. Cosine: gamma + (1 - gamma) (1 + cos(pi e / E)) / 2, constant from epoch E on.
    """
    epochs = visits.clamp(max=config.gamma_epochs).float()
    fall = 0.5 * (1 + torch.cos(math.pi * epochs / config.gamma_epochs))
    later = config.gamma + (1 - config.gamma) * (fall if config.gamma_schedule == "cosine" else torch.zeros_like(fall))
    return torch.where(visits == 0, 1.0, later)


def sogclr(
    similar: Similarities, past: Float[Tensor, " batch"], gamma: Float[Tensor, " batch"], *, floor: float
) -> tuple[Float[Tensor, " anchors"], Float[Tensor, " batch"]]:
    """Loss of each anchor, and the new moving averages of our examples.

    The loss of a pair is the sum over its two anchors, so each carries twice its part: their mean is then the loss.
    Cosines are not divided by the temperature here.
    """
    now = similar.log_negatives.detach().exp() / similar.negatives
    moved = torch.lerp(past.repeat(2), now, gamma.repeat(2))
    ratio = now / moved.clamp(min=floor)
    # The weights exp(s / t) / average are constants: their sum of cosines has the gradient of t log-sum-exp(s / t).
    slope = similar.temperature * (similar.log_negatives - similar.log_negatives.detach())
    losses = 2 * (ratio * (similar.mean_negatives + slope) - similar.positives)
    return losses, (moved[: len(past)] + moved[len(past) :]) / 2
