"""AudioSet's ontology: which classes of sound lie under which, and what the labelled ones are called."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from shards.problem import DataProblem

MUSIC = "/m/04rlf"
ONTOLOGY, CLASSES = "ontology.json", "class_labels_indices.csv"
PUBLISHED = Path(__file__).parent / "data" / "audioset"
"""Our copies of both: all 527 labelled classes, and of the ontology what lies at and under Music."""

SITE = "https://research.google.com/audioset/download.html"


def read_children(path: Path) -> dict[str, tuple[str, ...]]:
    """The ids directly under every node of an `ontology.json`. Raises DataProblem when it is none."""
    try:
        nodes = json.loads(path.read_bytes())
        return {_mid(node["id"]): tuple(map(_mid, node["child_ids"])) for node in nodes}
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataProblem(
            f"{path} is no ontology of AudioSet ({type(error).__name__}: {error}), so nothing can be said to be music. "
            f"Download ontology.json again ({SITE}), or delete it to use our copy of its music part."
        ) from error


def below(mid: str, children: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """`mid` and everything under it, whatever circles the ontology may hold."""
    found: set[str] = set()
    waiting = [mid]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(children.get(node, ()))
    return frozenset(found)


def read_class_names(path: Path) -> dict[str, str]:
    """Id and display name of the labelled classes, in the order of a `class_labels_indices.csv`.

    Raises DataProblem when it is none, or lists a class twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(_mid(row["mid"]), _name(row["display_name"])) for row in csv.DictReader(file, strict=True)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataProblem(_no_classes(path, f"{type(error).__name__}: {error}")) from error
    if not rows or len(dict(rows)) < len(rows):
        raise DataProblem(_no_classes(path, "a class is listed twice" if rows else "it lists no class"))
    return dict(rows)


def _mid(word: object) -> str:
    if isinstance(word, str) and word.startswith("/"):
        return word
    raise ValueError(f"{word!r} is no id of a class, like {MUSIC}")


def _name(word: object) -> str:
    if isinstance(word, str) and word:
        return word
    raise ValueError("a class has no display_name")


def _no_classes(path: Path, cause: str) -> str:
    return (
        f"{path} is no class list of AudioSet ({cause}), so labels would have neither names nor an order. Download "
        f"class_labels_indices.csv again ({SITE}), or delete it to use our copy."
    )
