"""The shards of a dataset as those of others are made of them: every byte checked before it is passed on."""

import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import xxhash

from shards.damage import damage_of_file
from shards.manifest import (
    COLUMN_SCHEMA,
    Manifest,
    Rejected,
    Shard,
    StoredFile,
    column_path,
    index_path,
    index_schema,
    read_record,
    read_said,
    read_table,
    table_problem,
)
from shards.npy import whole_layout
from shards.problem import DataProblem
from shards.regroup.agreement import Schema, new_numbers
from shards.statistics import STATISTICS, Statistics
from shards.store import digest_of, sha256_of
from shards.stores.cache import cache_of
from shards.stores.files import StoreFiles
from shards.stores.remote import Store, url_of
from shards.tar import BLOCK_BYTES, END_BYTES

_KEPT_BYTES = 64 << 20  # of tables, mostly of some ten kilobytes: the shards of a split take rows of many in turn


class Source:
    """A dataset whose examples are copied, with what their keys and class numbers become.

    One in a store comes through the cache, each file once.
    Its methods may be called from any thread, and raise DataProblem for files that are not what the manifest lists.
    """

    def __init__(self, folder: Path, manifest: Manifest, schema: Schema, prefix: str = "") -> None:
        self.folder, self.manifest, self.schema, self.prefix = folder, manifest, schema, prefix
        url = url_of(folder)
        self._store = None if url is None else StoreFiles(Store(url), cache_of(os.environ), "")
        self.labels = _numbers(manifest.labels, schema.labels)
        self.events = _numbers(manifest.events, schema.events)
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock = Lock()
        self._index_schema = index_schema(manifest.labels, manifest.events)

    @cached_property
    def identity(self) -> dict[str, object]:
        """What decides the copied index, and is not changed by a column more or less."""
        digests = [shard.files[index_path(shard.number)].sha256 for shard in self.manifest.shards]
        return {"index": digest_of(digests), "prefix": self.prefix}

    def index(self, shard: Shard) -> Any:
        """The table of its examples."""
        return self._table(index_path(shard.number), shard)

    def rows(self, shard: Shard, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Some rows of that table."""
        return self.index(shard).take(np.asarray(rows, np.int64)).to_pylist()

    def values(self, shard: Shard, column: str) -> list:
        """One column of that table, read by itself."""
        name = index_path(shard.number)
        with self._file(name) as path:
            table = read_table(path, [column])
        if problem := table_problem(table, self._index_schema, shard.examples, [column]):
            raise DataProblem(self._damaged(name, problem))
        return table[column].to_pylist()

    def accounted(self, shard: Shard) -> tuple[list[int], tuple[Rejected, ...]]:
        """The indices of its examples, and what was rejected between them: none is there twice."""
        here, rejected = self.index(shard)["index"].to_pylist(), self.rejected(shard)
        if len({*here, *(row.index for row in rejected)}) != shard.examples + shard.rejected:
            raise DataProblem(self._damaged(index_path(shard.number), "its examples are not each there once"))
        return here, rejected

    def rejected(self, shard: Shard) -> tuple[Rejected, ...]:
        self.index(shard)
        record = read_record(self.folder, shard.number)
        if record is None or record.task != shard.task:
            raise DataProblem(self._damaged(index_path(shard.number), "it proves another shard than is listed"))
        return record.rejected

    def row(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        """A row of the index as it stands in the copy; what this dataset does not know is null there."""
        labels = {f"label.{name}": _new(row.get(f"label.{name}"), self.labels[name]) for name in self.schema.labels}
        events = {f"events.{name}": self._events(name, row.get(f"events.{name}")) for name in self.schema.events}
        return {**row, "index": index, "key": self.prefix + row["key"], **labels, **events}

    def members(
        self, shard: Shard, column: str, rows: Sequence[int], indices: Sequence[int]
    ) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Payload of each of these rows, and what the JSON beside it says in the copy, where it has this index."""
        name = column_path(column, shard.number, "tar")
        places = self._table(column_path(column, shard.number, "parquet"), shard).to_pylist()
        ends = [place["offset"] - BLOCK_BYTES for place in places[1:]] + [shard.files[name].bytes - END_BYTES]
        with self._tar(name, shard) as file:
            for number, row, index in zip(rows, self.rows(shard, rows), indices, strict=True):
                place, end = places[number], ends[number]
                block = os.pread(file.fileno(), end - place["offset"], place["offset"])
                yield self._member(name, block, place, row, index)

    def statistics(self, shard: Shard, column: str) -> bytes:
        """What the table of a column says of its values."""
        name = column_path(column, shard.number, "parquet")
        self._table(name, shard)
        with self._file(name) as path:
            said = read_said(path, STATISTICS)
        try:
            Statistics.from_json(said) if said else None
        except ValueError as error:
            raise DataProblem(self._damaged(name, f"its statistics are none ({error})")) from error
        return said

    def array(self, payload: bytes) -> np.ndarray:
        """Raises DataProblem for a payload that is no .npy file."""
        try:
            return whole_layout(payload).array(payload)
        except ValueError as error:
            raise DataProblem(self._damaged("", str(error))) from error

    def _member(
        self, name: str, block: bytes, place: Mapping[str, int], row: Mapping[str, Any], index: int
    ) -> tuple[bytes, dict[str, Any]]:
        size = place["bytes"]
        payload = block[:size]
        if len(payload) != size or xxhash.xxh3_64_intdigest(payload) != place["xxh3_64"]:
            raise DataProblem(self._damaged(name, f"the array of {row['key']} does not match its digest"))
        try:
            about = json.loads(block[size + -size % BLOCK_BYTES + BLOCK_BYTES :].rstrip(b"\0"))
            is_same = {key: value for key, value in about.items() if value is not None} == self._said_of(row)
        except (ValueError, AttributeError, RecursionError):
            is_same = False
        if not is_same:
            raise DataProblem(self._damaged(name, f"what stands beside the array of {row['key']} is not about it"))
        labels = {key: _new(value, self.labels.get(key)) for key, value in about.items() if key not in ("index", "key")}
        return payload, {"index": index, "key": self.prefix + row["key"], **labels}

    def _said_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        labels = {name: row[f"label.{name}"] for name in self.manifest.labels}
        known = {name: value for name, value in labels.items() if value is not None}
        return {"index": row["index"], "key": row["key"], **known}

    def _events(self, name: str, listed: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        if listed is None or self.events[name] is None:
            return listed
        return [{**event, "value": _new(event["value"], self.events[name])} for event in listed]

    def _table(self, name: str, shard: Shard) -> Any:
        """A table whose digest is right; those used last are kept."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        with self._file(name) as path:
            if problem := self._problem(path, shard.files[name]):
                raise DataProblem(self._damaged(name, problem))
            table = read_table(path)
        if unsound := self._problem_of_rows(name, table, shard):
            raise DataProblem(self._damaged(name, unsound))
        with self._lock:
            self._kept[name] = table
            while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        return table

    def _problem_of_rows(self, name: str, table: Any, shard: Shard) -> str | None:
        """What is wrong with an index, or with the places of a column, though its digest is right."""
        if name == index_path(shard.number):
            return table_problem(table, self._index_schema, shard.examples)
        if problem := table_problem(table, COLUMN_SCHEMA, shard.examples):
            return problem
        tar = name.removesuffix("parquet") + "tar"
        tar_bytes = shard.files[tar].bytes
        begins, sizes = (table[column].to_numpy() for column in ("offset", "bytes"))
        if not all(((places >= 0) & (places <= tar_bytes)).all() for places in (begins, sizes)):
            return f"it lists an array beyond the {tar_bytes:,} bytes of {tar}"
        ends = np.append(begins[1:] - BLOCK_BYTES, tar_bytes - END_BYTES)[: len(begins)]
        return None if (begins + sizes <= ends).all() else f"it lists arrays that cannot follow each other in {tar}"

    @contextmanager
    def _tar(self, name: str, shard: Shard) -> Iterator[Any]:
        with self._file(name) as path:
            is_here = self._store is None and (path.is_symlink() or not path.is_file())
            if is_here or path.stat().st_size != shard.files[name].bytes:
                raise DataProblem(self._damaged(name, "it is not the file of that length which was written"))
            with path.open("rb", buffering=0) as file:
                yield file

    @contextmanager
    def _file(self, name: str) -> Iterator[Path]:
        """Where a file can be read here: in its folder, or in the cache, from which it may go meanwhile."""
        if self._store is None:
            yield self.folder / name
            return
        file = self._store.whole(name)
        path = Path(f"/dev/fd/{file}")
        try:
            yield path
        except DataProblem as problem:
            if str(path) not in str(problem):
                raise
            raise DataProblem(self._damaged(name, "its copy on this machine is damaged")) from problem
        finally:
            os.close(file)

    def _problem(self, path: Path, stored: StoredFile) -> str:
        """What is wrong with a file as it can be read here; nothing when it is what was written."""
        if self._store is None:
            return next((damage.what for damage in damage_of_file(path, stored)), "")
        return "" if sha256_of(path) == stored.sha256 else "its copy in the cache has been changed"

    def _damaged(self, name: str, what: str) -> str:
        remedy = f"Mend it (sonograph verify {self.folder} --repair), then repeat the same command."
        if self._store is not None and name:
            remedy = self._store.remedy(name)
        return (
            f"{self.folder / name} cannot be copied: {what}. No dataset was made of it; whole shards are kept. {remedy}"
        )


def _numbers(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, dict[int, int] | None]:
    return {name: new_numbers(there.get(name), kind) for name, kind in here.items()}


def _new(value: Any, numbers: Mapping[int, int] | None) -> Any:
    return value if numbers is None or value is None else numbers.get(value, value)
