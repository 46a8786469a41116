"""The orthonormal MDCT of a whole signal: exactly one frame a hop, exactly invertible, by its own transpose.

Time-domain aliasing at every border between two blocks is a plane rotation, so that the two ends of a signal, where
nothing is rotated, need no frames of their own (Princen and Bradley 1986; sine window of two hops). Each block then
goes through an orthonormal DCT-IV. The precision is that of the waveform, float32 or float64; 5 ms for 10 s on a core.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from shards.codecs.codec import padded


def mdct(waveform: Float[Tensor, "batch samples"], hop_samples: int) -> Float[Tensor, "batch bands frames"]:
    """Coefficients of a waveform, zero-padded on its right to whole hops; band k is centred at (k + 1/2) / 2 hops.

    `hop_samples` is even, and also the number of bands. A row of the batch does not depend on the others.
    """
    blocks = padded(waveform, hop_samples).unflatten(-1, (-1, hop_samples))
    return (_rotated(blocks, 1) @ dct4(hop_samples, waveform.dtype, waveform.device)).mT


def inverse_mdct(bands: Float[Tensor, "batch bands frames"]) -> Float[Tensor, "batch samples"]:
    """The waveform of whole hops that has these coefficients: the transpose of `mdct`, and its inverse."""
    return _rotated(bands.mT @ dct4(bands.shape[1], bands.dtype, bands.device), -1).flatten(1)


@lru_cache(maxsize=16)
def dct4(size: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "size size"]:
    """The orthonormal DCT-IV matrix: symmetric, and its own inverse."""
    odd = 2 * torch.arange(size) + 1
    eighths = odd[:, None] * odd % (8 * size)  # whole turns are taken off while the angle is still exact
    matrix = math.sqrt(2 / size) * torch.cos(math.pi / (4 * size) * eighths.double())
    return matrix.to(dtype=dtype, device=device)


def _rotated(
    blocks: Float[Tensor, "batch frames hop_samples"], direction: int
) -> Float[Tensor, "batch frames hop_samples"]:
    """Samples at equal distance from a border between two blocks, rotated by the angle of the sine window there.

    Direction 1 folds, -1 unfolds.
    """
    half = blocks.shape[-1] // 2
    angle = (torch.arange(half, dtype=torch.float64) + half + 0.5) * (math.pi / 2 / blocks.shape[-1])
    sine, cosine = (part.to(blocks) for part in (angle.sin(), direction * angle.cos()))
    before, after = blocks[:, :-1, half:].flip(-1), blocks[:, 1:, :half]
    rotated = blocks.clone()
    rotated[:, :-1, half:] = (sine * before - cosine * after).flip(-1)
    rotated[:, 1:, :half] = cosine * before + sine * after
    return rotated
