"""Turn a corpus into shards, one task a shard, on Ray Data.

    sonograph build nsynth --root data/nsynth --out datasets/nsynth --features mel
    sonograph build CORPUS --help            with the options of that corpus

Writes OUT/train, OUT/valid and OUT/test, each a dataset. Killed at any time and repeated, it makes what is missing and
ends in the same bytes, with any number of workers. rejected.parquet lists what cannot be used, with its reason.
"""

import gc
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, get_type_hints

import tyro

from pipelines.batches import BatchBuilder
from pipelines.corpus import Corpus, corpus_type
from pipelines.dataset import Split, claim, finish, kind_of
from pipelines.example_maker import Recipe
from pipelines.fit import keep, opened
from pipelines.forecast import foretold
from pipelines.headers import LISTING
from pipelines.listing import listed
from pipelines.plan import WHOLE, ShardTask, SpanRule, Work, shard_tasks, spans
from pipelines.plan_file import PlanFile
from pipelines.recording import SPLITS, Recording
from pipelines.source import Tree
from pipelines.span import Span
from pipelines.staging import Staging, staged
from pipelines.task import build_shard
from pipelines.workers import Actors, run_in_actors, run_tasks
from shards.claim import refuse_foreign
from shards.feature import Feature, described, load_feature
from shards.lock import only_writer
from shards.manifest import FORMAT, REJECTED, VERSION, Manifest, ShardRecord, with_features
from shards.problem import DataProblem, UsageProblem
from shards.store import digest_of
from shards.words import words_in

log = logging.getLogger(__name__)
_REPORT_SECONDS = 5.0
_ARCHIVES = "archives"
_NOT_DECIDING = (
    "corpus",
    "source",
    "examples",
    "root",
    "out",
    "workers",
    "actors",
    "accept_licence",
    "dry_run",
    "indexes",
)


@dataclass(frozen=True)
class Build:
    """Options that every corpus has; `source` is the corpus itself, whose fields are options as well."""

    corpus: tyro.conf.Positional[str]
    source: Corpus
    out: Path
    """folder or URL of the datasets, one a split"""
    features: tuple[str, ...] = ("mel",)
    """columns to compute: MODULE[:CONTRACT] of shards/features"""
    examples: Annotated[SpanRule, tyro.conf.arg(help="")] = WHOLE
    workers: int = os.cpu_count() or 1
    """tasks that run at a time"""
    actors: int = 0
    """actors that compute in batches, each on a GPU if there is one"""
    accept_licence: str = ""
    """agree to that non-commercial licence of weights"""
    shard_examples: int = 512
    """examples planned for one shard"""
    dry_run: bool = False
    """print what would be done and write nothing"""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.shard_examples < 1 or self.actors < 0:
            raise UsageProblem(
                f"--workers is {self.workers}, --shard-examples {self.shard_examples} and --actors {self.actors}, so "
                "nothing was done. Pass 1 or more, and no less than 0 actors."
            )


@dataclass(frozen=True)
class AnyCorpus:
    root: Path  # stands for a corpus in the help of a command line that names none
    """folder where the corpus lies"""


def COMMAND(words: Sequence[str]) -> type[Build]:
    """The options of the corpus that a command line names. Raises UsageProblem with the nearest for an unknown one."""
    known = words_in("pipelines.corpora")
    named = words[:1] if words and not words[0].startswith("-") else [word for word in words if word in known][-1:]
    source = corpus_type(named[0]) if named else AnyCorpus
    about = tyro.conf.arg(metavar="CORPUS", help=f"published layout to read: {', '.join(known)}")
    asked: list[Any] = [("corpus", Annotated[tyro.conf.Positional[str], about]), ("source", source)]
    return make_dataclass("Build", asked, bases=(Build,), frozen=True)


def main(command: Build) -> dict[str, object]:
    with staged(command.out) as staging:
        outcome = _built(replace(command, out=staging.folder), staging)
        return {**outcome, "output": staging.told(str(outcome["output"]))}


def _built(command: Build, staging: Staging) -> dict[str, object]:
    corpus_type(command.corpus)  # one that is not there was parsed with the options of any
    features = [load_feature(word, accept_licence=command.accept_licence) for word in command.features]
    with _folder_of_findings(command) as findings:
        corpus = _with_indexes(command.source, findings / _ARCHIVES)
        tree = Tree(corpus.root, findings / _ARCHIVES)
        splits = plan_splits(replace(command, source=corpus), tree, findings=findings)
        if command.dry_run:
            return foretold([_with_columns(split, features) for split in splits], tree, features)
        manifests = _made(command, splits, features, _recipe(command, tree), staging)
    if not manifests:
        raise DataProblem(_nothing_made(command, splits))
    return {"output": str(command.out), "metrics": {manifest.split: _counts(manifest) for manifest in manifests}}


def _made(
    command: Build, splits: Sequence[Split], features: Sequence[Feature], recipe: Recipe, staging: Staging
) -> list[Manifest]:
    """Claim each split, make what is missing, and finish it; returns the manifests of those that hold an example."""
    features = [opened(feature, splits, recipe, workers=command.workers) for feature in features]
    splits = [_with_columns(split, features) for split in splits]
    for split in splits:
        claim(split)
    for feature in features:
        keep(feature, splits)
    staging.push()
    build_missing(command, splits, replace(recipe, features=tuple(features)), staging)
    finished = [finish(split) for split in splits]
    staging.push()
    return [manifest for manifest in finished if manifest is not None]


@contextmanager
def _folder_of_findings(command: Build) -> Iterator[Path]:
    """Where lengths of files and contents of archives are kept: OUT, or, for a dry run, a folder that is gone again.

    OUT has no other writer from here on, since what is found is written down while the corpus is still being listed.
    """
    if not command.dry_run:
        for split in SPLITS:
            refuse_foreign(command.out / split)
        with only_writer(command.out):
            yield command.out
        return
    with TemporaryDirectory() as name:
        for known in [command.out / LISTING, *(command.out / _ARCHIVES).glob("*")]:
            if known.is_file():  # what an earlier build found is read, and never written to: files are replaced whole
                link = Path(name, known.relative_to(command.out))
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(known.resolve())
        yield Path(name)


def _with_indexes(corpus: Any, indexes: Path) -> Corpus:
    """The corpus, told where to keep what it finds in archives, if it reads any."""
    has_archives = any(one.name == "indexes" for one in fields(corpus))
    return replace(corpus, indexes=indexes) if has_archives else corpus


def plan_splits(command: Build, tree: Tree, *, findings: Path) -> list[Split]:
    """List the corpus and decide every index, shard and digest, before anything is decoded.

    One pass: what is planned goes into a file, shard after shard, and only counts of it stay in memory.
    """
    is_cut = command.examples.span_seconds is not None
    identity = _identity(command)
    deciding = {name: identity[name] for name in ("labels", "events", "examples")}
    tally, plan = _Tally(), PlanFile()
    tasks: dict[str, list[ShardTask]] = {}
    listing = listed(command.source, tree=tree, kept=findings, workers=command.workers, is_cut=is_cut)
    with closing(listing) as recordings, _seldom_collected():
        planned = tally.spans(spans(tally.recordings(recordings), command.examples))
        for task in shard_tasks(planned, shard_examples=command.shard_examples, contracts=deciding):
            tasks.setdefault(task.split, []).append(plan.keep(task))
    if not tally.usable:
        raise DataProblem(_nothing_listed(command, tally))
    return [_split(command, identity, split, tasks[split], tally) for split in sorted(tasks)]


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Python looks for circles among its objects a hundred times less often: that took a sixth of a plan's time."""
    usual = gc.get_threshold()
    gc.set_threshold(300_000, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _identity(command: Build) -> dict[str, object]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "corpus": command.corpus,
        "rendered": (command.source.root / "rendered.json").is_file(),
        "options": _options_of(command.source),
        "labels": command.source.labels(),
        "events": command.source.events(),
        "examples": asdict(command.examples),
        "shard_examples": command.shard_examples,
    }


def _split(
    command: Build, identity: Mapping[str, object], split: str, tasks: Sequence[ShardTask], tally: "_Tally"
) -> Split:
    return Split(
        folder=command.out / split,
        tasks=tasks,
        identity={**identity, "split": split, "listing": digest_of([task.digest for task in tasks])},
        build=_words(command),
        columns={},
        recordings=tally.listed[split],
        problems={kind: count for (of, kind), count in tally.problems.most_common() if of == split},
    )


@dataclass
class _Tally:
    """What goes by while a plan is made."""

    listed: Counter[str] = field(default_factory=Counter)
    """Recordings, by split."""
    usable: int = 0
    problems: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Recordings that the plan leaves out, by split and kind of reason."""

    def recordings(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        for recording in recordings:
            self.listed[recording.split] += 1
            self.usable += not recording.problem
            yield recording

    def spans(self, planned: Iterable[Span]) -> Iterator[Span]:
        for span in planned:
            if problem := span.recording.problem:
                self.problems[span.recording.split, kind_of(problem)] += 1
            yield span


def _with_columns(split: Split, features: Sequence[Feature]) -> Split:
    return replace(split, columns={feature.column: described(feature) for feature in features})


def _recipe(command: Build, tree: Tree) -> Recipe:
    source = replace(command.source, root=tree.root.resolve())  # type: ignore[type-var]
    return Recipe(
        root=tree.root.resolve(),
        labels=command.source.labels(),
        events=command.source.events(),
        sample_rate_hz=command.source.sample_rate_hz,
        annotated=getattr(source, "annotated", None),
        measure=getattr(source, "measure", None),
        silence_db=command.examples.silence_db,
        indexes=tree.indexes.resolve() if tree.indexes else None,
    )


def build_missing(command: Build, splits: Sequence[Split], recipe: Recipe, staging: Staging) -> None:
    """Run the tasks whose shards are not finished, on all workers, with a line of progress every few seconds."""
    pending = [work for split in splits for work in split.pending()]
    shards = sum(len(split.tasks) for split in splits)
    if len(pending) < shards:
        log.info("build %s  %d of %d shards are whole already", command.corpus, shards - len(pending), shards)
    progress = Progress(command.corpus, shards, clips=sum(len(work.task.spans) for work in pending))
    progress.done_shards = shards - len(pending)
    for record in _records(command, pending, recipe, staging):
        progress.add(record)
    staging.collect(pending)


def _records(command: Build, pending: Sequence[Work], recipe: Recipe, staging: Staging) -> Iterator[ShardRecord]:
    if command.actors:
        make = partial(_carrying_builder, recipe, staging)
        return run_in_actors(make, pending, Actors(command.actors))
    return run_tasks(staging.carrying(partial(build_shard, recipe=recipe)), pending, workers=command.workers)


def _carrying_builder(recipe: Recipe, staging: Staging) -> Callable[[Sequence[Work]], Sequence[ShardRecord]]:
    return staging.carrying(BatchBuilder(recipe))


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


# What is said


def _nothing_listed(command: Build, tally: _Tally) -> str:
    if not tally.listed:
        return (
            f"{command.source.root} holds no recording of {command.corpus}, so there is nothing to build. Check "
            f"--root, or render one: sonograph render {command.corpus} --out {command.source.root}"
        )
    reasons: Counter[str] = Counter()
    for (_, kind), count in tally.problems.items():
        reasons[kind] += count
    account = "; ".join(f"{count:,}: {reason}" for reason, count in reasons.most_common(3))
    return (
        f"None of the {tally.listed.total():,} recordings of {command.source.root} can be used ({account}), so there "
        "is nothing to build, and nothing was written. Check --root and the options that choose recordings."
    )


def _nothing_made(command: Build, splits: Sequence[Split]) -> str:
    tables = ", ".join(str(split.folder / REJECTED) for split in splits)
    return (
        f"None of the recordings of {command.source.root} could be used, so there is no dataset. Every one is listed "
        f"with its reason in {tables}."
    )


def _counts(manifest: Manifest) -> dict[str, object]:
    names = ("examples", "rejected", "seconds", "fingerprint")
    return {name: getattr(manifest, name) for name in names}


def _options_of(part: Any) -> dict[str, object]:
    """The options of a corpus that decide what it lists."""
    named = {one.name: getattr(part, one.name) for one in fields(part) if one.name not in _NOT_DECIDING}
    return {name: str(value) if isinstance(value, Path) else value for name, value in named.items()}


def _words(command: Build) -> tuple[str, ...]:
    """The command but for where it writes and how many work on it, which decide nothing in the dataset."""
    root = ("--root", str(command.source.root))
    parts = [command, command.source, command.examples]
    words = ("build", command.corpus, *root, *(word for part in parts for word in _words_of(part)))
    return with_features(words, sorted(command.features))


def _words_of(part: Any) -> Iterator[str]:
    types = get_type_hints(type(part), include_extras=True)
    for name in (one.name for one in fields(part) if one.name not in _NOT_DECIDING):
        value = getattr(part, name)
        given = [about.name for about in getattr(types[name], "__metadata__", ()) if getattr(about, "name", None)]
        word = "--" + (given[0] if given else name).replace("_", "-")
        if value is True:
            yield word
        elif value is not None and value is not False:
            yield from (word, *map(str, value if isinstance(value, tuple | list) else [value]))


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("build")
