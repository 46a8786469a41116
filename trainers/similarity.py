"""Cosines of our views with the views of all ranks, in blocks of rows: their whole matrix never exists.

What a contrastive loss asks of each anchor's negatives is a few sums over its row. They are computed block by block,
and again in the backward pass, where memory of the order (anchors x views of all ranks) would be the limit of a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from shards.problem import UsageProblem
from trainers.global_batch import gather, rank, total, world_size


@dataclass(frozen=True)
class Similarities:
    """What each anchor has in common with others; anchors are our first views, then our second ones.

    Negatives of an anchor are both views of every other example of all ranks. Only `positives` and `log_negatives`
    have gradients.
    """

    positives: Float[Tensor, " anchors"]
    """Cosine with the other view of the same example."""
    log_negatives: Float[Tensor, " anchors"]
    """log of the sum of exp(cosine / temperature) over the negatives."""
    mean_negatives: Float[Tensor, " anchors"]
    """Mean cosine of the negatives, each weighted by exp(cosine / temperature)."""
    potentials: Float[Tensor, " anchors"]
    """Mean of exp(-2 squared distance) over the negatives."""
    nearest: Float[Tensor, " anchors"]
    """Largest cosine of a negative."""
    share: Float[Tensor, " anchors"]
    """Weight of each anchor in a mean over the anchors of all ranks; 0 for padding."""
    negatives: Float[Tensor, ""]
    """How many negatives each anchor has."""
    temperature: float

    def mean(self, values: Float[Tensor, "... anchors"]) -> Float[Tensor, "..."]:
        """Means over the anchors of all ranks, without gradient."""
        return total((values * self.share).sum(dim=-1))


def compare(
    pairs: Float[Tensor, "views batch dim"], weight: Float[Tensor, " batch"], *, temperature: float, block_rows: int
) -> Similarities:
    """Compare both views of our examples, in any length, with those of all ranks.

    Blocks of `block_rows` by as many cosines at a time: it changes memory, not the result. Rows of weight 0 are
    nobody's negatives. Raises UsageProblem when all ranks together have fewer than two examples.
    """
    examples = total(weight.sum())
    _require_two(int(examples))
    anchors = F.normalize(pairs.flatten(end_dim=1), dim=-1)
    first, second = anchors.chunk(2)
    log_negatives, *statistics = _Negatives.apply(anchors, weight.repeat(2), temperature, block_rows)
    negatives = 2 * (examples - 1)
    means, potentials, nearest = statistics
    return Similarities(
        positives=(first * second).sum(dim=-1).repeat(2),
        log_negatives=log_negatives,
        mean_negatives=means,
        potentials=potentials / negatives,
        nearest=nearest,
        share=weight.repeat(2) / (2 * examples),
        negatives=negatives,
        temperature=temperature,
    )


def reduced(
    similar: Similarities, losses: Float[Tensor, " anchors"]
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """From the loss of each anchor: our share, whose mean over ranks is the mean over all anchors; global metrics."""
    share = world_size() * (losses * similar.share).sum()
    return share, {"loss": similar.mean(losses), **_geometry(similar)}


@torch.no_grad()
def _geometry(similar: Similarities) -> dict[str, Float[Tensor, ""]]:
    """Alignment and uniformity as Wang & Isola 2020, both better when lower; anchors nearest to their other view."""
    distances = 2 - 2 * similar.positives
    found = (similar.positives > similar.nearest).float()
    alignment, potential, top1 = similar.mean(torch.stack([distances, similar.potentials, found]))
    return {"alignment": alignment, "uniformity": potential.log(), "top1_pair_accuracy": top1}


class _Negatives(torch.autograd.Function):
    """Sums over the negatives of each anchor, of which the log-sum-exp has a gradient.

    A view acts twice, as an anchor and as a negative of others. Both parts of its gradient are computed where it is,
    from the log-sum-exp of the others: two numbers an anchor travel, instead of gradients of all gathered views. And
    cosines are symmetric: a block of our own anchors serves once as it is, once transposed.
    """

    @staticmethod
    def forward(context: Any, anchors: Tensor, weight: Tensor, temperature: float, block_rows: int) -> Any:
        everyone = gather(anchors)
        hidden = torch.where(gather(weight) > 0, 0.0, -torch.inf).to(anchors)
        sums = _no_sums(anchors, temperature)
        for block in _blocks(anchors, everyone, hidden, temperature, block_rows):
            sums[:, block.rows] = _added(sums[:, block.rows], _sums(block.logits, temperature))
            if block.mirrored is not None:
                of_columns = (block.logits + hidden[block.own_columns, None]).T
                sums[:, block.mirrored] = _added(sums[:, block.mirrored], _sums(of_columns, temperature))
        highest, parts, weighted, potentials = sums
        log_negatives, means = parts.log() + highest, weighted / parts * temperature
        context.save_for_backward(anchors, everyone, hidden, log_negatives)
        context.settings = temperature, block_rows
        context.mark_non_differentiable(means, potentials, highest)
        return log_negatives, means, potentials, highest * temperature

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        anchors, everyone, hidden, log_negatives = context.saved_tensors
        slopes, everyones = gradients[0], gather(torch.stack([log_negatives, gradients[0]], dim=1))
        gradient = torch.zeros_like(anchors)
        for block in _blocks(anchors, everyone, hidden, *context.settings):
            logits = block.logits.add_(hidden[block.own_columns, None])  # padding is nobody's negative
            log_sums, others_slopes = everyones[block.columns].unbind(dim=1)
            weights = (logits - log_negatives[block.rows, None]).exp_().mul_(slopes[block.rows, None])
            weights += logits.sub_(log_sums).exp_().mul_(others_slopes)
            gradient[block.rows].addmm_(weights, everyone[block.columns])
            if block.mirrored is not None:
                gradient[block.mirrored].addmm_(weights.T, anchors[block.rows])
        return gradient.div_(context.settings[0]), None, None, None


@dataclass(frozen=True)
class _Block:
    """Cosines over temperature of some anchors with some of everyone; minus infinity where there is no negative."""

    rows: slice
    """Our anchors."""
    own_columns: slice
    """The same anchors among everyone."""
    columns: slice
    """Of everyone."""
    mirrored: slice | None
    """Our anchors that the columns are, where no other block has these as rows."""
    logits: Float[Tensor, "rows columns"]


def _blocks(
    anchors: Float[Tensor, "anchors dim"],
    everyone: Float[Tensor, "everyone dim"],
    hidden: Float[Tensor, " everyone"],
    temperature: float,
    block_rows: int,
) -> Iterator[_Block]:
    """All pairs of an anchor and a view, pairs of two anchors once. `hidden` is added to each row."""
    begin, count = rank() * len(anchors), len(anchors)
    example = torch.arange(count, device=anchors.device) % (count // 2)
    for rows in _slices(0, count, block_rows):
        own_columns = slice(begin + rows.start, begin + rows.stop)
        ours = list(_slices(rows.start, count, block_rows))
        others = [*_slices(0, begin, block_rows), *_slices(begin + count, len(everyone), block_rows)]
        for columns in [*(slice(begin + own.start, begin + own.stop) for own in ours), *others]:
            logits = torch.addmm(hidden[columns], anchors[rows], everyone[columns].T, alpha=1 / temperature)
            own = slice(columns.start - begin, columns.stop - begin) if columns not in others else None
            if own:
                logits.masked_fill_(example[rows, None] == example[own], -torch.inf)
            yield _Block(rows, own_columns, columns, own if own != rows else None, logits)


def _slices(start: int, stop: int, length: int) -> Iterator[slice]:
    return (slice(first, min(first + length, stop)) for first in range(start, stop, length))


def _no_sums(anchors: Float[Tensor, "anchors dim"], temperature: float) -> Float[Tensor, "4 anchors"]:
    sums = anchors.new_zeros(4, len(anchors))
    sums[0] = -1 / temperature
    return sums


def _sums(logits: Float[Tensor, "rows columns"], temperature: float) -> Float[Tensor, "4 rows"]:
    """Row by row: the highest h; sums of exp(logit - h), of the same times logit, of exp(-2 squared distance)."""
    # No cosine is below -1. In place of minus infinity that has weight 0, where infinity times 0 would be no number.
    finite = logits.clamp(min=-1 / temperature)
    highest = finite.amax(dim=1)
    parts = (logits - highest[:, None]).exp_()
    potentials = logits.mul(4 * temperature).sub_(4).exp_()
    return torch.stack([highest, parts.sum(dim=1), parts.mul_(finite).sum(dim=1), potentials.sum(dim=1)])


def _added(one: Float[Tensor, "4 rows"], other: Float[Tensor, "4 rows"]) -> Float[Tensor, "4 rows"]:
    """Sums over two sets of columns from the sums over each."""
    highest = torch.maximum(one[0], other[0])
    scale, other_scale = (one[0] - highest).exp(), (other[0] - highest).exp()
    parts, weighted = one[1:3] * scale + other[1:3] * other_scale
    return torch.stack([highest, parts, weighted, one[3] + other[3]])


def _require_two(examples: int) -> None:
    if examples < 2:
        raise UsageProblem(
            f"The global batch holds {examples} example, so nothing can be told apart from it and the loss has no "
            "value. Give --data.batch-examples at least 2."
        )
