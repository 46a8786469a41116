"""Training batches from shards on disk, against webdataset's WebLoader on the same tars and against lhotse Shar.

    python -m tests.benchmarks.load             python -m tests.benchmarks.load 500 1 2    examples, rounds, epochs

Eight epochs of 5,000 mels of ten seconds (80 kB each, 400 MB, page cache), each variant in a process of its own. All
give batches of 256 with two random crops of 96 frames in the stored float16, as they go to a GPU. The peer shuffles
whole shards and then a buffer of 1,000 examples, with 0, 1 and 2 worker processes, of which the fastest counts; ours is
a global shuffle in one process, with every payload's digest checked in the first epoch. lhotse reads the same arrays
from its own tars, shuffled by a buffer of 1,000, in the main process. The cold figures are of one epoch each, after the
kernel was asked to forget the files and mincore says that it did.
"""

import ctypes
import mmap
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import webdataset

from shards.loader import Loader
from shards.reader import Reader
from shards.views import Views
from tests.corpus import write_noise_dataset

EXAMPLES, EPOCHS, BATCH, FRAMES, ROUNDS = 5_000, 8, 256, 96, 5
_OURS, _LHOTSE = "ours", "lhotse"
_WORKERS, _WEBDATASET = (0, 1, 2), "webdataset "
_VARIANTS = (*(f"{_WEBDATASET}{workers}" for workers in _WORKERS), _LHOTSE, _OURS)
_STILL_THERE = 0.02  # share of the pages that may remain in the cache for a read to count as cold


def measure(examples: int = EXAMPLES, rounds: int = ROUNDS, epochs: int = EPOCHS) -> dict[str, object]:
    """Examples a second of all, and the ratio of ours to each peer in each of the alternating rounds."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_noise_dataset(Path(folder) / "train", examples, shard_examples=256, samples=160_000)
        shar = _write_shar(dataset, Path(folder) / "shar")
        warm = [_round(dataset, shar, epochs, first=number) for number in range(rounds)]
        is_cold = _forget(folder)
        cold = [_round(dataset, shar, 1, first=number, is_cold=True) for number in range(rounds)] if is_cold else []
    best = max(_WORKERS, key=lambda workers: _median(warm, f"webdataset {workers}"))
    name = f"webdataset {webdataset.__version__} WebLoader, {best} workers (best of 0, 1, 2), shuffle 1,000"
    shown = {f"webdataset {best}": name, _LHOTSE: f"lhotse {version('lhotse')} Shar, shuffle 1,000, main process"}
    (first, *others) = (
        _against(warm, peer, shown[peer], target) for peer, target in ((f"webdataset {best}", 20), (_LHOTSE, 25))
    )
    cold_lines = [_against(cold, peer, f"{shown[peer]}, cold cache", 1) for peer in shown] if cold else []
    return {
        "what": f"load {examples:,} mels of 80 kB, {epochs} epochs, two crops, batch {BATCH}",
        "unit": "examples/s",
        "ours": _median(warm, _OURS),
        **first,
        "against": [*others, *({**line, "ours": _median(cold, _OURS)} for line in cold_lines)],
        "all": {variant: _median(warm, variant) for variant in warm[0]},
        "cold": {variant: _median(cold, variant) for variant in cold[0]} if cold else "the file system keeps its cache",
    }


def _round(dataset: Path, shar: Path, epochs: int, *, first: int, is_cold: bool = False) -> dict[str, float]:
    """Examples a second of every variant, each in a process of its own, as nobody trains with two of them."""
    order = deque(_VARIANTS)
    order.rotate(-first)
    rates = {}
    for variant in order:
        words = [variant, str(dataset), str(shar), str(epochs), *["cold"] * is_cold]
        child = subprocess.run([sys.executable, "-m", __spec__.name, *words], stdout=subprocess.PIPE, check=True)
        rates[variant] = float(child.stdout)
    return {variant: rates[variant] for variant in _VARIANTS}


def _rate_of(variant: str, dataset: Path, shar: Path, epochs: int, *, is_cold: bool) -> float:
    """Examples a second of one variant, in this process."""
    torch.set_num_threads(1)  # all use threads or processes of their own
    if variant == _OURS:
        next(_our_batches(dataset, 1))  # compiles the reading loop, once a process
    if is_cold:
        _forget(dataset.parent)
    if variant.startswith(_WEBDATASET):
        return _rate(_webdataset_batches(dataset, int(variant.removeprefix(_WEBDATASET)), epochs))
    return _rate(_our_batches(dataset, epochs) if variant == _OURS else _lhotse_batches(shar, epochs))


def _median(rounds: list[dict[str, float]], variant: str) -> float:
    return statistics.median(each[variant] for each in rounds)


def _against(rounds: list[dict[str, float]], peer: str, name: str, target: float) -> dict[str, object]:
    ratios = [each[_OURS] / each[peer] for each in rounds]
    return {
        "peer": _median(rounds, peer),
        "peer_name": name,
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "target": target,
    }


def _forget(folder: Path | str) -> bool:
    """Ask the kernel to drop the files from its cache; whether hardly a page of them is there any more."""
    paths = [path for path in Path(folder).rglob("*.tar") if path.is_file()]
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    kept = [_resident_share(path) for path in paths]
    return bool(kept) and statistics.mean(kept) < _STILL_THERE


def _resident_share(path: Path) -> float:
    """How many of the file's pages are in memory, by mincore."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped,
    ):
        pages = (ctypes.c_ubyte * (-(-len(mapped) // mmap.PAGESIZE)))()
        begin = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        failed = libc.mincore(ctypes.c_void_p(begin), ctypes.c_size_t(len(mapped)), pages)
        return 1.0 if failed else sum(page & 1 for page in pages) / len(pages)


def _rate(batches: Iterator[int]) -> float:
    begin = time.perf_counter()
    examples = sum(batches)
    return examples / (time.perf_counter() - begin)


def _our_batches(dataset: Path, epochs: int) -> Iterator[int]:
    views = Views(count=2, frames=FRAMES)
    threads = os.cpu_count() or 1
    loader = Loader(Reader(dataset), batch_examples=BATCH, seed=0, views=views, threads=threads, drop_last=False)
    for batch in loader.from_step(0, epochs * loader.steps_per_epoch):
        yield int(batch.weight.sum())


def _webdataset_batches(dataset: Path, workers: int, epochs: int) -> Iterator[int]:
    urls = [str(path) for path in sorted((dataset / "mel").glob("*.tar"))]
    source = webdataset.WebDataset(urls, shardshuffle=100).shuffle(1_000).decode().to_tuple("mel.npy")
    batched = source.map(_two_crops).batched(BATCH, collation_fn=_stack).repeat(epochs)
    for batch in webdataset.WebLoader(batched, batch_size=None, num_workers=workers):
        yield len(batch)


def _write_shar(dataset: Path, folder: Path) -> Path:
    """The same arrays in lhotse's tars, uncompressed, as many to one."""
    from lhotse import MonoCut
    from lhotse.shar import SharWriter

    folder.mkdir()
    reader = Reader(dataset)
    with SharWriter(str(folder), fields={"mel": "numpy"}, shard_size=256) as writer:
        for row, array in enumerate(reader.arrays(range(len(reader)))):
            writer.write(MonoCut(id=f"noise-{row}", start=0, duration=10, channel=0).attach_tensor("mel", array))
    return folder


def _lhotse_batches(shar: Path, epochs: int) -> Iterator[int]:
    from lhotse import CutSet

    for epoch in range(epochs):
        cuts = CutSet.from_shar(in_dir=shar, shuffle_shards=True, seed=epoch).shuffle(buffer_size=1_000)
        crops: list[np.ndarray] = []
        for cut in cuts:
            crops.append(_two_crops((cut.load_mel(),)))
            if len(crops) == BATCH:
                yield len(_stack(crops))
                crops = []
        if crops:
            yield len(_stack(crops))


def _two_crops(fields: tuple[np.ndarray]) -> np.ndarray:
    starts = [random.randint(0, fields[0].shape[1] - FRAMES) for _ in range(2)]
    return np.stack([fields[0][:, start : start + FRAMES] for start in starts])


def _stack(crops: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(crops))


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in _VARIANTS:
        name, dataset, shar, epochs, *cold = sys.argv[1:]
        print(_rate_of(name, Path(dataset), Path(shar), int(epochs), is_cold=bool(cold)))
    else:
        for name, value in measure(*map(int, sys.argv[1:])).items():
            print(f"{name:16}{value}")
