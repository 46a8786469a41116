"""Audio files of any length -> frames of a feature, block by block, in bounded memory.

Another process decodes, one block ahead: a file that kills or hangs its decoder costs itself only. Blocks overlap by a
margin that is dropped again, and begin where a whole number of hops is a whole number of the file's samples, so that
frames are those of the whole file but for the resampler's rounding. A file's own bytes are held in memory.
"""

import math
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from shards.containers.container import DecodeError
from shards.decode import a_hang_is_a_crash, decode, probe
from shards.feature import load_feature

BLOCK_SECONDS = 240.0
_HANG_SECONDS = 600.0
_RINGING_SECONDS = 0.5  # the resampler's memory of what lies before and after
_WHOLE_SECONDS = 1e9
_KILLED = "it killed or hung the process that decoded it"


@dataclass(frozen=True)
class Block:
    """Consecutive stored frames (bands, frames) of a file; `seconds` are those of the file up to its end."""

    stored: np.ndarray
    seconds: float
    is_last: bool


class Listener(AbstractContextManager["Listener"]):
    """Decodes files into blocks of a feature, in a process of its own that is started anew when it dies."""

    def __init__(self, word: str, *, block_seconds: float = BLOCK_SECONDS) -> None:
        self._word = word
        self._block_seconds = block_seconds
        self._pool = _new_pool()

    def blocks(self, paths: Sequence[Path]) -> Iterator[tuple[Path, Block | str]]:
        """Every file's blocks in order, or instead of the next one the reason why there is none."""
        waiting = iter(paths)
        request = self._ask(next(waiting, None), 0)
        while request is not None:
            path, number, future = request
            outcome = self._outcome(future)
            goes_on = isinstance(outcome, Block) and not outcome.is_last
            request = self._ask(path, number + 1) if goes_on else self._ask(next(waiting, None), 0)
            yield path, outcome

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _ask(self, path: Path | None, number: int) -> "tuple[Path, int, Future[Block | str]] | None":
        if path is None:
            return None
        try:
            return path, number, self._submit(path, number)
        except BrokenProcessPool:  # it died between two files
            self._renew()
            return path, number, self._submit(path, number)

    def _outcome(self, future: "Future[Block | str]") -> Block | str:
        try:
            return future.result()
        except BrokenProcessPool:
            self._renew()
            return _KILLED

    def _submit(self, path: Path, number: int) -> "Future[Block | str]":
        return self._pool.submit(block_of, path, self._word, number, self._block_seconds)

    def _renew(self) -> None:
        self._pool.shutdown()
        self._pool = _new_pool()


def block_of(path: Path, word: str, number: int, block_seconds: float) -> Block | str:
    """Block `number` of a file by the feature of that word, or why there is none. Blocks are about `block_seconds`."""
    try:
        with a_hang_is_a_crash(_HANG_SECONDS):
            return _block(path, word, number, block_seconds)
    except (DecodeError, OSError, ValueError, MemoryError) as error:
        return str(error) or type(error).__name__


def _block(path: Path, word: str, number: int, block_seconds: float) -> Block:
    feature, source = load_feature(word), _bytes(path)
    grid = _Grid.of(feature.contract, block_seconds)
    declared = probe(source).seconds
    start, stop = number * grid.block_seconds, (number + 1) * grid.block_seconds
    # A short remainder belongs to the block before it; what declares no length comes as one block.
    is_last = not grid.hop_seconds or declared is None or declared <= stop + grid.margin_seconds
    begin = max(start - grid.margin_seconds, 0.0)
    seconds = None if is_last else stop + grid.margin_seconds - begin
    clip = decode(source, sample_rate_hz=feature.sample_rate_hz, start_seconds=begin, seconds=seconds)
    (stored,) = feature([clip])
    assert isinstance(stored, np.ndarray)
    first = grid.frames(start - begin)
    last = None if is_last else first + grid.frames(grid.block_seconds)
    return Block(stored[:, first:last], begin + clip.seconds if is_last else stop, is_last)


@dataclass(frozen=True)
class _Grid:
    """Where blocks may begin: at multiples of a time that is a whole number of hops and of seconds."""

    hop_seconds: float
    block_seconds: float
    margin_seconds: float

    @classmethod
    def of(cls, contract: Mapping[str, Any], block_seconds: float) -> "_Grid":
        """The grid of a feature's contract; one that names no hop is computed of a whole file."""
        if not {"sample_rate_hz", "hop_samples", "fft_samples"} <= contract.keys():
            return cls(0.0, _WHOLE_SECONDS, 0.0)
        rate_hz, hop_samples = contract["sample_rate_hz"], contract["hop_samples"]
        period = hop_samples // math.gcd(hop_samples, rate_hz)
        margin = period * math.ceil((contract["fft_samples"] / rate_hz + _RINGING_SECONDS) / period)
        return cls(hop_samples / rate_hz, period * max(1.0, block_seconds // period), float(margin))

    def frames(self, seconds: float) -> int:
        return round(seconds / self.hop_seconds) if self.hop_seconds else 0


@lru_cache(maxsize=1)
def _bytes(path: Path) -> bytes:
    return path.read_bytes()


def _new_pool() -> ProcessPoolExecutor:
    # A fork would copy torch's locks in whatever state they are.
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
