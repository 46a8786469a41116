"""Small labelled datasets written by the real writer: given mels, or a bump in bands of its own per class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from shards.example import Example
from shards.feature import described
from shards.features.mel import MYNA
from shards.manifest import PLAN, REJECTED, REJECTED_SCHEMA, Manifest, Shard, StoredFile, write_table
from shards.store import write_json
from shards.writer import write_shard

PITCH = {"pitch": {"type": "int", "classes": None}}


def write_split(
    folder: Path,
    powers: Sequence[np.ndarray],
    labels: Mapping[str, Sequence[object]],
    kinds: Mapping[str, Mapping[str, object]] = PITCH,
    *,
    contract: Mapping[str, object] | None = None,
    corpus: str = "bumps",
) -> Path:
    """One dataset of the given mels (bands, frames) in power; `contract` replaces fields of the column's contract."""
    examples = [
        _example(row, power, {name: values[row] for name, values in labels.items()}) for row, power in enumerate(powers)
    ]
    record = write_shard(
        folder,
        0,
        task="bumps",
        columns={"mel": described(MYNA)},
        labels=kinds,
        events={},
        examples=examples,
        rejected=[],
    )
    write_json(folder / PLAN, {"planned": len(examples)})
    write_table(folder / REJECTED, [], REJECTED_SCHEMA)
    Manifest(
        corpus=corpus,
        split=folder.name,
        rendered=True,
        labels=kinds,
        events={},
        features={"mel": {**described(MYNA), **(contract or {})}},
        planned=len(examples),
        examples=len(examples),
        rejected=0,
        seconds=4.0 * len(examples),
        shards=[Shard.of(folder, record, ["mel"])],
        files={name: StoredFile.of(folder / name) for name in (PLAN, REJECTED)},
        build=("build", "bumps"),
        made_with={},
        statistics={},
    ).write(folder)
    return folder


def bump_mels(
    classes: np.ndarray, rng: np.random.Generator, *, frames: int = 96, noise: float = 0.05
) -> list[np.ndarray]:
    """A mel a row: power 4 in the eight bands from 8 * class on, and exponential noise of mean `noise` everywhere."""
    powers = rng.exponential(noise, size=(len(classes), 16, 8, frames))
    powers[np.arange(len(classes)), classes] += 4.0
    return list(powers.reshape(-1, 128, frames).astype(np.float32))


def write_bumps(
    root: Path,
    *,
    examples: Mapping[str, int],
    classes: int = 6,
    frames: int = 96,
    noise: float = 0.05,
    instruments: int = 12,
    contract: Mapping[str, object] | None = None,
) -> Path:
    """train, valid and test of bumps whose pitch is their class, each note played by one of a split's instruments."""
    kinds = {
        "pitch": {"type": "int", "classes": None},
        "family": {"type": "int", "classes": ["low", "high"]},
        "instrument": {"type": "str", "classes": None},
        "loudness": {"type": "float", "classes": None},
    }
    for seed, (split, count) in enumerate(examples.items()):
        rng = np.random.default_rng(seed)
        pitch = rng.permutation(np.arange(count) % classes)
        labels = {
            "pitch": pitch.tolist(),
            "family": (pitch >= classes // 2).astype(int).tolist(),
            "instrument": [f"{split}-{number}" for number in rng.integers(instruments, size=count)],
            "loudness": rng.random(count).tolist(),
        }
        write_split(root / split, bump_mels(pitch, rng, frames=frames, noise=noise), labels, kinds, contract=contract)
    return root


def _example(index: int, power: np.ndarray, labels: dict[str, object]) -> Example:
    stored = np.asfortranarray(np.sqrt(power).astype(np.float16))  # frame by frame, as mels are
    return Example(index, f"bump-{index}", f"{index}.wav", f"{index:032x}", 0.0, 4.0, labels, {"mel": stored})
