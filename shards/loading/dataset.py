"""A dataset as a loader draws from it: its columns, the rows that fit the views, their order and how they are cut."""

import logging
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial

import numpy as np
import torch

from shards.feature import Feature
from shards.loading.classes import NO_CLASS, Labels, classes_of
from shards.order import Arrange, Balanced, Order, Sequential, Shuffled, Weighted, Windowed
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.views import Alone, Cast, Viewing, view_starts
from shards.words import nearest

log = logging.getLogger(__name__)

_ORDERS = ("global", "sequential", "windowed", "weighted", "balanced")
_EPOCH_BITS = 32  # of the number of a visit; those above count the row's visits within the epoch
_HOP_FRAMES = 8  # a frame rate is measured over so many


@dataclass(frozen=True)
class Column:
    """One more column, read for the same rows as the first."""

    reader: Reader
    frames: int | None = None
    """Length of its crops, in places of their own; None cuts out the same seconds as in the first column."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a loader reads of one dataset.

    `order` is `global` (all rows shuffled), `sequential`, `windowed:K` (K shards shuffled at a time), `weighted:LABEL`
    (by a label that is a number at least 0), `balanced:LABEL` (its classes equally often), or a function that arranges.
    """

    reader: Reader
    columns: tuple[Column, ...] = ()
    order: str | Arrange = "global"
    weight: int | float = 1
    """Part of the examples that come from here when several datasets are mixed, in proportion to the others'."""
    only: np.ndarray | None = None
    """Rows that take part, partners and stems included; by default all."""


@dataclass(frozen=True)
class Cut:
    """How views are cut out of one column: `ratio` frames for each of the first column's, or in places of their own."""

    reader: Reader
    frames: int
    ratio: Fraction | None = None

    @cached_property
    def frame_bytes(self) -> int:
        return self.reader.layout.shape[0] * self.reader.layout.dtype.itemsize

    @cached_property
    def view_bytes(self) -> int:
        return self.frames * self.frame_bytes

    def aligned(self, first: np.ndarray, spare: np.ndarray) -> np.ndarray:
        """Starts nearest to those in the first column, as far as the rows reach."""
        assert self.ratio is not None
        scaled = (2 * first * self.ratio.numerator + self.ratio.denominator) // (2 * self.ratio.denominator)
        return np.minimum(scaled, spare)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of the stored values."""
        return torch.from_numpy(np.empty(0, self.reader.layout.dtype)).dtype

    def read(self, rows: np.ndarray, starts: np.ndarray, places: np.ndarray, into: np.ndarray) -> None:
        """Copy the views that begin at frames `starts` (batch, views) of `rows` (batch, 1 or views) to their places."""
        each = (rows.size, -1)
        in_file_order = np.argsort(rows, axis=None)
        begins = self.reader.layout.data_offset_bytes + starts * self.frame_bytes
        begins, places = (array.reshape(each)[in_file_order] for array in (begins, places * self.view_bytes))
        self.reader.read_cuts(rows.ravel()[in_file_order], begins, self.view_bytes, into, places)


@dataclass(frozen=True)
class Shown:
    """Of some draws from a dataset, in their order: which examples they are, and where their views lie."""

    index: np.ndarray
    """(draws,), what names each example for ever, also among those of the other datasets."""
    moments: np.ndarray
    """(draws,), what tells all visits of a row apart: the epoch, and above it the visit where an order repeats rows."""
    rows: np.ndarray
    """(draws, 1 or views)"""
    starts: tuple[np.ndarray, ...]
    """Of each column, (draws, views), the first frames."""

    def part(self, which: slice) -> "Shown":
        return Shown(
            self.index[which], self.moments[which], self.rows[which], tuple(starts[which] for starts in self.starts)
        )


class Lineup:
    """One Dataset, made ready for the views: its global index begins at `first_index`."""

    def __init__(self, dataset: Dataset, views: Viewing, first_index: int) -> None:
        self.reader, self.views, self.first_index = dataset.reader, views, first_index
        _require_fit([self.reader, *(column.reader for column in dataset.columns)])
        self.cuts = (Cut(dataset.reader, views.frames), *(_cut(dataset.reader, c, views) for c in dataset.columns))
        if isinstance(dataset.order, str) and dataset.order.partition(":")[0] in ("sequential", "windowed"):
            for cut in self.cuts:
                cut.reader.files.comes_in_runs()
        rows = self._long_enough(dataset)
        self.cast: Cast = views.cast(rows, dataset.reader.labels) if len(rows) else Alone(rows)
        self.order: Order = _arrange(dataset.order, dataset.reader)(self.cast.anchors)
        if self.cast.missing:
            log.warning("%s: %s and are left out", self.reader.folder, self.cast.missing)

    def __len__(self) -> int:
        """Examples in an epoch."""
        return len(self.order)

    def shown(self, draws: np.ndarray, *, seed: int) -> Shown:
        """What the given draws from an endless sequence of epochs are to show."""
        rows, moments = self._visits(draws, seed)
        index = self.first_index + self.reader.indices[rows]
        shown = self.cast.rows(rows, index, seed=seed, epoch=moments)
        starts: list[np.ndarray] = []
        for number, cut in enumerate(self.cuts):
            spare = cut.reader.frames[shown] - cut.frames
            if cut.ratio is None:
                starts.append(view_starts(self.views, index, spare, seed=seed, epoch=moments, column=number))
            else:
                starts.append(cut.aligned(starts[0], spare))
        return Shown(index, moments, shown, tuple(starts))

    def read(self, shown: Shown, *, places: np.ndarray, into: Sequence[np.ndarray]) -> None:
        """Cut every view out of every column, each straight to its place, counted in views, in `into`."""
        for cut, starts, memory in zip(self.cuts, shown.starts, into, strict=True):
            cut.read(shown.rows, starts, places, memory)

    def _visits(self, draws: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The row of each draw, and its moment: crops shall differ where an order repeats rows."""
        epochs, positions = np.divmod(draws, max(len(self), 1))
        rows, moments = np.empty_like(draws), epochs.copy()
        for epoch in set(epochs.tolist()):
            now = epochs == epoch
            rows[now], again = self.order.visits(positions[now], seed=seed, epoch=epoch)
            moments[now] += again << _EPOCH_BITS
        return rows, moments

    def _long_enough(self, dataset: Dataset) -> np.ndarray:
        """Rows that take part and of which every column can fill a view; shorter ones are told of."""
        fits = np.full(len(self.reader), dataset.only is None)
        if dataset.only is not None:
            fits[dataset.only] = True
        for cut in self.cuts:
            is_short = fits & (cut.reader.frames < cut.frames)
            fits &= ~is_short
            if short := int(is_short.sum()):
                name = f"{self.reader.folder} {cut.reader.column}"
                log.warning("%s: %d examples are shorter than %d frames and left out", name, short, cut.frames)
        return np.flatnonzero(fits)


def frame_rate_hz(feature: Feature) -> Fraction:
    """Frames of a second, from the lengths at which another frame begins. Raises UsageProblem when there is no rate."""
    if feature.sample_rate_hz is None:
        raise UsageProblem(
            f"'{feature.word}' keeps the rate of each recording, so its frames cannot be aligned with those of another "
            "column. Give its crops a length of their own."
        )
    begin, limit = feature.sample_rate_hz, 1000 * feature.sample_rate_hz
    some = feature.frames(begin)
    first, last = (
        bisect_left(range(limit), some + more, lo=begin, key=feature.frames) for more in (1, 1 + _HOP_FRAMES)
    )
    if last >= limit:
        raise UsageProblem(
            f"'{feature.word}' has {feature.frames(limit)} frames however long a recording is, so none of them can be "
            "aligned with those of another column. Give its crops a length of their own."
        )
    return Fraction(feature.sample_rate_hz * _HOP_FRAMES, last - first)


def _cut(first: Reader, column: Column, views: Viewing) -> Cut:
    if column.frames is not None:
        return Cut(column.reader, column.frames)
    ratio = frame_rate_hz(column.reader.feature) / frame_rate_hz(first.feature)
    return Cut(column.reader, max(1, round(views.frames * ratio)), ratio)


def _require_fit(readers: Sequence[Reader]) -> None:
    """Columns must be different, of the same rows, and of arrays whose frames lie one after the other."""
    names = [f"{reader.folder} {reader.column}" for reader in readers]
    if len({reader.column for reader in readers}) < len(readers):
        raise UsageProblem(f"Of {', '.join(names)} two have one name, by which a batch has one. Name each column once.")
    for name, reader in zip(names, readers, strict=True):
        if not np.array_equal(reader.indices, readers[0].indices):
            raise DataProblem(
                f"{name} and {names[0]} hold different examples, so they cannot be read side by side. Name columns of "
                "one dataset."
            )
        if not _has_frames(reader):
            raise UsageProblem(
                f"{name} holds no arrays (bands, frames) that lie frame by frame, so no views can be cut out of it. "
                "Read its members whole (shards.reader.Reader.payload), or name another column."
            )


def _has_frames(reader: Reader) -> bool:
    if not len(reader):
        return True
    if reader.manifest.features[reader.column].get("member", "npy") != "npy":
        return False
    shape = reader.layout.shape
    return len(shape) == 2 and (reader.layout.is_fortran or 1 in shape)


def _arrange(order: str | Arrange, reader: Reader) -> Arrange:
    """What an order's word means. Raises UsageProblem for an unknown one or labels that do not fit."""
    if not isinstance(order, str):
        return order
    name, _, argument = order.partition(":")
    if name not in _ORDERS or (name in _ORDERS[:2]) == bool(argument):
        raise UsageProblem(f"There is no order '{order}', so nothing was read. {nearest(name, _ORDERS)}")
    if name == "windowed":
        shard = np.repeat(np.arange(len(reader.manifest.shards)), [shard.examples for shard in reader.manifest.shards])
        return partial(_windowed, shards=_count(argument), shard=shard)
    if name == "weighted":
        return partial(_weighted, name=argument, labels=reader.labels)
    if name == "balanced":
        return partial(_balanced, name=argument, labels=reader.labels)
    return Shuffled if name == "global" else Sequential


def _windowed(rows: np.ndarray, *, shards: int, shard: np.ndarray) -> Windowed:
    return Windowed(rows, shard[rows], shards)


def _weighted(rows: np.ndarray, *, name: str, labels: Labels) -> Weighted:
    try:
        weight = labels(name)[rows].astype(np.float64)
        is_fit = bool(np.isfinite(weight).all() and (weight >= 0).all() and (weight.any() or not len(weight)))
    except (TypeError, ValueError):
        is_fit = False
    if not is_fit:
        raise UsageProblem(
            f"The label '{name}' cannot be a weight: it must be a number of at least 0 in every example, and above 0 "
            "in some. Name another, or give the weights themselves."
        )
    return Weighted(rows, weight)


def _balanced(rows: np.ndarray, *, name: str, labels: Labels) -> Balanced:
    classes = classes_of(name, labels, rows)
    if unlabelled := int((classes == NO_CLASS).sum()):
        log.warning("%d examples have no '%s' and are left out", unlabelled, name)
    return Balanced(rows[classes != NO_CLASS], classes[classes != NO_CLASS])


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise UsageProblem(f"windowed:{text} names no number of shards, so nothing was read. Write, say, windowed:8.")
    return int(text)
