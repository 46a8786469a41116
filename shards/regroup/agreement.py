"""What several datasets have in common, so that one can hold the examples of all: columns, labels, events."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shards.manifest import Manifest
from shards.problem import DataProblem, UsageProblem
from shards.words import nearest

log = logging.getLogger(__name__)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)
Kind = Mapping[str, Any]
"""Of a label or of events: `type`, and `classes`, the ordered names of an integer's values, or None."""


@dataclass(frozen=True)
class Schema:
    """What a dataset made of others holds of each: the manifest's entries of columns, labels and events by name."""

    columns: Mapping[str, Mapping[str, object]]
    labels: Mapping[str, Kind]
    events: Mapping[str, Kind]


def agreed(manifests: Mapping[str, Manifest], columns: Sequence[str] = ()) -> Schema:
    """The columns that all have, or those asked for, and every label and kind of events that any has.

    What is left out or numbered anew is told. Raises DataProblem, naming the field, when two datasets mean different
    things by one name, and UsageProblem for a column that was asked for and is not there.
    """
    for folder, manifest in manifests.items():
        for name in (manifest.split, *manifest.features):
            if not is_plain(name):
                raise DataProblem(
                    f"{folder} has a split or column {name!r:.60}, which names no folder. Nothing was done."
                )
    return Schema(
        _columns(manifests, columns),
        _kinds("label", {name: manifest.labels for name, manifest in manifests.items()}),
        _kinds("events", {name: manifest.events for name, manifest in manifests.items()}),
    )


def is_plain(name: str) -> bool:
    """Whether it can name a folder and nothing else."""
    return _PLAIN_NAME.fullmatch(name) is not None


def new_numbers(there: Kind | None, here: Kind) -> dict[int, int] | None:
    """What becomes of a dataset's class numbers where its classes are ordered otherwise `here`; None: they stay."""
    before, after = (there or {}).get("classes"), here.get("classes")
    if before is None or after is None or before == after or here["type"] != "int":
        return None
    places = {name: number for number, name in enumerate(after)}
    return {number: places[name] for number, name in enumerate(before)}


def _columns(manifests: Mapping[str, Manifest], asked: Sequence[str]) -> dict[str, Mapping[str, object]]:
    first = next(iter(manifests.values()))
    in_all = [name for name in first.features if all(name in manifest.features for manifest in manifests.values())]
    for column in asked:
        if column not in in_all:
            raise UsageProblem(
                f"Not every dataset has a column '{column}', so nothing was written. {nearest(column, in_all)}"
            )
    for folder, manifest in manifests.items():
        for column in [] if asked else sorted(manifest.features.keys() - set(in_all)):
            log.warning("%s  its column %s is left out: others have none of that name", folder, column)
    kept = sorted(set(asked or in_all))
    if not kept:
        raise DataProblem(
            f"{' and '.join(list(manifests)[:2])} have no column in common, so nothing can be made of both. Add one to "
            "each: sonograph add-feature DATASET FEATURE"
        )
    for folder, manifest in manifests.items():
        for column in kept:
            _require_equal(column, folder, manifest.features[column], first.features[column], next(iter(manifests)))
    return {column: first.features[column] for column in kept}


def _require_equal(column: str, folder: str, here: Mapping, there: Mapping, other: str) -> None:
    if here["fingerprint"] == there["fingerprint"]:
        return
    differing = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    differing = [name for name in differing if name != "fingerprint"] or differing
    name = differing[0]
    raise DataProblem(
        f"The column '{column}' of {folder} is another function of the sound than that of {other}: its {name} is "
        f"{here.get(name)!r:.80}, there it is {there.get(name)!r:.80}. A model would hear the two differently, so "
        "nothing was written. Build one of them again, or name the columns to keep: --columns NAME"
    )


def _kinds(what: str, tables: Mapping[str, Mapping[str, Kind]]) -> dict[str, Kind]:
    union: dict[str, Kind] = {}
    owners: dict[str, str] = {}
    for folder, kinds in tables.items():
        for name, kind in kinds.items():
            owners.setdefault(name, folder)
            there = union.setdefault(name, kind)
            union[name] = _united(f"{what} '{name}'", folder, kind, owners[name], there)
    return union


def _united(what: str, folder: str, kind: Kind, other: str, there: Kind) -> Kind:
    """One meaning for both: classes that differ are those of the first, then what the second adds."""
    if kind == there:
        return there
    if kind["type"] != there["type"] or (kind.get("classes") is None) != (there.get("classes") is None):
        raise DataProblem(_different(what, folder, _said(kind), other, _said(there)))
    before, more = list(there.get("classes") or ()), list(kind.get("classes") or ())
    if before == more:
        return there
    if str(kind["type"]).startswith("list"):  # of class numbers, or of one number for each class: nothing says which
        raise DataProblem(_different(what, folder, f"{len(more)} classes", other, f"{len(before)} other ones"))
    union = [*before, *(name for name in more if name not in before)]
    if more != union[: len(more)]:
        log.warning("%s  the classes of its %s are numbered anew, as %s has them", folder, what, other)
    return {**there, "classes": union}


def _said(kind: Kind) -> str:
    return f"{kind['type']}{' with classes' if kind.get('classes') is not None else ''}"


def _different(what: str, folder: str, here: str, other: str, there: str) -> str:
    return (
        f"The {what} has {here} in {folder} and {there} in {other}, so that one value would mean two things. Nothing "
        "was written. Build one of them again with the other's labels."
    )
