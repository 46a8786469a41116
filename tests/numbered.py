"""Small datasets whose values say which example and frame they are of, with labels and columns as a test wants them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from shards.example import Example
from shards.feature import Feature, described, load_feature
from shards.manifest import PLAN, REJECTED, REJECTED_SCHEMA, Shard, write_table
from shards.reader import Reader
from shards.store import write_json
from shards.writer import write_shard
from tests.corpus import noise_manifest

COARSE, FINE = "mel:bands=4,hop_samples=512", "mel:bands=3,hop_samples=160"  # 31.25 and 100 frames a second
RATE_HZ = 16_000
_KINDS = {"int": "int", "float": "float", "str": "str", "list": "list[int]"}


@dataclass(frozen=True)
class Row:
    """One example to be: its labels, when it begins, how long it is."""

    labels: Mapping[str, object] = field(default_factory=dict)
    start_seconds: float = 0.0
    seconds: float = 1.0


def write_numbered(
    folder: Path, rows: Sequence[Row], *, words: Sequence[str] = (COARSE,), shard_examples: int = 8
) -> list[Reader]:
    """A whole dataset of these rows; returns a Reader of each column. A label has values of one type, or none.

    Band 0 of every array is the example's index, band 1 the number of the frame.
    """
    features = [load_feature(word) for word in words]
    columns = {feature.column: described(feature) for feature in features}
    labels = {name: {"type": _kind(name, rows), "classes": None} for name in rows[0].labels}
    records = []
    for number, first in enumerate(range(0, len(rows), shard_examples)):
        made = [_example(index, rows[index], features) for index in range(len(rows))[first : first + shard_examples]]
        about = {"task": f"task {number}", "columns": columns, "labels": labels, "events": {}}
        records.append(write_shard(folder, number, **about, examples=made, rejected=[]))
    write_json(folder / PLAN, {"planned": len(rows)})
    write_table(folder / REJECTED, [], REJECTED_SCHEMA)
    shards = [Shard.of(folder, record, columns) for record in records]
    nothing = noise_manifest(folder, len(rows), [], 0)
    replace(
        nothing, features=columns, labels=labels, shards=shards, examples=len(rows), rejected=0
    ).write(folder)  # fmt: skip
    return [Reader(folder, column) for column in columns]


def _kind(name: str, rows: Sequence[Row]) -> str:
    (kind,) = {type(row.labels[name]).__name__ for row in rows if row.labels[name] is not None}
    return _KINDS[kind]


def _example(index: int, row: Row, features: Sequence[Feature]) -> Example:
    arrays = {feature.column: _array(index, row.seconds, feature) for feature in features}
    place = (index, f"row-{index}", f"{index}.wav", f"{index:032x}")
    return Example(*place, row.start_seconds, row.seconds, row.labels, arrays)


def _array(index: int, seconds: float, feature: Feature) -> np.ndarray:
    frames = feature.frames(round(seconds * RATE_HZ))
    array = np.zeros((frames, int(str(feature.contract["bands"]))), np.float16)
    array[:, 0], array[:, 1] = index, np.arange(frames)
    return array.T
