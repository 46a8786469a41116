"""(seed, epoch, position) -> row, and 64 random bits for any tuple of integers: pure, keyed, without memory of n.

The order of an epoch is a keyed permutation computed point by point (a generalised Feistel network, walked in the few
cases where it leaves the range; Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002), so that no rank
ever stores a list of all examples, and a training resumes at any position, on any number of ranks, at no cost.
"""

import math

import numpy as np
from jaxtyping import Int, UInt64

_ROUNDS = 6  # four make a strong pseudo-random permutation (Luby and Rackoff, 1988); two more cost nothing here
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def random_bits(*words: int | np.ndarray) -> UInt64[np.ndarray, "..."]:
    """Hash integers (arrays broadcast) to 64 uniform bits each, by chained splitmix64 steps (Steele et al., 2014)."""
    state = np.asarray(np.uint64(0))
    with np.errstate(over="ignore"):
        for word in words:
            state = np.asarray(_mix(state, np.asarray(word).astype(np.uint64)))
    return state


def shuffled_rows(
    positions: Int[np.ndarray, " batch"], *, rows: int, seed: int, epoch: int
) -> Int[np.ndarray, " batch"]:
    """The rows at `positions` (each in 0..rows-1) of the epoch's permutation of all rows."""
    width = math.isqrt(max(rows - 1, 0)) + 1
    sides = np.uint64(width), np.uint64(-(-rows // width))  # their product exceeds `rows` by less than `width`
    round_keys = random_bits(seed, epoch, np.arange(_ROUNDS))
    walked = _feistel(positions.astype(np.uint64), sides, round_keys)
    while len(outside := np.flatnonzero(walked >= rows)):
        walked[outside] = _feistel(walked[outside], sides, round_keys)
    return walked.astype(np.int64)


def _feistel(values: np.ndarray, sides: tuple[np.uint64, np.uint64], round_keys: np.ndarray) -> np.ndarray:
    """A keyed permutation of the integers below the product of `sides`: each half turns by a hash of the other."""
    width, height = sides
    high, low = np.divmod(values, width)
    for even_key, odd_key in round_keys.reshape(-1, 2, 1):
        low = (low + _mix(high, even_key) % width) % width
        high = (high + _mix(low, odd_key) % height) % height
    return high * width + low


def _mix(state: np.ndarray, word: np.ndarray) -> np.ndarray | np.uint64:
    """One splitmix64 step; products wrap modulo 2^64."""
    mixed = state ^ (word + _GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
