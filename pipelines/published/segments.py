"""AudioSet's segment lists: which 10 s of which video, and the classes heard in them."""

import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pipelines.published.ontology import SITE
from shards.problem import DataProblem

log = logging.getLogger(__name__)

_COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")
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


class Segment(NamedTuple):
    """A row of a segment list."""

    ytid: str
    start_ms: int
    end_ms: int
    tags: Tags
    listed: str
    line: int


@dataclass(frozen=True)
class SegmentList:
    """What one LIST_segments.csv holds: `kept` of its `rows`, and the reasons why other lines are no rows."""

    name: str
    path: str
    rows: int
    kept: Sequence[Segment]
    unreadable: Mapping[int, str]


def tag_reader(kept: Set[str] | None, classes: Sequence[str], names: Mapping[str, str]) -> Callable[[str], Tags | None]:
    """A function from a row's labels to their Tags, the same object every time, or to None when none is kept."""

    @cache
    def tags_of(labels: str) -> Tags | None:
        mids = tuple(dict.fromkeys(map(sys.intern, labels.split(","))))
        if kept is not None and kept.isdisjoint(mids):
            return None
        return Tags(tuple(int(mid in mids) for mid in classes), mids, tuple(names.get(mid, mid) for mid in mids))

    return tags_of


def read_list(name: str, root: Path, path: Path, tags_of: Callable[[str], Tags | None]) -> SegmentList:
    """Raises DataProblem when no line of the file is a row."""
    rows = promised = 0
    kept: list[Segment] = []
    unreadable: dict[int, str] = {}
    with path.open(encoding=_encoding(path), errors="backslashreplace") as file:
        for line, text in enumerate(file, 1):
            if match := _ROW.fullmatch(text):
                rows += 1
                if tags := tags_of(match[8]):
                    kept.append(Segment(match[2], _milliseconds(match[4]), _milliseconds(match[6]), tags, name, line))
            elif text.startswith("# "):  # a spreadsheet makes #NAME? of ids that begin with -
                promised = int(said[1]) if (said := _PROMISE.match(text)) else promised
            elif reason := _unreadable(text):
                unreadable[line] = reason
    if not rows:
        raise DataProblem(_no_row(path, unreadable))
    if rows + len(unreadable) < promised:
        log.warning("%s has %d of the %d segments that its header promises", path, rows + len(unreadable), promised)
    return SegmentList(name, path.relative_to(root).as_posix(), rows, kept, unreadable)


@cache
def _milliseconds(seconds: str) -> int:
    """Cached, as two million rows name a few thousand times: one number in memory for each."""
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
