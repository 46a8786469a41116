"""Turn a corpus into shards, one task a shard, on Ray Data.

    sonograph build nsynth --root data/nsynth --out datasets/nsynth --features mel

Writes OUT/train, OUT/valid and OUT/test, each a dataset. Killed at any time and repeated, it makes what is missing and
ends in the same bytes, with any number of workers. What cannot be used is listed in rejected.parquet with its reason.
"""

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import tyro

from pipelines.dataset import Split, claim, finish
from pipelines.plan import shard_tasks, spans
from pipelines.recording import Recording
from pipelines.task import build_shard
from pipelines.workers import run_tasks
from shards.feature import Feature, described, load_feature
from shards.manifest import FORMAT, VERSION, Manifest, ShardRecord
from shards.problem import DataProblem
from shards.store import digest_of
from shards.words import module_named

log = logging.getLogger(__name__)
_REPORT_SECONDS = 5.0


@dataclass(frozen=True)
class Build:
    corpus: tyro.conf.Positional[str]
    """published layout to read: a file of pipelines/corpora"""
    root: Path
    """folder where the corpus lies"""
    out: Path
    """folder of the datasets, one subfolder a split"""
    features: tuple[str, ...] = ("mel",)
    """columns to compute: MODULE[:CONTRACT] of shards/features"""
    workers: int = os.cpu_count() or 1
    """tasks that run at a time"""
    shard_examples: int = 512
    """examples planned for one shard"""
    dry_run: bool = False
    """print the plan and write nothing"""


COMMAND = Build


def main(command: Build) -> dict[str, object]:
    corpus = module_named("pipelines.corpora", command.corpus)
    features = [load_feature(word) for word in command.features]
    splits = plan_splits(command, corpus, features)
    if command.dry_run:
        return {"output": "\n".join(_plan_line(split) for split in splits)}
    for split in splits:
        claim(split)
    build_missing(command, corpus, features, splits)
    manifests = [finish(split) for split in splits]
    return {"output": str(command.out), "metrics": {manifest.split: _counts(manifest) for manifest in manifests}}


def plan_splits(command: Build, corpus: ModuleType, features: Sequence[Feature]) -> list[Split]:
    """List the corpus and decide every index, shard and digest, before anything is decoded."""
    listing: dict[str, list[Recording]] = {}
    for recording in corpus.recordings(command.root):
        listing.setdefault(recording.split, []).append(recording)
    if not listing:
        raise DataProblem(
            f"{command.root} holds no recording of {command.corpus}, so there is nothing to build. Check --root, or "
            f"render one: sonograph render {command.corpus} --out {command.root}"
        )
    contracts = {feature.column: described(feature) for feature in features}
    return [_plan_split(command, corpus, contracts, *entry) for entry in sorted(listing.items())]


def _plan_split(
    command: Build, corpus: ModuleType, contracts: Mapping[str, object], split: str, recordings: Iterable[Recording]
) -> Split:
    tasks = tuple(shard_tasks(spans(recordings), shard_examples=command.shard_examples, contracts=contracts))
    identity = {
        "format": FORMAT,
        "version": VERSION,
        "corpus": command.corpus,
        "split": split,
        "rendered": (command.root / "rendered.json").is_file(),
        "features": contracts,
        "labels": corpus.LABELS,
        "shard_examples": command.shard_examples,
        "listing": digest_of([task.digest for task in tasks]),
    }
    return Split(command.out / split, tasks, identity, _words(command))


def build_missing(command: Build, corpus: ModuleType, features: Sequence[Feature], splits: Sequence[Split]) -> None:
    """Run the tasks whose shards are not finished, on all workers, with a line of progress every few seconds."""
    pending = [(split.folder.resolve(), task) for split in splits for task in split.pending()]
    shards = sum(len(split.tasks) for split in splits)
    if len(pending) < shards:
        log.info("build %s  %d of %d shards are whole already", command.corpus, shards - len(pending), shards)
    progress = Progress(command.corpus, shards, clips=sum(len(task.spans) for _, task in pending))
    progress.done_shards = shards - len(pending)
    work = partial(build_shard, root=command.root.resolve(), corpus=corpus.__name__, features=tuple(features))
    for record in run_tasks(work, pending, workers=command.workers):
        progress.add(record)


class Progress:
    """One line every few seconds: shards, examples, rejected, rate and time left."""

    def __init__(self, corpus: str, shards: int, *, clips: int) -> None:
        self.corpus, self.shards, self.clips = corpus, shards, clips
        self.done_shards = self.examples = self.rejected = 0
        self.begin = self.reported = time.monotonic()

    def add(self, record: ShardRecord) -> None:
        self.done_shards += 1
        self.examples += record.examples
        self.rejected += len(record.rejected)
        now = time.monotonic()
        if now - self.reported >= _REPORT_SECONDS or self.done_shards == self.shards:
            self.reported = now
            log.info("%s", self._line(now - self.begin))

    def _line(self, seconds: float) -> str:
        done = self.examples + self.rejected
        rate = done / seconds
        left = (self.clips - done) / rate
        return (
            f"build {self.corpus}  shard {self.done_shards}/{self.shards}  example {self.examples:,}  "
            f"rejected {self.rejected}  {rate:,.0f} clips/s  eta {left / 60:.1f} min"
        )


def _plan_line(split: Split) -> str:
    return f"{split.folder}  {split.planned:,} examples in {len(split.tasks)} shards, {len(split.pending())} to make"


def _counts(manifest: Manifest) -> dict[str, object]:
    names = ("examples", "rejected", "seconds", "fingerprint")
    return {name: getattr(manifest, name) for name in names}


def _words(command: Build) -> tuple[str, ...]:
    """The command but for where it writes and how many work on it, which decide nothing in the dataset."""
    root, features = str(command.root), list(command.features)
    return (
        "build",
        command.corpus,
        "--root",
        root,
        "--features",
        *features,
        "--shard-examples",
        str(command.shard_examples),
    )


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("build")
