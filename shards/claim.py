"""A folder is taken by what it is going to hold: whoever continues there must be making the very same dataset."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.manifest import COLUMN, MANIFEST, PLAN, Manifest
from shards.problem import DataProblem
from shards.store import PARTIAL, canonical_json, remove_partials, write_json


def claim(
    folder: Path,
    identity: Mapping[str, object],
    columns: Mapping[str, Mapping[str, object]],
    *,
    tasks: Sequence[str] = (),
    by: str = "build",
) -> None:
    """Take an empty folder, or the one in which this same dataset was begun; columns may be added to it.

    Raises DataProblem for any other folder, and for a column of that name with another contract. Where only the plan
    was lost, the manifest must list these `tasks`. `by` is the command's name for these messages.
    """
    remove_partials(folder)
    refuse_foreign(folder)
    if not (folder / PLAN).is_file():
        _require_own_shards(folder, tasks, by)
    _claim(folder, folder / PLAN, identity, by)
    for column, entry in columns.items():
        _claim(folder, folder / column / COLUMN, entry, by)


def refuse_foreign(folder: Path) -> None:
    """Raises DataProblem when files lie in `folder` that no build has put there, not even one killed at its first."""
    is_ours = any((folder / name).is_file() for name in (PLAN, MANIFEST))
    if folder.is_dir() and any(PARTIAL not in path.name for path in folder.iterdir()) and not is_ours:
        raise DataProblem(
            f"{folder} is not empty and was not made by a build: it has no {PLAN}. Nothing was written, so that "
            "nothing is lost. Pass another --out, or empty the folder."
        )


def _require_own_shards(folder: Path, tasks: Sequence[str], by: str) -> None:
    if not (folder / MANIFEST).is_file():
        return
    if [shard.task for shard in Manifest.read(folder).shards] != list(tasks):
        raise DataProblem(
            f"{folder} has no {PLAN}, and its {MANIFEST} lists other shards than this {by} plans. Mixing the two would "
            "make a dataset of neither, so nothing was written. Pass another --out, or delete that folder."
        )


def _claim(folder: Path, path: Path, content: Mapping[str, object], by: str) -> None:
    """Write down what `folder` is going to hold, or compare it with what was written there before."""
    if not path.is_file():
        write_json(path, content)
        return
    found, wanted = _written(path), json.loads(canonical_json(content))
    if path.name == COLUMN and found.get("fingerprint") == wanted["fingerprint"]:
        return  # its weights may have lain elsewhere
    for name in sorted(found.keys() | wanted.keys(), key=lambda name: (name == "fingerprint", name)):
        if found.get(name) != wanted.get(name):
            there, here = _difference(found.get(name), wanted.get(name))
            what = "dataset" if path.name == PLAN else f"column '{path.parent.name}'"
            raise DataProblem(
                f"{folder} holds another {what}: its {name} is {there}, this {by}'s is {here}. Mixing the two would "
                "make a dataset of neither, so nothing was written. Pass another --out, or delete that folder."
            )


def _written(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataProblem(
            f"{path} is damaged: it is no JSON of ours, so what this folder was to hold is not known and nothing was "
            "written. Delete that file where the folder has a manifest.json, else the folder, and repeat the command."
        )
    return found


def _difference(there: object, here: object) -> tuple[str, str]:
    """Two unequal values, narrowed to the first entry in which two tables differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        key = min(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
        left, right = _difference(there.get(key), here.get(key))
        return f"{key}: {left}", f"{key}: {right}"
    return json.dumps(there)[:80], json.dumps(here)[:80]
