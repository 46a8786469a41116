"""A dataset between its plan and its manifest: claimed by one build, filled by its tasks, finished once."""

import logging
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from pipelines.fingerprints import Fingerprints
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
    Rows,
    Shard,
    ShardRecord,
    StoredFile,
    column_path,
    feature_words,
    index_path,
    read_table,
    with_features,
    write_columns,
)
from shards.problem import DataProblem, RunFailed
from shards.statistics import statistics_of
from shards.writer import finished, has_column

log = logging.getLogger(__name__)
_SHOWN_REASONS = 12
_ACCOUNTED = ("index", "key", "seconds", "clipped_share")
_PACKAGES = ("numpy", "torch", "torchaudio", "soundfile", "soxr", "pyarrow", "xxhash")


@dataclass(frozen=True)
class Split:
    """One dataset to be: where it goes, its tasks, and all in which a build that continues must not differ."""

    folder: Path
    tasks: Sequence[ShardTask]
    """Which hold the indices from 0 on, each once."""
    identity: Mapping[str, object]
    build: tuple[str, ...]
    columns: Mapping[str, Mapping[str, object]]
    """What the manifest is going to say of each column that this build makes."""
    recordings: int = 0
    """How many were listed."""
    problems: Mapping[str, int] = field(default_factory=dict)
    """How many of them the plan already leaves out, by kind of reason."""

    @property
    def planned(self) -> int:
        return sum(len(task.spans) for task in self.tasks)

    def pending(self) -> list[Work]:
        """What is not whole yet: shards, and columns of shards that are."""
        folder = self.folder.resolve()
        works = (self._work(folder, task) for task in self.tasks)
        return [work for work in works if work.columns or not work.has_index]

    def _work(self, folder: Path, task: ShardTask) -> Work:
        number = task.number
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
    columns, words = _with_kept(split)
    account = _account(split, columns)
    _require_all(split, account)
    _write_rejected(split.folder / REJECTED, account.rejected)
    manifest = None
    if len(account.written):
        manifest = _manifest(split, account, columns, words)
        manifest.write(split.folder)
    _log_account(split, account, manifest)
    return manifest


@dataclass(frozen=True)
class Account:
    """What became of a split's spans, from the proofs of its shards."""

    shards: Sequence[Shard]
    written: Int[np.ndarray, " examples"]
    """Their indices."""
    rejected: Rows
    reasons: Mapping[tuple[str, str], int]
    """How many were rejected, by stage and kind of reason."""
    seconds: float
    clipped: int
    used: int
    """Recordings of which something was written."""


def _account(split: Split, columns: Mapping[str, Mapping[str, object]]) -> Account:
    """Read shard after shard: in memory stay 8 bytes of an example, and the row of a rejected one."""
    shards, written, rejected = [], [], Rows(REJECTED_SCHEMA)
    reasons: Counter[tuple[str, str]] = Counter()
    seconds, clipped, used = 0.0, 0, _Used()
    for task in split.tasks:
        record = finished(split.folder, task.number, task.digest)
        if record is None:
            continue
        _require_columns(split, columns, record)
        shards.append(Shard.of(split.folder, record, sorted(columns)))
        table = read_table(split.folder / index_path(record.number), list(_ACCOUNTED))
        written.append(table["index"].to_numpy())
        rejected.extend([vars(row) for row in record.rejected])
        reasons.update((row.stage, kind_of(row.reason)) for row in record.rejected)
        seconds += float(table["seconds"].to_numpy().sum())
        clipped += int((table["clipped_share"].to_numpy() > CLIPPED_SHARE).sum())
        used.add(table["key"].to_pylist())
    indices = np.concatenate([np.zeros(0, np.int64), *written])
    return Account(shards, indices, rejected, reasons, seconds, clipped, used.count)


class _Used:
    """How many recordings have examples of these keys, RECORDING or RECORDING@SAMPLE."""

    def __init__(self) -> None:
        self._seen, self.count = Fingerprints(), 0

    def add(self, keys: Sequence[str]) -> None:
        names = [key.partition("@")[0] for key in keys]
        if any("@" in key for key in keys):
            self.count += int(self._seen.add(dict.fromkeys(names))[1].sum())
        else:
            self.count += len(names)  # whole recordings have one example each


def _write_rejected(path: Path, rejected: Rows) -> None:
    """A table that says this already is left alone: adding a column touches nothing but the manifest."""
    table = rejected.table()
    with suppress(DataProblem):
        if read_table(path).equals(table):
            return
    write_columns(path, table)


def _require_all(split: Split, account: Account) -> None:
    holes, planned = account.rejected.table()["index"].to_numpy(), split.planned
    found = np.sort(np.concatenate([account.written, holes]))
    if not np.array_equal(found, np.arange(planned)):
        raise RunFailed(
            f"{split.folder} accounts for {len(found):,} examples ({len(account.written):,} written, {len(holes):,} "
            f"rejected) where {planned:,} were planned, or for one of them twice. No manifest was written, so "
            "nothing will read it. Repeat the command to make what is missing."
        )


def _manifest(
    split: Split, account: Account, columns: Mapping[str, Mapping[str, object]], words: tuple[str, ...]
) -> Manifest:
    identity, folder = split.identity, split.folder
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
        examples=len(account.written),
        rejected=len(account.rejected),
        seconds=account.seconds,
        shards=account.shards,
        files={name: StoredFile.of(folder / name) for name in (PLAN, REJECTED, *own)},
        statistics=statistics_of(folder, names, [shard.number for shard in account.shards]),
        build=words,
        made_with=_made_with(),
    )


def _with_kept(split: Split) -> tuple[dict[str, Mapping[str, object]], tuple[str, ...]]:
    """The columns of this build and those that an earlier one made beside them; and the command that makes all."""
    columns, words = dict(split.columns), split.build
    try:
        before = Manifest.read(split.folder)
    except DataProblem:
        return columns, words
    columns |= {column: entry for column, entry in before.features.items() if column not in columns}
    named = feature_words(before.build)
    kept = [word for word in named if load_feature(word.partition("@")[0]).column not in split.columns]
    return columns, with_features(words, sorted([*kept, *feature_words(words)]))


def _require_columns(split: Split, columns: Mapping[str, Mapping[str, object]], record: ShardRecord) -> None:
    """Of a shard, every column that an earlier build has made is whole."""
    folder = split.folder
    for column in columns.keys() - split.columns.keys():
        contract = str(columns[column]["fingerprint"])
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


def _log_account(split: Split, account: Account, manifest: Manifest | None) -> None:
    """Recordings in, examples out, and by which reason how many were left out."""
    out = split.recordings - account.used
    log.info("%s  %d recordings: %d used, %d rejected", split.folder, split.recordings, account.used, out)
    if manifest:
        log.info(
            "%s  %d examples  %.1f minutes  %d rejected  fingerprint %s",
            split.folder, manifest.examples, manifest.seconds / 60, manifest.rejected, manifest.fingerprint[:8],
        )  # fmt: skip
    else:
        log.warning("%s  no example could be made, so there is no dataset", split.folder)
    reasons = Counter(account.reasons).most_common()
    for (stage, reason), count in reasons[:_SHOWN_REASONS]:
        log.warning("%s  rejected %d at %s: %s", split.folder, count, stage, reason)
    if more := len(reasons[_SHOWN_REASONS:]):
        log.warning("%s  and %d other reasons: %s", split.folder, more, split.folder / REJECTED)
    if account.clipped:
        log.warning("%s  %d examples are clipped: samples stand at full scale", split.folder, account.clipped)


def kind_of(reason: str) -> str:
    """A reason without what is particular to one recording, which stands behind a colon: so alike ones are counted."""
    return reason.partition(":")[0][:120]
