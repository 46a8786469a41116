"""Make one dataset of several; of folders with splits, those of one name.

    sonograph merge datasets/nsynth datasets/slakh --out datasets/notes
    sonograph merge datasets/nsynth --split all --out datasets/everything

Keeps the columns that all of them have by one contract, every label (null where a dataset has none of that name), and
the arrays bit by bit; indices are new and holes stay. Keys that occur twice get the name of their dataset. Datasets may
lie in stores, OUT is a folder. Killed and repeated, it makes what is missing.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import tyro
import xxhash

from shards.lock import only_writer
from shards.manifest import Manifest
from shards.problem import UsageProblem
from shards.regroup.agreement import Schema, agreed, is_plain
from shards.regroup.copying import Copy, Piece, Target, begin, finish, write_copies
from shards.regroup.source_shards import Source
from shards.stores.remote import url_of
from shards.verify import datasets_in

log = logging.getLogger(__name__)
_KEYS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Merge:
    datasets: tyro.conf.Positional[tuple[Path, ...]]
    """datasets, or folders of their splits"""
    out: Path
    """folder of what is made, one subfolder a split"""
    columns: tuple[str, ...] = ()
    """columns to keep; by default those that all have"""
    split: str = ""
    """make one dataset of all splits, of this name"""
    workers: int = os.cpu_count() or 1
    """shards copied at a time"""
    dry_run: bool = False
    """print what would be done and write nothing"""


COMMAND = Merge


def main(command: Merge) -> dict[str, object]:
    if command.workers < 1:
        raise UsageProblem(f"--workers is {command.workers}, so nothing was done. Pass 1 or more.")
    if command.split and not is_plain(command.split):
        raise UsageProblem(f"--split '{command.split}' names no folder, so nothing was done. Use letters and digits.")
    refuse_store(command.out)
    manifests = {folder: Manifest.read(folder) for given in command.datasets for folder in datasets_in(given)}
    refuse_inside(command.out, manifests)
    _require_different(command, manifests)
    schema = agreed({str(folder): manifest for folder, manifest in manifests.items()}, command.columns)
    targets = _targets(command, manifests, schema)
    copies = {target.split: list(_copies(target.sources)) for target in targets}
    planned = {split: sum(copy.planned for copy in each) for split, each in copies.items()}
    if command.dry_run:
        return {"output": "\n".join(_foretold(target, copies[target.split]) for target in targets)}
    with only_writer(command.out):
        for target in targets:
            begin(target, planned=planned[target.split])
        works = ((target, copy) for target in targets for copy in copies[target.split])
        write_copies(works, shards=sum(map(len, copies.values())), workers=command.workers)
        for target in targets:
            finish(target, shards=len(copies[target.split]), planned=planned[target.split])
    return {"output": str(command.out), "metrics": {"examples": {one.split: _examples(one.sources) for one in targets}}}


def refuse_store(out: Path) -> None:
    """Raises UsageProblem when `out` is a URL: datasets are read from stores, and copies are made in folders."""
    if url := url_of(out):
        raise UsageProblem(
            f"--out {url} lies in a store, and copies of examples are made in a folder, so nothing was read or "
            "written. Pass a folder of this machine, and upload what is made with the store's own tool, every "
            "manifest.json last, since it is what readers look for."
        )


def refuse_inside(out: Path, folders: Mapping[Path, Manifest]) -> None:
    """Raises UsageProblem when `out` lies in a dataset, which would then hold files that its manifest does not list."""
    for folder in folders:
        if out.resolve().is_relative_to(folder.resolve()):
            raise UsageProblem(
                f"--out {out} lies inside the dataset {folder}, which would then hold files that its manifest does not "
                "list. Nothing was written. Pass a folder elsewhere."
            )


def _require_different(command: Merge, manifests: Mapping[Path, Manifest]) -> None:
    if len(manifests) < 2:
        given = ", ".join(map(str, command.datasets)) or "nothing"
        raise UsageProblem(f"{given} is not several datasets, so there is nothing to merge. Name two or more.")
    seen: dict[str, Path] = {}
    for folder, manifest in manifests.items():
        if manifest.fingerprint in seen:
            raise UsageProblem(
                f"{folder} holds the very same examples as {seen[manifest.fingerprint]}: each would be there twice, so "
                "nothing was written. Name each dataset once."
            )
        seen[manifest.fingerprint] = folder
    if len({manifest.rendered for manifest in manifests.values()}) > 1:
        log.warning("some of the music is rendered and some is not: all of it is going to be called rendered")


def _targets(command: Merge, manifests: Mapping[Path, Manifest], schema: Schema) -> list[Target]:
    prefixes = _prefixes(command, [Source(folder, manifest, schema) for folder, manifest in manifests.items()])
    by_split: dict[str, list[Source]] = {}
    for folder, manifest in manifests.items():
        source = Source(folder, manifest, schema, prefixes.get(folder, ""))
        by_split.setdefault(command.split or manifest.split, []).append(source)
    return [
        Target(command.out / split, split, tuple(sources), schema, {"made_by": "merge"}, _words(command))
        for split, sources in sorted(by_split.items())
    ]


def _copies(sources: Sequence[Source]) -> Iterator[Copy]:
    """A shard of the copy for each of the sources, with its holes."""
    pieces = [Piece(source, shard) for source in sources for shard in source.manifest.shards]
    first = 0
    for number, piece in enumerate(pieces):
        yield Copy(number, first, (piece,))
        first += piece.planned


# Keys


def _prefixes(command: Merge, sources: Sequence[Source]) -> dict[Path, str]:
    """What stands before the keys of each dataset: nothing where no two have one in common."""
    if not _has_twice(sources):
        return {}
    names = _names(command, {source.folder: source.manifest for source in sources})
    log.warning("some keys occur twice, so all get the name of their dataset: %s.KEY", next(iter(names.values())))
    return {folder: f"{name}." for folder, name in names.items()}


def _has_twice(sources: Sequence[Source]) -> bool:
    """Whether a key occurs twice, by 64-bit digests, of which a bounded number is in memory at a time."""
    parts = 1 + sum(source.manifest.examples for source in sources) // _KEYS_AT_ONCE
    return any(_has_twice_in(sources, part, parts) for part in range(parts))


def _has_twice_in(sources: Sequence[Source], part: int, parts: int) -> bool:
    found = [np.empty(0, np.uint64)]
    for source in sources:
        for shard in source.manifest.shards:
            keys = source.values(shard, "key")
            digests = np.array([xxhash.xxh3_64_intdigest(key.encode()) for key in keys], np.uint64)
            found.append(digests[digests % parts == part])
    ordered = np.sort(np.concatenate(found))
    return bool((ordered[1:] == ordered[:-1]).any())


def _names(command: Merge, manifests: Mapping[Path, Manifest]) -> dict[Path, str]:
    """A name for each dataset that was given, shared by its splits; the folder's, with a number where that is taken."""
    names: dict[Path, str] = {}
    for given in command.datasets:
        folders = datasets_in(given)
        whole = given.resolve()
        is_split = folders == [given] and whole.name == manifests[given].split
        name = _safe(whole.parent.name if is_split else whole.name)
        taken = set(names.values())
        numbered = (f"{name}-{number}" if number > 1 else name for number in range(1, len(taken) + 2))
        own = next(each for each in numbered if each not in taken)
        names |= dict.fromkeys(folders, own)
    return names


def _safe(name: str) -> str:
    """Without dots, of which the first ends the name in a key."""
    if is_plain(name):
        return name
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:40] + "--" + sha256(os.fsencode(name)).hexdigest()[:12]


# What is said


def _words(command: Merge) -> tuple[str, ...]:
    columns = ("--columns", *command.columns) if command.columns else ()
    split = ("--split", command.split) if command.split else ()
    return ("merge", *map(str, command.datasets), *columns, *split)


def _examples(sources: Sequence[Source]) -> int:
    return sum(source.manifest.examples for source in sources)


def _foretold(target: Target, copies: Sequence[Copy]) -> str:
    size = sum(
        stored.bytes
        for source in target.sources
        for shard in source.manifest.shards
        for name, stored in shard.files.items()
        if name.partition("/")[0] in target.schema.columns
    )
    there = sum(target.missing(copy.number) == (True, []) for copy in copies)
    return (
        f"{target.folder}  {_examples(target.sources):,} examples of {len(target.sources)} datasets, {len(copies)} "
        f"shards ({there} are whole), {size / 1e6:,.1f} MB, columns {', '.join(target.schema.columns)}"
    )


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("merge")
