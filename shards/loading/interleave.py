"""Several datasets as one endless sequence in which each has its share: position -> dataset, and its own position.

A stride schedule computed point by point: the first dataset takes every position at which its share, summed up, passes
a whole number; the next does the same among the positions that are left. Any run of positions holds each dataset's
share to within one for each dataset; shares over the whole period are exact.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Int

from shards.order import random_bits

_LARGEST_PERIOD = 1 << 31  # products of two remainders fit 64 bits


def whole_shares(weights: Sequence[int | float]) -> tuple[int, ...]:
    """The smallest integers in the ratio of the weights (all above 0) as they are written; at worst to 2^-31."""
    fractions = [Fraction(str(weight)) for weight in weights]
    common = math.lcm(*(fraction.denominator for fraction in fractions))
    shares = [int(fraction * common) for fraction in fractions]
    divisor = math.gcd(*shares)
    if (period := sum(shares) // divisor) > _LARGEST_PERIOD:
        return tuple(max(1, (share // divisor) * _LARGEST_PERIOD // period) for share in shares)
    return tuple(share // divisor for share in shares)


def interleaved(
    positions: Int[np.ndarray, " batch"], shares: Sequence[int], *, seed: int
) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
    """The dataset that each position draws from, and how many draws that dataset has given before."""
    dataset = np.full(len(positions), len(shares) - 1)
    own = positions.astype(np.int64)
    waiting = np.arange(len(positions))
    for number, share in enumerate(shares[:-1]):
        period = sum(shares[number:])
        phase = int(random_bits(seed, number) % np.uint64(period))
        before, after = (_taken(own[waiting] + step, share, period, phase) for step in (0, 1))
        is_taken = after > before
        dataset[waiting[is_taken]] = number
        own[waiting] = np.where(is_taken, before, own[waiting] - before)
        waiting = waiting[~is_taken]
    return dataset, own


def _taken(positions: np.ndarray, share: int, period: int, phase: int) -> np.ndarray:
    """Of the positions before these, how many are the dataset's; floor((position * share + phase) / period)."""
    periods, rest = np.divmod(positions, period)
    return periods * share + (rest * share + phase) // period
