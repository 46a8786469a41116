"""Small datasets written by the real writer from noise, for tests that need no music."""

from pathlib import Path

import numpy as np

from shards.example import Clip, Example
from shards.feature import described
from shards.features.mel import MYNA
from shards.manifest import (
    PLAN,
    REJECTED,
    REJECTED_SCHEMA,
    Manifest,
    Rejected,
    Shard,
    StoredFile,
    write_table,
)
from shards.store import write_json
from shards.writer import write_shard

LABELS = {"pitch": {"type": "int", "classes": None}, "name": {"type": "str", "classes": None}}


def noise_clip(rng: np.random.Generator, samples: int = 64_000) -> Clip:
    return Clip((0.1 * rng.standard_normal((1, samples))).astype(np.float32), 16_000)


def noise_example(index: int, rng: np.random.Generator, samples: int = 64_000) -> Example:
    """The first stored value of its array is its index, so that a test can tell examples apart."""
    array = MYNA([noise_clip(rng, samples)])[0]
    array[0, :] = index
    labels = {"pitch": index % 12, "name": f"note {index}"}
    return Example(
        index, f"noise-{index}", f"{index}.wav", f"{index:032x}", 0.0, samples / 16_000, labels, {"mel": array}
    )


def write_noise_dataset(
    folder: Path,
    examples: int,
    *,
    shard_examples: int = 16,
    holes: tuple[int, ...] = (),
    transposed: tuple[int, ...] = (),
    samples: int = 64_000,
) -> Path:
    """A whole dataset of noise. The indices in `holes` are rejected, those in `transposed` stored band by band."""
    rng = np.random.default_rng(examples)
    records = []
    for number, first in enumerate(range(0, examples, shard_examples)):
        planned = range(first, min(first + shard_examples, examples))
        made = [noise_example(index, rng, samples) for index in planned if index not in holes]
        for example in made:
            if example.index in transposed:
                example.arrays["mel"] = np.ascontiguousarray(example.arrays["mel"])
        rejected = [Rejected(index, f"{index}.wav", "decode", "it is a hole") for index in planned if index in holes]
        records.append(
            write_shard(
                folder,
                number,
                task=f"task {number}",
                columns={"mel": described(MYNA)},
                labels=LABELS,
                events={},
                examples=made,
                rejected=rejected,
            )
        )
    write_json(folder / PLAN, {"planned": examples})
    write_table(folder / REJECTED, [vars(row) for record in records for row in record.rejected], REJECTED_SCHEMA)
    noise_manifest(folder, examples, records, samples).write(folder)
    return folder


def noise_manifest(folder: Path, planned: int, records: list, samples: int) -> Manifest:
    written = sum(record.examples for record in records)
    return Manifest(
        corpus="noise",
        split=folder.name,
        rendered=True,
        labels=LABELS,
        events={},
        features={"mel": described(MYNA)},
        planned=planned,
        examples=written,
        rejected=planned - written,
        seconds=written * samples / 16_000,
        shards=[Shard.of(folder, record, ["mel"]) for record in records],
        files={name: StoredFile.of(folder / name) for name in (PLAN, REJECTED)},
        build=("build", "noise"),
        made_with={},
        statistics={},
    )
