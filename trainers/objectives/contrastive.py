"""InfoNCE or NT-Xent between two masked views of one example, over the batch of all ranks (Myna, ViT-1D)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shards.example import Batch
from trainers.pairs import PairsConfig, mean_of, similarities
from trainers.projector import Projector
from trainers.similarity import Similarities, reduced


@dataclass(frozen=True)
class ContrastiveConfig(PairsConfig):
    """The defaults are Myna's."""

    loss: Literal["infonce", "ntxent"] = "infonce"
    """Without the positive in the denominator, as Myna's paper has it, or with it, as SimCLR and ViT-1D do."""

    def build(self, model: Any) -> "Contrastive":
        """The objective that trains `model`, with a new projector of random weights."""
        return Contrastive(model, self)


class Contrastive(nn.Module):
    """The encoder, its projector and their loss. The projector serves training only."""

    def __init__(self, model: Any, config: ContrastiveConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.linear_head = Projector(config.projector, model.pass_width, *config.projector_widths)

    def forward(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """This rank's share of the loss, whose mean over ranks is the loss of the global batch, and global metrics.

        Means over the patchings of the model; `metrics["loss"]` is the global loss. Rows of weight 0 are neither
        anchors nor negatives. Raises UsageProblem when the global batch has one example.
        """
        found = []
        for patching in self.model.patchings:
            similar = similarities(self.model, self.linear_head, batch, self.config, patching)
            found.append(reduced(similar, LOSSES[self.config.loss](similar)))
        return mean_of(found)


def info_nce(similar: Similarities) -> Float[Tensor, " anchors"]:
    """Myna's loss of each anchor: -s+ plus the log of the sum of exp(s-) over both views of all other examples.

    s are cosines over the temperature. The positive is not in the denominator (decoupled form). The paper writes the
    inner sum over i; it must be over the others, j. The mean over first and second views makes it symmetric.
    """
    return similar.log_negatives - similar.positives / similar.temperature


def nt_xent(similar: Similarities) -> Float[Tensor, " anchors"]:
    """The same with the positive in the denominator too: cross entropy (SimCLR, Chen et al. 2020, eq. 1)."""
    positives = similar.positives / similar.temperature
    return torch.logaddexp(similar.log_negatives, positives) - positives


LOSSES: dict[str, Callable[[Similarities], Tensor]] = {"infonce": info_nce, "ntxent": nt_xent}
