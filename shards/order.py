"""(seed, epoch, position) -> row, and 64 random bits for any tuple of integers: pure, keyed, without memory of n.

The order of an epoch is a keyed permutation computed point by point (a generalised Feistel network, walked in the few
cases where it leaves the range; Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002), so that no rank
ever stores a shuffled list, and a training resumes at any position, on any number of ranks, at no cost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt64

_ROUNDS = 6  # four make a strong pseudo-random permutation (Luby and Rackoff, 1988); two more cost nothing here
_ALL_BITS = (1 << 64) - 1
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_GOLDEN_64, _FIRST_64, _SECOND_64 = map(np.uint64, (_GOLDEN, _FIRST, _SECOND))
_TWENTY_SEVEN, _THIRTY, _THIRTY_ONE = map(np.uint64, (27, 30, 31))
_UNIT = 2.0**-53  # of the 53 bits of a float's mantissa
_WINDOW, _CLASS, _LAP = range(3)  # what a permutation inside an epoch is of, besides the epoch itself


Positions = Int[np.ndarray, " batch"]
Visits = tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]


@runtime_checkable
class Order(Protocol):
    """Which row stands at each position of an epoch; pure in (seed, epoch, position)."""

    def __len__(self) -> int:
        """Positions in an epoch."""

    def visits(self, positions: np.ndarray, *, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows at `positions` (each below the length), and numbers that tell a row's visits in one epoch apart."""


Arrange = Callable[[np.ndarray], Order]
"""Rows that take part, in rising order -> their Order."""


@dataclass(frozen=True, eq=False)
class Sequential:
    """Every row once, as they lie."""

    eligible: Int[np.ndarray, " rows"]

    def __len__(self) -> int:
        return len(self.eligible)

    def visits(self, positions: Positions, *, seed: int, epoch: int) -> Visits:
        return _once(self.eligible[positions])


@dataclass(frozen=True, eq=False)
class Shuffled:
    """Every row once, in a permutation of them all."""

    eligible: Int[np.ndarray, " rows"]

    def __len__(self) -> int:
        return len(self.eligible)

    def visits(self, positions: Positions, *, seed: int, epoch: int) -> Visits:
        return _once(self.eligible[shuffled_rows(positions, rows=len(self), seed=seed, epoch=epoch)])


@dataclass(frozen=True, eq=False)
class Windowed:
    """Every row once: shards in a permutation of their own, rows shuffled among `window_shards` of them at a time.

    For stores where a whole shard is read at once: at any time two windows at most are in use.
    """

    eligible: Int[np.ndarray, " rows"]
    shard: Int[np.ndarray, " rows"]
    """The shard of each eligible row, never falling."""
    window_shards: int

    def __len__(self) -> int:
        return len(self.eligible)

    def visits(self, positions: Positions, *, seed: int, epoch: int) -> Visits:
        shards, begins, windows = _windows(self, seed, epoch)
        window = np.searchsorted(windows, positions, side="right") - 1
        first, sizes = windows[window], np.diff(windows)[window]
        places = first + permuted(positions - first, sizes, seed, epoch, _WINDOW, window)
        slot = np.searchsorted(begins, places, side="right") - 1
        return _once(self.eligible[self._firsts[shards[slot]] + places - begins[slot]])

    @cached_property
    def _firsts(self) -> Int[np.ndarray, " shards"]:
        """Where the rows of each shard begin among the eligible ones, and where the last one's end."""
        return np.append(np.unique(self.shard, return_index=True)[1], len(self.shard)).astype(np.int64)


@lru_cache(maxsize=8)
def _windows(order: Windowed, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of an epoch: its shards in turn, the position where each begins, and where each window begins and the last ends.

    The one order that remembers something: a few numbers a shard.
    """
    counts = np.diff(order._firsts)
    shards = permuted(np.arange(len(counts)), len(counts), seed, epoch)
    begins = np.cumsum(counts[shards]) - counts[shards]
    return shards, begins, np.append(begins[:: order.window_shards], len(order))


@dataclass(frozen=True, eq=False)
class Weighted:
    """As many positions as rows; each row stands at a number of them proportional to its weight.

    Drawn systematically: in every epoch that number is its expectation rounded up or down, so equal weights give every
    row once. Weights are at least 0 and not all 0.
    """

    eligible: Int[np.ndarray, " rows"]
    weight: Float[np.ndarray, " rows"]
    """Of each eligible row."""

    def __len__(self) -> int:
        return len(self.eligible)

    def visits(self, positions: Positions, *, seed: int, epoch: int) -> Visits:
        offset = float(random_bits(seed, epoch, _ROUNDS) >> np.uint64(11)) * _UNIT  # one for all: hence the rounding
        strata = shuffled_rows(positions, rows=len(self), seed=seed, epoch=epoch) + offset
        at = np.searchsorted(self._upto, strata * (self._upto[-1] / len(self)), side="right")
        at = np.minimum(at, self._last)
        first = np.floor((self._upto[at] - self.weight[at]) * (len(self) / self._upto[-1])).astype(np.int64)
        return self.eligible[at], strata.astype(np.int64) - first

    @cached_property
    def _upto(self) -> Float[np.ndarray, " rows"]:
        return np.cumsum(self.weight)

    @cached_property
    def _last(self) -> int:
        """The last row that has a weight: where rounding may lead beyond the sum."""
        return int(np.flatnonzero(self.weight)[-1])


@dataclass(frozen=True, eq=False)
class Balanced:
    """As many positions as rows; of C classes, every C positions in turn hold a row of each.

    A row comes again in an epoch only when all rows of its class have come as often.
    """

    eligible: Int[np.ndarray, " rows"]
    classes: Int[np.ndarray, " rows"]
    """Of each eligible row, from 0."""

    def __len__(self) -> int:
        return len(self.eligible)

    def visits(self, positions: Positions, *, seed: int, epoch: int) -> Visits:
        firsts, sizes = self._ranges
        turn, slot = np.divmod(positions, len(sizes))
        chosen = permuted(slot, len(sizes), seed, epoch, _CLASS, turn)
        lap, place = np.divmod(turn, sizes[chosen])
        within = permuted(place, sizes[chosen], seed, epoch, _LAP, chosen, lap)
        return self._by_class[firsts[chosen] + within], lap

    @cached_property
    def _by_class(self) -> Int[np.ndarray, " rows"]:
        return self.eligible[np.argsort(self.classes, kind="stable")]

    @cached_property
    def _ranges(self) -> tuple[Int[np.ndarray, " classes"], Int[np.ndarray, " classes"]]:
        """Where each class that has rows begins among the rows by class, and how many it has."""
        sizes = np.bincount(self.classes)
        sizes = sizes[sizes > 0]
        return np.cumsum(sizes) - sizes, sizes


def _once(rows: np.ndarray) -> Visits:
    return rows, np.zeros_like(rows)


def random_bits(*words: int | np.ndarray) -> UInt64[np.ndarray, "..."]:
    """Hash integers (arrays broadcast) to 64 uniform bits each, by chained splitmix64 steps (Steele et al., 2014)."""
    state: int | np.ndarray = 0
    for word in words:
        if isinstance(state, int) and isinstance(word, int):  # ten times as fast as with arrays of one number
            state = _mix_one(state, word)
        else:
            arrays = np.atleast_1d(np.asarray(state, np.uint64), np.asarray(word).astype(np.uint64))
            state = _mix(*arrays)
    return np.asarray(state, np.uint64)


def shuffled_rows(
    positions: Int[np.ndarray, " batch"], *, rows: int, seed: int, epoch: int
) -> Int[np.ndarray, " batch"]:
    """The rows at `positions` (each in 0..rows-1) of the epoch's permutation of all rows."""
    return permuted(positions, rows, seed, epoch)


def permuted(
    values: Int[np.ndarray, " batch"], sizes: int | Int[np.ndarray, " batch"], *key: int | np.ndarray
) -> Int[np.ndarray, " batch"]:
    """Where each value goes in the permutation of 0..size-1 that its key names; sizes and keys may be one a value."""
    limits = np.atleast_1d(np.asarray(sizes, np.uint64))
    widths = np.sqrt(np.maximum(limits, 1) - np.uint64(1)).astype(np.uint64) + np.uint64(1)
    heights = (limits + widths - np.uint64(1)) // widths  # width times height exceeds the size by less than the width
    keys = random_bits(*key, np.arange(_ROUNDS).reshape(-1, 1))
    walked = _feistel(values.astype(np.uint64), widths, heights, keys)
    while len(outside := np.flatnonzero(walked >= limits)):
        width, height, own_keys = (_of(outside, part) for part in (widths, heights, keys))
        walked[outside] = _feistel(walked[outside], width, height, own_keys)
    return walked.astype(np.int64)


def _of(places: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """What belongs to some places in an array that holds one part for all of them, or one each."""
    return parts if parts.shape[-1] == 1 else parts[..., places]


def _feistel(values: np.ndarray, width: np.ndarray, height: np.ndarray, round_keys: np.ndarray) -> np.ndarray:
    """A keyed permutation of the integers below width times height: each half turns by a hash of the other."""
    high, low = np.divmod(values, width)
    for even_key, odd_key in zip(round_keys[::2], round_keys[1::2], strict=True):
        low = (low + _mix(high, even_key) % width) % width
        high = (high + _mix(low, odd_key) % height) % height
    return high * width + low


def _mix(state: np.ndarray, word: np.ndarray) -> np.ndarray:
    """One splitmix64 step; products of arrays wrap modulo 2^64."""
    mixed = state ^ (word + _GOLDEN_64)
    mixed ^= mixed >> _THIRTY
    mixed *= _FIRST_64
    mixed ^= mixed >> _TWENTY_SEVEN
    mixed *= _SECOND_64
    mixed ^= mixed >> _THIRTY_ONE
    return mixed


def _mix_one(state: int, word: int) -> int:
    """The same of one plain integer."""
    mixed = state ^ ((word + _GOLDEN) & _ALL_BITS)
    mixed = ((mixed ^ (mixed >> 30)) * _FIRST) & _ALL_BITS
    mixed = ((mixed ^ (mixed >> 27)) * _SECOND) & _ALL_BITS
    return mixed ^ (mixed >> 31)
