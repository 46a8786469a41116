"""What a training sees of an example: crops of it, of a partner with the same label, or of all stems of its mixture.

Everything drawn here is a pure function of (seed, epoch, index, view), whoever asks for it and in whatever batch; where
an order shows an example twice in an epoch, `epoch` holds the number of the visit as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt64

from shards.loading.classes import NO_CLASS, Labels, classes_of
from shards.order import random_bits
from shards.problem import UsageProblem

# One for where a view lies, one for what the model draws from it, one for the partners of pairs, and beyond these one
# for each further column that is cut in places of its own.
_CROP_STREAM, _MODEL_STREAM, _PARTNER_STREAM, _COLUMN_STREAM = range(4)


@runtime_checkable
class Cast(Protocol):
    """The rows that can be shown, and which rows are shown with each."""

    @property
    def anchors(self) -> np.ndarray:
        """Rows that stand for one example of a batch each, in rising order."""

    @property
    def missing(self) -> str:
        """What was left out for want of company, in words; empty when nothing was."""

    def rows(self, anchors: np.ndarray, index: np.ndarray, *, seed: int, epoch: int | np.ndarray) -> np.ndarray:
        """(batch, 1) when all views are cut from the anchor itself, or (batch, views): the row of each view."""


@runtime_checkable
class Viewing(Protocol):
    """How many views of how many frames, and of which rows."""

    @property
    def count(self) -> int:
        """Views of an example."""

    @property
    def frames(self) -> int:
        """Of a view."""

    @property
    def is_together(self) -> bool:
        """All views of an example begin at the same frame."""

    def cast(self, rows: np.ndarray, labels: Labels) -> Cast:
        """Of those `rows`, which can be shown and with which others. Raises UsageProblem when the labels do not fit."""


@dataclass(frozen=True)
class Views:
    """`count` crops of `frames` frames, each start uniform in the closed range [0, F - frames] (Myna, section 3)."""

    count: int = 2
    frames: int = 96
    is_together: ClassVar[bool] = False

    def cast(self, rows: Int[np.ndarray, " rows"], labels: Labels) -> "Alone":
        """Every row, each alone."""
        return Alone(rows)


@dataclass(frozen=True)
class Pairs:
    """An anchor, then partners with the same label `by`: a crop of each, in places that know nothing of each other.

    Partners are uniform over the others of the class; over those that differ in `unlike`, where there are any.
    """

    by: str
    frames: int
    unlike: str | None = None
    count: int = 2
    is_together: ClassVar[bool] = False

    def cast(self, rows: Int[np.ndarray, " rows"], labels: Labels) -> "Partners":
        """Leaves out rows that are alone in their class, or have no label."""
        classes = classes_of(self.by, labels, rows)
        kinds = classes_of(self.unlike, labels, rows) if self.unlike else np.arange(len(rows))
        return Partners(rows, classes, kinds, views=self.count, by=self.by)


@dataclass(frozen=True)
class Stems:
    """One view a class of a group, all of one track and time and cut at the same frames: the parts of a mixture.

    Rows of one group share `group` and their start in it; `by` names the class of each. The views keep the order of
    `classes`; the first class's row stands for the group. Mixing them is left to the objective.
    """

    classes: tuple[str, ...]
    frames: int
    by: str = "kind"
    group: str = "track"
    is_together: ClassVar[bool] = True

    @property
    def count(self) -> int:
        return len(self.classes)

    def cast(self, rows: Int[np.ndarray, " rows"], labels: Labels) -> "Groups":
        """Leaves out groups that lack one of the classes. Raises UsageProblem for a class that no row has."""
        kinds = labels(self.by)[rows].astype(str)
        if unknown := sorted(set(self.classes) - set(known := np.unique(kinds).tolist())):
            raise UsageProblem(
                f"No example has {self.by}={unknown[0]}, so no mixture of {', '.join(self.classes)} can be shown. "
                f"There are: {', '.join(known)}."
            )
        tracks = classes_of(self.group, labels, rows)
        groups = _numbered(tracks, classes_of("start_seconds", labels, rows))
        table = np.full((groups.max() + 1, len(self.classes)), -1)
        for column, word in enumerate(self.classes):
            is_one = (kinds == word) & (tracks != NO_CLASS)
            table[groups[is_one], column] = rows[is_one]
        return Groups(table, self.classes)


@dataclass(frozen=True, eq=False)
class Alone:
    """The Cast of crops: every row by itself."""

    anchors: Int[np.ndarray, " rows"]
    missing: str = ""

    def rows(
        self,
        anchors: Int[np.ndarray, " batch"],
        index: Int[np.ndarray, " batch"],
        *,
        seed: int,
        epoch: int | np.ndarray,
    ) -> Int[np.ndarray, "batch 1"]:
        return anchors[:, None]


class Partners:
    """The Cast of pairs: rows sorted by class and kind, so that the partners of each are a range with a gap in it."""

    def __init__(self, rows: np.ndarray, classes: np.ndarray, kinds: np.ndarray, *, views: int, by: str) -> None:
        by_class = np.lexsort((kinds, classes))
        self._rows = rows[by_class]
        self._place = np.empty_like(by_class)
        self._place[by_class] = np.arange(len(rows))
        self._eligible = rows
        self._views = views
        self._class = _ranges(classes[by_class])
        own, places = _ranges(_numbered(classes, kinds)[by_class]), np.arange(len(rows))
        is_uniform = (own == self._class).all(axis=1)  # a class of one kind: any other row of it will do
        self._gap = np.where(is_uniform[:, None], np.stack([places, places + 1], axis=1), own)
        has_partner = (np.diff(self._class, axis=1)[:, 0] > 1) & (classes[by_class] != NO_CLASS)
        self.anchors = np.sort(self._rows[has_partner])
        alone = len(rows) - len(self.anchors)
        self.missing = f"{alone:,} examples have no partner of the same {by}" if alone else ""

    def rows(
        self,
        anchors: Int[np.ndarray, " batch"],
        index: Int[np.ndarray, " batch"],
        *,
        seed: int,
        epoch: int | np.ndarray,
    ) -> Int[np.ndarray, "batch views"]:
        place = self._place[np.searchsorted(self._eligible, anchors)]
        (begin, end), (gap, after_gap) = self._class[place].T[..., None], self._gap[place].T[..., None]
        choices = (end - begin) - (after_gap - gap)
        drawn = begin + _bounded(_bits(index, seed, epoch, _PARTNER_STREAM, self._views - 1), choices)
        partners = self._rows[drawn + np.where(drawn >= gap, after_gap - gap, 0)]
        return np.concatenate([anchors[:, None], partners], axis=1)


class Groups:
    """The Cast of stems: a table with a row for each whole group."""

    def __init__(self, table: np.ndarray, classes: Sequence[str]) -> None:
        whole = table[(table >= 0).all(axis=1)]
        self._table = whole[np.argsort(whole[:, 0])]
        self.anchors = np.ascontiguousarray(self._table[:, 0])
        lacking = len(table) - len(whole)
        self.missing = f"{lacking:,} groups lack one of {', '.join(classes)}" if lacking else ""

    def rows(
        self,
        anchors: Int[np.ndarray, " batch"],
        index: Int[np.ndarray, " batch"],
        *,
        seed: int,
        epoch: int | np.ndarray,
    ) -> Int[np.ndarray, "batch views"]:
        return self._table[np.searchsorted(self.anchors, anchors)]


def view_starts(
    views: Viewing,
    index: Int[np.ndarray, " batch"],
    spare: Int[np.ndarray, "batch members"],
    *,
    seed: int,
    epoch: int | np.ndarray,
    column: int = 0,
) -> Int[np.ndarray, "batch views"]:
    """First frame of every view, uniform in the closed range [0, spare]: of rows with so many frames more than a view.

    Columns of one dataset that are cut in places of their own draw by their number.
    """
    stream = _COLUMN_STREAM + column if column else _CROP_STREAM
    if not views.is_together:
        return _bounded(_bits(index, seed, epoch, stream, views.count), spare + 1)
    return _bounded(_bits(index, seed, epoch, stream, 1), spare.min(axis=1, keepdims=True) + 1).repeat(views.count, 1)


def view_seeds(
    views: Viewing, index: Int[np.ndarray, " batch"], *, seed: int, epoch: int | np.ndarray
) -> Int[np.ndarray, "batch views"]:
    """64 bits for each view, from which the model draws its masks."""
    return _bits(index, seed, epoch, _MODEL_STREAM, views.count).view(np.int64)


def _bits(
    index: np.ndarray, seed: int, epoch: int | np.ndarray, stream: int, count: int
) -> UInt64[np.ndarray, "batch views"]:
    if isinstance(epoch, np.ndarray) and len(epoch) and (epoch == epoch[0]).all():
        epoch = int(epoch[0])  # the common case, hashed once for all
    return random_bits(seed, epoch, stream, index, np.arange(count)[:, None]).T  # numpy is fast along the last axis


def _bounded(bits: np.ndarray, limits: np.ndarray) -> Int[np.ndarray, "batch views"]:
    """Integers from 0 to below `limits`; their bias is below 2^-40 where limits are below 2^24."""
    return (bits % limits.astype(np.uint64)).astype(np.int64)


def _numbered(first: np.ndarray, second: np.ndarray) -> Int[np.ndarray, " rows"]:
    """One number for each pair of numbers that occurs (each at least -1)."""
    joined = (first + 1) * (second.max(initial=0) + 2) + second + 1
    return np.unique(joined, return_inverse=True)[1].astype(np.int64)


def _ranges(sorted_numbers: np.ndarray) -> Int[np.ndarray, "rows 2"]:
    """Of each place in a sorted array: where the run of its number begins and ends."""
    begins, ends = (np.searchsorted(sorted_numbers, sorted_numbers, side=side) for side in ("left", "right"))
    return np.stack([begins, ends], axis=1)
