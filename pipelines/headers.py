"""How long files are, as their headers say: asked in parallel, once, and again only of files that have changed.

OUT/listing.parquet keeps the answers, OUT/listing.jsonl those of a build until it has asked all, so that one that is
killed continues. Of each answer 28 bytes are in memory. About 30,000 small files/s and core.
"""

import json
import logging
import math
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from os import stat
from pathlib import Path

import numpy as np

from pipelines.fingerprints import NOWHERE, Fingerprints
from pipelines.source import Tree, in_archive, plain_file, read_source
from pipelines.workers import cluster, run_tasks
from shards.decode import decode, probe
from shards.manifest import growing_table, read_columns, table_schema
from shards.problem import DataProblem, EnvironmentProblem

log = logging.getLogger(__name__)

LISTING = "listing.parquet"
JOURNAL = "listing.jsonl"
SCHEMA = table_schema(
    {
        **{"path": "str", "bytes": "int", "mtime_ns": "int", "seconds": "float"},
        **{"sample_rate_hz": "int", "channels": "int", "problem": "str"},
    }
)

_TYPES = {"path": (str,), "bytes": (int,), "mtime_ns": (int,), "seconds": (float, type(None)), "problem": (str,)}
_CHUNK_FILES = 5000  # of one task; so small corpora start no cluster
_GROUP_ROWS = 1 << 17  # of the table, written at a time
_REPORT_SECONDS = 30.0
_MOST_SECONDS = 7 * 24 * 3600.0  # a header may claim anything, and millions of spans would be planned from it


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a file without decoding it, and of which version of it."""

    path: str
    bytes: int
    mtime_ns: int
    seconds: float | None = None
    sample_rate_hz: int | None = None
    channels: int | None = None
    problem: str = ""


class Headers:
    """Asked with the paths of many files at a time; `keep` writes down what was new."""

    def __init__(self, tree: Tree, *, kept: Path, workers: int) -> None:
        self._tree, self._kept, self._workers = tree, kept, workers
        self._root = str(tree.root)
        self._known = Fingerprints()
        self._seconds, self._is_wanted = array("d"), bytearray()
        self._problems: dict[int, str] = {}
        self._cluster = ExitStack()
        self._begin = self._told = time.monotonic()
        self._asked = 0
        for columns in _read(kept / LISTING, kept / JOURNAL):
            self._remember(columns)

    def __enter__(self) -> "Headers":
        return self

    def __exit__(self, *error: object) -> None:
        self._cluster.close()

    def answers(self, paths: Sequence[str]) -> list[float | str]:
        """The length of each file in seconds, or its problem; headers that nobody has asked are asked now."""
        versions = [self._version(path) for path in paths]
        keys = [_key(path, *version) for path, version in zip(paths, versions, strict=True)]
        numbers = self._known.find(keys)
        stale = {keys[place]: Header(paths[place], *versions[place]) for place in (numbers == NOWHERE).nonzero()[0]}
        if stale:
            self._ask(list(stale.values()))
            numbers = self._known.find(keys)
        np.frombuffer(self._is_wanted, np.uint8)[numbers] = True
        seconds = np.frombuffer(self._seconds)[numbers]
        answers: list[float | str] = seconds.tolist()
        for place in np.isnan(seconds).nonzero()[0].tolist():
            answers[place] = self._problems[int(numbers[place])]
        return answers

    def keep(self) -> None:
        """Put what was asked into the table, in place of what is known of other versions and of files that are gone."""
        journal = self._kept / JOURNAL
        if self._asked:
            log.info("listing  %d files were asked for their length, of %d known", self._asked, len(self._known))
        if not journal.is_file():
            return
        with growing_table(self._kept / LISTING, SCHEMA, {}) as write:
            rows: list[dict[str, object]] = []
            for row in self._wanted_rows():
                rows.append(row)
                if len(rows) == _GROUP_ROWS:
                    write(rows)
                    rows = []
            write(rows)
        journal.unlink(missing_ok=True)

    def _wanted_rows(self) -> Iterator[dict[str, object]]:
        written = bytearray(len(self._known))
        for columns in _read(self._kept / LISTING, self._kept / JOURNAL):
            numbers = self._known.find(_keys(columns)).tolist()
            for number, row in zip(numbers, zip(*columns.values(), strict=True), strict=True):
                if number != NOWHERE and self._is_wanted[number] and not written[number]:
                    written[number] = True
                    yield dict(zip(columns, row, strict=True))

    def _remember(self, columns: Mapping[str, Sequence]) -> None:
        places = self._known.add(_keys(columns))[1].nonzero()[0].tolist()  # they are numbered in this order
        for place in places:
            if (seconds := columns["seconds"][place]) is None:
                self._problems[len(self._seconds)] = columns["problem"][place]
            self._seconds.append(math.nan if seconds is None else seconds)
        self._is_wanted.extend(bytes(len(places)))

    def _version(self, path: str) -> tuple[int, int]:
        try:
            if ".t" in path:
                return self._tree.status(path)
            found = stat(f"{self._root}/{path}")  # noqa: PTH116 - a Path takes three times as long
        except OSError:
            return 0, 0
        return found.st_size, found.st_mtime_ns

    def _ask(self, stale: Sequence[Header]) -> None:
        """Here where one task suffices, else on all workers, who stay for the next time."""
        chunks = [tuple(stale[first : first + _CHUNK_FILES]) for first in range(0, len(stale), _CHUNK_FILES)]
        root, indexes = self._tree.root.resolve(), self._tree.indexes.resolve() if self._tree.indexes else None
        ask = partial(ask_headers, root=root, indexes=indexes)
        if len(chunks) > 1:
            self._cluster.enter_context(cluster(self._workers))
        outcomes = map(ask, chunks) if len(chunks) == 1 else run_tasks(ask, chunks, workers=self._workers)
        for headers in outcomes:
            rows = [asdict(header) for header in headers]
            self._remember({name: [row[name] for row in rows] for name in SCHEMA.names})
            _append(self._kept / JOURNAL, rows)
            self._asked += len(rows)
            self._report()

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._told >= _REPORT_SECONDS:
            self._told = now
            rate = self._asked / (now - self._begin)
            log.info(
                "listing  %d files asked for their length, %d known  %.0f files/s", self._asked, len(self._known), rate
            )


def _keys(columns: Mapping[str, Sequence]) -> Iterator[str]:
    versions = zip(columns["path"], columns["bytes"], columns["mtime_ns"], strict=True)
    return (_key(path, size, mtime_ns) for path, size, mtime_ns in versions)


def _key(path: str, size: int, mtime_ns: int) -> str:
    return f"{path}\0{size}\0{mtime_ns}"


def _read(*tables: Path) -> Iterator[dict[str, list]]:
    """What is known, some thousand rows after the other; nothing of what is damaged, so that it is asked again."""
    for table in tables:
        if table.is_file():
            try:
                yield from _journal(table) if table.suffix == ".jsonl" else _table(table)
            except DataProblem as problem:
                log.warning("listing  %s cannot be read and is made again: %s", table, problem)


def _table(path: Path) -> Iterator[dict[str, list]]:
    for columns in read_columns(path):
        if list(columns) != SCHEMA.names:
            raise DataProblem(f"its columns are {', '.join(columns)}")
        yield columns


def _journal(path: Path) -> Iterator[dict[str, list]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        while some := list(islice(lines, _GROUP_ROWS)):
            rows = [row for line in some if (row := _row(line))]
            yield {name: [row[name] for row in rows] for name in SCHEMA.names}


def _row(line: str) -> dict[str, object] | None:
    """What one line says; None where a killed build has not come to its end."""
    try:
        row = asdict(Header(**json.loads(line)))
    except (ValueError, TypeError):
        return None
    return row if all(type(row[name]) in _TYPES[name] for name in _TYPES) else None


def _append(journal: Path, rows: Sequence[Mapping[str, object]]) -> None:
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open("a", encoding="utf-8") as file:
            file.write("".join(f"\n{json.dumps(row)}" for row in rows))  # a line begins, where one may have been cut
    except OSError as error:
        raise EnvironmentProblem(
            f"{journal} could not be written: {error.strerror}. What was asked before is kept. See to its disk and its "
            "permissions, then repeat the same command: it continues where it stopped."
        ) from error


def ask_headers(versions: Sequence[Header], *, root: Path, indexes: Path | None) -> list[Header]:
    """One task: some files, each with its length or with the problem for which it has none. Runs no native decoder."""
    return [_ask(version, root=root, indexes=indexes) for version in versions]


def _ask(version: Header, *, root: Path, indexes: Path | None) -> Header:
    try:
        is_member = in_archive(root, version.path)
        found = probe(read_source(root, version.path, indexes) if is_member else plain_file(root, version.path))
        seconds = found.seconds
        if seconds is None:  # some containers state none: then only decoding tells it
            seconds = decode(read_source(root, version.path, indexes), isolated=True).seconds
    except OSError as error:
        return replace(version, problem=f"{error.strerror}")
    except DataProblem as problem:
        return replace(version, problem=str(problem))
    if not 0 < seconds <= _MOST_SECONDS:
        return replace(version, problem=f"its header claims an absurd length: {seconds:g} s")
    return replace(version, seconds=seconds, sample_rate_hz=found.sample_rate_hz, channels=found.channels)
