"""Listing and planning up to two million AudioSet segments whose audio is there, in seconds and peak memory.

    python -m tests.benchmarks.plan

The peer is the same work on a quarter of it: 1 is linear. Headers are known from an earlier build, as in every build
but the first; how fast they are asked is measured on 20,000 files. Makes two million hard links in a temporary folder.
"""

import json
import os
import random
import resource
import string
import subprocess
import sys
import time
import wave
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.corpora.audioset import Corpus
from pipelines.listing import LISTING, Header, ask_headers, listed
from pipelines.plan import SpanRule, shard_tasks, spans
from pipelines.source import Tree
from shards.manifest import table_schema, write_columns

PART, PARTS = 500_000, 4
_LINKS = 50_000  # of one file; a file system allows some 65,000
_MUSIC = ["/m/04rlf", "/m/0342h", "/m/064t9", "/m/06by7", "/m/0glt670", "/m/02p0sh1", "/m/05148p4"]
_HEADERS = {"path": "str", "bytes": "int", "mtime_ns": "int", "seconds": "float", "sample_rate_hz": "int"}


def measure() -> dict[str, object]:
    """Segments per second of two million and of half a million, with seconds and peak memory of all three sizes."""
    with TemporaryDirectory() as name:
        parts = [_write_part(Path(name), number) for number in range(PARTS)]
        asked = _ask_rate(parts[0])
        figures = {count * PART: _in_child(_root_of(Path(name), parts[:count])) for count in (1, 2, 4)}
    rates = {segments: segments / figure["seconds"] for segments, figure in figures.items()}
    ratio = rates[PARTS * PART] / rates[PART]
    return {
        "what": "list and plan 2,000,000 AudioSet segments (seconds, peak MiB: " + _shown(figures) + ")",
        "unit": "segments/s",
        "ours": rates[PARTS * PART],
        "peer": rates[PART],
        "peer_name": "the same on 500,000: 1 is linear",
        "ratio": ratio,
        "ratio_spread": [ratio, rates[2 * PART] / rates[PART]],
        "target": 0.8,
        "headers_per_second": asked,
        "figures": figures,
    }


def plan(root: Path) -> dict[str, float]:
    """List and plan what lies in `root`, with what is known of its headers. Run in a process of its own."""
    before, begin = _peak_mib(), time.monotonic()
    tree = Tree(root)
    recordings = listed(Corpus(root), tree=tree, kept=root, workers=1, is_cut=True)
    listing_seconds = time.monotonic() - begin
    tasks = list(shard_tasks(spans(recordings, SpanRule(10.0)), shard_examples=512, contracts={}))
    seconds = time.monotonic() - begin
    planned = sum(not span.recording.problem for task in tasks for span in task.spans)
    return {
        "planned": planned,
        "seconds": seconds,
        "listing_seconds": listing_seconds,
        "peak_mib": _peak_mib() - before,
    }


def _in_child(root: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", __spec__.name, str(root)], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def _write_part(folder: Path, number: int) -> Path:
    """Half a million segments and, for each, a name for one of ten silent files."""
    rng = random.Random(number)
    part = folder / f"part-{number}"
    part.mkdir()
    letters = string.ascii_letters + string.digits + "-_"
    ids = sorted({f"{number}{''.join(rng.choices(letters, k=10))}" for _ in range(PART + 50)})[:PART]
    rows = []
    for place, ytid in enumerate(ids):
        start = rng.randrange(0, 600, 10)
        path = part / f"{ytid}_{start}.wav"
        if place % _LINKS == 0:
            original = path
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(bytes(16_000 * 10))
        else:
            os.link(original, path)
        mids = ",".join(rng.sample(_MUSIC, rng.randint(1, 3)))
        rows.append(f'{ytid}, {start}.000, {start + 10}.000, "{mids}"\n')
    (folder / f"rows-{number}").write_text("".join(rows))
    return part


def _root_of(folder: Path, parts: list[Path]) -> Path:
    """A corpus of some parts, with the table that an earlier build would have left of their headers."""
    root = folder / f"root-{len(parts)}"
    root.mkdir()
    with (root / "unbalanced_train_segments.csv").open("w") as file:
        file.write("# Segments csv\n# generated\n# YTID, start_seconds, end_seconds, positive_labels\n")
        for number, part in enumerate(parts):
            file.write((folder / f"rows-{number}").read_text())
            (root / part.name).symlink_to(part)
    versions = list(_versions(root, parts))
    columns = {name: [getattr(version, name) for version in versions] for name in _HEADERS}
    write_columns(root / LISTING, columns, table_schema(_HEADERS))
    return root


def _versions(root: Path, parts: list[Path]):
    tree = Tree(root)
    for part in parts:
        for name in sorted(os.listdir(part)):  # noqa: PTH208 - names alone
            path = f"{part.name}/{name}"
            yield Header(path, *tree.status(path), seconds=10.0, sample_rate_hz=8000)


def _ask_rate(part: Path) -> float:
    """Files a second and core whose headers are read."""
    names = islice((entry.name for entry in os.scandir(part)), 20_000)
    versions = [Header(name, 0, 0) for name in names]
    begin = time.monotonic()
    headers = ask_headers(versions, root=part, indexes=None)
    assert all(header.seconds == 10.0 for header in headers)
    return len(headers) / (time.monotonic() - begin)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _shown(figures: dict[int, dict[str, float]]) -> str:
    return "; ".join(
        f"{segments:,}: {figure['seconds']:.0f}, {figure['peak_mib']:,.0f}" for segments, figure in figures.items()
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(plan(Path(sys.argv[1]))))
    else:
        for name, value in measure().items():
            print(f"{name:20}{value}")
