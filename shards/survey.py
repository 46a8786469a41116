"""What the index tables of one or several splits say together: labels, lengths and rejected ones, split by split."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shards.index import read_index
from shards.manifest import REJECTED, Manifest, read_table

_MOST_VALUES = 100_000  # different ones that are told apart: keys of millions of recordings are no distribution
_ROWS_AT_ONCE = 1 << 14
_REASON_LETTERS, _EXAMPLE_LETTERS = 120, 300


@dataclass(frozen=True)
class Part:
    """One split of what is looked at."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.split


def parts_of(folders: Iterable[Path]) -> list[Part]:
    """The datasets in `folders`, train first. Raises DataProblem for one that is none."""
    parts = [Part(folder, Manifest.read(folder)) for folder in folders]
    return sorted(parts, key=lambda part: (part.name != "train", part.name == "test", part.name))


@dataclass
class Tally:
    """How often each value occurs in each split; where lists are counted, an example may count several times."""

    counts: dict[str, Counter] = field(default_factory=dict)
    unlabelled: int = 0
    is_cut: bool = False
    """More values were met than are told apart."""

    @property
    def total(self) -> Counter:
        return sum(self.counts.values(), Counter())


def tally(parts: Sequence[Part], column: str) -> Tally:
    """Count the values of an index column."""
    found = Tally()
    for part in parts:
        counts = found.counts.setdefault(part.name, Counter())
        for chunk in _chunks(part, column):
            for row in _flat(chunk).value_counts().to_pylist():
                if row["values"] is not None:
                    counts[row["values"]] += row["counts"]
            found.unlabelled += chunk.null_count
            if len(counts) > _MOST_VALUES:
                found.is_cut = True
                break
    return found


def flags(parts: Sequence[Part], column: str, classes: int) -> Tally | None:
    """Count the classes of a label that says 0 or 1 for each of them; None when it says something else."""
    found = Tally()
    for part in parts:
        flat = [_flat(chunk) for chunk in _chunks(part, column)]
        values = np.concatenate([np.empty(0, np.int64), *(chunk.to_numpy(zero_copy_only=False) for chunk in flat)])
        if len(values) % classes or not np.isin(values, (0, 1)).all():
            return None
        found.unlabelled += sum(chunk.null_count for chunk in _chunks(part, column))
        counts = values.reshape(-1, classes).sum(axis=0).astype(int).tolist()
        found.counts[part.name] = Counter({number: count for number, count in enumerate(counts) if count})
    return found


def numbers(parts: Sequence[Part], column: str) -> dict[str, np.ndarray]:
    """The values of a numeric index column in each split, those of lists one after the other; none that is missing."""
    return {part.name: _joined([_flat(chunk) for chunk in _chunks(part, column)]) for part in parts}


def event_counts(parts: Sequence[Part], name: str) -> tuple[int, int]:
    """How many events of a kind there are, and in how many examples."""
    chunks = [chunk for part in parts for chunk in _chunks(part, f"events.{name}")]
    lengths = [chunk.value_lengths().drop_null().to_numpy(zero_copy_only=False) for chunk in chunks]
    return sum(int(found.sum()) for found in lengths), sum(int((found > 0).sum()) for found in lengths)


def index_row(part: Part, row: int) -> dict[str, Any]:
    """All that the index says of the example in that place among a split's examples."""
    ends = np.cumsum([shard.examples for shard in part.manifest.shards])
    place = int(np.searchsorted(ends, row, side="right"))
    shard = part.manifest.shards[place]
    table = read_index(part.folder, part.manifest, shard)
    return table.slice(row - int(ends[place]) + shard.examples, 1).to_pylist()[0]


def _chunks(part: Part, column: str) -> Iterator[Any]:
    for shard in part.manifest.shards:
        yield from read_index(part.folder, part.manifest, shard, [column])[column].chunks


def _flat(chunk: Any) -> Any:
    return chunk.flatten() if str(chunk.type).startswith("list") else chunk


def _joined(chunks: Sequence[Any]) -> np.ndarray:
    arrays = [chunk.drop_null().to_numpy(zero_copy_only=False).astype(np.float64) for chunk in chunks]
    values = np.concatenate([np.empty(0), *arrays])
    return values[np.isfinite(values)]


@dataclass(frozen=True)
class Reason:
    """Why examples are missing: where it was found, what, and one recording of which it is true."""

    split: str
    stage: str
    reason: str
    example: str
    count: int


def rejections(parts: Sequence[Part]) -> list[Reason]:
    """The reasons of all rejected examples, the most frequent first."""
    counts: Counter[tuple[str, str, str]] = Counter()
    paths: dict[tuple[str, str, str], str] = {}
    for part in parts:
        for row in _rejected(part) if part.manifest.rejected else ():
            kind = (part.name, str(row["stage"]), kind_of(str(row["reason"])))
            counts[kind] += 1
            paths.setdefault(kind, f"{row['path']}: {row['reason']}"[:_EXAMPLE_LETTERS])
    return [Reason(*kind, paths[kind], count) for kind, count in counts.most_common()]


def _rejected(part: Part) -> Iterator[dict[str, Any]]:
    for batch in read_table(part.folder / REJECTED, ["path", "stage", "reason"]).to_batches(_ROWS_AT_ONCE):
        yield from batch.to_pylist()


def kind_of(reason: str) -> str:
    """A reason without what is particular to one recording, which stands behind a colon."""
    return reason.partition(":")[0][:_REASON_LETTERS]


def shown_labels(labels: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Names of labels, without those that only spell another one: `instrument_family_str`."""
    return [name for name in labels if not (name.endswith("_str") and name.removesuffix("_str") in labels)]
