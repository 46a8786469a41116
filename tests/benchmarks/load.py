"""Training batches from shards on disk, against webdataset's WebLoader on the same tars.

    python -m tests.benchmarks.load

Eight epochs of 5,000 mels of ten seconds (80 kB each, 400 MB, page cache). Both give batches of 256 with two random
crops of 96 frames in the stored float16, as they go to a GPU. The peer shuffles whole shards and then a buffer of 1,000
examples, with 0, 1 and 2 worker processes, of which the fastest counts; ours is a global shuffle in one process, with
every payload's digest checked in the first epoch.
"""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset

from shards.loader import Loader
from shards.reader import Reader
from shards.views import Views
from tests.corpus import write_noise_dataset

EXAMPLES, EPOCHS, BATCH, FRAMES, ROUNDS = 5_000, 8, 256, 96, 5


def measure() -> dict[str, object]:
    """Examples a second of both and their ratio in each of five alternating rounds."""
    torch.set_num_threads(1)  # both use threads or processes of their own
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_noise_dataset(Path(folder) / "train", EXAMPLES, shard_examples=256, samples=160_000)
        next(_our_batches(dataset))  # compiles the reading loop, once a process
        peers = {workers: [] for workers in (0, 1, 2)}
        ours = []
        for _ in range(ROUNDS):
            for workers, rates in peers.items():
                rates.append(_rate(_webdataset_batches(dataset, workers)))
            ours.append(_rate(_our_batches(dataset)))
    best = max(peers, key=lambda workers: statistics.median(peers[workers]))
    ratios = [mine / theirs for mine, theirs in zip(ours, peers[best], strict=True)]
    return {
        "what": f"load {EXAMPLES:,} mels of 80 kB, {EPOCHS} epochs, two crops, batch {BATCH}",
        "unit": "examples/s",
        "ours": statistics.median(ours),
        "peer": statistics.median(peers[best]),
        "peer_name": f"webdataset {webdataset.__version__} WebLoader, {best} workers (best of 0, 1, 2), shuffle 1,000",
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "peer_all": {str(workers): statistics.median(rates) for workers, rates in peers.items()},
        "target": 12,
    }


def _rate(batches: Iterator[int]) -> float:
    begin = time.perf_counter()
    examples = sum(batches)
    return examples / (time.perf_counter() - begin)


def _our_batches(dataset: Path) -> Iterator[int]:
    views = Views(count=2, frames=FRAMES)
    threads = os.cpu_count() or 1
    loader = Loader(Reader(dataset), batch_examples=BATCH, seed=0, views=views, threads=threads, drop_last=False)
    for batch in loader.from_step(0, EPOCHS * loader.steps_per_epoch):
        yield int(batch.weight.sum())


def _webdataset_batches(dataset: Path, workers: int) -> Iterator[int]:
    urls = [str(path) for path in sorted((dataset / "mel").glob("*.tar"))]
    source = webdataset.WebDataset(urls, shardshuffle=100).shuffle(1_000).decode().to_tuple("mel.npy")
    batched = source.map(_two_crops).batched(BATCH, collation_fn=_stack).repeat(EPOCHS)
    for batch in webdataset.WebLoader(batched, batch_size=None, num_workers=workers):
        yield len(batch)


def _two_crops(fields: tuple[np.ndarray]) -> np.ndarray:
    starts = [random.randint(0, fields[0].shape[1] - FRAMES) for _ in range(2)]
    return np.stack([fields[0][:, start : start + FRAMES] for start in starts])


def _stack(crops: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(crops))


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:16}{value}")
