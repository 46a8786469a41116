"""Datasets of two columns, and changes to them whose every digest is right: what only a look inside can find."""

import io
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from shards.example import Example
from shards.feature import described
from shards.features.audio import Audio
from shards.features.mel import MYNA
from shards.manifest import (
    COLUMN_SCHEMA,
    MANIFEST,
    PLAN,
    REJECTED,
    REJECTED_SCHEMA,
    ColumnRecord,
    Manifest,
    Shard,
    StoredFile,
    column_path,
    read_table,
    write_columns,
    write_table,
)
from shards.store import canonical_json, digest_of, write_json
from shards.writer import write_shard
from tests.corpus import LABELS, noise_clip

SAMPLES = 1_200
COLUMNS = {feature.column: described(feature) for feature in (MYNA, Audio())}


def write_sounding_dataset(
    folder: Path, examples: int = 5, *, shard_examples: int = 3, seed: int = 0, samples: int = SAMPLES
) -> Path:
    """Noise as mels and as FLAC, of three frames each."""
    rng = np.random.default_rng(seed)
    firsts = range(0, examples, shard_examples)
    records = [
        write_shard(
            folder,
            number,
            task=f"task {number}",
            columns=COLUMNS,
            labels=LABELS,
            events={},
            examples=[_example(index, rng, samples) for index in range(first, min(first + shard_examples, examples))],
            rejected=[],
        )
        for number, first in enumerate(firsts)
    ]
    write_json(folder / PLAN, {"planned": examples})
    write_table(folder / REJECTED, [], REJECTED_SCHEMA)
    Manifest(
        corpus="noise",
        split=folder.name,
        rendered=True,
        labels=LABELS,
        events={},
        features=COLUMNS,
        planned=examples,
        examples=examples,
        rejected=0,
        seconds=examples * samples / 16_000,
        shards=[Shard.of(folder, record, COLUMNS) for record in records],
        files={name: StoredFile.of(folder / name) for name in (PLAN, REJECTED)},
        statistics={},
        build=("build", "noise", "--root", "nowhere"),
        made_with={},
    ).write(folder)
    return folder


def _example(index: int, rng: np.random.Generator, samples: int) -> Example:
    clip = noise_clip(rng, samples)
    arrays = {"mel": MYNA([clip])[0], "audio": Audio()([clip])[0]}
    labels = {"pitch": index % 12, "name": f"note {index}"}
    return Example(index, f"noise-{index}", f"{index}.wav", f"{index:032x}", 0.0, clip.seconds, labels, arrays)


Part = tuple[tarfile.TarInfo, bytes]


def parts_of(tar: Path) -> list[Part]:
    """Every member with its payload."""
    with tarfile.open(tar) as archive:
        return [(member, archive.extractfile(member).read()) for member in archive.getmembers()]


def member(name: str, payload: bytes = b"", *, kind: bytes = tarfile.REGTYPE, target: str = "") -> Part:
    """A member as our writer makes it, but of any name, type and link target."""
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.type, header.linkname = len(payload), 0o644, kind, target
    return header, payload


def forge_tar(dataset: Path, parts: Sequence[Part], *, column: str = "mel", number: int = 0) -> None:
    """Replace a tar by one of these members."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for header, payload in parts:
            archive.addfile(header, io.BytesIO(payload))
    end = sum(512 + -(-len(payload) // 512) * 512 for _, payload in parts) + 1024  # tarfile would fill 10 KiB
    forge_bytes(dataset, whole.getvalue()[:end], column=column, number=number)


def forge_bytes(dataset: Path, content: bytes, *, column: str = "mel", number: int = 0) -> None:
    """Replace a tar by any bytes, and every digest of it by theirs."""
    (dataset / column_path(column, number, "tar")).write_bytes(content)
    approve(dataset, column, number)


def forge_payloads(dataset: Path, change: Callable[[bytes], bytes], *, column: str = "mel", number: int = 0) -> None:
    """Change the payload of every example, in the tar and in the table that has its place and digest."""
    parts = [
        (header, payload if header.name.endswith("json") else change(payload))
        for header, payload in parts_of(dataset / column_path(column, number, "tar"))
    ]
    forge_tar(dataset, [member(header.name, payload) for header, payload in parts], column=column, number=number)
    table = dataset / column_path(column, number, "parquet")
    rows, at = read_table(table).to_pylist(), 0
    for row, (_, payload), (_, about) in zip(rows, parts[::2], parts[1::2], strict=True):
        row |= {"offset": at + 512, "bytes": len(payload), "xxh3_64": xxhash.xxh3_64_intdigest(payload)}
        at += 1024 + sum(-(-len(part) // 512) * 512 for part in (payload, about))
    write_table(table, rows, COLUMN_SCHEMA)
    approve(dataset, column, number)


def approve(dataset: Path, column: str = "mel", number: int = 0) -> None:
    """Make the proof of a column of a shard and the manifest say that its files are what they are now."""
    tar, table = (dataset / column_path(column, number, suffix) for suffix in ("tar", "parquet"))
    manifest = Manifest.read(dataset)
    fingerprint = str(manifest.features[column]["fingerprint"])
    proof = ColumnRecord(manifest.shards[number].task, fingerprint, StoredFile.of(tar))
    write_table(table, read_table(table).to_pylist(), COLUMN_SCHEMA, proof.said())
    files = {path.relative_to(dataset).as_posix(): StoredFile.of(path) for path in (tar, table)}
    shards = list(manifest.shards)
    shards[number] = replace(shards[number], files={**shards[number].files, **files})
    replace(manifest, shards=shards).write(dataset)


def forge_manifest(dataset: Path, content: Mapping[str, object]) -> None:
    """Write any fields as a manifest of a right digest and, where it has one of a text, the right fingerprint."""
    content = dict(content)
    if isinstance(content.get("fingerprint"), str):
        left_out = ("build", "made_with", "fingerprint")
        content["fingerprint"] = digest_of({name: value for name, value in content.items() if name not in left_out})
    whole = {**content, "sha256": digest_of(content)}
    (dataset / MANIFEST).write_bytes(canonical_json(whole, indent=1) + b"\n")


def forge_table(dataset: Path, name: str, table: Any, said: Any = None, number: int = 0) -> None:
    """Replace a table of a shard and make the manifest list it; it says the same of itself unless it is to say more."""
    said = said or read_table(dataset / name).schema.metadata
    write_columns(dataset / name, table.replace_schema_metadata(said))
    manifest = Manifest.read(dataset)
    shards = list(manifest.shards)
    files = {**shards[number].files, name: StoredFile.of(dataset / name)}
    shards[number] = replace(shards[number], files=files)
    replace(manifest, shards=shards).write(dataset)


def flip(path: Path, byte: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def swap(one: Path, other: Path) -> None:
    kept = one.with_suffix(".kept")
    shutil.move(one, kept)
    shutil.move(other, one)
    shutil.move(kept, other)
