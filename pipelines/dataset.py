"""A dataset between its plan and its manifest: claimed by one build, filled by its tasks, finished once."""

import json
import logging
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from pipelines.plan import ShardTask
from shards.manifest import (
    PLAN,
    REJECTED,
    REJECTED_SCHEMA,
    Manifest,
    Rejected,
    Shard,
    ShardRecord,
    StoredFile,
    index_path,
    read_table,
    write_table,
)
from shards.problem import DataProblem, RunFailed
from shards.store import canonical_json, remove_partials, write_json
from shards.writer import finished

log = logging.getLogger(__name__)
_PACKAGES = ("numpy", "torch", "torchaudio", "soundfile", "soxr", "pyarrow", "xxhash")


@dataclass(frozen=True)
class Split:
    """One dataset to be: where it goes, its tasks, and all in which a build that continues must not differ."""

    folder: Path
    tasks: tuple[ShardTask, ...]
    identity: Mapping[str, object]
    build: tuple[str, ...]

    @property
    def planned(self) -> int:
        return sum(len(task.spans) for task in self.tasks)

    def pending(self) -> list[ShardTask]:
        """The tasks whose shards are not whole yet."""
        return [task for task in self.tasks if finished(self.folder, task.number, task.digest) is None]


def claim(split: Split) -> None:
    """Take an empty folder, or the one in which this same build was begun. Raises DataProblem for any other."""
    remove_partials(split.folder)
    path = split.folder / PLAN
    if path.is_file():
        _compare(split, json.loads(path.read_bytes()))
    elif split.folder.is_dir() and any(split.folder.iterdir()):
        raise DataProblem(
            f"{split.folder} is not empty and was not made by a build: it has no {PLAN}. Nothing was written, so that "
            "nothing is lost. Pass another --out, or empty the folder."
        )
    else:
        write_json(path, split.identity)


def _compare(split: Split, found: Mapping[str, object]) -> None:
    wanted = json.loads(canonical_json(split.identity))
    for name, value in wanted.items():
        if found.get(name) != value:
            there, here = _difference(found.get(name), value)
            raise DataProblem(
                f"{split.folder} holds another dataset: its {name} is {there}, this build's is {here}. Mixing the two "
                "would make a dataset of neither, so nothing was written. Pass another --out, or delete that folder."
            )


def _difference(there: object, here: object) -> tuple[str, str]:
    """Two unequal values, narrowed to the first entry in which two tables differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        key = min(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
        left, right = _difference(there.get(key), here.get(key))
        return f"{key}: {left}", f"{key}: {right}"
    return tuple(json.dumps(value)[:80] for value in (there, here))  # type: ignore[return-value]


def finish(split: Split) -> Manifest:
    """Gather the shards' records, check that every span is accounted for, and write the manifest last."""
    records = [finished(split.folder, task.number, task.digest) for task in split.tasks]
    whole = [record for record in records if record is not None]
    rejected = [row for record in whole for row in record.rejected]
    examples = sum(record.examples for record in whole)
    if examples + len(rejected) != split.planned:
        raise RunFailed(
            f"{split.folder} accounts for {examples + len(rejected):,} of {split.planned:,} planned examples. No "
            "manifest was written, so nothing will read it. Repeat the command to make what is missing."
        )
    if not examples:
        reasons = Counter(row.reason for row in rejected).most_common(1)
        raise DataProblem(
            f"None of the {split.planned:,} recordings of {split.folder.name} could be used, so there is no "
            f"dataset. Most common reason: {reasons[0][0]}. See {split.folder / index_path(0)} for all of them."
        )
    write_table(split.folder / REJECTED, [vars(row) for row in rejected], REJECTED_SCHEMA)
    manifest = _manifest(split, whole, rejected)
    manifest.write(split.folder)
    _log_finished(split.folder, manifest, rejected)
    return manifest


def _manifest(split: Split, records: Sequence[ShardRecord], rejected: Sequence[Rejected]) -> Manifest:
    tables = [read_table(split.folder / index_path(record.number), ["seconds"]) for record in records]
    identity = split.identity
    return Manifest(
        corpus=str(identity["corpus"]),
        split=str(identity["split"]),
        rendered=bool(identity["rendered"]),
        labels=identity["labels"],  # type: ignore[arg-type]
        features=identity["features"],  # type: ignore[arg-type]
        planned=split.planned,
        examples=sum(record.examples for record in records),
        rejected=len(rejected),
        seconds=sum(float(table["seconds"].to_numpy().sum()) for table in tables),
        shards=[Shard.of(split.folder, record) for record in records],
        files={name: StoredFile.of(split.folder / name) for name in (PLAN, REJECTED)},
        build=split.build,
        made_with=_made_with(),
    )


def _made_with() -> dict[str, str]:
    """What equal bytes depend on beside the plan: the packages that compute, and the processor's instruction set."""
    return {"python": platform.python_version(), "machine": _processor()} | {name: version(name) for name in _PACKAGES}


def _processor() -> str:
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _log_finished(folder: Path, manifest: Manifest, rejected: Sequence[Rejected]) -> None:
    log.info(
        "%s  %d examples  %.1f minutes  %d rejected  fingerprint %s",
        folder, manifest.examples, manifest.seconds / 60, manifest.rejected, manifest.fingerprint[:8],
    )  # fmt: skip
    for (stage, reason), count in Counter((row.stage, row.reason) for row in rejected).most_common(5):
        log.warning("%s  rejected %d at %s: %s", folder, count, stage, reason)
