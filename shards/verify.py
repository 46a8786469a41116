"""Check every digest, count, offset and contract of a dataset.

    sonograph verify datasets/nsynth
    sonograph verify datasets/nsynth --repair     and build again what is broken

Reads every tar once, faster than sha256sum alone. Takes one dataset or the folder of its splits. Finds a flipped bit
anywhere, a missing, swapped, stale or foreign file, a cut tar, members that do not match their table, links.
--repair moves what is broken beside the dataset and repeats its build. Exit code 3 when anything is wrong.
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from shards.damage import Damage, damage_of_column, damage_of_file, damage_of_index, damage_of_proof
from shards.feature import differences, load_feature
from shards.manifest import MANIFEST, PLAN, REJECTED, Manifest, column_path, index_path, read_record, read_table
from shards.problem import DataProblem, UsageProblem
from shards.repair import foretold, repair, siblings
from shards.store import canonical_json
from shards.stores.remote import Url

log = logging.getLogger(__name__)
_SHOWN = 20
_REPORT_SECONDS = 5.0


@dataclass(frozen=True)
class Verify:
    dataset: tyro.conf.Positional[Path]
    """a dataset, or the folder of its splits"""
    workers: int = os.cpu_count() or 1
    """files read at a time, and tasks of a repairing build"""
    repair: bool = False
    """move what is broken beside the dataset, build it again from its source, and check again"""
    root: Path | None = None
    """where the source of a repair lies, if not where the build read it"""
    dry_run: bool = False
    """say what --repair would do, and do nothing"""


COMMAND = Verify


def main(command: Verify) -> dict[str, object]:
    if command.workers < 1:
        raise UsageProblem(f"--workers is {command.workers}, so nothing was done. Pass 1 or more.")
    folders = _claimed_in(command.dataset)
    found = _all_damage(folders, command.workers)
    if isinstance(command.dataset, Url):
        _require_none(command, found, _how_to_mend(command.dataset))
    if not (found and (command.repair or command.dry_run)):
        _require_none(command, found, _how_to_repair(command, found))
        examples = sum(Manifest.read(folder).examples for folder in folders)
        return {"output": f"{command.dataset} is whole", "metrics": {"datasets": len(folders), "examples": examples}}
    return _repaired(command, folders, found)


def _repaired(command: Verify, folders: Sequence[Path], found: Sequence[Damage]) -> dict[str, object]:
    """A build makes all splits of its folder, and may only meet whole or missing files: so all are checked first."""
    others = [folder for folder in siblings(folders[0], _claimed_in(folders[0].parent)) if folder not in folders]
    found = [*found, *_all_damage(others, command.workers)]
    hopeless = [damage for damage in found if not damage.is_repairable]
    _require_none(command, hopeless, "No build mends that. Make the dataset anew, into another --out.")
    everywhere = [*folders, *others]
    broken = {folder: sorted({each.path for each in found if folder in each.path.parents}) for folder in everywhere}
    for damage in found:
        log.warning("%s", damage)
    if command.dry_run:
        return {"output": foretold(broken, root=command.root)}
    set_aside = repair(broken, root=command.root, workers=command.workers)
    where = f"What was broken lies in {', '.join(map(str, set_aside))}." if set_aside else ""
    left = _all_damage(everywhere, command.workers)
    _require_none(command, left, f"The build did not mend that. {where}")
    return {
        "output": f"{command.dataset} is whole again. {where}".strip(),
        "metrics": {"datasets": len(everywhere), "repaired": sum(map(len, broken.values()))},
    }


def _require_none(command: Verify, found: Sequence[Damage], remedy: str) -> None:
    if not found:
        return
    more = f"\n  … and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    listed = "\n  ".join(map(str, found[:_SHOWN]))
    raise DataProblem(
        f"{command.dataset} is not what was written: {len(found)} problems.\n  {listed}{more}\n"
        f"Training on it could use wrong data. {remedy}"
    )


def _how_to_mend(store: Url) -> str:
    return (
        "Delete what is broken with the store's own tool, and all manifest.json, then repeat the dataset's build "
        f"command with --out {store}: it makes what is missing, and nothing else."
    )


def _how_to_repair(command: Verify, found: Sequence[Damage]) -> str:
    if not all(damage.is_repairable for damage in found):
        return "Build it again, into another --out."
    return f"Move what is broken aside and build it again, nothing else:\n  sonograph verify {command.dataset} --repair"


def datasets_in(folder: Path) -> list[Path]:
    """The dataset itself, or the splits below it. Raises what reading a missing manifest raises when there are none."""
    if (folder / MANIFEST).is_file():
        return [folder]
    splits = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not splits:
        Manifest.read(folder)
    return splits


def _claimed_in(folder: Path) -> list[Path]:
    """Those, and each that has but a plan: its build was not finished, or its manifest is lost.

    Raises what reading a missing manifest raises when there is neither.
    """
    below = {path.parent for name in (PLAN, MANIFEST) for path in folder.glob(f"*/{name}")}
    if not below and not (folder / PLAN).is_file():
        Manifest.read(folder)
    splits = sorted(split for split in below if not _is_empty(split))
    return [folder] if (folder / PLAN).is_file() or not splits else splits


def _is_empty(folder: Path) -> bool:
    """Whether the build ended with every recording rejected, which makes no dataset."""
    if (folder / MANIFEST).exists() or not (folder / REJECTED).is_file():
        return False
    records = [read_record(folder, int(path.stem)) for path in folder.glob("index/*.parquet") if path.stem.isdigit()]
    return all(record is not None and record.examples == 0 for record in records)


def verify(folder: Path) -> Iterator[str]:
    """Yield a line for everything that differs from what was written; nothing when the dataset is whole."""
    yield from map(str, damage_of(folder))


def _all_damage(folders: Sequence[Path], workers: int) -> list[Damage]:
    return [damage for folder in folders for damage in damage_of(folder, workers=workers)]


def damage_of(folder: Path, *, workers: int = os.cpu_count() or 1) -> Iterator[Damage]:
    """Everything that differs from what was written, files in parallel, told in a fixed order.

    Where the manifest itself is lost, shards are compared with what their own index files say of them.
    """
    try:
        manifest = Manifest.read(folder)
        problem = _misspelled(folder)
    except DataProblem as error:
        problem = str(error).removeprefix(f"{folder / MANIFEST} ").partition(". ")[0]
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem:
        yield Damage(folder / MANIFEST, problem)
        checks = list(_checks_by_records(folder))
    else:
        yield from _foreign_files(folder, manifest)
        yield from (found for column in manifest.features.items() for found in _check_contract(folder, *column))
        checks = list(_checks(folder, manifest))
    yield from _in_threads(folder, checks, workers)


@dataclass(frozen=True)
class Check:
    """A piece of work for one thread, and the bytes that it reads."""

    bytes: int
    run: Callable[[], Iterator[Damage]]


def _checks(folder: Path, manifest: Manifest) -> Iterator[Check]:
    for name, stored in manifest.files.items():
        yield Check(stored.bytes, partial(damage_of_file, folder / name, stored))
    yield Check(0, partial(_check_rejected, folder, manifest))
    for shard in manifest.shards:
        sizes = {name: stored.bytes for name, stored in shard.files.items()}
        yield Check(sizes[index_path(shard.number)], partial(damage_of_index, folder, shard, manifest))
        for column, contract in manifest.features.items():
            tar_bytes = sizes[column_path(column, shard.number, "tar")]
            yield Check(tar_bytes, partial(damage_of_column, folder, shard, column, contract))


def _checks_by_records(folder: Path) -> Iterator[Check]:
    tables = sorted(path for path in folder.glob("*/*.parquet") if re.fullmatch(r"\d{6}", path.stem))
    return (Check(0, partial(damage_of_proof, folder, path.parent.name, int(path.stem))) for path in tables)


def _in_threads(folder: Path, checks: Sequence[Check], workers: int) -> Iterator[Damage]:
    pool = ThreadPoolExecutor(workers)
    progress = Progress(folder, sum(check.bytes for check in checks))
    try:
        for check, found in zip(checks, pool.map(lambda check: list(check.run()), checks), strict=True):
            progress.add(check.bytes)
            yield from found
    finally:
        pool.shutdown(cancel_futures=True)  # who stops in the middle does not wait for the rest
    progress.report(f"{len(checks)} checks")


class Progress:
    """A line every few seconds, and one at the end: bytes, rate, time left."""

    def __init__(self, folder: Path, total_bytes: int) -> None:
        self.folder, self.total_bytes, self.done_bytes = folder, total_bytes, 0
        self.begin = self.reported = time.monotonic()

    def add(self, done_bytes: int) -> None:
        self.done_bytes += done_bytes
        if time.monotonic() - self.reported >= _REPORT_SECONDS:
            self.reported = time.monotonic()
            left = (self.total_bytes - self.done_bytes) * (self.reported - self.begin) / max(self.done_bytes, 1)
            self.report(f"eta {left / 60:.1f} min")

    def report(self, more: str) -> None:
        rate = self.done_bytes / 1e6 / max(time.monotonic() - self.begin, 1e-9)
        done = f"{self.done_bytes / 1e6:,.1f}/{self.total_bytes / 1e6:,.1f} MB"
        log.info("verify %s  %s  %s MB/s  %s", self.folder, done, f"{rate:,.0f}", more)


def _check_rejected(folder: Path, manifest: Manifest) -> Iterator[Damage]:
    try:
        count = read_table(folder / REJECTED, ["index"]).num_rows
    except DataProblem:
        return  # its own digest tells
    if count != manifest.rejected:
        yield Damage(folder / REJECTED, f"lists {count:,} examples, {manifest.rejected:,} were rejected")


# The manifest


def _misspelled(folder: Path) -> str | None:
    """A flip may leave the meaning of JSON as it was, 1e-05 as 1E-05; what was written has one spelling."""
    text = (folder / MANIFEST).read_bytes()
    if canonical_json(json.loads(text), indent=1) + b"\n" != text:
        return "is spelled otherwise than it was written"
    return None


def _foreign_files(folder: Path, manifest: Manifest) -> Iterator[Damage]:
    known = {*manifest.files, *(name for shard in manifest.shards for name in shard.files), MANIFEST}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield Damage(path, "is not part of the dataset, but a link")
        elif name not in known and not path.is_dir():
            yield Damage(path, "is not part of the dataset")


def _check_contract(folder: Path, column: str, contract: Mapping[str, object]) -> Iterator[Damage]:
    """Without weights: it is known from the contract alone what a column holds."""
    word = str(contract["word"]).partition("@")[0]
    try:
        differing = differences(load_feature(word), contract)
    except UsageProblem as problem:
        yield Damage(folder / column, str(problem), is_repairable=False)
        return
    if differing:
        what = f"was computed by another '{word}' than this version has: they differ in {', '.join(differing)}"
        yield Damage(folder / column, what, is_repairable=False)


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("verify")
