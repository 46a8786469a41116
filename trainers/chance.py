"""Random numbers that are functions of 64-bit seeds alone: the same on every device, in every batch, on any rank."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Constants of splitmix64 (Steele et al. 2014) as signed 64-bit integers; products wrap modulo 2^64 on every device.
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST_MULTIPLIER = 0xBF58476D1CE4E5B9 - 2**64
_SECOND_MULTIPLIER = 0x94D049BB133111EB - 2**64


def random_bits(seeds: Int[Tensor, " batch"], count: int, *, first: int = 0) -> Int[Tensor, "batch count"]:
    """64 random bits for each of `count` places after `first` of each seed's sequence; those of one seed all differ."""
    steps = torch.arange(first + 1, first + count + 1, device=seeds.device) * _GOLDEN_GAMMA
    return _mix64(seeds[:, None] + steps)


def uniforms(seeds: Int[Tensor, " batch"], count: int, *, first: int = 0) -> Float[Tensor, "batch count"]:
    """Float64 numbers in [0, 1) from the upper 53 of those bits."""
    return _shift_right(random_bits(seeds, count, first=first), 11).double() * 2.0**-53


def normals(seeds: Int[Tensor, " batch"], count: int, *, first: int = 0) -> Float[Tensor, "batch count"]:
    """Float64 numbers of mean 0 and deviation 1 from twice as many uniform ones (Box and Muller 1958)."""
    radius, angle = uniforms(seeds, 2 * count, first=first).chunk(2, dim=1)
    return (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)


def _mix64(bits: Int[Tensor, "batch count"]) -> Int[Tensor, "batch count"]:
    """The finaliser of splitmix64, a bijection of 64-bit integers whose output bits look independent."""
    bits = (bits ^ _shift_right(bits, 30)) * _FIRST_MULTIPLIER
    bits = (bits ^ _shift_right(bits, 27)) * _SECOND_MULTIPLIER
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Int[Tensor, "batch count"], places: int) -> Int[Tensor, "batch count"]:
    # torch shifts signed integers arithmetically; the mask clears the copies of the sign.
    return (bits >> places) & (2 ** (64 - places) - 1)
