"""Divide a dataset: by a label, into shares, or by a list of keys.

    sonograph split datasets/notes --by instrument_family --out datasets/by_family
    sonograph split datasets/notes --fractions train=0.8 valid=0.1 test=0.1 --group instrument --out datasets/new
    sonograph split datasets/notes --keys chosen.txt --out datasets/chosen

Shares go by a hash of the group's value: no group is in two of them, and none moves when data are added. The arrays
stay bit by bit, indices are new; rejected recordings belong to no part. The dataset may lie in a store, OUT is a
folder. Killed and repeated, it makes what is missing.
"""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from shards.lock import only_writer
from shards.manifest import Manifest
from shards.merge import refuse_inside, refuse_store
from shards.problem import UsageProblem
from shards.regroup.agreement import agreed
from shards.regroup.copying import Copy, Piece, Target, begin, finish, write_copies
from shards.regroup.division import ByKeys, ByLabel, ByShare, Division
from shards.regroup.source_shards import Source
from shards.verify import datasets_in

log = logging.getLogger(__name__)
_MOST_PARTS = 256  # whose growing shards are in memory together


@dataclass(frozen=True)
class Split:
    dataset: tyro.conf.Positional[Path]
    """a dataset, or the folder of its splits"""
    out: Path
    """folder of the parts: PART/SPLIT by a label, PART by shares, SPLIT by keys"""
    by: str = ""
    """label of which each value gets a dataset"""
    fractions: tuple[str, ...] = ()
    """shares of all examples, as NAME=SHARE"""
    keys: Path | None = None
    """file with a key, or the id of a recording, in each line"""
    group: str = "key"
    """label whose equal values stay together; key: pieces of one recording"""
    seed: int = 0
    """other shares, of the same size"""
    shard_examples: int = 512
    """examples of one shard"""
    workers: int = os.cpu_count() or 1
    """shards copied at a time"""
    dry_run: bool = False
    """print what would be done and write nothing"""


COMMAND = Split


def main(command: Split) -> dict[str, object]:
    if command.workers < 1 or command.shard_examples < 1:
        raise UsageProblem("--workers and --shard-examples must be 1 or more, so nothing was done.")
    refuse_store(command.out)
    manifests = {folder: Manifest.read(folder) for folder in datasets_in(command.dataset)}
    refuse_inside(command.out, manifests)
    schema = agreed({str(folder): manifest for folder, manifest in manifests.items()})
    sources = [Source(folder, manifest, schema) for folder, manifest in manifests.items()]
    division = _division(command, sources)
    counts = _counts(command, division, sources)
    targets = {part: _target(command, division, part, sources) for part in counts}
    _tell(command, counts, manifests)
    if command.dry_run:
        return {"output": "\n".join(f"{targets[part].folder}  {counts[part]:,} examples" for part in targets)}
    with only_writer(command.out):
        for part, target in targets.items():
            begin(target, planned=counts[part])
        shards = {part: -(-counts[part] // command.shard_examples) for part in targets}
        copies = _copies(division, sources, command.shard_examples)
        works = ((targets[part], copy) for part, copy in copies)
        write_copies(works, shards=sum(shards.values()), workers=command.workers)
        for part, target in targets.items():
            finish(target, shards=shards[part], planned=counts[part])
    return {"output": str(command.out), "metrics": {"examples": {part: counts[part] for part in targets}}}


def _division(command: Split, sources: Sequence[Source]) -> Division:
    given = [bool(command.by), bool(command.fractions), command.keys is not None]
    if sum(given) != 1:
        raise UsageProblem(
            f"{sum(given)} of --by, --fractions and --keys were given, so nothing was done. Say how to divide "
            f"{command.dataset} by exactly one of them."
        )
    if command.by:
        return ByLabel.of(sources, command.by, command.group)
    if command.keys is not None:
        return ByKeys.of(sources, command.keys)
    return ByShare.of(sources, command.fractions, command.group, command.seed)


def _counts(command: Split, division: Division, sources: Sequence[Source]) -> dict[str, int]:
    """Examples of each part that has any."""
    counts: Counter[str] = Counter()
    for source in sources:
        for shard in source.manifest.shards:
            counts.update(part for part in division.of_rows(source, shard) if part)
            if len(counts) > _MOST_PARTS:
                raise UsageProblem(
                    f"'{command.by}' has more than {_MOST_PARTS} values, each of which would be a dataset, so nothing "
                    "was done. Choose another label, or divide by --fractions with --group."
                )
    return dict(sorted(counts.items()))


def _copies(division: Division, sources: Sequence[Source], shard_examples: int) -> Iterator[tuple[str, Copy]]:
    """The shards of every part, each as soon as its rows are known: only their places are in memory."""
    growing: defaultdict[str, _Growing] = defaultdict(_Growing)
    for source in sources:
        for shard in source.manifest.shards:
            for part, rows in _rows_of_parts(division.of_rows(source, shard)).items():
                while rows:
                    room = shard_examples - growing[part].planned
                    growing[part].pieces.append(Piece(source, shard, tuple(rows[:room])))
                    rows = rows[room:]
                    if growing[part].planned == shard_examples:
                        yield part, growing[part].cut()
    yield from ((part, each.cut()) for part, each in sorted(growing.items()) if each.pieces)


def _rows_of_parts(parts: Sequence[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, part in enumerate(parts):
        if part:
            rows.setdefault(part, []).append(row)
    return rows


class _Growing:
    """The shard of a part that is not full yet."""

    def __init__(self) -> None:
        self.number, self.first_index = 0, 0
        self.pieces: list[Piece] = []

    @property
    def planned(self) -> int:
        return sum(piece.planned for piece in self.pieces)

    def cut(self) -> Copy:
        copy = Copy(self.number, self.first_index, tuple(self.pieces))
        self.number, self.first_index, self.pieces = self.number + 1, self.first_index + copy.planned, []
        return copy


def _target(command: Split, division: Division, part: str, sources: Sequence[Source]) -> Target:
    said = {"made_by": "split", "part": part, "rule": division.rule, "shard_examples": command.shard_examples}
    return Target(command.out / part, part.rpartition("/")[2], tuple(sources), sources[0].schema, said, _words(command))


def _tell(command: Split, counts: Mapping[str, int], manifests: Mapping[Path, Manifest]) -> None:
    for part, count in counts.items():
        log.info("%s  %d examples", command.out / part, count)
    for part in sorted({word.partition("=")[0] for word in command.fractions} - counts.keys()):
        log.warning("%s  no example falls into it, so there is no such dataset", command.out / part)
    for folder, manifest in manifests.items():
        if manifest.rejected:
            log.warning(
                "%s  %d rejected examples have neither labels nor keys and belong to no part", folder, manifest.rejected
            )


def _words(command: Split) -> tuple[str, ...]:
    by = ("--by", command.by) if command.by else ()
    fractions = ("--fractions", *command.fractions, "--seed", str(command.seed)) if command.fractions else ()
    keys = ("--keys", str(command.keys)) if command.keys else ()
    group = ("--group", command.group) if command.by or command.fractions else ()
    size = ("--shard-examples", str(command.shard_examples))
    return ("split", str(command.dataset), *by, *fractions, *keys, *group, *size)


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("split")
