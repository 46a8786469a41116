"""Examples -> one shard: a plain WebDataset tar a column, then its offsets, then the index that proves it whole."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xxhash

from shards.example import Example
from shards.manifest import (
    COLUMN_SCHEMA,
    ColumnRecord,
    Rejected,
    ShardRecord,
    StoredFile,
    column_path,
    index_path,
    index_schema,
    read_column_record,
    read_record,
    write_table,
)
from shards.statistics import shard_statistics
from shards.store import canonical_json, whole_file
from shards.tar import Tar


def write_shard(
    folder: Path,
    number: int,
    *,
    task: str,
    columns: Mapping[str, Mapping[str, object]],
    labels: Mapping[str, Mapping[str, object]],
    events: Mapping[str, Mapping[str, object]],
    examples: Sequence[Example],
    rejected: Sequence[Rejected],
) -> ShardRecord:
    """Write every column of a shard and its index, the index last. Equal arguments give equal bytes.

    `task` is the digest of what the shard was planned to hold; `columns` are the manifest's entries by name. Raises
    EnvironmentProblem when the disk is full.
    """
    for column, entry in columns.items():
        write_column(folder, number, column, task=task, entry=entry, examples=examples)
    record = ShardRecord(number, task, len(examples), tuple(rejected))
    rows = [_index_row(example) for example in examples]
    write_table(folder / index_path(number), rows, index_schema(labels, events), record.said())
    return record


def write_column(
    folder: Path, number: int, column: str, *, task: str, entry: Mapping[str, object], examples: Sequence[Example]
) -> None:
    """One column of a shard: its tar, then its table, with what proves the two whole and the values' statistics.

    Raises EnvironmentProblem when the disk is full.
    """
    with whole_file(folder / column_path(column, number, "tar")) as file:
        tar = Tar(file)
        rows = [_add_example(tar, f"{column}.{entry['member']}", example) for example in examples]
        tar.close()
    record = ColumnRecord(task, str(entry["fingerprint"]), StoredFile(tar.bytes, tar.digest.hexdigest()))
    statistics = shard_statistics([example.arrays[column] for example in examples])
    table = folder / column_path(column, number, "parquet")
    write_table(table, rows, COLUMN_SCHEMA, {**record.said(), **statistics})


def finished(folder: Path, number: int, task: str) -> ShardRecord | None:
    """The record of a shard whose index is whole and answers this very task, or None."""
    record = read_record(folder, number)
    return record if record is not None and record.task == task else None


def has_column(folder: Path, number: int, column: str, *, task: str, contract: str) -> bool:
    """Whether that column of a shard answers this task by this contract's fingerprint, and has the bytes it proves."""
    record = read_column_record(folder, column, number)
    tar = folder / column_path(column, number, "tar")
    is_this = record is not None and (record.task, record.contract) == (task, contract)
    return is_this and tar.is_file() and tar.stat().st_size == record.tar.bytes  # type: ignore[union-attr]


def _add_example(tar: Tar, ending: str, example: Example) -> dict[str, int]:
    stored = example.arrays[ending.partition(".")[0]]
    payload = stored if isinstance(stored, bytes) else npy_bytes(stored)
    offset = tar.add(f"{example.index:09d}.{ending}", payload)
    about = {"index": example.index, "key": example.key, **example.labels}
    tar.add(f"{example.index:09d}.json", canonical_json(about))
    return {
        "index": example.index,
        "offset": offset,
        "bytes": len(payload),
        "xxh3_64": xxhash.xxh3_64_intdigest(payload),
    }


def npy_bytes(array: np.ndarray) -> bytes:
    """The array as a version 1.0 .npy file, which never holds pickled objects; its data begins 64-byte aligned."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _index_row(example: Example) -> dict[str, object]:
    identity = {
        "index": example.index,
        "key": example.key,
        "source_path": example.source_path,
        "source_digest": example.source_digest,
        "start_seconds": example.start_seconds,
        "seconds": example.seconds,
        "clipped_share": example.clipped_share,
    }
    labels = {f"label.{name}": value for name, value in example.labels.items()}
    return identity | labels | {f"events.{name}": _structs(events) for name, events in example.events.items()}


def _structs(events: Sequence[tuple[float, float, object]]) -> list[dict[str, object]]:
    return [{"start_s": start, "end_s": end, "value": value} for start, end, value in events]
