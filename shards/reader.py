"""One example of a column by its row, checked against its digest at every read."""

import ast
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import xxhash

from shards.feature import Feature, fingerprint, load_feature
from shards.manifest import Manifest, column_path, index_path, index_schema, read_table, rebuild_command
from shards.problem import DataProblem

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
        if len(self) != self.manifest.examples:
            raise DataProblem(
                f"{self.folder} promises {self.manifest.examples:,} examples, its {column} tables list {len(self):,}. "
                f"Training on it would miss some. Find out which: sonograph verify {self.folder}"
            )

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def feature(self) -> Feature:
        """The feature that made this column. Raises DataProblem when this version computes another one by that name."""
        contract = self.manifest.features[self.column]
        feature = load_feature(str(contract["word"]))
        if fingerprint(feature) != contract["fingerprint"]:
            raise DataProblem(
                f"{self.folder} was built with another '{contract['word']}' than this version computes. A model would "
                f"hear the two differently. Build it again: {rebuild_command(self.manifest)}"
            )
        return feature

    def restore(self, stored: torch.Tensor) -> torch.Tensor:
        """Stored values -> the feature's own units, float32."""
        return self.feature.restore(stored)

    def read(self, row: int) -> np.ndarray:
        """The array of one row in its stored dtype; (bands, frames) for a mel. Raises DataProblem if it is damaged."""
        payload = bytearray(int(self.sizes[row]))
        self.read_into(row, memoryview(payload))
        try:
            return npy_layout(payload).array(payload)
        except (ValueError, KeyError, SyntaxError, struct.error) as error:
            raise DataProblem(self._damaged(row, str(error))) from error

    def arrays(self, rows: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        for row in rows:
            yield self.read(int(row))

    def read_into(self, row: int, buffer: memoryview) -> None:
        """Fill `buffer`, of `sizes[row]` bytes, with the member's payload and check its digest."""
        got = self._pread(row, buffer)
        if got != len(buffer):
            raise DataProblem(self._damaged(row, f"only {got:,} of {len(buffer):,} bytes are there"))
        if xxhash.xxh3_64_intdigest(buffer) != int(self._digests[row]):
            raise DataProblem(self._damaged(row, "its bytes do not match their xxh3 digest"))

    def labels(self, name: str) -> np.ndarray:
        """Label `name` of every row, aligned with `indices`; `key` and the other identity columns by their own name."""
        column = f"label.{name}" if name in self.manifest.labels else name
        if column not in index_schema(self.manifest.labels).names:
            raise DataProblem(
                f"{self.folder} has no label '{name}', so none can be read. Labels: {', '.join(self.manifest.labels)}"
            )
        tables = [read_table(self.folder / index_path(number), columns=[column]) for number in self._numbers]
        values = [value for table in tables for value in table[column].to_pylist()]
        return np.array(values, dtype=object if values and isinstance(values[0], list) else None)

    def _pread(self, row: int, buffer: memoryview) -> int:
        """Opened for each read, which costs 4 µs: thousands of shards need no thousands of open files, and no lock."""
        path = self._tar(row)
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataProblem(
                f"{path} cannot be opened ({error.strerror}), so its examples are missing. Restore it, or repeat "
                f"the build, which makes only what is missing: {rebuild_command(self.manifest)}"
            ) from error
        try:
            return os.preadv(file, [buffer], int(self.offsets[row]))
        finally:
            os.close(file)

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
