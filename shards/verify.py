"""Check every digest, count, offset and contract of a dataset.

    sonograph verify datasets/nsynth

Reads all files once, at the speed of the disk. Takes one dataset or the folder of its splits. Finds a flipped bit, a
missing or foreign file, a truncated tar, members that do not match their table. Exit code 3 when anything is wrong.
"""

import logging
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
import xxhash

from shards.feature import fingerprint, load_feature
from shards.manifest import MANIFEST, Manifest, StoredFile, column_path, index_path, read_table, rebuild_command
from shards.problem import DataProblem, UsageProblem
from shards.reader import npy_layout

log = logging.getLogger(__name__)
_SHOWN = 20
_MEMBER_BYTES_LIMIT = 1 << 31  # larger than any example; a forged header may claim anything


@dataclass(frozen=True)
class Verify:
    dataset: tyro.conf.Positional[Path]
    """a dataset, or the folder of its splits"""


COMMAND = Verify


def main(command: Verify) -> dict[str, object]:
    folders = datasets_in(command.dataset)
    problems = [problem for folder in folders for problem in verify(folder)]
    if problems:
        more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        listed = "\n  ".join(problems[:_SHOWN])
        raise DataProblem(
            f"{command.dataset} is not what was written: {len(problems)} problems.\n  {listed}{more}\nTraining on it "
            f"could use wrong data. Delete the files named and repeat the build, which makes only what is missing:\n  "
            f"{rebuild_command(Manifest.read(folders[0]))} --out {folders[0].parent}"
        )
    examples = sum(Manifest.read(folder).examples for folder in folders)
    return {"output": f"{command.dataset} is whole", "metrics": {"datasets": len(folders), "examples": examples}}


def datasets_in(folder: Path) -> list[Path]:
    """The dataset itself, or the splits below it. Raises what reading a missing manifest raises when there are none."""
    if (folder / MANIFEST).is_file():
        return [folder]
    splits = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not splits:
        Manifest.read(folder)
    return splits


def verify(folder: Path) -> Iterator[str]:
    """Yield a line for everything that differs from what was written; nothing when the dataset is whole."""
    try:
        manifest = Manifest.read(folder)
    except DataProblem as problem:
        yield str(problem)
        return
    listed = {name: stored for shard in manifest.shards for name, stored in shard.files.items()} | dict(manifest.files)
    yield from _foreign_files(folder, listed)
    yield from _check_counts(manifest)
    damage = {name: _file_damage(folder / name, stored) for name, stored in sorted(listed.items())}
    yield from filter(None, damage.values())
    for column, contract in manifest.features.items():
        yield from _check_contract(folder, column, contract)
        for shard in manifest.shards:
            if not any(damage[name] for name in shard.files):
                yield from _check_column(folder, column, shard.number, contract)
    log.info("%s  %d examples, %d files checked", folder, manifest.examples, len(listed) + 1)


def _foreign_files(folder: Path, listed: Iterable[str]) -> Iterator[str]:
    known = {*listed, MANIFEST}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or (path.is_file() and name not in known):
            yield f"{path}: is not part of the dataset"


def _file_damage(path: Path, stored: StoredFile) -> str | None:
    if not path.is_file():
        return f"{path}: is missing"
    found = StoredFile.of(path)
    if found.bytes != stored.bytes:
        return f"{path}: has {found.bytes:,} bytes, {stored.bytes:,} were written"
    if found.sha256 != stored.sha256:
        return f"{path}: has SHA-256 {found.sha256[:12]}…, {stored.sha256[:12]}… was written"
    return None


def _check_counts(manifest: Manifest) -> Iterator[str]:
    for name in ("examples", "rejected"):
        promised, total = getattr(manifest, name), sum(getattr(shard, name) for shard in manifest.shards)
        if total != promised:
            yield f"{MANIFEST}: promises {promised:,} {name}, its shards have {total:,}"
    accounted = manifest.examples + manifest.rejected
    if accounted != manifest.planned:
        yield f"{MANIFEST}: {manifest.planned:,} examples were planned, {accounted:,} accounted for"


def _check_contract(folder: Path, column: str, contract: Mapping[str, object]) -> Iterator[str]:
    try:
        current = fingerprint(load_feature(str(contract["word"])))
    except UsageProblem as problem:
        yield f"{folder / column}: {problem}"
        return
    if current != contract["fingerprint"]:
        yield f"{folder / column}: was computed by another '{contract['word']}' than this version has"


def _check_column(folder: Path, column: str, number: int, contract: Mapping[str, object]) -> Iterator[str]:
    """Compare a tar's members with their table, the index, and the contract's dtype."""
    path = folder / column_path(column, number, "tar")
    table = read_table(folder / column_path(column, number, "parquet")).to_pylist()
    identity = read_table(folder / index_path(number), ["index"])["index"].to_pylist()
    if [row["index"] for row in table] != identity:
        yield f"{path}: its table lists other examples than {index_path(number)}"
        return
    try:
        members = list(_members(path))
    except (tarfile.TarError, ValueError) as error:
        yield f"{path}: {error}"
        return
    expected = [(f"{index:09d}.{suffix}") for index in identity for suffix in (f"{column}.npy", "json")]
    if [member.name for member in members] != expected:
        yield f"{path}: its members are not those of its table"
        return
    with path.open("rb") as file:
        for row, member in zip(table, members[::2], strict=True):
            if (member.offset_data, member.size) != (row["offset"], row["bytes"]):
                yield f"{path}: {member.name} lies elsewhere than its table says"
                continue
            file.seek(member.offset_data)
            yield from _check_payload(path, member.name, file.read(member.size), row["xxh3_64"], str(contract["dtype"]))


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            known = member.isreg() and re.fullmatch(r"\d{9}\.[\w.-]+", member.name)
            if not known or member.size > _MEMBER_BYTES_LIMIT:
                raise ValueError(f"the member {member.name!r} is none of ours")
            yield member


def _check_payload(path: Path, name: str, payload: bytes, digest: int, dtype: str) -> Iterator[str]:
    if xxhash.xxh3_64_intdigest(payload) != digest:
        yield f"{path}: {name} does not match its xxh3 digest"
        return
    try:
        layout = npy_layout(payload)
    except ValueError as error:
        yield f"{path}: {name}: {error}"
        return
    if layout.dtype != np.dtype(dtype) or layout.total_bytes != len(payload):
        yield f"{path}: {name} is {layout.dtype}{layout.shape}, the contract says {dtype}"


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("verify")
