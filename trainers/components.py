"""The controls that learn nothing: a column's mean frame as it is, and its principal components."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

_ROWS = 4096  # counted into a covariance at a time
_LEAST_SHARE = 1e-9  # of the largest variance: below it there is rounding only


class MeanLogMel(nn.Module):
    """Of powers: log(1 + power) of each band, averaged over the frames of a window."""

    def forward(self, mel: Float[Tensor, "batch bands frames"]) -> Float[Tensor, "batch bands"]:
        return mel.log1p().mean(dim=2)


class MeanFrame(nn.Module):
    """Of anything else: the numbers themselves, averaged over the frames of a window."""

    def forward(self, features: Float[Tensor, "batch bands frames"]) -> Float[Tensor, "batch bands"]:
        return features.mean(dim=2)


class Components(nn.Module):
    """The directions in which mean frames of a training set vary most; the first half of them stands for private.

    Shows what a division into halves looks like where nobody has learned it (arXiv 2507.22995's control is ours).
    """

    mean: Float[Tensor, " bands"]
    directions: Float[Tensor, "bands width"]

    def __init__(self, mean_frame: nn.Module, limit: int) -> None:
        """At most `limit` components, an even number of them; none before `fit`."""
        super().__init__()
        self.mean_frame, self.limit = mean_frame, limit
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("directions", torch.zeros(0, 0))

    @property
    def subspaces(self) -> Mapping[str, slice]:
        """Where the halves lie in an embedding."""
        half = self.directions.shape[1] // 2
        return {"private": slice(0, half), "shared": slice(half, 2 * half)}

    def fit(self, rows: Float[Tensor, "batch bands"]) -> None:
        """Find the components of some mean frames; their largest weight is above 0, so that signs are settled.

        Directions in which these do not vary are none: fewer rows than bands have fewer components.
        """
        mean = rows.mean(dim=0, dtype=torch.float64)
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for block in rows.split(_ROWS):
            covariance += (block - mean).mT @ (block - mean)
        values, directions = (part.flip(dims=(-1,)) for part in torch.linalg.eigh(covariance))
        varying = int((values > _LEAST_SHARE * values[0]).sum())
        directions = directions[:, : min(self.limit, varying, len(rows) - 1) // 2 * 2]
        largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
        device = self.mean.device
        self.mean, self.directions = mean.float().to(device), (directions * largest.sign()).float().to(device)

    def forward(self, features: Float[Tensor, "batch bands frames"]) -> Float[Tensor, "batch width"]:
        return (self.mean_frame(features) - self.mean) @ self.directions
