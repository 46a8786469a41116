"""Mean, deviation and quantiles of a column's stored values, band by band: taken shard by shard, merged exactly.

Means and squared distances are merged by the formula of Chan, Golub and LeVeque (1979), which loses nothing to
cancellation; quantiles come from histograms over the leading bits of the values' half precision, which add up. So the
order of the merge, that of the plan, is all that the numbers depend on.
"""

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from shards.manifest import column_path, read_said
from shards.manifest_fields import QUANTILES
from shards.problem import DataProblem
from shards.store import canonical_json

STATISTICS = "sonograph.statistics"
QUANTILE_ERROR = 2.0**-4  # relative width of a bucket: four bits of a half's mantissa
_DROPPED_BITS = 6
_BUCKETS = 1 << (16 - _DROPPED_BITS)
_RISING = np.r_[_BUCKETS - 1 : _BUCKETS // 2 - 1 : -1, : _BUCKETS // 2]  # the sign is the first bit: -0 in the middle
_MOST_HALF = 65_504.0
_BLOCK_VALUES = 1 << 20
_MOST_FRAMES = 1 << 53


@dataclass(frozen=True)
class Statistics:
    """Of `count` frames: each band's mean, sum of squared distances from it, and histogram."""

    count: int
    mean: Float[np.ndarray, " bands"]
    squares: Float[np.ndarray, " bands"]
    histogram: Int[np.ndarray, "bands buckets"]

    def merged(self, other: "Statistics") -> "Statistics":
        """Those of both together."""
        count = self.count + other.count
        delta = other.mean - self.mean
        return Statistics(
            count,
            self.mean + delta * (other.count / count),
            self.squares + other.squares + delta**2 * (self.count * other.count / count),
            self.histogram + other.histogram,
        )

    def described(self) -> dict[str, object]:
        """For the manifest, in stored units: count of frames, and for each band mean, deviation and quantiles."""
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "deviation": np.sqrt(self.squares / self.count).tolist(),
            "quantiles": {str(share): _quantile(self.histogram, share).tolist() for share in QUANTILES},
            "quantile_relative_error": QUANTILE_ERROR,
        }

    def to_json(self) -> bytes:
        counts = self.histogram.astype("<u4").tobytes()
        packed = zlib.compress(counts, level=1)  # a twelfth larger than at 6, in a quarter of the time
        content = {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}
        return canonical_json({**content, "histogram": base64.b64encode(packed).decode()})

    @classmethod
    def from_json(cls, text: bytes) -> "Statistics":
        """Raises ValueError for what `to_json` cannot have written; no more is unpacked than its bands need."""
        try:
            content = json.loads(text)
            mean, squares = (np.array(content[name], np.float64) for name in ("mean", "squares"))
            if mean.ndim != 1 or mean.shape != squares.shape or not np.isfinite([mean, squares]).all():
                raise ValueError("its bands differ in number, or are no numbers")
            if type(count := content["count"]) is not int or not 0 < count < _MOST_FRAMES or (squares < 0).any():
                raise ValueError("it counts no frames, or they deviate by less than 0")
            packed = base64.b64decode(content["histogram"])
            flat = np.frombuffer(zlib.decompressobj().decompress(packed, len(mean) * _BUCKETS * 4 + 1), "<u4")
            return cls(count, mean, squares, flat.astype(np.int64).reshape(len(mean), _BUCKETS))
        except (KeyError, TypeError, OverflowError, RecursionError, zlib.error) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


def statistics_of(folder: Path, columns: Sequence[str], numbers: Sequence[int]) -> dict[str, dict[str, object]]:
    """Those of a dataset's columns for its manifest, from what its shards' tables say, in the order of `numbers`.

    A column of no real numbers has none. Raises DataProblem for a table that is absent or damaged, or says none.
    """
    found = {
        column: [_said(folder / column_path(column, number, "parquet")) for number in numbers] for column in columns
    }
    for column, parts in found.items():
        if len({len(part.mean) for part in parts if part}) > 1:
            raise DataProblem(
                f"The shards of {folder / column} differ in the number of their bands, so no statistics can be taken "
                "and no manifest was written. Delete that folder and repeat the same command: it makes what is missing."
            )
    return {column: merged(filter(None, parts)).described() for column, parts in found.items() if any(parts)}


def _said(table: Path) -> "Statistics | None":
    said = read_said(table, STATISTICS)
    try:
        return Statistics.from_json(said) if said else None
    except ValueError as error:
        raise DataProblem(
            f"{table} says no statistics ({error}), so those of the dataset cannot be taken and no manifest was "
            "written. Delete that file and repeat the same command: it makes what is missing."
        ) from error


def shard_statistics(stored: Sequence[np.ndarray | bytes]) -> Mapping[str, bytes]:
    """What a shard's table says of its values; nothing where they are no real numbers."""
    arrays = [array for array in stored if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.size]
    if not arrays:
        return {STATISTICS: b""}
    parts = [part for part in map(_of, _blocks(arrays)) if part.count]
    return {STATISTICS: merged(parts).to_json() if parts else b""}


def merged(parts: Iterable[Statistics]) -> Statistics:
    """Those of all parts, in their order; at least one is needed."""
    parts = iter(parts)
    total = next(parts)
    for part in parts:
        total = total.merged(part)
    return total


def _blocks(arrays: Sequence[np.ndarray]) -> Iterator[Float[np.ndarray, "frames bands"]]:
    """Consecutive arrays, (bands, frames) or (bands,), joined frame by frame into blocks of bounded size."""
    block: list[np.ndarray] = []
    for array in arrays:
        block.append(array.reshape(len(array), -1).T)
        if sum(part.size for part in block) >= _BLOCK_VALUES:
            yield np.concatenate(block)
            block = []
    if block:
        yield np.concatenate(block)


def _of(block: Float[np.ndarray, "frames bands"]) -> Statistics:
    """Of its frames without NaN and infinity, which no feature of ours makes."""
    values = block.astype(np.float64)
    mean = values.sum(axis=0) / max(len(values), 1)
    if not np.isfinite(mean).all():
        return _of(block[np.isfinite(block).all(axis=1)])
    values -= mean
    codes = np.ascontiguousarray((_halves(block).view(np.uint16) >> _DROPPED_BITS).T)
    histogram = np.stack([np.bincount(band, minlength=_BUCKETS) for band in codes])  # each in the processor's cache
    return Statistics(len(block), mean, np.einsum("ij,ij->j", values, values), histogram[:, _RISING])


def _halves(block: np.ndarray) -> np.ndarray:
    return block if block.dtype == np.float16 else block.clip(-_MOST_HALF, _MOST_HALF).astype(np.float16)


def _edges() -> Float[np.ndarray, " buckets_and_one"]:
    """The least value of every bucket, and the end of the last; what is no finite half stands for the largest."""
    ordered = (np.arange(_BUCKETS + 1) << _DROPPED_BITS).clip(max=0xFFFF).astype(np.uint16)
    bits = np.where(ordered & 0x8000, ordered & 0x7FFF, ~ordered)
    return np.nan_to_num(bits.view(np.float16).astype(np.float64), nan=0.0).clip(-_MOST_HALF, _MOST_HALF)


def _quantile(histogram: Int[np.ndarray, "bands buckets"], share: float) -> Float[np.ndarray, " bands"]:
    """The value below which `share` of each band's values lie, between the edges of its bucket in proportion."""
    edges = _edges()
    reached = histogram.cumsum(axis=1)
    wanted = share * reached[:, -1]
    bucket = (reached < wanted[:, None]).sum(axis=1)
    inside = np.take_along_axis(histogram, bucket[:, None], 1)[:, 0]
    before = np.take_along_axis(reached, bucket[:, None], 1)[:, 0] - inside
    place = (wanted - before) / np.maximum(inside, 1)
    return edges[bucket] + place * (edges[bucket + 1] - edges[bucket])
