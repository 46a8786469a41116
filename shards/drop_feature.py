"""Remove a column of a dataset; all others stay as they are.

    sonograph drop-feature datasets/nsynth codec-logpower

The manifest is replaced first, so that nothing reads the column any more, then its folder is deleted.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from shards.manifest import Manifest, feature_words, with_features
from shards.problem import UsageProblem
from shards.verify import datasets_in
from shards.words import nearest


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
        if command.column not in manifest.features:
            raise UsageProblem(
                f"{folder} has no column '{command.column}', so nothing was dropped. "
                f"{nearest(command.column, manifest.features)}"
            )
        if len(manifest.features) == 1:
            raise UsageProblem(
                f"'{command.column}' is the only column of {folder}: without it nothing would be left to read. "
                "Delete the folder if that is what you want."
            )
    for folder, manifest in manifests.items():
        without(manifest, command.column).write(folder)
        shutil.rmtree(folder / command.column)
    return {"output": str(command.dataset), "metrics": {"datasets": len(folders)}}


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
