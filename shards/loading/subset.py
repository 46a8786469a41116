"""A part of a dataset in which every combination of some labels is as frequent as in the whole."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from jaxtyping import Int

from shards.loading.classes import NO_CLASS, classes_of
from shards.problem import DataProblem
from shards.reader import Reader

_LEAST_ROWS = 2  # of a combination: an example alone could be in no pair


def stratified(reader: Reader, count: int, by: Sequence[str], seed: int) -> Int[np.ndarray, " rows"]:
    """`count` rows in rising order, a pure function of the dataset and `seed`: multi-view subset rule of NSynth.

    Each combination of the labels `by` gets its share of `count` by largest remainder, and at least one row where
    there are enough; combinations of one row are dropped, as are rows without a label. Of each, the rows whose keys
    have the lowest SHA-256 of "seed:key" are taken: of a share that grows, the earlier ones stay. Raises DataProblem
    when there are fewer than `count` to choose from.
    """
    rows, cells = _cells(reader, by)
    sizes = np.bincount(cells)
    if count > len(rows):
        raise DataProblem(
            f"{reader.folder} has {len(rows):,} examples to choose from"
            f"{' by ' + ' and '.join(by) if by else ''}, fewer than the {count:,} that are to take part. Give a lower "
            "number, 0 for all, or build a larger dataset."
        )
    keys = reader.labels("key")
    digests = b"".join(sha256(f"{seed}:{keys[row]}".encode()).digest() for row in rows.tolist())
    words = np.frombuffer(digests, ">u8").reshape(-1, 4)
    in_order = np.lexsort((*words.T[::-1], cells))
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    taken = place < np.repeat(shares(sizes, count), sizes)
    return np.sort(rows[in_order[taken]])


def shares(sizes: Int[np.ndarray, " cells"], count: int) -> Int[np.ndarray, " cells"]:
    """`count` divided in proportion to `sizes` by largest remainder, at least 1 each where `count` allows it.

    Cells whose proportion is below 1 get 1, and the others share what is left. No share is above its size.
    """
    given, is_open = np.zeros(len(sizes), np.int64), np.ones(len(sizes), bool)
    while count >= len(sizes):
        left = count - int(given.sum())
        is_small = is_open & (sizes * left < sizes[is_open].sum())
        if not is_small.any():
            break
        given[is_small], is_open[is_small] = 1, False
    left, whole = count - int(given.sum()), int(sizes[is_open].sum())
    exact = np.where(is_open, sizes, 0) * left
    given += exact // max(whole, 1)
    # Of equal remainders the earlier cell's counts as larger, on every machine.
    by_remainder = np.argsort(-(exact % max(whole, 1)), kind="stable")
    given[by_remainder[: count - int(given.sum())]] += 1
    return given


def _cells(reader: Reader, by: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The rows that can be chosen, and the number of each one's cell, from 0 without a gap."""
    rows = np.arange(len(reader))
    classes = [classes_of(name, reader.labels, rows) for name in by]
    is_labelled = np.all([each != NO_CLASS for each in classes], axis=0) if classes else np.ones(len(rows), bool)
    rows = rows[is_labelled]
    if not classes or not len(rows):
        return rows, np.zeros(len(rows), np.int64)
    _, cells, sizes = np.unique(
        np.stack([each[is_labelled] for each in classes]), axis=1, return_inverse=True, return_counts=True
    )
    kept = sizes[cells] >= _LEAST_ROWS
    return rows[kept], np.unique(cells[kept], return_inverse=True)[1].astype(np.int64)
