"""Reconstruction of hidden patches from visible ones (MAE, He et al. 2022, as Myna's paper compares itself with it)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shards.example import Batch
from shards.problem import UsageProblem
from trainers.global_batch import total, world_size
from trainers.models.mae import Mae
from trainers.models.myna import shuffled_tokens


@dataclass(frozen=True)
class MaskedConfig:
    """How much is hidden; the default is the published baseline's."""

    views: ClassVar[int] = 1

    mask_ratio: float = 0.75
    """Part of the patches that the encoder never sees, in (0, 1); rounded down to whole patches."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise UsageProblem(
                f"mask_ratio={self.mask_ratio} leaves nothing to predict or nothing to predict it from. Choose one "
                "between 0 and 1; the published value is 0.75."
            )

    def build(self, model: Mae) -> "Masked":
        """The objective that trains `model`."""
        return Masked(model, self)


class Masked(nn.Module):
    """The autoencoder and its loss."""

    def __init__(self, model: Mae, config: MaskedConfig) -> None:
        super().__init__()
        self.model = model
        (patching,) = model.patchings
        self.tokens = model.tokens_of(patching)
        self.hidden = int(config.mask_ratio * self.tokens)
        if not self.hidden:
            raise UsageProblem(
                f"mask_ratio={config.mask_ratio} of {self.tokens} patches is less than one, so nothing would be hidden "
                "and nothing learned. Choose a larger one, or smaller patches."
            )

    def forward(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """This rank's share of the loss, whose mean over ranks is the loss of the global batch, and global metrics.

        The loss is the mean squared error of log(1 + power) over hidden patches of the only view: the baseline sees one
        crop of an example a step. `target_variance` is the loss of the best constant. Rows of weight 0 count for
        nothing.
        """
        (mel,) = batch.views
        order = shuffled_tokens(batch.seeds[:, 0], tokens=self.tokens)
        predicted = self.model.predict(mel, order, hidden=self.hidden)
        target = torch.take_along_dim(self.model.patches(mel), order[:, : self.hidden, None], dim=1).log1p()
        with torch.autocast(mel.device.type, enabled=False):
            errors = F.mse_loss(predicted.float(), target, reduction="none").mean(dim=(1, 2))
            loss = world_size() * (errors * batch.weight).sum() / total(batch.weight.sum())
        return loss, _metrics(errors, target, batch.weight)


@torch.no_grad()
def _metrics(
    errors: Float[Tensor, " batch"], target: Float[Tensor, "batch hidden values"], weight: Float[Tensor, " batch"]
) -> dict[str, Float[Tensor, ""]]:
    """Means over the examples of all ranks."""
    means = torch.stack([errors, target.mean(dim=(1, 2)), target.square().mean(dim=(1, 2))])
    loss, mean, square = total((means * weight).sum(dim=1)) / total(weight.sum())
    return {"loss": loss, "target_variance": square - mean.square()}
