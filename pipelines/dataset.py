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
from shards.decode import CLIPPED_SHARE
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
_SHOWN_REASONS = 12
_ACCOUNTED = ("index", "seconds", "clipped_share")
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
    refuse_foreign(split.folder)
    path = split.folder / PLAN
    if path.is_file():
        _compare(split, json.loads(path.read_bytes()))
    else:
        write_json(path, split.identity)


def refuse_foreign(folder: Path) -> None:
    """Raises DataProblem when files lie in `folder` that no build has put there."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / PLAN).is_file():
        raise DataProblem(
            f"{folder} is not empty and was not made by a build: it has no {PLAN}. Nothing was written, so that "
            "nothing is lost. Pass another --out, or empty the folder."
        )


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


def finish(split: Split) -> Manifest | None:
    """Check that every planned example is accounted for, say what became of all, and write the manifest last.

    A split of which nothing could be used gets its table of rejected ones and no manifest: None. Raises RunFailed when
    something is neither written nor rejected, or both.
    """
    records = [finished(split.folder, task.number, task.digest) for task in split.tasks]
    whole = [record for record in records if record is not None]
    rejected = [row for record in whole for row in record.rejected]
    written = [read_table(split.folder / index_path(record.number), list(_ACCOUNTED)) for record in whole]
    indices = [index for table in written for index in table["index"].to_pylist()]
    _require_all(split, indices, rejected)
    write_table(split.folder / REJECTED, [vars(row) for row in rejected], REJECTED_SCHEMA)
    manifest = None
    if indices:
        seconds = sum(float(table["seconds"].to_numpy().sum()) for table in written)
        manifest = _manifest(split, whole, len(rejected), seconds)
        manifest.write(split.folder)
    _log_account(split, manifest, rejected)
    if clipped := sum(int((table["clipped_share"].to_numpy() > CLIPPED_SHARE).sum()) for table in written):
        log.warning("%s  %d examples are clipped: samples stand at full scale", split.folder, clipped)
    return manifest


def _require_all(split: Split, written: Sequence[int], rejected: Sequence[Rejected]) -> None:
    found = sorted([*written, *(row.index for row in rejected)])
    planned = sorted(span.index for task in split.tasks for span in task.spans)
    if found != planned:
        raise RunFailed(
            f"{split.folder} accounts for {len(found):,} examples ({len(written):,} written, {len(rejected):,} "
            f"rejected) where {len(planned):,} were planned, or for one of them twice. No manifest was written, so "
            "nothing will read it. Repeat the command to make what is missing."
        )


def _manifest(split: Split, records: Sequence[ShardRecord], rejected: int, seconds: float) -> Manifest:
    identity = split.identity
    return Manifest(
        corpus=str(identity["corpus"]),
        split=str(identity["split"]),
        rendered=bool(identity["rendered"]),
        labels=identity["labels"],  # type: ignore[arg-type]
        events=identity["events"],  # type: ignore[arg-type]
        features=identity["features"],  # type: ignore[arg-type]
        planned=split.planned,
        examples=sum(record.examples for record in records),
        rejected=rejected,
        seconds=seconds,
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


def _log_account(split: Split, manifest: Manifest | None, rejected: Sequence[Rejected]) -> None:
    """Recordings in, examples out, and by which reason how many were left out."""
    holes = {row.index for row in rejected}
    outcomes: dict[str, set[bool]] = {}
    for task in split.tasks:
        for span in task.spans:
            outcomes.setdefault(span.recording.recording_id, set()).add(span.index not in holes)
    used = sum(True in outcome for outcome in outcomes.values())
    log.info("%s  %d recordings: %d used, %d rejected", split.folder, len(outcomes), used, len(outcomes) - used)
    if manifest:
        log.info(
            "%s  %d examples  %.1f minutes  %d rejected  fingerprint %s",
            split.folder, manifest.examples, manifest.seconds / 60, manifest.rejected, manifest.fingerprint[:8],
        )  # fmt: skip
    else:
        log.warning("%s  no example could be made, so there is no dataset", split.folder)
    reasons = Counter((row.stage, kind_of(row.reason)) for row in rejected).most_common()
    for (stage, reason), count in reasons[:_SHOWN_REASONS]:
        log.warning("%s  rejected %d at %s: %s", split.folder, count, stage, reason)
    if len(reasons) > _SHOWN_REASONS:
        log.warning(
            "%s  and %d other reasons: %s", split.folder, len(reasons) - _SHOWN_REASONS, split.folder / REJECTED
        )


def kind_of(reason: str) -> str:
    """A reason without what is particular to one recording, which stands behind a colon: so alike ones are counted."""
    return reason.partition(":")[0][:120]
