"""The repeated blocks of a model, treated from outside: recomputed in the backward pass instead of remembered."""

from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from shards.problem import UsageProblem

_HOME = "layers"  # what a model calls its sequence of blocks


def recompute_blocks(objective: nn.Module) -> None:
    """Keep only the inputs of the blocks for the backward pass; names, values and gradients stay what they were.

    Memory of activations falls from that of all blocks to that of one, and each block runs forward twice (Chen et al.
    2016). Raises UsageProblem for a model without blocks.
    """
    found = list(blocks(objective))
    if not found:
        raise UsageProblem(
            f"The model has no blocks (a part named {_HOME}) that could be computed twice, so nothing would be saved. "
            "Leave --engine.recompute at false."
        )
    for block in found:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def blocks(objective: nn.Module) -> Iterator[nn.Module]:
    """Every block of every part that is named `layers`."""
    for name, part in objective.named_modules():
        if name.rpartition(".")[2] == _HOME:
            yield from part.children()
