"""A dataset between its plan and its manifest: claimed by one build, filled by its tasks, finished once."""

import logging
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import torch

from pipelines.plan import ShardTask, Work
from shards.claim import claim as claim_folder
from shards.decode import CLIPPED_SHARE
from shards.feature import load_feature
from shards.manifest import (
    COLUMN,
    PLAN,
    REJECTED,
    REJECTED_SCHEMA,
    WEIGHTS,
    Manifest,
    Rejected,
    Shard,
    ShardRecord,
    StoredFile,
    column_path,
    feature_words,
    index_path,
    read_table,
    with_features,
    write_table,
)
from shards.problem import DataProblem, RunFailed
from shards.statistics import statistics_of
from shards.writer import finished, has_column

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
    columns: Mapping[str, Mapping[str, object]]
    """What the manifest is going to say of each column that this build makes."""

    @property
    def planned(self) -> int:
        return sum(len(task.spans) for task in self.tasks)

    def pending(self) -> list[Work]:
        """What is not whole yet: shards, and columns of shards that are."""
        works = (self._work(task) for task in self.tasks)
        return [work for work in works if work.columns or not work.has_index]

    def _work(self, task: ShardTask) -> Work:
        folder, number = self.folder.resolve(), task.number
        has_index = finished(folder, number, task.digest) is not None and self._is_as_listed(index_path(number))
        missing = (
            column
            for column, entry in self.columns.items()
            if not has_index
            or not has_column(folder, number, column, task=task.digest, contract=str(entry["fingerprint"]))
            or not self._is_as_listed(column_path(column, number, "parquet"))
        )
        return Work(folder, task, tuple(missing), has_index)

    @cached_property
    def _listed(self) -> Mapping[str, StoredFile]:
        """What the manifest of an earlier build says of every table; empty when there is none."""
        try:
            shards = Manifest.read(self.folder).shards
        except DataProblem:
            return {}
        files = (item for shard in shards for item in shard.files.items())
        return {name: stored for name, stored in files if name.endswith(".parquet")}

    def _is_as_listed(self, name: str) -> bool:
        """A table proves a shard, so it must prove itself: a flipped bit would else enter the next manifest."""
        return self._listed.get(name) in (None, StoredFile.of(self.folder / name))


def claim(split: Split) -> None:
    """Take an empty folder, or the one in which this same build was begun. Raises DataProblem for any other."""
    tasks = [task.digest for task in split.tasks]
    claim_folder(split.folder, split.identity, split.columns, tasks=tasks)


def finish(split: Split) -> Manifest | None:
    """Check that every planned example is accounted for, say what became of all, and write the manifest last.

    A split of which nothing could be used gets its table of rejected ones and no manifest: None. Raises RunFailed when
    something is neither written nor rejected, or both.
    """
    records = {task.number: finished(split.folder, task.number, task.digest) for task in split.tasks}
    whole = [record for record in records.values() if record is not None]
    rejected = [row for record in whole for row in record.rejected]
    written = [read_table(split.folder / index_path(record.number), list(_ACCOUNTED)) for record in whole]
    indices = [index for table in written for index in table["index"].to_pylist()]
    _require_all(split, indices, rejected)
    _write_rejected(split.folder / REJECTED, rejected)
    manifest = None
    if indices:
        seconds = sum(float(table["seconds"].to_numpy().sum()) for table in written)
        manifest = _manifest(split, whole, len(rejected), seconds)
        manifest.write(split.folder)
    _log_account(split, manifest, rejected)
    if clipped := sum(int((table["clipped_share"].to_numpy() > CLIPPED_SHARE).sum()) for table in written):
        log.warning("%s  %d examples are clipped: samples stand at full scale", split.folder, clipped)
    return manifest


def _write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    """A table that says this already is left alone: adding a column touches nothing but the manifest."""
    rows = [vars(row) for row in rejected]
    with suppress(DataProblem):
        if read_table(path).to_pylist() == rows:
            return
    write_table(path, rows, REJECTED_SCHEMA)


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
    identity, folder = split.identity, split.folder
    columns, words = _with_kept(split, records)
    names = sorted(columns)
    own = [name for column in names for name in _own_files(folder, column)]
    return Manifest(
        corpus=str(identity["corpus"]),
        split=str(identity["split"]),
        rendered=bool(identity["rendered"]),
        labels=identity["labels"],  # type: ignore[arg-type]
        events=identity["events"],  # type: ignore[arg-type]
        features=columns,
        planned=split.planned,
        examples=sum(record.examples for record in records),
        rejected=rejected,
        seconds=seconds,
        shards=[Shard.of(folder, record, names) for record in records],
        files={name: StoredFile.of(folder / name) for name in (PLAN, REJECTED, *own)},
        statistics=statistics_of(folder, names, [record.number for record in records]),
        build=words,
        made_with=_made_with(),
    )


def _with_kept(split: Split, records: Sequence[ShardRecord]) -> tuple[dict[str, Mapping[str, object]], tuple[str, ...]]:
    """The columns of this build and those that an earlier one made beside them; and the command that makes all."""
    columns, words = dict(split.columns), split.build
    try:
        before = Manifest.read(split.folder)
    except DataProblem:
        return columns, words
    for column, entry in before.features.items():
        if column not in columns:
            _require_whole(split.folder, column, entry, records)
            columns[column] = entry
    named = feature_words(before.build)
    kept = [word for word in named if load_feature(word.partition("@")[0]).column not in split.columns]
    return columns, with_features(words, sorted([*kept, *feature_words(words)]))


def _require_whole(folder: Path, column: str, entry: Mapping[str, object], records: Sequence[ShardRecord]) -> None:
    contract = str(entry["fingerprint"])
    for record in records:
        if not has_column(folder, record.number, column, task=record.task, contract=contract):
            raise DataProblem(
                f"Shard {record.number} of the column '{column}' of {folder} is damaged or missing. A manifest without "
                "the column would hide that, so none was written; the shards made now are kept. Mend it first "
                f"(sonograph verify {folder.parent} --repair), or give it up: sonograph drop-feature {folder.parent} "
                f"{column}"
            )


def _own_files(folder: Path, column: str) -> list[str]:
    """What a column has beside its shards: its contract, and weights that were fitted on this dataset."""
    names = (f"{column}/{COLUMN}", f"{column}/{WEIGHTS}")
    return [name for name in names if (folder / name).is_file()]


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
