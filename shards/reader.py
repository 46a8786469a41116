"""Examples of a column by their rows: one whole array, or many cuts at once; what is read is checked first."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from shards.feature import Feature, differences, load_feature
from shards.loading.buffers import Buffers
from shards.loading.bulk_read import bulk_copy, bulk_read, is_present
from shards.loading.mapping import Mappings, Version, version_of
from shards.manifest import COLUMN_SCHEMA, column_path, index_path, index_schema, rebuild_command, table_problem
from shards.npy import Layout, npy_layout, whole_layout
from shards.problem import DataProblem
from shards.stores.files import FolderFiles, files_of
from shards.stores.remote import place_of

_BLOCK_BYTES = 4_000_000  # checked at once: still in the cache when its digest is taken


@dataclass(frozen=True)
class Opened:
    """Descriptors by shard; of those in `partial` only what was asked for is there, and nothing of it was checked."""

    descriptors: dict[int, int]
    partial: set[int]


class Reader:
    """Random access to one column of a built dataset. Rows are the examples that exist, in index order.

    Opening reads the manifest and the small offset tables; examples are fetched by positioned reads, from any thread.
    `folder` may be a URL: then tars come through the cache or by ranges (shards/stores/files.py), with the same checks.
    Raises DataProblem when the dataset is incomplete, damaged, or lacks the column.
    """

    def __init__(self, folder: Path | str, column: str = "mel") -> None:
        self.folder = place_of(folder)
        self.column = column
        self.files = files_of(self.folder, column)
        self.manifest = self.files.manifest
        if column not in self.manifest.features:
            raise DataProblem(
                f"{self.folder} has no column '{column}', only {', '.join(self.manifest.features)}. "
                f"Add it, or build with it: {rebuild_command(self.manifest)}"
            )
        self._numbers = [shard.number for shard in self.manifest.shards]
        self._tars = [column_path(column, number, "tar") for number in self._numbers]
        tables = self.files.tables([column_path(column, number, "parquet") for number in self._numbers])
        self._require_rows(tables, COLUMN_SCHEMA)
        lengths = [table.num_rows for table in tables]
        self._shard = np.repeat(np.arange(len(tables)), lengths)
        self.indices = _joined(tables, "index", np.int64)
        self.offsets = _joined(tables, "offset", np.int64)
        self.sizes = _joined(tables, "bytes", np.int64)
        self._digests = _joined(tables, "xxh3_64", np.uint64)
        self._is_checked = np.zeros(len(self), bool)
        self._versions: dict[int, Version] = {}
        self._known_headers: set[bytes] = set()
        self._scratch = Buffers()
        sizes = [shard.files[name].bytes for shard, name in zip(self.manifest.shards, self._tars, strict=True)]
        self._require_within_tars(sizes)
        is_near = isinstance(self.files, FolderFiles) and Mappings.suit(sizes)
        self._mappings = Mappings([f"{self.folder}/{name}" for name in self._tars], sizes) if is_near else None

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def layout(self) -> Layout:
        """Of the first row's payload: what all rows share but their length."""
        return self._parsed(0, self._payload(0), whole_layout)

    @cached_property
    def frames(self) -> np.ndarray:
        """Frames of every row, from the byte counts alone."""
        if not len(self):
            return np.empty(0, np.int64)
        return (self.sizes - self.layout.data_offset_bytes) // (self.layout.shape[0] * self.layout.dtype.itemsize)

    @cached_property
    def feature(self) -> Feature:
        """The feature that made this column, without weights.

        Raises DataProblem when this version computes another one by that name.
        """
        contract = self.manifest.features[self.column]
        feature = load_feature(str(contract["word"]))
        if differing := differences(feature, contract):
            raise DataProblem(
                f"{self.folder} was built with another '{contract['word']}' than this version computes: they differ in "
                f"{', '.join(differing)}. A model would hear the two differently. Build it again: "
                f"{rebuild_command(self.manifest)}"
            )
        return feature

    def restore(self, stored: torch.Tensor) -> torch.Tensor:
        """Stored values -> the feature's own units, float32."""
        return self.feature.restore(stored)

    def read(self, row: int) -> np.ndarray:
        """The array of one row in its stored dtype; (bands, frames) for a mel. Raises DataProblem if it is damaged."""
        payload = self._payload(row)
        return self._parsed(row, payload, whole_layout).array(payload)

    def payload(self, row: int) -> bytes:
        """The member's own bytes, checked: a .npy file, or what else the column holds."""
        return bytes(self._payload(row))

    def arrays(self, rows: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        for row in rows:
            yield self.read(int(row))

    def read_cuts(self, rows: np.ndarray, begins: np.ndarray, size: int, into: np.ndarray, places: np.ndarray) -> None:
        """Copy `size` bytes from byte `begins[i, j]` of the payload of `rows[i]` to byte `places[i, j]` of `into`.

        A payload is checked whole when this Reader first meets it, and again when its file has changed; from then on
        only what is wanted is read. Raises DataProblem for one that is damaged or of another kind than the column's.
        """
        assert begins.min(initial=0) >= 0 and (begins.max(axis=1, initial=0) + size <= self.sizes[rows]).all()
        if self._copied(rows, begins, size, into, places):
            return
        with self._opened(rows) as files:
            is_checked = self._is_checked[rows]
            if files.partial:
                is_checked &= ~np.isin(self._shard[rows], list(files.partial))
            fresh = rows[~is_checked]
            for block in self._blocks(fresh):
                self._check_read(fresh[block], files.descriptors)
            each = np.repeat(rows, begins.shape[1])
            self._read(files.descriptors, each, begins.ravel(), np.full(len(each), size), into, places.ravel())

    def _copied(self, rows: np.ndarray, begins: np.ndarray, size: int, into: np.ndarray, places: np.ndarray) -> bool:
        """The same from mapped tars, or False where they cannot serve."""
        shard, addresses = self._shard[rows], np.zeros(len(self._tars), np.int64)
        shards = np.flatnonzero(np.bincount(shard)).tolist()
        tars = self._mappings.current(shards) if self._mappings else None
        if tars is None:
            return False
        for number, tar in tars.items():
            self._notice(number, tar.version)
            addresses[number] = tar.address
        payloads = addresses[shard] + self.offsets[rows]
        is_fresh = ~self._is_checked[rows]
        for block in self._blocks(rows) if is_fresh.any() else [slice(None)]:
            fresh = np.flatnonzero(is_fresh[block]) + (block.start or 0)
            if len(fresh) and not is_present(payloads[fresh], self.sizes[rows[fresh]]):
                return False
            self._check(
                rows[fresh], [tars[number].memory for number in shard[fresh].tolist()], self.offsets[rows[fresh]]
            )
            bulk_copy((payloads[block, None] + begins[block]).ravel(), size, into, places[block].ravel())
        return True

    def _blocks(self, rows: np.ndarray) -> list[slice]:
        """Rows whose payloads stay in the processor's cache together."""
        step = max(1, _BLOCK_BYTES // int(self.sizes[rows].max(initial=1)))
        return [slice(first, first + step) for first in range(0, len(rows), step)]

    def _check_read(self, rows: np.ndarray, files: Mapping[int, int]) -> None:
        """Read whole payloads and check them."""
        ends = np.cumsum(self.sizes[rows])
        places = ends - self.sizes[rows]
        payloads = self._scratch.take(int(ends[-1]))
        self._read(files, rows, np.zeros_like(rows), self.sizes[rows], payloads, places)
        self._check(rows, [payloads] * len(rows), places)

    def _check(self, rows: np.ndarray, memory: Sequence[np.ndarray], places: np.ndarray) -> None:
        """Compare digests of payloads in memory; cuts rely on headers that differ in nothing but a length."""
        ends, header_bytes = places + self.sizes[rows], self.layout.data_offset_bytes
        for row, found, begin, end in zip(rows.tolist(), memory, places.tolist(), ends.tolist(), strict=True):
            self._require_digest(row, found[begin:end].data)
            self._require_alike(row, found[begin : begin + header_bytes].tobytes())
        self._is_checked[rows] = True

    def _read(
        self,
        files: Mapping[int, int],
        rows: np.ndarray,
        begins: np.ndarray,
        sizes: np.ndarray,
        into: np.ndarray,
        places: np.ndarray,
    ) -> None:
        shards, at = np.unique(self._shard[rows], return_inverse=True)
        descriptors = np.array([files[shard] for shard in shards.tolist()], np.int64)[at]
        got = bulk_read(descriptors, self.offsets[rows] + begins, sizes, into, places)
        for at in np.flatnonzero(got != sizes)[:1].tolist():
            self._require_whole(int(rows[at]), int(got[at]), int(sizes[at]))

    def labels(self, name: str) -> np.ndarray:
        """Label `name` of every row, aligned with `indices`; `key` and the other identity columns by their own name."""
        column = f"label.{name}" if name in self.manifest.labels else name
        if column not in index_schema(self.manifest.labels, {}).names:
            raise DataProblem(
                f"{self.folder} has no label '{name}', so none can be read. Labels: {', '.join(self.manifest.labels)}"
            )
        values = self._column_of_index(column)
        return np.array(values, dtype=object if values and isinstance(values[0], list) else None)

    def events(self, name: str) -> list[list[tuple[float, float, int | float | str]]]:
        """Events `name` of every row, aligned with `indices`: start and end in seconds from its begin, and the value.

        Raises DataProblem when the dataset has none of that name.
        """
        if name not in self.manifest.events:
            known = ", ".join(self.manifest.events) or "none at all"
            raise DataProblem(f"{self.folder} has no events '{name}', so none can be read. Events: {known}")
        rows = self._column_of_index(f"events.{name}")
        return [[(event["start_s"], event["end_s"], event["value"]) for event in row or ()] for row in rows]

    def _column_of_index(self, column: str) -> list:
        tables = self.files.tables([index_path(number) for number in self._numbers], [column])
        self._require_rows(tables, index_schema(self.manifest.labels, self.manifest.events), [column])
        return [value for table in tables for value in table[column].to_pylist()]

    def _require_rows(self, tables: Sequence[Any], schema: Any, columns: Sequence[str] = ()) -> None:
        for name, table, shard in zip(self._tars, tables, self.manifest.shards, strict=True):
            if problem := table_problem(table, schema, shard.examples, columns):
                table_name = index_path(shard.number) if columns else column_path(self.column, shard.number, "parquet")
                raise DataProblem(
                    f"{self.folder / table_name} is no table of its shard: {problem}. A model would train on what is "
                    f"not there. {self.files.remedy(name)}"
                )

    def _payload(self, row: int) -> bytearray:
        payload = bytearray(int(self.sizes[row]))
        with self._opened(np.array([row])) as files:
            got = os.preadv(files.descriptors[self._shard[row]], [payload], int(self.offsets[row]))
        self._require_whole(row, got, len(payload))
        self._require_digest(row, payload)
        return payload

    def _require_within_tars(self, tar_bytes: Sequence[int]) -> None:
        """No memory is taken for a payload that its tar cannot hold."""
        left = np.array(tar_bytes, np.int64)[self._shard] - self.offsets
        for row in np.flatnonzero((self.offsets < 0) | (self.sizes < 0) | (self.sizes > left))[:1].tolist():
            raise DataProblem(self._damaged(row, f"its table claims {int(self.sizes[row]):,} bytes, beyond its end"))

    def _require_whole(self, row: int, got: int, wanted: int) -> None:
        if got != wanted:
            raise DataProblem(self._damaged(row, f"only {max(got, 0):,} of {wanted:,} bytes can be read"))

    def _require_digest(self, row: int, payload: bytearray | memoryview) -> None:
        if xxhash.xxh3_64_intdigest(payload) != int(self._digests[row]):
            raise DataProblem(self._damaged(row, "its bytes do not match their xxh3 digest"))

    @contextmanager
    def _opened(self, rows: np.ndarray) -> Iterator[Opened]:
        """The tars of `rows`, for one read: thousands of shards need no thousands of open files."""
        shards, found = np.unique(self._shard[rows]).tolist(), Opened({}, set())
        opened = self.files.opened([self._tars[shard] for shard in shards], lambda at: self._spans(shards[at], rows))
        try:
            for shard, (file, is_whole) in zip(shards, opened, strict=True):
                found.descriptors[shard] = file
                if is_whole:
                    self._notice(shard, version_of(os.fstat(file)))
                else:
                    found.partial.add(shard)
            yield found
        finally:
            for file in found.descriptors.values():
                os.close(file)

    def _spans(self, shard: int, rows: np.ndarray) -> np.ndarray:
        """Where the payloads of those of `rows` that are in a shard begin and end in its tar."""
        mine = np.unique(rows[self._shard[rows] == shard])
        return np.stack([self.offsets[mine], self.offsets[mine] + self.sizes[mine]], axis=1)

    def _notice(self, shard: int, version: Version) -> None:
        """What was checked in a file counts for this very file only."""
        if self._versions.get(shard) != version:
            self._versions[shard] = version
            self._is_checked[self._shard == shard] = False

    def _require_alike(self, row: int, header: bytes) -> None:
        """What cuts payloads by their byte counts is right only where arrays differ in nothing but their length."""
        if header in self._known_headers:
            return
        layout = self._parsed(row, header)
        if replace(layout, shape=(*layout.shape[:-1], self.layout.shape[-1])) != self.layout:
            raise DataProblem(self._damaged(row, f"its header says {layout}, that of the first example {self.layout}"))
        self._known_headers.add(header)

    def _parsed(
        self, row: int, payload: bytes | bytearray, parse: Callable[[bytes | bytearray], Layout] = npy_layout
    ) -> Layout:
        try:
            return parse(payload)
        except ValueError as error:
            raise DataProblem(self._damaged(row, str(error))) from error

    def _damaged(self, row: int, what: str) -> str:
        tar = self._tars[self._shard[row]]
        place = f"byte {int(self.offsets[row]):,}, example {int(self.indices[row])}"
        return (
            f"{self.folder / tar} is damaged at {place}: {what}. A model would train on noise. {self.files.remedy(tar)}"
        )


def _joined(tables: list, name: str, dtype: type) -> np.ndarray:
    parts = [table[name].to_numpy().astype(dtype, copy=False) for table in tables]
    return np.concatenate(parts) if parts else np.empty(0, dtype)
