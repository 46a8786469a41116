"""What is wrong with the files of a shard: each is read once, its digest taken while its contents are looked at."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from shards.manifest import (
    COLUMN_SCHEMA,
    ColumnRecord,
    Manifest,
    Shard,
    StoredFile,
    column_path,
    index_path,
    index_schema,
    read_column_record,
    read_record,
    read_table,
    table_problem,
)
from shards.members import HashedFile, Member, members
from shards.npy import whole_layout
from shards.problem import DataProblem

_FLAC_MAGIC = b"fLaC"
_IDENTITY = ["index", "key"]


@dataclass(frozen=True)
class Damage:
    """What is wrong, in one line, and the file (or the folder of the column) that has to be made again."""

    path: Path
    what: str
    is_repairable: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def damage_of_file(path: Path, stored: StoredFile) -> Iterator[Damage]:
    """Whether a regular file is there and has the bytes that were written."""
    yield from _damage_seen(path, stored, lambda file: iter(()))


def damage_of_index(folder: Path, shard: Shard, manifest: Manifest) -> Iterator[Damage]:
    """Its digest; and whether it is the index of this very shard, not one of another build."""
    name = index_path(shard.number)
    if damage := list(damage_of_file(folder / name, shard.files[name])):
        yield from damage
        return
    table, record = _table_or_none(folder / name), read_record(folder, shard.number)
    if table is None or record is None:
        yield Damage(folder / name, "is no index of a shard: it cannot be read, or proves nothing")
        return
    if problem := table_problem(table, index_schema(manifest.labels, manifest.events), shard.examples):
        yield Damage(folder / name, f"is no index of a shard with these labels and events: {problem}")
    elif not (np.diff(table["index"].to_numpy()) > 0).all():
        yield Damage(folder / name, "lists its examples in another order, or twice")
    if (record.task, record.examples, len(record.rejected)) != (shard.task, shard.examples, shard.rejected):
        yield Damage(folder / name, "is stale: it proves another shard than the manifest lists")


def damage_of_proof(folder: Path, column: str, number: int) -> Iterator[Damage]:
    """Without a manifest: whether a table can be read, and its tar is what it says; of column `index`, the table."""
    table = folder / column_path(column, number, "parquet")
    of_index, of_tar = read_record(folder, number), read_column_record(folder, column, number)
    if _table_or_none(table) is None or (of_index if column == "index" else of_tar) is None:
        yield Damage(table, "cannot be read, or proves nothing")
    elif of_tar is not None:
        yield from damage_of_file(table.with_suffix(".tar"), of_tar.tar)


def damage_of_column(folder: Path, shard: Shard, column: str, contract: Mapping[str, object]) -> Iterator[Damage]:
    """Of a tar and its table: digests, and every member against the table, the index and the contract."""
    tar, name = (column_path(column, shard.number, suffix) for suffix in ("tar", "parquet"))
    damage = list(damage_of_file(folder / name, shard.files[name]))
    table = None if damage else _table_or_none(folder / name)
    index = _table_or_none(folder / index_path(shard.number), _IDENTITY)
    expected = None
    if index is not None and table_problem(index, index_schema({}, {}), index.num_rows, _IDENTITY):
        index = None  # of which the check of the index itself tells
    if table is not None and index is not None:
        proof = ColumnRecord(shard.task, str(contract["fingerprint"]), shard.files[tar])
        if read_column_record(folder, column, shard.number) != proof:
            damage.append(Damage(folder / name, "is stale: it proves another tar than the manifest lists"))
        if table.schema.equals(COLUMN_SCHEMA) and table["index"].equals(index["index"]):
            expected = _Expected(column, contract, table.to_pylist(), index["key"].to_pylist())
        else:
            damage.append(Damage(folder / name, f"does not list the examples of {index_path(shard.number)}"))
    yield from damage
    yield from _damage_seen(folder / tar, shard.files[tar], partial(_seen_in_tar, expected=expected))


def _damage_seen(path: Path, stored: StoredFile, look: Callable[[HashedFile], Iterator[str]]) -> Iterator[Damage]:
    """Read a file once: `look` at what comes, then compare the digest of all."""
    if path.is_symlink() or not path.is_file():
        yield Damage(path, "is no regular file" if path.is_symlink() or path.exists() else "is missing")
        return
    if (size := path.stat().st_size) != stored.bytes:
        yield Damage(path, f"has {size:,} bytes, {stored.bytes:,} were written")
        return
    try:
        with path.open("rb", buffering=0) as file:
            hashed = HashedFile(file, stored.bytes)
            yield from (Damage(path, what) for what in look(hashed))
            digest = hashed.sha256()
    except OSError as error:
        yield Damage(path, f"cannot be read ({error.strerror})")
        return
    if digest != stored.sha256:
        yield Damage(path, f"has SHA-256 {digest[:12]}…, {stored.sha256[:12]}… was written")


def _table_or_none(path: Path, columns: Sequence[str] | None = None) -> Any:
    """A table, or None: of one that cannot be read, the check of its own digest tells."""
    try:
        table = read_table(path, columns)
    except DataProblem:
        return None
    return table if columns is None or table.column_names == list(columns) else None


def _seen_in_tar(file: HashedFile, expected: "_Expected | None") -> Iterator[str]:
    """What is wrong with the members, until one stands where none or another should."""
    count = 0
    try:
        for member in members(file):
            if expected and member.name not in expected.names[count : count + 1]:
                yield f"holds {member.name}, where its table has none or another"
                return
            if expected and (problem := expected.problem(count, member)):
                yield f"{member.name} {problem}"
            count += 1
    except ValueError as error:
        yield str(error)
        return
    if expected and count < len(expected.names):
        yield f"lacks {expected.names[count]} and what its table lists behind it"


class _Expected:
    """What a tar must hold, member by member; `keys` are those of the examples in its rows."""

    def __init__(self, column: str, contract: Mapping[str, object], rows: Sequence, keys: Sequence[str]) -> None:
        self.rows, self.keys = rows, keys
        self.suffix = str(contract.get("member", "npy"))
        self.dtype = np.dtype(str(contract["dtype"]))
        self.names = [f"{row['index']:09d}.{kind}" for row in rows for kind in (f"{column}.{self.suffix}", "json")]

    def problem(self, place: int, member: Member) -> str | None:
        """What is wrong with the member in that place of the tar."""
        row = self.rows[place // 2]
        if place % 2:
            return self._problem_of_labels(row["index"], self.keys[place // 2], member.payload)
        if (member.offset, len(member.payload)) != (row["offset"], row["bytes"]):
            return "lies elsewhere than its table says"
        if xxhash.xxh3_64_intdigest(member.payload) != row["xxh3_64"]:
            return "does not match its xxh3 digest"
        if self.suffix == "npy":
            return self._problem_of_array(member.payload)
        return None if member.payload[: len(_FLAC_MAGIC)] == _FLAC_MAGIC else "is no FLAC file"

    def _problem_of_labels(self, index: int, key: str, payload: memoryview) -> str | None:
        try:
            about = json.loads(str(payload, "utf-8"))
            is_same = (about["index"], about["key"]) == (index, key)
        except (ValueError, KeyError, TypeError, RecursionError):
            is_same = False
        return None if is_same else f"is not about the example {key}"

    def _problem_of_array(self, payload: memoryview) -> str | None:
        try:
            layout = whole_layout(payload)
        except ValueError as error:
            return f"is no array: {error}"
        return None if layout.dtype == self.dtype else f"is {layout.dtype}, the contract says {self.dtype}"
