"""One rank's batches in a true global shuffle, from any position, read ahead by threads.

The global order is a pure function of (seed, epoch); ranks only select from it. So the state of a loader is one
integer, the number of global batches consumed, and resuming costs nothing, on the same or another number of ranks.
Examples/s and what bounds them: tests/benchmarks/load.py.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from shards.buffers import Buffers
from shards.example import Batch
from shards.order import shuffled_rows
from shards.problem import DataProblem
from shards.reader import Reader
from shards.views import Views

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """What one rank takes of one global batch: `rows` real ones, padded to the same length on every rank."""

    epoch: int
    rows: np.ndarray
    length: int


class Loader:
    """Batches of one rank. `batch_examples` counts the global batch; every rank receives ceil(batch / world) rows.

    With `drop_last` an epoch ends at its last full batch; without it the last batch is filled up with padding rows.
    Examples shorter than a view are left out, counted in a log line. Raises DataProblem when no batch can be filled.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        batch_examples: int,
        seed: int,
        views: Views,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
        shuffle: bool = True,
        threads: int = 1,
        depth_batches: int = 4,
    ) -> None:
        self.reader, self.views, self.seed = reader, views, seed
        self.batch_examples, self.rank, self.world = batch_examples, rank, world
        self.shuffle, self.threads, self.depth_batches = shuffle, threads, max(depth_batches, threads)
        self.frames = reader.frames
        self.eligible = np.flatnonzero(self.frames >= views.frames)
        self.steps_per_epoch = (math.floor if drop_last else math.ceil)(len(self.eligible) / batch_examples)
        self.wait_seconds = 0.0
        self._buffers = Buffers()
        self._check()

    def from_step(self, step: int, stop: int | None = None) -> Iterator[Batch]:
        """Batches `step`, `step + 1`, ... of an endless run over epochs, or up to `stop`, read ahead by threads."""
        ahead: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="loader")
        try:
            for number in range(step, stop if stop is not None else 1 << 62):
                ahead.append(pool.submit(self.batch, number))
                if len(ahead) > self.depth_batches:
                    yield self._next(ahead)
            while ahead:
                yield self._next(ahead)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """This rank's part of global batch `step`, counted from the beginning of epoch 0."""
        share = self.share(step)
        index = np.full(share.length, -1, np.int64)
        index[: len(share.rows)] = self.reader.indices[share.rows]
        frames = self.frames[share.rows]
        starts = self.views.starts(index[: len(frames)], frames, seed=self.seed, epoch=share.epoch)
        weight = torch.zeros(share.length)
        weight[: len(share.rows)] = 1.0
        views = torch.from_numpy(self._crops(share, starts)).transpose(2, 3).unbind()
        seeds = torch.from_numpy(self.views.seeds(index, seed=self.seed, epoch=share.epoch))
        return Batch(torch.from_numpy(index), weight, views, seeds, self.reader.restore)

    def share(self, step: int) -> Share:
        """The rows of global batch `step` that fall to this rank."""
        epoch, within = divmod(step, self.steps_per_epoch)
        length = -(-self.batch_examples // self.world)
        end = min((within + 1) * self.batch_examples, len(self.eligible))
        first = within * self.batch_examples + self.rank * length
        positions = np.arange(first, max(first, min(first + length, end)))
        if self.shuffle:
            positions = shuffled_rows(positions, rows=len(self.eligible), seed=self.seed, epoch=epoch)
        return Share(epoch, self.eligible[positions], length)

    def _crops(self, share: Share, starts: np.ndarray) -> np.ndarray:
        """Stored values (views, length, frames, bands), read in file order straight to where they belong."""
        layout = self.reader.layout
        shape = (self.views.count, share.length, self.views.frames, layout.shape[0])
        frame_bytes = layout.shape[0] * layout.dtype.itemsize
        crop_bytes = self.views.frames * frame_bytes
        crops = self._buffers.take(self.views.count * share.length * crop_bytes)
        crops.reshape(self.views.count, -1)[:, len(share.rows) * crop_bytes :] = 0
        in_file_order = np.argsort(share.rows)
        begins = layout.data_offset_bytes + starts[in_file_order] * frame_bytes
        places = (in_file_order[:, None] + np.arange(self.views.count) * share.length) * crop_bytes
        self.reader.read_cuts(share.rows[in_file_order], begins, crop_bytes, crops, places)
        return crops.view(layout.dtype).reshape(shape)

    def _next(self, ahead: "deque[Future[Batch]]") -> Batch:
        begin = time.perf_counter()
        batch = ahead.popleft().result()
        self.wait_seconds += time.perf_counter() - begin
        return batch

    def _check(self) -> None:
        if (short := len(self.reader) - len(self.eligible)) > 0:
            log.warning(
                "%s: %d examples are shorter than %d frames and left out", self.reader.folder, short, self.views.frames
            )
        if self.steps_per_epoch == 0:
            raise DataProblem(
                f"{self.reader.folder} has {len(self.eligible):,} examples of at least {self.views.frames} frames, "
                f"fewer than one batch of {self.batch_examples:,}. No step could be taken. Lower --data.batch-examples "
                "or build a larger dataset."
            )
