"""AudioSet's segment lists: which 10 s of which video, and the classes heard in them."""

import logging
import re
import sys
from array import array
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pipelines.published.ontology import SITE
from shards.problem import DataProblem

log = logging.getLogger(__name__)

_COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")
YTID = np.dtype("S11")
_PATTERNS = (r"[\w-]{11}", r"\d{1,7}(?:\.\d*)?", r"\d{1,7}(?:\.\d*)?", r"/\w/\w+(?:,/\w/\w+)*")
_GROUPS = list(zip((1, 3, 5, 7), _PATTERNS, strict=True))  # of the quotes, of which both or none must be there
# A line at a time: a quote that nobody closed would take a CSV reader through all rows up to the next one.
_ROW = re.compile(r"\s*,\s*".join(rf'("?)({pattern})\{group}' for group, pattern in _GROUPS) + r"\s*", re.ASCII)
_PROMISE = re.compile(r"#.*\bnum_segs=(\d+)")


class Tags(NamedTuple):
    """One combination of classes, shared by all segments that bear it."""

    flags: tuple[int, ...]
    mids: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Segments:
    """Rows of segment lists as columns: 36 bytes each."""

    ytids: np.ndarray
    """Of bytes, (rows,)."""
    start_ms: Int[np.ndarray, " rows"]
    end_ms: Int[np.ndarray, " rows"]
    tags: Int[np.ndarray, " rows"]
    """Which of the tag reader's combinations."""
    lists: Int[np.ndarray, " rows"]
    """Which of the lists that were read."""
    lines: Int[np.ndarray, " rows"]

    def __len__(self) -> int:
        return len(self.ytids)

    def at(self, places: np.ndarray | slice) -> "Segments":
        return Segments(*(getattr(self, column.name)[places] for column in fields(self)))


@dataclass(frozen=True)
class SegmentList:
    """What one LIST_segments.csv holds: how many of its rows are kept, and the reasons why other lines are no rows."""

    name: str
    path: str
    rows: int
    kept: int
    unreadable: Mapping[int, str]


class TagReader:
    """Numbers the combinations of labels that rows have; each is kept once."""

    def __init__(self, kept: Set[str] | None, classes: Sequence[str], names: Mapping[str, str]) -> None:
        self._kept, self._classes, self._names = kept, classes, names
        self._numbers: dict[str, int | None] = {}
        self.combinations: list[Tags] = []

    def number(self, labels: str) -> int | None:
        """That of a row's labels; None when none of them is kept."""
        if labels not in self._numbers:
            tags = self._tags(labels)
            self._numbers[labels] = None if tags is None else len(self.combinations)
            self.combinations += [] if tags is None else [tags]
        return self._numbers[labels]

    def _tags(self, labels: str) -> Tags | None:
        mids = tuple(dict.fromkeys(map(sys.intern, labels.split(","))))
        if self._kept is not None and self._kept.isdisjoint(mids):
            return None
        flags = tuple(int(mid in mids) for mid in self._classes)
        return Tags(flags, mids, tuple(self._names.get(mid, mid) for mid in mids))


def sorted_segments(parts: list[Segments]) -> Segments:
    """Those of all lists, whose own are given up, by YTID and start; equal ones in the order of the lists."""
    columns = {one.name: np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Segments)}
    parts.clear()
    order = np.lexsort((columns["start_ms"], columns["ytids"]))
    return Segments(*(columns.pop(one.name)[order] for one in fields(Segments)))


def read_list(name: str, number: int, root: Path, path: Path, tags: TagReader) -> tuple[SegmentList, Segments]:
    """A list and its kept rows; `number` is its own among all. Raises DataProblem when no line of the file is a row."""
    rows = promised = 0
    ytids, times, kinds = bytearray(), array("q"), array("i")
    unreadable: dict[int, str] = {}
    with path.open(encoding=_encoding(path), errors="backslashreplace") as file:
        for line, text in enumerate(file, 1):
            if match := _ROW.fullmatch(text):
                rows += 1
                ytid, start, end, labels = match.group(2, 4, 6, 8)
                if (kind := tags.number(labels)) is not None:
                    ytids += ytid.encode()
                    times.extend((_milliseconds(start), _milliseconds(end)))
                    kinds.extend((kind, line))
            elif text.startswith("# "):  # a spreadsheet makes #NAME? of ids that begin with -
                promised = int(said[1]) if (said := _PROMISE.match(text)) else promised
            elif reason := _unreadable(text):
                unreadable[line] = reason
    if not rows:
        raise DataProblem(_no_row(path, unreadable))
    if rows + len(unreadable) < promised:
        log.warning("%s has %d of the %d segments that its header promises", path, rows + len(unreadable), promised)
    start_ms, end_ms = np.frombuffer(times, np.int64).reshape(-1, 2).T
    numbers, lines = np.frombuffer(kinds, np.int32).reshape(-1, 2).T
    lists = np.full(len(lines), number, np.uint8)
    kept = Segments(np.frombuffer(ytids, YTID), start_ms, end_ms, numbers, lists, lines)
    return SegmentList(name, path.relative_to(root).as_posix(), rows, len(kept), unreadable), kept


@cache
def _milliseconds(seconds: str) -> int:
    """Cached, as two million rows name a few thousand times."""
    return round(1000 * float(seconds))


def _encoding(path: Path) -> str:
    """Spreadsheets save UTF-16 with its mark, and UTF-8 with one that must not become part of the first YTID."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _unreadable(text: str) -> str:
    """Why a line that is no comment is no row either; empty for blank lines and a header without its #."""
    columns = [column.strip() for column in text.split(",", 3)]
    if columns == [""] or columns[0].strip('"#') == _COLUMNS[0]:
        return ""
    if len(columns) < 4:
        return f"it has {len(columns)} columns, not 4: {', '.join(_COLUMNS)}"
    for name, pattern, column in zip(_COLUMNS, _PATTERNS, columns, strict=True):
        if not re.fullmatch(rf'("?){pattern}\1', column, re.ASCII):
            return f"its {name} is {column[:60]!r}"
    return "it is no row of a segment list"


def _no_row(path: Path, unreadable: Mapping[int, str]) -> str:
    line, reason = next(iter(unreadable.items()), (1, "the file ends there"))
    return (
        f"{path} has no row that can be read (line {line}: {reason}), so it lists nothing. Download it again "
        f"({SITE}), or move it away to go on without it."
    )
