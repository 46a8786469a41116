"""What merged and divided datasets are compared by: every example's bytes and what is said of it, but for its index."""

import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shards.example import Example
from shards.feature import described
from shards.features.mel import MYNA
from shards.manifest import (
    MANIFEST,
    PLAN,
    REJECTED,
    REJECTED_SCHEMA,
    Manifest,
    Rejected,
    index_path,
    read_table,
    write_table,
)
from shards.store import write_json
from shards.verify import verify
from shards.writer import write_shard
from sonograph import command_of
from tests.corpus import noise_example, noise_manifest

Kinds = Mapping[str, Mapping[str, object]]


def run(verb: Any, name: str, *words: object) -> dict[str, Any]:
    """`sonograph NAME WORDS` in this process, by the module of the verb."""
    return verb.main(command_of(name, [str(word) for word in words]))


def contents(folder: Path) -> dict[str, tuple]:
    """Key -> the row of the index, the members of every column and their JSON, all without the index."""
    manifest = Manifest.read(folder)
    found: dict[str, tuple] = {}
    for shard in manifest.shards:
        rows = read_table(folder / index_path(shard.number)).to_pylist()
        columns = [_members(folder / column / f"{shard.number:06d}.tar") for column in sorted(manifest.features)]
        for row in rows:
            name = f"{row.pop('index'):09d}"
            assert row["key"] not in found, "an example is there twice"
            found[row["key"]] = (row, *(column[name] for column in columns))
    return found


def _members(tar: Path) -> dict[str, tuple[bytes, dict[str, object]]]:
    with tarfile.open(tar) as archive:
        read = [(member.name.partition(".")[0], archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    about = {name: json.loads(text) for name, text in read[1::2]}
    assert all(said.pop("index") == int(name) for name, said in about.items())
    return {name: (payload, about[name]) for name, payload in read[::2]}


def damage(folder: Path) -> list[str]:
    """What verify finds in all datasets below a folder."""
    return [line for path in sorted(folder.rglob(MANIFEST)) for line in verify(path.parent)]


def rejected(folder: Path) -> list[tuple[int, str]]:
    return [(row["index"], row["path"]) for row in read_table(folder / REJECTED).to_pylist()]


def write_labelled(
    folder: Path,
    rows: Sequence[Mapping[str, object] | None],
    *,
    labels: Kinds,
    events: Kinds | None = None,
    happens: Mapping[str, Sequence[tuple[float, float, object]]] | None = None,
    name: str = "",
    shard_examples: int = 3,
    **said: object,
) -> Path:
    """A dataset of these labels, None for a hole, in the shape of a real one; keys begin with `name`."""
    records = []
    for number, first in enumerate(range(0, len(rows), shard_examples)):
        planned = range(first, min(first + shard_examples, len(rows)))
        about = {"columns": {"mel": described(MYNA)}, "labels": labels, "events": events or {}}
        holes = [Rejected(index, f"{index}.wav", "decode", "a hole") for index in planned if rows[index] is None]
        listed = ((index, rows[index]) for index in planned)
        made = [_example(index, name or folder.name, row, happens or {}) for index, row in listed if row is not None]
        records.append(write_shard(folder, number, task=f"task {number}", **about, examples=made, rejected=holes))
    write_json(folder / PLAN, {"planned": len(rows)})
    write_table(folder / REJECTED, [vars(row) for record in records for row in record.rejected], REJECTED_SCHEMA)
    manifest = noise_manifest(folder, len(rows), records, 4096)
    fields = {**vars(manifest), "labels": labels, "events": events or {}, **said}
    Manifest(**{name: value for name, value in fields.items() if name != "fingerprint"}).write(folder)
    return folder


def _example(
    index: int, name: str, labels: Mapping[str, object], events: Mapping[str, Sequence[tuple[float, float, object]]]
) -> Example:
    plain = noise_example(index, np.random.default_rng([index, *name.encode()]), samples=4096)
    fields = {**vars(plain), "key": f"{name}-{index}", "labels": labels, "events": events}
    return Example(**fields)
