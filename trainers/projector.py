"""The head behind an encoder while it learns by comparison; it is dropped afterwards."""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainers.global_batch import gather
from trainers.linear import Linear

ProjectorKind = Literal["relu", "gelu", "bn_relu"]


class Projector(nn.Sequential):
    """Linear layers between consecutive widths, with `relu`, `gelu`, or batch norm and ReLU between them.

    Linear layers of `bn_relu` have no biases, which its norms would remove. Layers of `relu` are numbered 0, 2, 4 as
    in Myna's published files.
    """

    def __init__(self, kind: ProjectorKind, *widths: int) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [Linear(before, after, bias=kind != "bn_relu"), *_between(kind, after)]
        super().__init__(*layers[: -len(_between(kind, 1))])

    def forward(  # type: ignore[override]
        self, rows: Float[Tensor, "batch width"], weight: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim"]:
        """Rows of weight 0 count in no norm."""
        for layer in self:
            rows = layer(rows, weight) if isinstance(layer, GlobalBatchNorm) else layer(rows)
        return rows


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch norm whose mean and variance are those of the rows of all ranks that have weight."""

    def forward(  # type: ignore[override]
        self, rows: Float[Tensor, "batch width"], weight: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch width"]:
        """Normalised rows; in evaluation, where the moments are those remembered, weight does not matter."""
        if not self.training:
            return super().forward(rows)
        columns = weight[:, None]
        count = gather(weight).sum()
        mean = _over_ranks((rows * columns).sum(dim=0)) / count
        centred = (rows - mean) * columns
        variance = _over_ranks(centred.square().sum(dim=0)) / count
        self._remember(mean, variance * count / (count - 1))
        return centred * (variance + self.eps).rsqrt() * self.weight + self.bias

    @torch.no_grad()
    def _remember(self, mean: Float[Tensor, " width"], variance: Float[Tensor, " width"]) -> None:
        assert self.running_mean is not None and self.running_var is not None
        self.running_mean.lerp_(mean, 0.1)
        self.running_var.lerp_(variance, 0.1)


def _between(kind: ProjectorKind, width: int) -> list[nn.Module]:
    if kind == "bn_relu":
        return [GlobalBatchNorm(width), nn.ReLU()]
    return [nn.ReLU() if kind == "relu" else nn.GELU()]


def _over_ranks(sums: Float[Tensor, " width"]) -> Float[Tensor, " width"]:
    return gather(sums[None]).sum(dim=0)
