"""InfoNCE between two masked views of one example, over the batch of all ranks (Myna)."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shards.example import Batch
from shards.problem import UsageProblem
from trainers.global_batch import gather, rank, total, world_size
from trainers.models.myna import Myna, keep_tokens


@dataclass(frozen=True)
class ContrastiveConfig:
    """How views are masked, projected and compared; the defaults are Myna's."""

    temperature: float = 0.1
    """Divides every cosine similarity."""
    mask_ratio: float = 0.9
    """Part of each view's tokens that the encoder never sees, in [0, 1)."""
    projector_widths: tuple[int, ...] = (2048, 2048, 2048)
    """Output widths of the projector's layers; the paper names none, these fit the published files."""

    def __post_init__(self) -> None:
        if not (0 <= self.mask_ratio < 1 and self.temperature > 0 and self.projector_widths):
            raise UsageProblem(
                f"temperature={self.temperature}, mask_ratio={self.mask_ratio}, "
                f"projector_widths={self.projector_widths} leave nothing to compare. Choose a temperature above 0, a "
                "mask ratio in [0, 1) and at least one projector width."
            )

    def build(self, model: Myna) -> "Contrastive":
        """The objective that trains `model`, with a new projector of random weights."""
        return Contrastive(model, self)


class Contrastive(nn.Module):
    """The encoder, its projector and their loss. The projector serves training only."""

    def __init__(self, model: Myna, config: ContrastiveConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.linear_head = projector(model.embedding_width, *config.projector_widths)

    def forward(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """This rank's share of the loss, whose mean over ranks is the loss of the global batch, and global metrics.

        `metrics["loss"]` is that mean. Rows of weight 0 are neither anchors nor negatives. Raises UsageProblem when
        the global batch has one row.
        """
        first, second = self.project(batch)
        # bfloat16 has 8 bits for cosines that the temperature multiplies by ten: the loss stays in float32.
        with torch.autocast(first.device.type, enabled=False):
            return info_nce(first.float(), second.float(), batch.weight, temperature=self.config.temperature)

    def project(self, batch: Batch) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Projections of both masked views, from one pass through the encoder."""
        seeds = rearrange(batch.seeds, "batch views -> (views batch)")
        keep = keep_tokens(seeds, tokens=self.model.tokens, mask_ratio=self.config.mask_ratio)
        first, second = self.linear_head(self.model(torch.cat(batch.views), keep)).chunk(2)
        return first, second


def projector(*widths: int) -> nn.Sequential:
    """Linear layers between consecutive widths with ReLU between them, numbered 0, 2, 4 as in the published files."""
    layers = [layer for before, after in pairwise(widths) for layer in (nn.Linear(before, after), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def info_nce(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    weight: Float[Tensor, " batch"],
    *,
    temperature: float,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Myna's loss, symmetrised: -s+ plus the log of the sum of exp(s-) over both views of all other examples.

    s are cosines over `temperature`. The positive is not in the denominator (decoupled form). Our rows are the
    anchors, the rows of all ranks their negatives. Returns our share, whose mean over ranks is the mean over anchors.
    """
    anchors = F.normalize(torch.stack([first, second], dim=1), dim=-1)
    everyone, everyones_weight = gather(anchors), gather(weight)
    _require_two(len(everyone))
    cosines = _one_view_after_the_other(anchors) @ _one_view_after_the_other(everyone).T
    negatives = cosines.masked_fill(_no_negatives(everyones_weight, len(weight)).repeat(2, 2), -torch.inf)
    positives = (anchors[:, 0] * anchors[:, 1]).sum(dim=-1).repeat(2)
    losses = (negatives / temperature).logsumexp(dim=1) - positives / temperature
    anchor_weight = weight.repeat(2) / (2 * everyones_weight.sum())
    loss = world_size() * (losses * anchor_weight).sum()
    return loss, _metrics(losses, positives, negatives, anchor_weight)


def _one_view_after_the_other(rows: Float[Tensor, "batch views dim"]) -> Float[Tensor, "viewed dim"]:
    return rearrange(rows, "batch views dim -> (views batch) dim")


def _require_two(examples: int) -> None:
    if examples < 2:
        raise UsageProblem(
            f"The global batch holds {examples} example, so nothing can be told apart from it and the loss has no "
            "value. Give --data.batch-examples at least 2."
        )


def _no_negatives(everyones_weight: Float[Tensor, " everyone"], batch: int) -> Bool[Tensor, "batch everyone"]:
    """True where a row of the global batch is no negative of one of ours: padding, or the same example."""
    everyone = torch.arange(len(everyones_weight), device=everyones_weight.device)
    own = torch.arange(batch, device=everyones_weight.device) + rank() * batch
    return (everyone == own[:, None]) | (everyones_weight == 0)


@torch.no_grad()
def _metrics(
    losses: Float[Tensor, " anchors"],
    positives: Float[Tensor, " anchors"],
    negatives: Float[Tensor, "anchors viewed"],
    anchor_weight: Float[Tensor, " anchors"],
) -> dict[str, Float[Tensor, ""]]:
    """Means over the anchors of all ranks. Alignment and uniformity as Wang & Isola 2020, both better when lower."""
    distances = 2 - 2 * positives
    potentials = (4 * negatives - 4).exp().sum(dim=1) / negatives.isfinite().sum(dim=1)
    nearest = (positives > negatives.amax(dim=1)).float()
    loss, alignment, potential, top1 = total(
        (torch.stack([losses, distances, potentials, nearest]) * anchor_weight).sum(1)
    )
    return {"loss": loss, "alignment": alignment, "uniformity": potential.log(), "top1_pair_accuracy": top1}
