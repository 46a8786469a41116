"""What pulls shared latents of two views together and private ones apart: InfoNCE, cosine, VICReg (arXiv 2507.22995).

Latents may have any leading axes, one for each of several models: every function then gives one number for each of
them. Rows are those of the whole batch, without padding.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from shards.problem import UsageProblem

_VARIANCE_FLOOR = 1e-4  # facebookresearch/vicreg, main_vicreg.py, as are the weights
_INVARIANCE, _VARIANCE, _COVARIANCE = 25.0, 25.0, 1.0


@dataclass(frozen=True)
class DisentanglementConfig:
    """Which latents are compared, and how. The paper names principles and kinds; the other defaults are ours."""

    principle: Literal["infonce", "cosine", "vicreg"]
    """How latents are compared: within the batch, pair by pair, or by the statistics of the batch."""
    kind: Literal["sim", "sep", "both"]
    """sim: shared latents of a pair agree; sep: private ones differ; both: the sum of the two."""
    temperature: float = 0.1
    """Of infonce: divides every cosine similarity."""
    symmetric: bool = True
    """Of infonce, sim: from either view to the other, not only from the first."""
    sep_scope: Literal["all", "pair_vs_batch"] = "all"
    """Of infonce, sep: all other latents count alike, or the paired one as much as a batch."""
    cosine_sep_target: Literal[0, -1] = 0
    """Of cosine, sep: right angles, or opposite directions."""
    vicreg_cap: float | None = 4.0
    """Of vicreg, sep: squared distance per dimension beyond which nothing is won; None sets no bound to the loss."""

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and (self.vicreg_cap is None or self.vicreg_cap > 0)):
            raise UsageProblem(
                f"temperature={self.temperature} and vicreg_cap={self.vicreg_cap} leave nothing to compare latents by. "
                "Give both above 0."
            )


Pair = tuple[Float[Tensor, "*members batch latent"], Float[Tensor, "*members batch latent"]]


def disentanglement(
    private: Pair | None,
    shared: Pair,
    config: DisentanglementConfig,
    excluded: Bool[Tensor, "*members batch batch"] | None = None,
) -> tuple[Float[Tensor, "*members"], dict[str, Float[Tensor, "*members"]]]:
    """The loss in float32, and its parts: `sim`, `sep` and, of vicreg, `vicreg_invariance`.

    The last is the mean squared distance of private latents, on which the cap acts. `private` may be None where only
    `sim` is asked for. `excluded` marks pairs of rows that are no negatives of each other (infonce, sim).
    """
    parts = {}
    if config.kind != "sep":
        parts["sim"] = _sim(shared[0].float(), shared[1].float(), config, excluded)
    if config.kind != "sim":
        assert private is not None
        parts["sep"] = _sep(private[0].float(), private[1].float(), config)
    loss = torch.stack([*parts.values()]).sum(dim=0)
    if config.principle == "vicreg" and private is not None:
        parts["vicreg_invariance"] = invariance(private[0].float(), private[1].float())
    return loss, parts


def _sim(a: Tensor, b: Tensor, config: DisentanglementConfig, excluded: Tensor | None) -> Tensor:
    if config.principle == "infonce":
        return infonce_sim(a, b, temperature=config.temperature, symmetric=config.symmetric, excluded=excluded)
    return cosine_sim(a, b) if config.principle == "cosine" else vicreg_sim(a, b)


def _sep(a: Tensor, b: Tensor, config: DisentanglementConfig) -> Tensor:
    if config.principle == "infonce":
        return infonce_sep(a, b, temperature=config.temperature, scope=config.sep_scope)
    if config.principle == "cosine":
        return cosine_sep(a, b, target=config.cosine_sep_target)
    return vicreg_sep(a, b, cap=config.vicreg_cap)


def infonce_sim(
    a: Float[Tensor, "*members batch latent"],
    b: Float[Tensor, "..."],
    *,
    temperature: float,
    symmetric: bool = True,
    excluded: Bool[Tensor, "*members batch batch"] | None = None,
) -> Float[Tensor, "*members"]:
    """Cross entropy of each row of `a` choosing its own of `b` by cosine, and the reverse, averaged.

    Raises UsageProblem for latents of different shapes and for a batch of one, which has no negatives.
    """
    _require_alike(a, b)
    _require_company(a, "InfoNCE")
    logits = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT / temperature
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    forth = -_diagonal_mean(logits.log_softmax(dim=-1))
    return (forth - _diagonal_mean(logits.log_softmax(dim=-2))) / 2 if symmetric else forth


def infonce_sep(
    a: Float[Tensor, "*members batch latent"],
    b: Float[Tensor, "..."],
    *,
    temperature: float,
    scope: Literal["all", "pair_vs_batch"] = "all",
) -> Float[Tensor, "*members"]:
    """Log of the mean of exp(cosine / temperature) over all other latents of both views, averaged over latents.

    0 for orthogonal latents, 1 / temperature where all coincide. In scope `pair_vs_batch` the mean counts the paired
    latent `batch` times. Raises UsageProblem for latents of different shapes.
    """
    _require_alike(a, b)
    rows, pairs = torch.cat([F.normalize(a, dim=-1), F.normalize(b, dim=-1)], dim=-2), a.shape[-2]
    logits = rows @ rows.mT / temperature
    itself = torch.eye(2 * pairs, dtype=torch.bool, device=a.device)
    others = float(2 * pairs - 1)
    if scope == "pair_vs_batch":
        logits = logits + math.log(pairs) * itself.roll(pairs, dims=0)
        others += pairs - 1
    return logits.masked_fill(itself, -torch.inf).logsumexp(dim=-1).mean(dim=-1) - math.log(others)


def cosine_sim(a: Float[Tensor, "*members batch latent"], b: Float[Tensor, "..."]) -> Float[Tensor, "*members"]:
    """How far paired latents are from one direction: the mean of 1 - cosine."""
    _require_alike(a, b)
    return (1 - F.cosine_similarity(a, b, dim=-1)).mean(dim=-1)


def cosine_sep(
    a: Float[Tensor, "*members batch latent"], b: Float[Tensor, "..."], *, target: Literal[0, -1] = 0
) -> Float[Tensor, "*members"]:
    """How far paired latents are from right angles, or from opposite directions (`target` -1)."""
    _require_alike(a, b)
    cosines = F.cosine_similarity(a, b, dim=-1)
    return (1 + cosines if target else cosines.abs()).mean(dim=-1)


def vicreg_sim(a: Float[Tensor, "*members batch latent"], b: Float[Tensor, "..."]) -> Float[Tensor, "*members"]:
    """Variance-invariance-covariance regularisation (Bardes et al. 2022, eq. 6), its public weights.

    Raises UsageProblem for latents of different shapes and for a batch of one, which has no variance.
    """
    return _INVARIANCE * invariance(a, b) + _spread(a, b)


def vicreg_sep(
    a: Float[Tensor, "*members batch latent"], b: Float[Tensor, "..."], *, cap: float | None = 4.0
) -> Float[Tensor, "*members"]:
    """The same with the invariance negated, at most `cap`: without one the loss has no lower bound.

    The paper says nothing of a bound; 4 is twice what independent latents of unit variance have.
    """
    distance = invariance(a, b)
    return _spread(a, b) - _INVARIANCE * (distance if cap is None else distance.clamp(max=cap))


def invariance(a: Float[Tensor, "*members batch latent"], b: Float[Tensor, "..."]) -> Float[Tensor, "*members"]:
    """Mean squared distance of paired latents, per dimension."""
    _require_alike(a, b)
    return (a - b).square().mean(dim=(-2, -1))


def reconstruction(
    xhat: tuple[Float[Tensor, "*members batch values"], Float[Tensor, "*members batch values"]],
    x: tuple[Float[Tensor, "... batch values"], Float[Tensor, "... batch values"]],
) -> Float[Tensor, "*members"]:
    """Mean squared error per value of both views' reconstructions, averaged. What is rebuilt may be one for all."""
    errors = [(made.float() - given.float()).square().mean(dim=(-2, -1)) for made, given in zip(xhat, x, strict=True)]
    return torch.stack(errors).mean(dim=0)


@torch.no_grad()
def monitors(
    p: Float[Tensor, "*members batch latent"] | None, s: Float[Tensor, "*members batch _"]
) -> dict[str, Float[Tensor, "*members"]]:
    """Signs of collapse: mean deviation of a latent's dimensions, effective ranks, and how alike p and s are.

    The last is the mean of |cosine|; it and all of p's are missing where there is no p.
    """
    found = {"shared_deviation": _deviation(s), "shared_rank": effective_rank(s)}
    if p is None:
        return found
    alike = F.cosine_similarity(p, s, dim=-1).abs().mean(dim=-1)
    private = {"private_deviation": _deviation(p), "private_rank": effective_rank(p)}
    return {**private, **found, "private_shared_cosine": alike}


def effective_rank(rows: Float[Tensor, "*members batch latent"]) -> Float[Tensor, "*members"]:
    """exp of the entropy of the singular values' shares: from 1 (all rows on a line) to the smaller side."""
    values = torch.linalg.svdvals(rows.float())
    shares = values / values.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum(dim=-1).exp()


def _spread(a: Tensor, b: Tensor) -> Tensor:
    """The terms of VICReg that keep each view from collapsing: variance and covariance."""
    _require_company(a, "VICReg")
    variance = (_shortfall(a) + _shortfall(b)) / 2
    return _VARIANCE * variance + _COVARIANCE * (_correlated(a) + _correlated(b))


def _shortfall(rows: Tensor) -> Tensor:
    """Mean shortfall of each dimension's deviation below 1."""
    return F.relu(1 - (rows.var(dim=-2) + _VARIANCE_FLOOR).sqrt()).mean(dim=-1)


def _correlated(rows: Tensor) -> Tensor:
    """Sum of the squared covariances of different dimensions, per dimension."""
    centred = rows - rows.mean(dim=-2, keepdim=True)
    covariance = centred.mT @ centred / (rows.shape[-2] - 1)
    own = covariance.diagonal(dim1=-2, dim2=-1)
    return (covariance.square().sum(dim=(-2, -1)) - own.square().sum(dim=-1)) / rows.shape[-1]


def _diagonal_mean(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).mean(dim=-1)


def _deviation(rows: Tensor) -> Tensor:
    return rows.float().std(dim=-2, correction=0).mean(dim=-1)


def _require_alike(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise UsageProblem(
            f"Latents of shapes {tuple(a.shape)} and {tuple(b.shape)} are of no pairs, so comparing them would mean "
            "nothing. Give one latent of each view, of the same examples and the same width."
        )


def _require_company(rows: Tensor, principle: str) -> None:
    if rows.shape[-2] < 2:
        raise UsageProblem(
            f"{principle} compares the examples of a batch, and this one has {rows.shape[-2]}, so there is nothing to "
            "learn from. Give --data.batch-examples at least 2 for each accumulated part."
        )
