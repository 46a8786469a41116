"""Examples of a column by their rows: one whole array, or many cuts at once; what is read is checked first."""

import ast
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import xxhash

from shards.buffers import Buffers
from shards.bulk_read import bulk_read
from shards.feature import Feature, differences, load_feature
from shards.manifest import Manifest, column_path, index_path, index_schema, read_table, rebuild_command
from shards.problem import DataProblem

_BLOCK_BYTES = 4_000_000  # checked at once: still in the cache when its digest is taken
_NPY_PREFIX = struct.Struct("<6sBBH")


@dataclass(frozen=True)
class Layout:
    """How the bytes of one .npy member become an array, from its header: no pickle, sizes checked before allocation."""

    dtype: np.dtype
    shape: tuple[int, ...]
    is_fortran: bool
    data_offset_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.data_offset_bytes + self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))

    def array(self, payload: memoryview | bytearray | bytes) -> np.ndarray:
        flat = np.frombuffer(payload, self.dtype, offset=self.data_offset_bytes)
        return flat.reshape(self.shape, order="F" if self.is_fortran else "C")


def npy_layout(payload: bytes | bytearray | memoryview) -> Layout:
    """Parse a version 1.0 .npy header. Raises ValueError when it is none, or is of a dtype that is no plain number."""
    magic, major, _, header_bytes = _NPY_PREFIX.unpack_from(payload)
    if magic != b"\x93NUMPY" or major != 1:
        raise ValueError("it is no version 1.0 .npy file")
    start = _NPY_PREFIX.size
    header = ast.literal_eval(bytes(payload[start : start + header_bytes]).decode("latin1"))
    dtype = np.dtype(header["descr"])
    if dtype.kind not in "fiu":
        raise ValueError(f"its dtype {dtype} is no plain number")
    return Layout(dtype, tuple(header["shape"]), bool(header["fortran_order"]), start + header_bytes)


class Reader:
    """Random access to one column of a built dataset. Rows are the examples that exist, in index order.

    Opening reads the manifest and the small offset tables; examples are fetched by positioned reads, from any thread.
    Raises DataProblem when the dataset is incomplete, damaged, or lacks the column.
    """

    def __init__(self, folder: Path | str, column: str = "mel") -> None:
        self.folder = Path(folder)
        self.column = column
        self.manifest = Manifest.read(self.folder)
        if column not in self.manifest.features:
            raise DataProblem(
                f"{self.folder} has no column '{column}', only {', '.join(self.manifest.features)}. "
                f"Add it, or build with it: {rebuild_command(self.manifest)}"
            )
        self._numbers = [shard.number for shard in self.manifest.shards]
        self._tars = [self.folder / column_path(column, number, "tar") for number in self._numbers]
        tables = [read_table(tar.with_suffix(".parquet")) for tar in self._tars]
        lengths = [table.num_rows for table in tables]
        self._shard = np.repeat(np.arange(len(tables)), lengths)
        self.indices = _joined(tables, "index", np.int64)
        self.offsets = _joined(tables, "offset", np.int64)
        self.sizes = _joined(tables, "bytes", np.int64)
        self._digests = _joined(tables, "xxh3_64", np.uint64)
        self._is_checked = np.zeros(len(self), bool)
        self._versions: dict[int, tuple[int, int, int]] = {}
        self._known_headers: set[bytes] = set()
        self._scratch = Buffers()
        if len(self) != self.manifest.examples:
            raise DataProblem(
                f"{self.folder} promises {self.manifest.examples:,} examples, its {column} tables list {len(self):,}. "
                f"Training on it would miss some. Find out which: sonograph verify {self.folder}"
            )

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def layout(self) -> Layout:
        """Of the first row's payload: what all rows share but their length."""
        return self._parsed(0, self._payload(0))

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
        return self._parsed(row, payload).array(payload)

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
        with self._opened(rows) as files:
            fresh = rows[~self._is_checked[rows]]
            block = max(1, _BLOCK_BYTES // int(self.sizes[fresh].max(initial=1)))
            for first in range(0, len(fresh), block):
                self._check(fresh[first : first + block], files)
            each = np.repeat(rows, begins.shape[1])
            self._read(files, each, begins.ravel(), np.full(len(each), size), into, places.ravel())

    def _check(self, rows: np.ndarray, files: Mapping[int, int]) -> None:
        """Read whole payloads and compare their digests; cuts rely on headers that differ in nothing but a length."""
        ends = np.cumsum(self.sizes[rows])
        places = ends - self.sizes[rows]
        payloads = self._scratch.take(int(ends[-1]))
        self._read(files, rows, np.zeros_like(rows), self.sizes[rows], payloads, places)
        for row, begin, end in zip(rows.tolist(), places.tolist(), ends.tolist(), strict=True):
            self._require_digest(row, payloads[begin:end].data)
            self._require_alike(row, payloads[begin : begin + self.layout.data_offset_bytes].tobytes())
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
        descriptors = np.array([files[shard] for shard in self._shard[rows].tolist()], np.int64)
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
        tables = [read_table(self.folder / index_path(number), columns=[column]) for number in self._numbers]
        return [value for table in tables for value in table[column].to_pylist()]

    def _payload(self, row: int) -> bytearray:
        payload = bytearray(int(self.sizes[row]))
        with self._opened(np.array([row])) as files:
            got = os.preadv(files[self._shard[row]], [payload], int(self.offsets[row]))
        self._require_whole(row, got, len(payload))
        self._require_digest(row, payload)
        return payload

    def _require_whole(self, row: int, got: int, wanted: int) -> None:
        if got != wanted:
            raise DataProblem(self._damaged(row, f"only {max(got, 0):,} of {wanted:,} bytes can be read"))

    def _require_digest(self, row: int, payload: bytearray | memoryview) -> None:
        if xxhash.xxh3_64_intdigest(payload) != int(self._digests[row]):
            raise DataProblem(self._damaged(row, "its bytes do not match their xxh3 digest"))

    @contextmanager
    def _opened(self, rows: np.ndarray) -> Iterator[Mapping[int, int]]:
        """Descriptors of the tars of `rows`, for one read: thousands of shards need no thousands of open files."""
        files: dict[int, int] = {}
        try:
            for shard in np.unique(self._shard[rows]).tolist():
                files[shard] = self._open(shard)
            yield files
        finally:
            for file in files.values():
                os.close(file)

    def _open(self, shard: int) -> int:
        path = self._tars[shard]
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataProblem(
                f"{path} cannot be opened ({error.strerror}), so its examples are missing. Restore it, or repeat "
                f"the build, which makes only what is missing: {rebuild_command(self.manifest)}"
            ) from error
        status = os.fstat(file)
        version = status.st_ino, status.st_size, status.st_mtime_ns
        if self._versions.get(shard) != version:
            self._versions[shard] = version
            self._is_checked[self._shard == shard] = False
        return file

    def _require_alike(self, row: int, header: bytes) -> None:
        """What cuts payloads by their byte counts is right only where arrays differ in nothing but their length."""
        if header in self._known_headers:
            return
        layout = self._parsed(row, header)
        if replace(layout, shape=(*layout.shape[:-1], self.layout.shape[-1])) != self.layout:
            raise DataProblem(self._damaged(row, f"its header says {layout}, that of the first example {self.layout}"))
        self._known_headers.add(header)

    def _parsed(self, row: int, payload: bytes | bytearray) -> Layout:
        try:
            return npy_layout(payload)
        except (ValueError, KeyError, SyntaxError, struct.error) as error:
            raise DataProblem(self._damaged(row, str(error))) from error

    def _tar(self, row: int) -> Path:
        return self._tars[self._shard[row]]

    def _damaged(self, row: int, what: str) -> str:
        place = f"byte {int(self.offsets[row]):,}, example {int(self.indices[row])}"
        return (
            f"{self._tar(row)} is damaged at {place}: {what}. A model would train on noise. Find all damage (sonograph "
            f"verify {self.folder}), delete the shard's files and repeat the build: {rebuild_command(self.manifest)}"
        )


def _joined(tables: list, name: str, dtype: type) -> np.ndarray:
    parts = [table[name].to_numpy().astype(dtype, copy=False) for table in tables]
    return np.concatenate(parts) if parts else np.empty(0, dtype)
