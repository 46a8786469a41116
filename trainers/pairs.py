"""Two masked views of each example through encoder and projector, and how alike they are.

What the encoder computes of a batch need not fit in memory. With `chunk_examples` it forgets what it computed of a
chunk and computes it again in the backward pass (cached gradients, Gao et al. 2021): loss and gradients stay those of
the whole batch, and each step takes a second forward pass of the encoder.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from shards.example import Batch
from shards.problem import UsageProblem
from trainers.models.myna import keep_tokens
from trainers.projector import Projector, ProjectorKind
from trainers.similarity import Similarities, compare


@dataclass(frozen=True)
class PairsConfig:
    """How views are masked, projected and compared; the defaults are Myna's."""

    temperature: float = 0.1
    """Divides every cosine similarity."""
    mask_ratio: float = 0.9
    """Part of each view's tokens that the encoder never sees, in [0, 1)."""
    projector_widths: tuple[int, ...] = (2048, 2048, 2048)
    """Output widths of the projector's layers; the paper names none, these fit the published files."""
    projector: ProjectorKind = "relu"
    """What stands between them: relu, gelu, or batch norm over all ranks and relu."""
    chunk_examples: int = 0
    """Examples of a worker that are encoded at a time, each twice, so that any batch fits; 0 encodes all at once."""
    logits_block_rows: int = 1024
    """Rows, and columns, of the block of the matrix of similarities that exists at a time."""

    def __post_init__(self) -> None:
        if not (0 <= self.mask_ratio < 1 and self.temperature > 0 and self.projector_widths):
            raise UsageProblem(
                f"temperature={self.temperature}, mask_ratio={self.mask_ratio}, "
                f"projector_widths={self.projector_widths} leave nothing to compare. Choose a temperature above 0, a "
                "mask ratio in [0, 1) and at least one projector width."
            )
        if self.chunk_examples < 0 or self.logits_block_rows < 1:
            raise UsageProblem(
                f"chunk_examples={self.chunk_examples} and logits_block_rows={self.logits_block_rows} would compute "
                "nothing at a time. Give the first at least 0, the second at least 1."
            )


def similarities(model: Any, projector: Projector, batch: Batch, config: PairsConfig, patching: str) -> Similarities:
    """Compare both views of our examples with those of all ranks, encoded with the tokens of `patching`.

    Each patching masks in its own way. Raises UsageProblem when the global batch has one example.
    """
    pairs = project(model, projector, batch, config, patching)
    # bfloat16 has 8 bits for cosines that the temperature multiplies by ten: the comparison stays in float32.
    with torch.autocast(pairs.device.type, enabled=False):
        return compare(pairs.float(), batch.weight, temperature=config.temperature, block_rows=config.logits_block_rows)


def mean_of(
    found: Sequence[tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]],
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Mean of the losses of all patchings, and of each of their metrics."""
    losses, metrics = zip(*found, strict=True)
    return torch.stack(losses).mean(), {
        name: torch.stack([each[name] for each in metrics]).mean() for name in metrics[0]
    }


def project(
    model: Any, projector: Projector, batch: Batch, config: PairsConfig, patching: str
) -> Float[Tensor, "views batch dim"]:
    """Projections of both masked views of each example."""
    first, second = batch.views
    # An offset of 2^62 leaves the same hash of (seed, token) no token at which it could meet another patching's.
    seeds = batch.seeds + (model.patchings.index(patching) << 62)

    def encode(first: Tensor, second: Tensor, seeds: Tensor) -> Tensor:
        keep = _visible(seeds, tokens=model.tokens_of(patching), mask_ratio=config.mask_ratio)
        embedded = model(torch.cat([first, second]), keep, patching=patching)
        return rearrange(embedded, "(views batch) width -> views batch width", views=2)

    parts = (first, second, seeds)
    several = 0 < config.chunk_examples < len(seeds)
    embedded = _in_chunks(encode, parts, config.chunk_examples) if several else encode(*parts)
    # The projector sees all rows at once: its norm needs them, and two of its layers are less than the batch itself.
    return projector(embedded.flatten(end_dim=1), batch.weight.repeat(2)).unflatten(0, (2, -1))


def _in_chunks(
    encode: Callable[..., Tensor], parts: Iterable[Tensor], examples: int
) -> Float[Tensor, "views batch width"]:
    """`encode` of so many rows at a time, of which it remembers the outputs only."""
    chunks = zip(*(part.split(examples) for part in parts), strict=True)
    # ZeRO 3 holds a weight only while it is used, so what is remembered of it has another shape in the second pass.
    encoded = [checkpoint(encode, *chunk, use_reentrant=False, determinism_check="none") for chunk in chunks]
    return torch.cat(encoded, dim=1)


def _visible(seeds: Int[Tensor, "batch views"], *, tokens: int, mask_ratio: float) -> Int[Tensor, "viewed kept"] | None:
    """Tokens left to the encoder in the first views, then in the second ones; None where nothing is hidden."""
    if not int(mask_ratio * tokens):
        return None
    return keep_tokens(rearrange(seeds, "batch views -> (views batch)"), tokens=tokens, mask_ratio=mask_ratio)
