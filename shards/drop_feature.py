"""Remove a column of a dataset; all others stay as they are.

    sonograph drop-feature datasets/nsynth codec-logpower

The manifest is replaced first, so that nothing reads the column any more, then its files are deleted: in a folder or in
a store. Killed in between and repeated, it deletes what is left.
"""

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from shards.manifest import COLUMN, Manifest, feature_words, with_features
from shards.problem import UsageProblem
from shards.regroup.agreement import is_plain
from shards.stores.remote import Store, url_of
from shards.stores.upload import written
from shards.verify import datasets_in
from shards.words import nearest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DropFeature:
    dataset: tyro.conf.Positional[Path]
    """a dataset, or the folder of its splits"""
    column: tyro.conf.Positional[str]
    """name of the column's folder: mel, codec-logpower, ..."""


COMMAND = DropFeature


def main(command: DropFeature) -> dict[str, object]:
    folders = datasets_in(command.dataset)
    manifests = {folder: Manifest.read(folder) for folder in folders}
    for folder, manifest in manifests.items():
        _require_droppable(command.column, folder, manifest)
    for folder, manifest in manifests.items():
        if command.column in manifest.features:
            with written(folder) as here:
                without(manifest, command.column).write(here)
        log.info("%s  %d files of %s are deleted", folder, _delete(folder, command.column), command.column)
    return {"output": str(command.dataset), "metrics": {"datasets": len(folders)}}


def _require_droppable(column: str, folder: Path, manifest: Manifest) -> None:
    """Raises UsageProblem unless it is one column of several, or the rest of one that was dropped."""
    if column not in manifest.features and not _is_left(folder, column):
        raise UsageProblem(
            f"{folder} has no column '{column}', so nothing was dropped. {nearest(column, manifest.features)}"
        )
    if list(manifest.features) == [column]:
        raise UsageProblem(
            f"'{column}' is the only column of {folder}: without it nothing would be left to read. Delete "
            f"{folder} if that is what you want."
        )


def _is_left(folder: Path, column: str) -> bool:
    """Whether a drop that was killed has left files of a column; nothing but a column has such a contract's file."""
    return is_plain(column) and (folder / column / COLUMN).is_file()


def _delete(folder: Path, column: str) -> int:
    """Delete a column's files, what says that it is one last; returns how many there were."""
    names = [path.relative_to(folder).as_posix() for path in (folder / column).rglob("*") if not path.is_dir()]
    names.sort(key=lambda name: (name == f"{column}/{COLUMN}", name))
    if url := url_of(folder):
        Store(url).remove(names)
        return len(names)
    for name in names:
        (folder / name).unlink()
    shutil.rmtree(folder / column)
    return len(names)


def without(manifest: Manifest, column: str) -> Manifest:
    """The manifest of the same dataset less one column and all its files."""
    inside = f"{column}/"
    shards = [
        replace(shard, files={name: stored for name, stored in shard.files.items() if not name.startswith(inside)})
        for shard in manifest.shards
    ]
    word = str(manifest.features[column]["word"])
    words = [given for given in feature_words(manifest.build) if not _is_same(given, word)]
    return replace(
        manifest,
        features={name: entry for name, entry in manifest.features.items() if name != column},
        statistics={name: found for name, found in manifest.statistics.items() if name != column},
        files={name: stored for name, stored in manifest.files.items() if not name.startswith(inside)},
        shards=shards,
        build=with_features(manifest.build, words),
    )


def _is_same(given: str, word: str) -> bool:
    """Whether a word of a command line names the feature that `word` loads: `mel` is `mel:myna`."""
    named = given.partition("@")[0]
    return named == word or (":" not in named and word.partition(":")[0] == named)


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("drop-feature")
