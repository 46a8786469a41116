"""What a build would do, told and not done: recordings, examples, shards, bytes, what is missing, what is there."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipelines.dataset import Split, kind_of
from pipelines.plan import Span, Work
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
    recordings = {span.recording.recording_id: span.recording for task in split.tasks for span in task.spans}
    pending = split.pending()
    usable = [span for work in pending for span in work.task.spans if not span.recording.problem]
    files = {path for span in usable for path in paths_of(span.recording)}
    return {
        "recordings": len(recordings),
        "spans": split.planned,
        "shards": len(split.tasks),
        "whole_shards": len(split.tasks) - len(pending),
        "files_to_read": len(files),
        "bytes_to_read": sum(tree.status(path)[0] for path in files),
        "bytes_to_write": _bytes_to_write(pending, usable, features, tree),
        "rejected": dict(Counter(kind_of(one.problem) for one in recordings.values() if one.problem).most_common()),
    }


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
    pending: Sequence[Work], usable: Sequence[Span], features: Sequence[Feature], tree: Tree
) -> dict[str, int | None]:
    """About how many bytes each column takes, from the examples' length; None where its feature needs weights first."""
    if not usable:
        return {}
    seconds, rate_hz = _usual_length(usable, tree)
    wanted = {column: 0 for work in pending for column in work.columns}
    for work in pending:
        for column in work.columns:
            wanted[column] += sum(not span.recording.problem for span in work.task.spans)
    sizes = {one.column: _example_bytes(one, seconds, rate_hz) for one in features if one.column in wanted}
    return {column: None if size is None else round(size * wanted[column]) for column, size in sizes.items()}


def _usual_length(usable: Sequence[Span], tree: Tree) -> tuple[float, int]:
    """The mean length in seconds of examples, where the plan has none that of some files, and their usual rate."""
    lengths = [span.seconds for span in usable if span.seconds is not None]
    some = [usable[place] for place in np.linspace(0, len(usable) - 1, min(_PROBED, len(usable))).astype(int)]
    headers = []
    for span in some:
        try:
            headers.append(probe(read_source(tree.root, paths_of(span.recording)[0], tree.indexes)))
        except (DataProblem, OSError):
            continue  # the build will reject it
    lengths = lengths or [header.seconds for header in headers if header.seconds]
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
