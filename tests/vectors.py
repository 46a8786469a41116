"""Notes as a few numbers each, written by the real writer: what is asked of a model of features, without any sound."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from shards.example import Example
from shards.feature import described, load_feature
from shards.manifest import PLAN, REJECTED, REJECTED_SCHEMA, Manifest, Shard, StoredFile, write_table
from shards.store import write_json
from shards.writer import write_shard

WORD, BANDS = "logmel_stats", 384
KINDS = {"pitch": {"type": "int", "classes": None}, "instrument_family": {"type": "int", "classes": None}}
FAMILIES, PITCHES = 3, 4


def write_notes(root: Path, examples: Mapping[str, int]) -> Path:
    """train, valid and test of noise in which family and pitch each raise some numbers of their own."""
    for seed, (split, count) in enumerate(examples.items()):
        rng = np.random.default_rng(seed)
        family, pitch = np.arange(count) % FAMILIES, rng.integers(PITCHES, size=count)
        numbers = rng.normal(size=(count, 8, BANDS // 8))
        numbers[np.arange(count), family] += 2.0
        numbers[np.arange(count), FAMILIES + pitch] += 2.0
        labels = {"pitch": pitch.tolist(), "instrument_family": family.tolist()}
        write_vectors(root / split, numbers.reshape(count, BANDS), labels)
    return root


def write_vectors(
    folder: Path,
    numbers: np.ndarray,
    labels: Mapping[str, Sequence[object]],
    *,
    contract: Mapping[str, object] | None = None,
) -> Path:
    """One dataset with a vector (bands,) for each example; `contract` replaces fields of the column's contract."""
    kinds = {name: KINDS.get(name, {"type": "int", "classes": None}) for name in labels}
    columns = {WORD: {**described(load_feature(WORD)), **(contract or {})}}
    examples = [
        _example(index, vector, {name: values[index] for name, values in labels.items()})
        for index, vector in enumerate(numbers)
    ]
    about = {"task": "notes", "columns": columns, "labels": kinds, "events": {}}
    record = write_shard(folder, 0, **about, examples=examples, rejected=[])
    write_json(folder / PLAN, {"planned": len(examples)})
    write_table(folder / REJECTED, [], REJECTED_SCHEMA)
    Manifest(
        corpus="notes",
        split=folder.name,
        rendered=True,
        labels=kinds,
        events={},
        features=columns,
        planned=len(examples),
        examples=len(examples),
        rejected=0,
        seconds=4.0 * len(examples),
        shards=[Shard.of(folder, record, [WORD])],
        files={name: StoredFile.of(folder / name) for name in (PLAN, REJECTED)},
        build=("build", "notes"),
        made_with={},
        statistics={},
    ).write(folder)
    return folder


def _example(index: int, vector: np.ndarray, labels: dict[str, object]) -> Example:
    arrays = {WORD: vector.astype(np.float32)[:, None]}
    return Example(index, f"note-{index}", f"{index}.wav", f"{index:032x}", 0.0, 4.0, labels, arrays)
