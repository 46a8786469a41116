"""One batch over all ranks: rows gathered with their gradients, numbers summed.

Without a process group, world size 1 is assumed and everything is the identity.
"""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Number of ranks that share the global batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Place of this process among the ranks, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(rows: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "global_batch ..."]:
    """Rows of all ranks in rank order; every rank must bring equally many.

    Gradients return to the rank that computed a row, summed over the losses of all ranks. A loss whose mean over
    ranks is the global one therefore gets its exact gradient from an engine that averages gradients over ranks.
    """
    return _Gather.apply(rows) if world_size() > 1 else rows


def total(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Sum of `values` over all ranks, without gradient."""
    values = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(values)
    return values


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        gathered = rows.new_empty(world_size(), *rows.shape)
        dist.all_gather(list(gathered), rows.contiguous())
        return gathered.flatten(end_dim=1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        by_rank = gradient.contiguous().unflatten(0, (world_size(), -1))
        own = torch.empty_like(by_rank[0])
        dist.reduce_scatter(own, list(by_rank))
        return own
