"""Examples of some datasets -> shards of another: new indices, the same payloads, every digest and count anew.

A shard of the copy that is whole is not made again, and equal sources give equal bytes. In memory are a few small
tables and, for each worker, one member; where a shard is made of parts of others also one column of it, whose
statistics are taken anew.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from shards.claim import claim
from shards.damage import damage_of_file
from shards.manifest import (
    COLUMN,
    COLUMN_SCHEMA,
    FORMAT,
    PLAN,
    REJECTED,
    REJECTED_SCHEMA,
    VERSION,
    WEIGHTS,
    ColumnRecord,
    Manifest,
    Rejected,
    Shard,
    ShardRecord,
    StoredFile,
    column_path,
    index_path,
    index_schema,
    read_table,
    write_table,
)
from shards.problem import DataProblem, RunFailed, UsageProblem
from shards.regroup.agreement import Schema
from shards.regroup.source_shards import Source
from shards.statistics import STATISTICS, shard_statistics, statistics_of
from shards.store import canonical_json, digest_of, whole_file
from shards.tar import Tar
from shards.writer import finished, has_column

log = logging.getLogger(__name__)
_MOST_EXAMPLES = 10**9  # an index has nine digits
_REPORT_SECONDS = 5.0


@dataclass(frozen=True)
class Piece:
    """Some rows of a source's shard, or all with the holes between them."""

    source: Source
    shard: Shard
    rows: Sequence[int] | None = None

    @property
    def planned(self) -> int:
        return self.shard.examples + self.shard.rejected if self.rows is None else len(self.rows)

    def placed(self, first_index: int) -> "Placed":
        if self.rows is not None:
            return Placed(self, self.rows, range(first_index, first_index + len(self.rows)))
        here, rejected = self.source.accounted(self.shard)
        accounted = sorted([*here, *(row.index for row in rejected)])
        new = {index: first_index + place for place, index in enumerate(accounted)}
        moved = [Rejected(new[row.index], row.path, row.stage, row.reason) for row in rejected]
        return Placed(self, range(len(here)), [new[index] for index in here], moved)


class Placed(NamedTuple):
    """The rows of a piece, the indices they get, and what was rejected between them."""

    piece: Piece
    rows: Sequence[int]
    indices: Sequence[int]
    rejected: Sequence[Rejected] = ()


@dataclass(frozen=True)
class Copy:
    """One shard to be, whose planned examples are numbered from `first_index`."""

    number: int
    first_index: int
    pieces: tuple[Piece, ...]

    @property
    def planned(self) -> int:
        return sum(piece.planned for piece in self.pieces)


@dataclass(frozen=True)
class Target:
    """One dataset to be: `said` decides its examples beside the sources themselves, `build` is the command's words."""

    folder: Path
    split: str
    sources: tuple[Source, ...]
    schema: Schema
    said: Mapping[str, object]
    build: tuple[str, ...]

    @cached_property
    def identity(self) -> dict[str, object]:
        """All in which a copy that continues must not differ, but for its columns."""
        manifests = [source.manifest for source in self.sources]
        return {
            "format": FORMAT,
            "version": VERSION,
            "corpus": "+".join(dict.fromkeys(name for manifest in manifests for name in manifest.corpus.split("+"))),
            "split": self.split,
            "rendered": any(manifest.rendered for manifest in manifests),
            "labels": self.schema.labels,
            "events": self.schema.events,
            "sources": [source.identity for source in self.sources],
            **self.said,
        }

    @cached_property
    def digest(self) -> str:
        return digest_of(self.identity)

    def task(self, number: int) -> str:
        return digest_of([self.digest, number])

    def missing(self, number: int) -> tuple[bool, list[str]]:
        """Whether a shard has its index, and the columns that it lacks."""
        task, is_there = self.task(number), finished(self.folder, number, self.task(number)) is not None
        contracts = {name: str(entry["fingerprint"]) for name, entry in self.schema.columns.items()}
        lacking = [
            name
            for name, contract in contracts.items()
            if not (is_there and has_column(self.folder, number, name, task=task, contract=contract))
        ]
        return is_there, lacking


def begin(target: Target, *, planned: int) -> None:
    """Take the folder, and put there what a column has beside its shards.

    Raises DataProblem as `claim` does, and UsageProblem for more examples than have an index.
    """
    if planned > _MOST_EXAMPLES:
        raise UsageProblem(
            f"{target.folder} would hold {planned:,} examples, an index has room for {_MOST_EXAMPLES:,}, so nothing "
            "was written. Merge fewer of them."
        )
    claim(target.folder, target.identity, target.schema.columns, by=target.build[0])
    first = target.sources[0]
    for column in target.schema.columns:
        name = f"{column}/{WEIGHTS}"
        if (stored := first.manifest.files.get(name)) and not (target.folder / name).is_file():
            _copy_file(first.folder / name, stored, target.folder / name)


def write_copies(copies: Iterable[tuple[Target, Copy]], *, shards: int, workers: int) -> None:
    """Make every shard that is not whole, some at a time, with a line of progress every few seconds."""
    progress = _Progress(shards)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[int]] = deque()
        try:
            for target, copy in copies:
                waiting.append(pool.submit(write_copy, target, copy))
                if len(waiting) > 2 * workers:
                    progress.add(waiting.popleft().result())
            while waiting:
                progress.add(waiting.popleft().result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    progress.report()


def write_copy(target: Target, copy: Copy) -> int:
    """Make what is missing of one shard, its index last; returns the number of its planned examples."""
    has_index, columns = target.missing(copy.number)
    if has_index and not columns:
        return copy.planned
    placed = _placed(copy)
    for column in columns:
        _write_column(target, copy.number, column, placed)
    if not has_index:
        _write_index(target, copy.number, placed)
    return copy.planned


def _placed(copy: Copy) -> list[Placed]:
    placed, first = [], copy.first_index
    for piece in copy.pieces:
        placed.append(piece.placed(first))
        first += piece.planned
    return placed


def _write_column(target: Target, number: int, column: str, placed: Sequence[Placed]) -> None:
    entry = target.schema.columns[column]
    member = f"{column}.{entry.get('member', 'npy')}"
    arrays: list[np.ndarray] | None = [] if entry.get("member", "npy") == "npy" and not _is_whole(placed) else None
    rows: list[dict[str, int]] = []
    with whole_file(target.folder / column_path(column, number, "tar")) as file:
        tar = Tar(file)
        for piece, places, indices, _ in placed:
            for payload, about in piece.source.members(piece.shard, column, places, indices):
                rows.append(_add(tar, member, payload, about))
                if arrays is not None:
                    arrays.append(piece.source.array(payload))
        tar.close()
    statistics = _statistics(column, placed, arrays)
    record = ColumnRecord(target.task(number), str(entry["fingerprint"]), StoredFile(tar.bytes, tar.digest.hexdigest()))
    table = target.folder / column_path(column, number, "parquet")
    write_table(table, rows, COLUMN_SCHEMA, {**record.said(), **statistics})


def _add(tar: Tar, member: str, payload: bytes, about: Mapping[str, Any]) -> dict[str, int]:
    name = f"{about['index']:09d}"
    offset = tar.add(f"{name}.{member}", payload)
    tar.add(f"{name}.json", canonical_json(about))
    digest = xxhash.xxh3_64_intdigest(payload)
    return {"index": about["index"], "offset": offset, "bytes": len(payload), "xxh3_64": digest}


def _is_whole(placed: Sequence[Placed]) -> bool:
    """Whether it is one shard of one source, of which nothing was left out: its statistics are the same."""
    return len(placed) == 1 and len(placed[0].rows) == placed[0].piece.shard.examples


def _statistics(column: str, placed: Sequence[Placed], arrays: list[np.ndarray] | None) -> Mapping[str, bytes]:
    if _is_whole(placed):
        piece = placed[0].piece
        return {STATISTICS: piece.source.statistics(piece.shard, column)}
    return shard_statistics(arrays or [])


def _write_index(target: Target, number: int, placed: Sequence[Placed]) -> None:
    rows = [
        piece.source.row(row, index)
        for piece, places, indices, _ in placed
        for row, index in zip(piece.source.rows(piece.shard, places), indices, strict=True)
    ]
    rejected = tuple(lost for each in placed for lost in each.rejected)
    record = ShardRecord(number, target.task(number), len(rows), rejected)
    schema = index_schema(target.schema.labels, target.schema.events)
    write_table(target.folder / index_path(number), rows, schema, record.said())


def finish(target: Target, *, shards: int, planned: int) -> Manifest | None:
    """Check that every example is accounted for, and write the manifest last; None when all of them were rejected.

    Raises RunFailed when one is neither there nor rejected.
    """
    records = [record for number in range(shards) if (record := _record(target, number))]
    seconds = [
        read_table(target.folder / index_path(record.number), ["seconds"])["seconds"].to_numpy() for record in records
    ]
    rejected = [lost for record in records for lost in record.rejected]
    examples = sum(map(len, seconds))
    if len(records) != shards or examples + len(rejected) != planned:
        raise RunFailed(
            f"{target.folder} accounts for {examples + len(rejected):,} of {planned:,} examples. No manifest was "
            "written, so nothing will read it. Repeat the command to make what is missing."
        )
    _write_rejected(target.folder / REJECTED, rejected)
    if not examples:
        return None
    manifest = _manifest(target, records, planned, float(sum(map(np.sum, seconds))))
    manifest.write(target.folder)
    log.info(
        "%s  %d examples  %.1f minutes  %d rejected  fingerprint %s",
        target.folder, manifest.examples, manifest.seconds / 60, manifest.rejected, manifest.fingerprint[:8],
    )  # fmt: skip
    return manifest


def _manifest(target: Target, records: Sequence[ShardRecord], planned: int, seconds: float) -> Manifest:
    folder, identity = target.folder, target.identity
    columns = _with_kept(target, records)
    examples = sum(record.examples for record in records)
    return Manifest(
        corpus=str(identity["corpus"]),
        split=target.split,
        rendered=bool(identity["rendered"]),
        labels=target.schema.labels,
        events=target.schema.events,
        features=columns,
        planned=planned,
        examples=examples,
        rejected=planned - examples,
        seconds=seconds,
        shards=[Shard.of(folder, record, sorted(columns)) for record in records],
        files={name: StoredFile.of(folder / name) for name in (PLAN, REJECTED, *_own_files(folder, columns))},
        statistics=statistics_of(folder, sorted(columns), [record.number for record in records]),
        build=target.build,
        made_with=_made_with(target.sources),
    )


def _with_kept(target: Target, records: Sequence[ShardRecord]) -> dict[str, Mapping[str, object]]:
    """The columns of this copy, and those that an earlier one made beside them and that are still whole."""
    columns = dict(target.schema.columns)
    with suppress(DataProblem):
        for column, entry in Manifest.read(target.folder).features.items():
            same = {"contract": str(entry["fingerprint"])}
            tasks = ((record.number, record.task) for record in records)
            if column not in columns and all(
                has_column(target.folder, number, column, task=task, **same) for number, task in tasks
            ):
                columns[column] = entry
    return columns


def _own_files(folder: Path, columns: Iterable[str]) -> list[str]:
    """What a column has beside its shards: its contract, and weights that were fitted on a source."""
    names = (f"{column}/{name}" for column in sorted(columns) for name in (COLUMN, WEIGHTS))
    return [name for name in names if (folder / name).is_file()]


def _made_with(sources: Sequence[Source]) -> dict[str, str]:
    """Which datasets they were, by their fingerprints; what all of them were made with; what wrote the tables anew."""
    first, *others = (source.manifest.made_with for source in sources)
    common = {name: made for name, made in first.items() if all(other.get(name) == made for other in others)}
    fingerprints = {str(source.folder): source.manifest.fingerprint for source in sources}
    return {**common, "pyarrow": version("pyarrow"), **fingerprints}


def _record(target: Target, number: int) -> ShardRecord | None:
    is_there, lacking = target.missing(number)
    return finished(target.folder, number, target.task(number)) if is_there and not lacking else None


def _write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    """A table that says this already is left alone: one more column touches nothing but the manifest."""
    rows = [vars(row) for row in rejected]
    with suppress(DataProblem):
        if read_table(path).to_pylist() == rows:
            return
    write_table(path, rows, REJECTED_SCHEMA)


def _copy_file(source: Path, stored: StoredFile, place: Path) -> None:
    for damage in damage_of_file(source, stored):
        raise DataProblem(
            f"{damage}, so it was not copied. Mend the dataset (sonograph verify {source.parents[1]} --repair), then "
            "repeat the same command."
        )
    with whole_file(place) as file:
        file.write(source.read_bytes())


class _Progress:
    """A line every few seconds, and one at the end: shards, examples, rate."""

    def __init__(self, shards: int) -> None:
        self.shards, self.done, self.examples = shards, 0, 0
        self.begin = self.reported = time.monotonic()

    def add(self, examples: int) -> None:
        self.done, self.examples = self.done + 1, self.examples + examples
        if time.monotonic() - self.reported >= _REPORT_SECONDS:
            self.report()

    def report(self) -> None:
        self.reported = time.monotonic()
        rate = self.examples / max(self.reported - self.begin, 1e-9)
        log.info(
            "copy  shard %d/%d  example %s  %s examples/s",
            self.done, self.shards, f"{self.examples:,}", f"{rate:,.0f}",
        )  # fmt: skip
