"""Every check of a dataset, against sha256sum alone on the same files.

    python -m tests.benchmarks.verify

5,000 mels of ten seconds (80 kB each, 400 MB, page cache) in shards of 256, and their tables. `verify` on one thread
and on as many as there are cores, in alternating rounds with sha256sum of all files in one process, and with the
SHA-256 of hashlib, which is what a check can reach at best on one core.
"""

import logging
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from shards.store import sha256_of
from shards.verify import damage_of
from tests.corpus import write_noise_dataset

EXAMPLES, ROUNDS = 5_000, 5


def measure() -> dict[str, object]:
    """GB/s of `verify` on one core and on all, of sha256sum, and their ratios round by round."""
    logging.getLogger("shards").setLevel(logging.WARNING)
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_noise_dataset(Path(folder) / "train", EXAMPLES, shard_examples=256, samples=160_000)
        files = [path for path in sorted(dataset.rglob("*")) if path.is_file()]
        ways: dict[str, Callable[[], object]] = {
            "sha256sum": lambda: subprocess.run(["sha256sum", *files], check=True, capture_output=True),
            "hashlib": lambda: [sha256_of(path) for path in files],
            "one": lambda: _require_whole(dataset, 1),
            "all": lambda: _require_whole(dataset, cores),
        }
        gigabytes = sum(path.stat().st_size for path in files) / 1e9
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                rates[name].append(gigabytes / _seconds(way))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = [mine / theirs for mine, theirs in zip(rates["one"], rates["sha256sum"], strict=True)]
    return {
        "what": f"verify {EXAMPLES:,} mels of 80 kB: every digest, member and table, on one core",
        "unit": "GB/s",
        "ours": medians["one"],
        "peer": medians["sha256sum"],
        "peer_name": "sha256sum of the same files, which looks into none",
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "target": 0.9,
        f"on {cores} cores": medians["all"],
        "hashlib's SHA-256 alone": medians["hashlib"],
    }


def _seconds(way: Callable[[], object]) -> float:
    begin = time.perf_counter()
    way()
    return time.perf_counter() - begin


def _require_whole(dataset: Path, workers: int) -> None:
    assert list(damage_of(dataset, workers=workers)) == []


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:24}{value}")
