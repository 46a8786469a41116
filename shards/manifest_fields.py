"""What each field of a manifest must be.

A right digest proves that nothing was damaged, not that this program wrote it: whatever reads a manifest may rely on
what is required here, and on no more.
"""

import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
MOST_EXAMPLES = 10**9  # an index has nine digits
_MOST_SHARDS = 10**6  # a shard's number has six
_MOST_BYTES = 1 << 53  # beyond that a JSON number is not exact everywhere
_PLAIN_NAME = re.compile(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*")  # nothing hidden, absolute, or above its folder
_SHA256 = re.compile(r"[0-9a-f]{64}")

Check = Callable[[Any, str], None]
"""Raises ValueError, naming the place in the file, for a value that may not stand there."""
FilesOf = Callable[[int, Collection[str]], Collection[str]]
"""Number of a shard and names of its columns -> names of all its files."""


def problem_of(content: object, value_types: Collection[str], files_of: FilesOf) -> str | None:
    """What a manifest without its `sha256` says that none of this format can say; None for a sound one."""
    try:
        _manifest(value_types)(content, "")
        assert isinstance(content, dict)
        _require_files(content, files_of)
        _require_counts(content)
        _require_statistics(content)
    except ValueError as error:
        return str(error)
    return None


def _manifest(value_types: Collection[str]) -> Check:
    kind = _fields({"type": _one_of(value_types), "classes": _or_none(_list(_text))}, optional=("classes",))
    events = _fields({"type": _one_of(_scalars(value_types)), "classes": _or_none(_list(_text))}, optional=("classes",))
    stored = _table(_STORED)
    examples = _count(MOST_EXAMPLES)
    shard = {"number": _count(_MOST_SHARDS), "task": _text, "examples": examples, "rejected": examples, "files": stored}
    return _fields(
        {
            **dict.fromkeys(("format", "corpus", "split", "fingerprint"), _text),
            "version": _count(_MOST_BYTES),
            "rendered": _truth,
            "labels": _table(kind),
            "events": _table(events),
            "features": _table(_column),
            **dict.fromkeys(("planned", "examples", "rejected"), examples),
            "seconds": _number,
            "shards": _list(_fields(shard)),
            "files": stored,
            "statistics": _table(_statistics),
            "build": _list(_text),
            "made_with": _table(_text),
        }
    )


def _scalars(value_types: Collection[str]) -> list[str]:
    return [name for name in value_types if not name.startswith("list")]


# What belongs together


def _require_files(content: Mapping[str, Any], files_of: FilesOf) -> None:
    numbers = [shard["number"] for shard in content["shards"]]
    for number, shard in zip(numbers, content["shards"], strict=True):
        if shard["files"].keys() != set(files_of(number, content["features"])):
            raise ValueError(f"it lists other files of shard {number} than those of its columns")
    if numbers != sorted(set(numbers)):
        raise ValueError("its shards are not in order, each once")
    names = [*content["files"], *(name for shard in content["shards"] for name in shard["files"])]
    names += [name.replace("/", "//") for name in content["features"]]  # each is one folder
    if foreign := [name for name in names if not _PLAIN_NAME.fullmatch(name)]:
        raise ValueError(f"it lists {foreign[0]!r:.80}, which is no name of a file in a dataset")


def _require_counts(content: Mapping[str, Any]) -> None:
    for name in ("examples", "rejected"):
        promised, total = content[name], sum(shard[name] for shard in content["shards"])
        if total != promised:
            raise ValueError(f"it promises {promised:,} {name}, its shards have {total:,}")
    accounted = content["examples"] + content["rejected"]
    if accounted != content["planned"]:
        raise ValueError(f"{content['planned']:,} examples were planned, {accounted:,} accounted for")


def _require_statistics(content: Mapping[str, Any]) -> None:
    if unknown := content["statistics"].keys() - content["features"].keys():
        raise ValueError(f"it has statistics of {min(unknown)!r:.80}, which is no column of it")


def _column(value: Any, place: str) -> None:
    """A contract may hold any parameter beside what all have."""
    _fields(dict.fromkeys(("word", "fingerprint", "dtype", "stored"), _text), is_open=True)(value, place)
    if value.get("member", "npy") not in ("npy", "flac"):
        raise ValueError(f"it says that {place} has {value['member']!r:.60} members, which nothing here reads")
    if not isinstance(value.get("weights", {}), dict):
        raise ValueError(_not(value["weights"], f"{place}.weights", "a table"))
    try:
        np.dtype(value["dtype"])
    except (TypeError, ValueError) as error:
        raise ValueError(_not(value["dtype"], f"{place}.dtype", "a type of numbers")) from error


def _statistics(value: Any, place: str) -> None:
    row = _list(_number)
    shares = {str(share): row for share in QUANTILES}
    said = {"mean": row, "deviation": row, "quantiles": _fields(shares), "quantile_relative_error": _number}
    _fields({"count": _count(_MOST_BYTES), **said})(value, place)
    bands = {len(row) for row in (value["mean"], value["deviation"], *value["quantiles"].values())}
    if len(bands) > 1 or 0 in bands:
        raise ValueError(f"{place} has rows of {sorted(bands)} bands, which must be as many and at least one")


# Of a single value


def _fields(checks: Mapping[str, Check], optional: Sequence[str] = (), *, is_open: bool = False) -> Check:
    """A table of these fields; of any others too if `is_open`."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise ValueError(_not(value, place or "it", "a table"))
        if missing := checks.keys() - value.keys() - set(optional):
            raise ValueError(f"{place or 'it'} lacks '{min(missing)}'")
        if not is_open and (unknown := value.keys() - checks.keys()):
            raise ValueError(f"{place or 'it'} has {min(unknown)!r:.60}, which this format does not know")
        for name in checks.keys() & value.keys():
            checks[name](value[name], f"{place}.{name}".lstrip("."))

    return check


def _table(of: Check) -> Check:
    """Any names, and a value of one kind under each."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise ValueError(_not(value, place, "a table"))
        for name, each in value.items():
            of(each, f"{place}.{name:.60}")

    return check


def _list(of: Check) -> Check:
    def check(value: Any, place: str) -> None:
        if not isinstance(value, list):
            raise ValueError(_not(value, place, "a list"))
        for number, each in enumerate(value):
            of(each, f"{place}[{number}]")

    return check


def _or_none(of: Check) -> Check:
    return lambda value, place: None if value is None else of(value, place)


def _text(value: Any, place: str) -> None:
    if type(value) is not str:
        raise ValueError(_not(value, place, "a text"))


def _truth(value: Any, place: str) -> None:
    if type(value) is not bool:
        raise ValueError(_not(value, place, "true or false"))


def _number(value: Any, place: str) -> None:
    if type(value) not in (int, float) or abs(value) > sys.float_info.max:
        raise ValueError(_not(value, place, "a number"))


def _count(limit: int) -> Check:
    def check(value: Any, place: str) -> None:
        if type(value) is not int or not 0 <= value <= limit:
            raise ValueError(_not(value, place, f"a whole number from 0 to {limit:,}"))

    return check


def _one_of(choices: Collection[str]) -> Check:
    def check(value: Any, place: str) -> None:
        if type(value) is not str or value not in choices:
            raise ValueError(_not(value, place, f"one of {', '.join(choices)}"))

    return check


def _matches(pattern: re.Pattern[str], what: str) -> Check:
    def check(value: Any, place: str) -> None:
        if type(value) is not str or not pattern.fullmatch(value):
            raise ValueError(_not(value, place, what))

    return check


def _not(value: object, place: str, what: str) -> str:
    return f"{place} is {value!r:.60}, not {what}"


_STORED = _fields({"bytes": _count(_MOST_BYTES), "sha256": _matches(_SHA256, "a SHA-256")})
_LOST = _fields({"index": _count(MOST_EXAMPLES), "path": _text, "stage": _text, "reason": _text})
SHARD_RECORD: Check = _fields(
    {"number": _count(_MOST_SHARDS), "task": _text, "examples": _count(MOST_EXAMPLES), "rejected": _list(_LOST)}
)
COLUMN_RECORD: Check = _fields({"task": _text, "contract": _text, "tar": _STORED})
