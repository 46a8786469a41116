"""What a build would do, told and not done: recordings, examples, shards, bytes, what is missing, what is there."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.dataset import Split
from pipelines.fingerprints import Fingerprints
from pipelines.plan import ShardTask, Work, usable_at
from pipelines.source import Tree, paths_of, read_source
from shards.decode import probe
from shards.example import Clip
from shards.feature import Feature
from shards.problem import DataProblem, UsageProblem
from shards.writer import npy_bytes

_SHOWN_REASONS = 8
_PROBED = 64
_MEMBER_BYTES = 2_048  # headers, padding, and the .json beside each array


def foretold(splits: Sequence[Split], tree: Tree, features: Sequence[Feature]) -> dict[str, object]:
    """The outcome of a dry run: lines for people, figures by split for machines."""
    facts = {split.folder.name: _facts(split, tree, features) for split in splits}
    lines = [line for split in splits for line in _told(split, facts[split.folder.name])]
    return {"output": "\n".join([*lines, "dry run: nothing was written"]), "metrics": facts}


def _facts(split: Split, tree: Tree, features: Sequence[Feature]) -> dict[str, Any]:
    pending = split.pending()
    ahead = _ahead(pending, tree)
    return {
        "recordings": split.recordings,
        "spans": split.planned,
        "shards": len(split.tasks),
        "whole_shards": len(split.tasks) - len(pending),
        "files_to_read": ahead.files,
        "bytes_to_read": ahead.bytes,
        "bytes_to_write": _bytes_to_write(pending, ahead.mean_seconds, features, tree),
        "rejected": dict(split.problems),
    }


@dataclass(frozen=True)
class _Ahead:
    """What is going to be read: files, their bytes, and the mean length of the examples where the plan has it."""

    files: int
    bytes: int
    mean_seconds: float | None


def _ahead(pending: Sequence[Work], tree: Tree) -> _Ahead:
    """One pass over what is to be made, shard after shard; a file of several spans is counted once."""
    seen, size = Fingerprints(), 0
    known, seconds = 0, 0.0
    for work in pending:
        usable = [span for span in work.task.spans if not span.recording.problem]
        paths = list(dict.fromkeys(path for span in usable for path in paths_of(span.recording)))
        size += sum(tree.status(paths[place])[0] for place in np.flatnonzero(seen.add(paths)[1]))
        lengths = [span.seconds for span in usable if span.seconds is not None]
        known, seconds = known + len(lengths), seconds + sum(lengths)
    return _Ahead(len(seen), size, seconds / known if known else None)


def _told(split: Split, facts: dict[str, Any]) -> Iterator[str]:
    yield f"{split.folder}"
    yield f"  recordings   {facts['recordings']:,} listed, {sum(facts['rejected'].values()):,} of them cannot be used"
    for reason, count in list(facts["rejected"].items())[:_SHOWN_REASONS]:
        yield f"               {count:,}: {reason}"
    if (more := len(facts["rejected"]) - _SHOWN_REASONS) > 0:
        yield f"               and {more} other reasons"
    yield f"  examples     {facts['spans']:,} planned"
    to_make = facts["shards"] - facts["whole_shards"]
    yield f"  shards       {facts['shards']:,}, {facts['whole_shards']:,} of them whole already, {to_make:,} to make"
    yield f"  to read      {facts['files_to_read']:,} files, {facts['bytes_to_read'] / 1e6:,.1f} MB"
    for column, size in facts["bytes_to_write"].items():
        about = "known once it has weights" if size is None else f"about {size / 1e6:,.1f} MB"
        yield f"  to write     {column}: {about}"


def _bytes_to_write(
    pending: Sequence[Work], mean_seconds: float | None, features: Sequence[Feature], tree: Tree
) -> dict[str, int | None]:
    """About how many bytes each column takes, from the examples' length; None where its feature needs weights first."""
    wanted: Counter[str] = Counter()
    for work in pending:
        wanted.update(dict.fromkeys(work.columns, work.task.usable))
    if not wanted.total():
        return {}
    usual_seconds, rate_hz = _usual([work.task for work in pending], tree)
    seconds = usual_seconds if mean_seconds is None else mean_seconds
    sizes = {one.column: _example_bytes(one, seconds, rate_hz) for one in features if one.column in wanted}
    return {column: None if size is None else round(size * wanted[column]) for column, size in sizes.items()}


def _usual(tasks: Sequence[ShardTask], tree: Tree) -> tuple[float, int]:
    """The mean length in seconds and the usual rate of some of the files."""
    count = sum(task.usable for task in tasks)
    headers = []
    for span in usable_at(tasks, np.linspace(0, count - 1, min(_PROBED, count)).astype(int)):
        try:
            headers.append(probe(read_source(tree.root, paths_of(span.recording)[0], tree.indexes)))
        except (DataProblem, OSError):
            continue  # the build will reject it
    lengths = [header.seconds for header in headers if header.seconds]
    rates = [header.sample_rate_hz for header in headers]
    return float(np.mean(lengths or [0.0])), int(np.median(rates or [16_000]))


def _example_bytes(feature: Feature, seconds: float, rate_hz: int) -> float | None:
    """What one example takes in its tar, from a second of noise; what is compressed is larger then than music is."""
    rate_hz = feature.sample_rate_hz or rate_hz
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, rate_hz)).astype(np.float32)
    try:
        stored = feature([Clip(noise, rate_hz)])[0]
    except UsageProblem:
        return None
    second = len(stored if isinstance(stored, bytes) else npy_bytes(stored))
    return _MEMBER_BYTES + second * feature.frames(round(seconds * rate_hz)) / feature.frames(rate_hz)
