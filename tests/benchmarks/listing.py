"""Listing, planning and resuming up to two million recordings, in seconds and peak memory, and how they grow.

    python -m tests.benchmarks.listing          python -m tests.benchmarks.listing 10000000      so many, once

The listing is made up, of the planner's own types, with two labels a recording; the files are not asked for (plan.py
does that). A resumed build finds every shard whole: its real index and table, each without rows, and a hole for a tar.
Each size has a process of its own. The peer is the same work on a quarter of it: 1 is linear.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from pipelines import listing
from pipelines.build import Build, plan_splits
from pipelines.dataset import Split
from pipelines.presence import Presence
from pipelines.recording import Recording
from pipelines.source import Tree
from shards.feature import described
from shards.features.mel import MYNA
from shards.manifest import (
    COLUMN_SCHEMA,
    ColumnRecord,
    ShardRecord,
    StoredFile,
    column_path,
    index_path,
    index_schema,
    write_table,
)

SIZES, ROUNDS = (500_000, 1_000_000, 2_000_000), 3
SHARD_EXAMPLES = 512
_TAR_BYTES = 40 << 20
_GENRES = [f"genre {number}" for number in range(20)]


@dataclass(frozen=True)
class Synthetic:
    """A corpus that lists as many recordings as it is told to."""

    root: Path
    count: int
    sample_rate_hz: int | None = None

    def labels(self) -> dict[str, dict[str, object]]:
        return {"genre": {"type": "int", "classes": _GENRES}, "title": {"type": "str", "classes": None}}

    def events(self) -> dict[str, dict[str, object]]:
        return {}

    def recordings(self) -> Iterator[Recording]:
        for number in range(self.count):
            name = f"{number % 1000:03d}-{number:09d}"
            labels = {"genre": number % len(_GENRES), "title": f"title of {number}"}
            yield Recording(name, f"{name[:3]}/{name}.flac", "train", labels, 180.0 + number % 100)


class Everywhere(Presence):
    """Of a tree in which every file is there."""

    def problems(self, paths: Sequence[str]) -> list[str]:
        return [""] * len(paths)


def measure(sizes: tuple[int, ...] = SIZES, rounds: int = ROUNDS) -> dict[str, object]:
    """Recordings a second of the largest size and of the smallest, with seconds and peak memory of all."""
    runs = [{size: _in_child(size) for size in sizes} for _ in range(rounds)]
    ratios = [_rate(run, sizes[-1]) / _rate(run, sizes[0]) for run in runs]
    return {
        "what": f"list, plan and resume {sizes[-1]:,} recordings ({_shown(runs[0])})",
        "unit": "recordings/s",
        "ours": statistics.median(_rate(run, sizes[-1]) for run in runs),
        "peer": statistics.median(_rate(run, sizes[0]) for run in runs),
        "peer_name": f"the same on {sizes[0]:,}: 1 is linear",
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "target": 0.9,
        "figures": runs,
    }


def _rate(run: dict[int, dict[str, float]], size: int) -> float:
    return size / (run[size]["plan_seconds"] + run[size]["resume_seconds"])


def _in_child(size: int) -> dict[str, float]:
    words = [sys.executable, "-m", "tests.benchmarks.listing", "--here", str(size)]
    return json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)


def planned_and_resumed(size: int) -> dict[str, float]:
    """List and plan, write down that all is done, and ask what is missing. Run in a process of its own."""
    before = _peak_mib()
    with TemporaryDirectory() as name:
        begin = time.monotonic()
        (split,) = _plan(Path(name), size)
        planned = time.monotonic()
        _pretend_done(split)
        resumed = time.monotonic()
        assert split.planned == size and split.pending() == []
        end = time.monotonic()
        peak_mib = _peak_mib() - before
    return {
        "plan_seconds": planned - begin,
        "resume_seconds": end - resumed,
        "peak_mib": peak_mib,
        "bytes_per_recording": peak_mib * 2**20 / size,
    }


def _plan(root: Path, size: int) -> list[Split]:
    command = Build("synthetic", Synthetic(root, size), root / "out", shard_examples=SHARD_EXAMPLES, workers=1)
    with patch.object(listing, "Presence", Everywhere):
        (split,) = plan_splits(command, Tree(root), findings=root)
    return [replace(split, columns={"mel": described(MYNA)})]


def _pretend_done(split: Split) -> None:
    schema, entry = index_schema(split.identity["labels"], {}), split.columns["mel"]  # type: ignore[arg-type]
    for task in split.tasks:
        record = ShardRecord(task.number, task.digest, len(task.spans), ())
        column = ColumnRecord(task.digest, str(entry["fingerprint"]), StoredFile(_TAR_BYTES, "0" * 64))
        write_table(split.folder / column_path("mel", task.number, "parquet"), [], COLUMN_SCHEMA, column.said())
        with (split.folder / column_path("mel", task.number, "tar")).open("wb") as tar:
            tar.truncate(_TAR_BYTES)
        write_table(split.folder / index_path(task.number), [], schema, record.said())


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _shown(run: dict[int, dict[str, float]]) -> str:
    figures = (
        f"{size:,}: {figure['plan_seconds']:.0f} + {figure['resume_seconds']:.0f} s, {figure['peak_mib']:,.0f} MiB"
        for size, figure in run.items()
    )
    return "; ".join(figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        print(json.dumps(planned_and_resumed(int(sys.argv[2]))))
    else:
        asked = tuple(map(int, sys.argv[1:]))
        for name, value in (measure(asked, rounds=1) if asked else measure()).items():
            print(f"{name:16}{value}")
