"""Listing and planning millions of AudioSet segments whose audio is there, in seconds and peak memory.

    python -m tests.benchmarks.plan             python -m tests.benchmarks.plan 500000 10000000     these sizes

The peer is the same work on a quarter of it: 1 is linear. Headers are known from an earlier build, as in every build
but the first; how fast they are asked is measured on 20,000 files. Makes as many hard links in a temporary folder.
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.build import Build, plan_splits
from pipelines.corpora.audioset import Corpus
from pipelines.headers import LISTING, SCHEMA, Header, ask_headers
from pipelines.plan import SpanRule
from pipelines.source import Tree
from shards.manifest import growing_table

PART = 500_000
SIZES = (PART, 2 * PART, 4 * PART)
_LINKS = 50_000  # of one file; a file system allows some 65,000
_MUSIC = ["/m/04rlf", "/m/0342h", "/m/064t9", "/m/06by7", "/m/0glt670", "/m/02p0sh1", "/m/05148p4"]


def measure(sizes: Sequence[int] = SIZES) -> dict[str, object]:
    """Segments per second of the largest size and of the smallest, with seconds and peak memory of all."""
    with TemporaryDirectory() as name:
        parts = [_write_part(Path(name), number) for number in range(-(-sizes[-1] // PART))]
        asked = _ask_rate(parts[0])
        figures = {size: _in_child(_root_of(Path(name), parts[: size // PART])) for size in sizes}
    rates = {segments: segments / figure["seconds"] for segments, figure in figures.items()}
    ratios = [rates[size] / rates[sizes[0]] for size in sizes[1:]] or [1.0]
    return {
        "what": f"list and plan {sizes[-1]:,} AudioSet segments (seconds, peak MiB: {_shown(figures)})",
        "unit": "segments/s",
        "ours": rates[sizes[-1]],
        "peer": rates[sizes[0]],
        "peer_name": f"the same on {sizes[0]:,}: 1 is linear",
        "ratio": ratios[-1],
        "ratio_spread": [min(ratios), max(ratios)],
        "target": 0.8,
        "headers_per_second": asked,
        "figures": figures,
    }


def plan(root: Path) -> dict[str, float]:
    """List and plan what lies in `root`, with what is known of its headers. Run in a process of its own."""
    before, begin, begin_cpu = _peak_mib(), time.monotonic(), time.process_time()
    command = Build("audioset", Corpus(root), root / "out", examples=SpanRule(10.0), workers=1)
    splits = plan_splits(command, Tree(root), findings=root)
    return {
        "planned": sum(task.usable for split in splits for task in split.tasks),
        "seconds": time.monotonic() - begin,
        "cpu_seconds": time.process_time() - begin_cpu,
        "peak_mib": _peak_mib() - before,
    }


def _in_child(root: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, "--here", str(root)], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def _write_part(folder: Path, number: int) -> Path:
    """Half a million segments and, for each, a name for one of ten silent files."""
    rng = random.Random(number)
    part = folder / f"part-{number}"
    part.mkdir()
    letters = string.ascii_letters + string.digits + "-_"
    ids = sorted({letters[number] + "".join(rng.choices(letters, k=10)) for _ in range(PART + 50)})[:PART]
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
    with growing_table(root / LISTING, SCHEMA, {}) as write:
        for part in parts:
            write([asdict(version) for version in _versions(root, part)])
    return root


def _versions(root: Path, part: Path) -> Iterator[Header]:
    tree = Tree(root)
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
    if sys.argv[1:2] == ["--here"]:
        print(json.dumps(plan(Path(sys.argv[2]))))
    else:
        for name, value in measure(tuple(map(int, sys.argv[1:])) or SIZES).items():
            print(f"{name:20}{value}")
