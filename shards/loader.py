"""One rank's batches from one dataset or several, in an order of all, from any position, read ahead by threads.

The global order is a pure function of (seed, epoch); ranks only select from it. So the state of a loader is one
integer, the number of global batches consumed, and resuming costs nothing, on the same or another number of ranks.
Examples/s and what bounds them: tests/benchmarks/load.py.
"""

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from threading import Lock

import numpy as np
import torch

from shards.example import Batch
from shards.loading.buffers import Buffers
from shards.loading.dataset import Cut, Dataset, Lineup, Shown
from shards.loading.interleave import interleaved, whole_shares
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.views import Viewing, view_seeds

_PLANNED_STEPS, _PLANNED_EXAMPLES = 16, 4_096  # at most, together: numpy's calls cost more than 256 rows of work


@dataclass(frozen=True)
class Share:
    """What one rank takes of some global batches: its real examples, padded to one length in each of them."""

    dataset: np.ndarray
    draw: np.ndarray
    """Of each example: how many its dataset has given before, since the beginning of its epoch 0."""
    slot: np.ndarray
    """Of each example: its place among the rows of all these batches, rising."""


@dataclass(frozen=True)
class Plan:
    """What one rank's rows of one global batch hold; those without an example have index -1."""

    index: np.ndarray
    seeds: np.ndarray
    parts: tuple[tuple[int, np.ndarray, Shown], ...]
    """Number of a dataset, the rows that it fills, and what they show."""


class Loader:
    """Batches of one rank. `batch_examples` counts the global batch; every rank receives ceil(batch / world) rows.

    With `drop_last` an epoch of one dataset ends at its last full batch; without it the last batch is filled up with
    padding rows. Of several datasets, mixed by their weights, each begins its next epoch when its own is over; all
    batches are full, and an epoch is as many steps as all their examples make. An index names an example among all
    datasets: those of the second begin where the first one's plan ends, and so on.

    Rows that do not fit the views are left out, counted in a log line. Raises DataProblem when no batch can be filled
    and UsageProblem for views or an order that the labels do not allow.
    """

    def __init__(
        self,
        datasets: Reader | Dataset | Sequence[Reader | Dataset],
        *,
        batch_examples: int,
        seed: int,
        views: Viewing,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
        threads: int = 1,
        depth_batches: int = 4,
    ) -> None:
        given = _listed(datasets)
        self.views, self.seed, self.batch_examples = views, seed, batch_examples
        self.rank, self.world, self.threads, self.depth_batches = rank, world, threads, max(depth_batches, threads)
        planned = [dataset.reader.manifest.planned for dataset in given]
        firsts = accumulate(planned, initial=0)
        self.lineups = [Lineup(dataset, views, first) for dataset, first in zip(given, firsts, strict=False)]
        self.shares = whole_shares([dataset.weight for dataset in given])
        examples = sum(len(lineup) for lineup in self.lineups)
        self.steps_per_epoch = (math.floor if drop_last else math.ceil)(examples / batch_examples)
        _require_examples(self.lineups, batch_examples, self.steps_per_epoch)
        _require_alike(self.lineups)
        self.wait_seconds = 0.0
        self._length = -(-batch_examples // world)
        self._buffers, self._planning = Buffers(), Lock()
        self._plans: dict[int, list[Plan]] = {}

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
        plan, count = self._plan(step), self.views.count
        length, real = len(plan.index), sum(len(slots) for _, slots, _ in plan.parts)
        memory = [self._buffers.lend(count * length * cut.view_bytes) for cut in self.lineups[0].cuts]
        into = [lent.numpy() for lent in memory]
        for lent in into if real < length else ():
            lent.reshape(count, length, -1)[:, real:] = 0
        for number, slots, shown in plan.parts:  # each writes to places of its own
            places = slots[:, None] + np.arange(count) * length
            self.lineups[number].read(shown, places=places, into=into)
        return self._stacked(plan, memory, real)

    def share(self, steps: range) -> Share:
        """What of some global batches falls to this rank."""
        step, row = (each.ravel() for each in np.indices((len(steps), self._length)))
        step, within = step + steps.start, row + self.rank * self._length
        is_real = within < self.batch_examples
        if len(self.lineups) == 1:
            epoch, batch = np.divmod(step, self.steps_per_epoch)
            place, examples = batch * self.batch_examples + within, len(self.lineups[0])
            is_real &= place < examples
            draw = epoch * examples + place
            return Share(np.zeros(is_real.sum(), np.int64), draw[is_real], np.flatnonzero(is_real))
        positions = (step * self.batch_examples + within)[is_real]
        return Share(*interleaved(positions, self.shares, seed=self.seed), np.flatnonzero(is_real))

    def _plan(self, step: int) -> Plan:
        """A pure function of the step, worked out for some steps together and remembered for the threads."""
        together = max(1, min(_PLANNED_STEPS, _PLANNED_EXAMPLES // self._length, self.steps_per_epoch))
        block = step // together
        with self._planning:
            if block not in self._plans:
                steps = range(block * together, (block + 1) * together)
                self._plans = {**dict(list(self._plans.items())[-1:]), block: self._planned(steps)}
            return self._plans[block][step % together]

    def _planned(self, steps: range) -> list[Plan]:
        share, rows = self.share(steps), len(steps) * self._length
        index, moments = np.full(rows, -1, np.int64), np.zeros(rows, np.int64)
        ends = np.arange(len(steps) + 1) * self._length
        parts: list[list] = [[] for _ in steps]
        for number in np.unique(share.dataset).tolist():
            mine = np.flatnonzero(share.dataset == number)
            slots, shown = share.slot[mine], self.lineups[number].shown(share.draw[mine], seed=self.seed)
            index[slots], moments[slots] = shown.index, shown.moments
            bounds = np.searchsorted(slots, ends).tolist()
            for at, (first, last) in enumerate(pairwise(bounds)):
                if first < last:
                    parts[at].append((number, slots[first:last] - ends[at], shown.part(slice(first, last))))
        seeds = view_seeds(self.views, index, seed=self.seed, epoch=moments)
        each = zip(np.split(index, ends[1:-1]), np.split(seeds, ends[1:-1]), parts, strict=True)
        return [Plan(one, drawn, tuple(of)) for one, drawn, of in each]

    def _stacked(self, plan: Plan, memory: Sequence[torch.Tensor], real: int) -> Batch:
        weight = np.zeros(len(plan.index), np.float32)
        weight[:real] = 1.0
        named, drawn, weighed = (torch.from_numpy(array) for array in (plan.index.copy(), plan.seeds.copy(), weight))
        first, *others = self.lineups[0].cuts
        columns = {
            cut.reader.column: Batch(named, weighed, self._views(lent, cut), drawn, cut.reader.restore)
            for lent, cut in zip(memory[1:], others, strict=True)
        }
        return Batch(named, weighed, self._views(memory[0], first), drawn, first.reader.restore, columns)

    def _views(self, lent: torch.Tensor, cut: Cut) -> tuple[torch.Tensor, ...]:
        """Bytes (views, batch, frames, bands) -> stored values (batch, bands, frames) of each view."""
        stored = lent.view(cut.dtype).view(self.views.count, -1, cut.frames, cut.reader.layout.shape[0])
        return stored.transpose(2, 3).unbind()

    def _next(self, ahead: "deque[Future[Batch]]") -> Batch:
        begin = time.perf_counter()
        batch = ahead.popleft().result()
        self.wait_seconds += time.perf_counter() - begin
        return batch


def _listed(datasets: Reader | Dataset | Sequence[Reader | Dataset]) -> list[Dataset]:
    given = [datasets] if isinstance(datasets, Reader | Dataset) else list(datasets)
    listed = [Dataset(one) if isinstance(one, Reader) else one for one in given]
    if not listed or not all(0 < dataset.weight < math.inf for dataset in listed):
        raise UsageProblem(
            f"Datasets of weights {[dataset.weight for dataset in listed]} cannot be mixed, so nothing was read. Give "
            "at least one, each with a weight above 0."
        )
    return listed


def _require_examples(lineups: Sequence[Lineup], batch_examples: int, steps: int) -> None:
    """Every dataset must have something to give, all together a batch."""
    for lineup in lineups:
        if not (steps and len(lineup)):
            raise DataProblem(
                f"{lineup.reader.folder} has {len(lineup):,} examples of at least {lineup.views.frames} frames, "
                f"fewer than one batch of {batch_examples:,}. No step could be taken. Lower --data.batch-examples "
                "or build a larger dataset."
            )


def _require_alike(lineups: Sequence[Lineup]) -> None:
    """All datasets must hold the same columns of the same contracts, or a model would hear each differently."""
    first = lineups[0]
    for lineup in lineups[1:]:
        if _contracts(lineup) != _contracts(first):
            raise DataProblem(
                f"{lineup.reader.folder} and {first.reader.folder} were built with different contracts of their "
                f"columns {', '.join(cut.reader.column for cut in first.cuts)}, so one model would hear the two "
                "differently. Build them with one version and the same features, and name the same columns of both."
            )


def _contracts(lineup: Lineup) -> list[tuple[str, object, int]]:
    entries = [cut.reader.manifest.features[cut.reader.column] for cut in lineup.cuts]
    cuts = zip(lineup.cuts, entries, strict=True)
    return [(cut.reader.column, entry["fingerprint"], cut.frames) for cut, entry in cuts]
