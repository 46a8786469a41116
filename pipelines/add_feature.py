"""Compute one more column of a built dataset, beside those it has.

    sonograph add-feature datasets/nsynth codec:logpower

Repeats the build that made the dataset, whose corpus must still lie where it lay, for that column alone: in all splits,
for exactly the examples that are there. Killed and repeated it makes what is missing; other files are not touched.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from shards.manifest import MANIFEST, Manifest, with_features
from shards.problem import UsageProblem
from shards.repair import may_run
from shards.verify import datasets_in


@dataclass(frozen=True)
class AddFeature:
    dataset: tyro.conf.Positional[Path]
    """a dataset, or the folder of its splits; all of them get the column"""
    feature: tyro.conf.Positional[str]
    """MODULE[:CONTRACT][@WEIGHTS] of shards/features"""
    workers: int = os.cpu_count() or 1
    """tasks that run at a time"""
    actors: int = 0
    """processes that compute it in batches, each on a GPU of its own where there are any; 0: plain tasks"""
    accept_licence: str = ""
    """agree to that non-commercial licence of weights"""
    dry_run: bool = False
    """print what would be done and write nothing"""


COMMAND = AddFeature


def main(command: AddFeature) -> dict[str, object]:
    # A process of its own: only the frame of the command line reads the options that the build had.
    words = [sys.executable, "-m", "sonograph", *build_words(command), "--json"]
    build = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if build.returncode:
        sys.exit(build.returncode)  # it has said why
    result = json.loads(build.stdout.splitlines()[-1])
    return {**result, "output": result["output"] if command.dry_run else str(command.dataset)}


def build_words(command: AddFeature) -> list[str]:
    """The build that made the dataset, for the new column alone. Raises UsageProblem when no build made it."""
    is_split = (command.dataset / MANIFEST).is_file()
    manifest = Manifest.read(datasets_in(command.dataset)[0])
    if not may_run(manifest.build):
        raise UsageProblem(
            f"{command.dataset} says that `sonograph {' '.join(manifest.build)}` made it, which is no build: there is "
            "no corpus to compute a column from. Add it to the datasets that went into this one, and make it again."
        )
    out = command.dataset.resolve().parent if is_split else command.dataset
    counts = ["--workers", str(command.workers), "--actors", str(command.actors)]
    words = [*with_features(manifest.build, [command.feature]), "--out", str(out), *counts]
    words += ["--accept-licence", command.accept_licence] if command.accept_licence else []
    return [*words, "--dry-run"] if command.dry_run else words


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("add-feature")
