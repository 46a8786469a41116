"""Training batches from shards on disk, against webdataset's WebLoader on the same tars and against lhotse Shar.

    python -m tests.benchmarks.load             python -m tests.benchmarks.load 500 1 2    examples, rounds, epochs

Eight epochs of 5,000 mels of ten seconds (80 kB each, 400 MB, page cache), each variant in a process of its own. All
give batches of 256 with two random crops of 96 frames in the stored float16, as they go to a GPU. The peer shuffles
whole shards and then a buffer of 1,000 examples, with 0, 1 and 2 worker processes, of which the fastest counts; ours is
a global shuffle in one process, with every payload's digest checked in the first epoch. lhotse reads the same arrays
from its own tars, shuffled by a buffer of 1,000, in the main process. All of it once on all cores and once on one. The
cold figures are of one epoch each, after the kernel was asked to forget the files and mincore says that it did. Beside
them what bounds ours: the same crops copied from memory by the same threads with nothing else done, and the tars read
from one end to the other, in examples of two crops.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import webdataset

from shards.loader import Loader
from shards.loading.buffers import Buffers
from shards.loading.bulk_read import bulk_copy
from shards.reader import Reader
from shards.views import Views
from tests.corpus import write_noise_dataset

EXAMPLES, EPOCHS, BATCH, FRAMES, ROUNDS = 5_000, 8, 256, 96, 5
_OURS, _LHOTSE, _COPYING, _READING = "ours", "lhotse", "copying alone", "reading in sequence"
_WORKERS, _WEBDATASET = (0, 1, 2), "webdataset "
_VARIANTS = (*(f"{_WEBDATASET}{workers}" for workers in _WORKERS), _LHOTSE, _OURS)
_BOUNDS = (_COPYING, _READING)
_CORES, _ONE_CORE, _COLD = "", ", on one core", ", cold cache"
_TARGETS = {_CORES: (20, 25), _ONE_CORE: (35, 25), _COLD: (1, 1)}  # against webdataset, against lhotse
_CROP_BYTES, _COPIED = FRAMES * 128 * 2, 40_000
_STILL_THERE = 0.02  # share of the pages that may remain in the cache for a read to count as cold


def measure(examples: int = EXAMPLES, rounds: int = ROUNDS, epochs: int = EPOCHS) -> dict[str, object]:
    """Examples a second of all, and the ratio of ours to each peer in each of the alternating rounds."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_noise_dataset(Path(folder) / "train", examples, shard_examples=256, samples=160_000)
        shar = _write_shar(dataset, Path(folder) / "shar")
        conditions = [_CORES, _ONE_CORE, *[_COLD] * _forget(folder)]
        rates = {each: [_round(dataset, shar, epochs, number, each) for number in range(rounds)] for each in conditions}
    (first, *others) = (line for condition in conditions for line in _lines(rates[condition], condition))
    medians = {each: {variant: _median(rates[each], variant) for variant in rates[each][0]} for each in conditions}
    return {
        "what": f"load {examples:,} mels of 80 kB, {epochs} epochs, two crops, batch {BATCH}",
        "unit": "examples/s",
        **first,
        "against": others,
        "all": medians[_CORES],
        "one core": medians[_ONE_CORE],
        "cold": medians.get(_COLD, "the file system keeps its cache"),
    }


def _round(dataset: Path, shar: Path, epochs: int, first: int, condition: str) -> dict[str, float]:
    """Examples a second of every variant, each in a process of its own, as nobody trains with two of them."""
    variants = _VARIANTS if condition == _COLD else _VARIANTS + _BOUNDS
    order = deque(variants)
    order.rotate(-first)
    rates = {}
    for variant in order:
        words = [
            variant,
            str(dataset),
            str(shar),
            str(1 if condition == _COLD else epochs),
            *["cold"] * (condition == _COLD),
        ]
        with _cores(1 if condition == _ONE_CORE else len(os.sched_getaffinity(0))):
            child = subprocess.run([sys.executable, "-m", __spec__.name, *words], stdout=subprocess.PIPE, check=True)
        rates[variant] = float(child.stdout)
    return {variant: rates[variant] for variant in variants}


@contextmanager
def _cores(count: int) -> Iterator[None]:
    """Children of this process may use so many of its cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _lines(rates: list[dict[str, float]], condition: str) -> list[dict[str, object]]:
    """Ours against webdataset at the best of its settings, and against lhotse."""
    best = max(_WORKERS, key=lambda workers: _median(rates, f"{_WEBDATASET}{workers}"))
    names = {
        f"{_WEBDATASET}{best}": f"webdataset {webdataset.__version__} WebLoader, {best} workers (best of 0, 1, 2), "
        "shuffle 1,000",
        _LHOTSE: f"lhotse {version('lhotse')} Shar, shuffle 1,000, main process",
    }
    return [
        {"ours": _median(rates, _OURS), **_against(rates, peer, name + condition, target)}
        for (peer, name), target in zip(names.items(), _TARGETS[condition], strict=True)
    ]


def _rate_of(variant: str, dataset: Path, shar: Path, epochs: int, *, is_cold: bool) -> float:
    """Examples a second of one variant, in this process."""
    torch.set_num_threads(1)  # all use threads or processes of their own
    if variant == _OURS:
        next(_our_batches(dataset, 1))  # compiles the reading loop, once a process
    if is_cold:
        _forget(dataset.parent)
    if variant.startswith(_WEBDATASET):
        return _rate(_webdataset_batches(dataset, int(variant.removeprefix(_WEBDATASET)), epochs))
    if variant in _BOUNDS:
        return _copied_a_second() if variant == _COPYING else _read_a_second(dataset)
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
    loader = Loader(Reader(dataset), batch_examples=BATCH, seed=0, views=views, threads=_threads(), drop_last=False)
    for batch in loader.from_step(0, epochs * loader.steps_per_epoch):
        yield int(batch.weight.sum())


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def _copied_a_second() -> float:
    """Examples a second when all that is done is to copy two crops of each from memory to a batch."""
    memory, batches = Buffers(), _COPIED // BATCH
    source = memory.take(1 << 28)
    source[:] = 1
    places = np.arange(2 * BATCH) * _CROP_BYTES

    def copied(number: int) -> None:
        begins = np.random.default_rng(number).integers(0, (len(source) - _CROP_BYTES) // 64, 2 * BATCH) * 64
        bulk_copy(source.ctypes.data + begins, _CROP_BYTES, memory.take(2 * BATCH * _CROP_BYTES), places)

    with ThreadPoolExecutor(_threads()) as pool:
        list(pool.map(copied, range(8)))
        begin = time.perf_counter()
        list(pool.map(copied, range(batches)))
        return batches * BATCH / (time.perf_counter() - begin)


def _read_a_second(dataset: Path) -> float:
    """Examples a second when the tars are read from one end to the other by each thread, two MiB at a time."""
    paths = sorted((dataset / "mel").glob("*.tar"))

    def read(path: Path) -> int:
        block = Buffers().take(1 << 21)
        with path.open("rb", buffering=0) as file:
            return sum(iter(lambda: file.readinto(block), 0))  # type: ignore[arg-type]

    with ThreadPoolExecutor(_threads()) as pool:
        begin = time.perf_counter()
        total = sum(pool.map(read, paths * EPOCHS))
        return total / (2 * _CROP_BYTES) / (time.perf_counter() - begin)


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
    if sys.argv[1:2] and sys.argv[1] in _VARIANTS + _BOUNDS:
        name, dataset, shar, epochs, *cold = sys.argv[1:]
        print(_rate_of(name, Path(dataset), Path(shar), int(epochs), is_cold=bool(cold)))
    else:
        for name, value in measure(*map(int, sys.argv[1:])).items():
            print(f"{name:16}{value}")
