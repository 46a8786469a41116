"""Rules by which the examples of a dataset belong to parts of it: a label's value, a share, a list of keys."""

import logging
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import xxhash

from shards.manifest import Shard
from shards.problem import DataProblem, UsageProblem
from shards.regroup.agreement import is_plain
from shards.regroup.source_shards import Source
from shards.store import canonical_json, digest_of
from shards.words import nearest

log = logging.getLogger(__name__)
KEY = "key"
UNLABELLED = "_unlabelled"
_HASHES = 1 << 64


@runtime_checkable
class Division(Protocol):
    """To which part each example belongs. A part is named by its folder, whose last name is its split."""

    @property
    def rule(self) -> Mapping[str, object]:
        """All that decides it beside the examples themselves, in JSON types."""

    def of_rows(self, source: Source, shard: Shard) -> list[str]:
        """The part of each row of a shard's index; empty for one that belongs to none."""


@dataclass(frozen=True)
class ByLabel:
    """A folder for each value of a label, and in it the splits of the source."""

    label: str
    group: str
    homes: Mapping[Any, str]
    """Where each group goes; empty when every example goes by its own value."""

    @property
    def rule(self) -> dict[str, object]:
        return {"by": self.label, "group": self.group}

    @classmethod
    def of(cls, sources: Sequence[Source], label: str, group: str) -> "ByLabel":
        """With a group that is not `key`, each goes as a whole to the value that most of it has. Memory: its values.

        Raises UsageProblem when there is no such label, or it is a list.
        """
        if group == KEY:
            return cls(label, group, {})
        counts: dict[Any, Counter[str]] = {}
        for source in sources:
            for shard in source.manifest.shards:
                groups, folders = group_values(source, shard, group), _folders(source, shard, label)
                for name, folder in zip(groups, folders, strict=True):
                    counts.setdefault(name, Counter())[folder] += 1
        counts.pop(None, None)
        if torn := sum(len(each) > 1 for each in counts.values()):
            log.warning(
                "%d values of '%s' have several of '%s': each goes where most of it belongs", torn, group, label
            )
        homes = {name: min(each, key=lambda folder: (-each[folder], folder)) for name, each in counts.items()}
        return cls(label, group, homes)

    def of_rows(self, source: Source, shard: Shard) -> list[str]:
        own = _folders(source, shard, self.label)
        groups = group_values(source, shard, self.group) if self.homes else own
        split = source.manifest.split
        return [f"{self.homes.get(name, folder)}/{split}" for name, folder in zip(groups, own, strict=True)]


@dataclass(frozen=True)
class ByShare:
    """Parts of given sizes, for each group by a hash of its value alone: none moves when data are added."""

    names: tuple[str, ...]
    ends: tuple[int, ...]
    """Of each part among the 64-bit hashes."""
    group: str
    seed: int

    @property
    def rule(self) -> dict[str, object]:
        ends = {name: str(end) for name, end in zip(self.names, self.ends, strict=True)}
        return {"ends": ends, "group": self.group, "seed": self.seed}

    @classmethod
    def of(cls, sources: Sequence[Source], fractions: Sequence[str], group: str, seed: int) -> "ByShare":
        """Raises UsageProblem for shares that do not make a whole, and for a group that is no label."""
        shares = dict(_share(word) for word in fractions)
        if len(shares) < len(fractions) or sum(shares.values()) != 1:
            total = float(sum(shares.values()))
            raise UsageProblem(
                f"--fractions {' '.join(fractions)} makes {total:g} of the examples where each must go to one part, so "
                "nothing was done. Name each part once, with shares that add up to 1, such as 0.8, 0.1, 0.1 or 1/3."
            )
        for source in sources:
            group_values(source, source.manifest.shards[0], group)
        ends = [int(total * _HASHES) for total in accumulate(shares.values())]
        return cls(tuple(shares), tuple(ends), group, seed)

    def of_rows(self, source: Source, shard: Shard) -> list[str]:
        recordings = group_values(source, shard, KEY)
        groups = group_values(source, shard, self.group)
        return [self._part(name, recording) for name, recording in zip(groups, recordings, strict=True)]

    def _part(self, name: Any, recording: str) -> str:
        """One without the label is a group of its own."""
        content = [self.seed, name] if name is not None else [self.seed, None, recording]
        return self.names[bisect_right(self.ends, xxhash.xxh3_64_intdigest(canonical_json(content)))]


@dataclass(frozen=True)
class ByKeys:
    """The examples whose key, or recording, is listed; in their splits."""

    keys: frozenset[str]

    @property
    def rule(self) -> dict[str, object]:
        return {"keys": digest_of(sorted(self.keys))}

    @classmethod
    def of(cls, sources: Sequence[Source], path: Path) -> "ByKeys":
        """Raises UsageProblem when there is no such file, and DataProblem when it lists what is not there."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageProblem(f"--keys {path} cannot be read ({error}), so nothing was done.") from error
        keys = frozenset(line.strip() for line in lines) - {""}
        missing = set(keys)
        for source in sources:
            for shard in source.manifest.shards:
                found = source.values(shard, KEY)
                missing.difference_update(found, (key.partition("@")[0] for key in found))
        if missing or not keys:
            raise DataProblem(
                f"{path} lists {len(keys):,} keys, of which {len(missing):,} are in no example, such as "
                f"{min(missing, default='any')!r}. Nothing was written. Take them out: the keys are in index/*.parquet."
            )
        return cls(keys)

    def of_rows(self, source: Source, shard: Shard) -> list[str]:
        keys = source.values(shard, KEY)
        is_listed = [key in self.keys or key.partition("@")[0] in self.keys for key in keys]
        return [source.manifest.split if listed else "" for listed in is_listed]


def group_values(source: Source, shard: Shard, name: str) -> list:
    """A label's value in each row, a class by its name, None where there is none; of `key` the recording's id.

    Raises UsageProblem when there is no such label, or it is a list.
    """
    if name == KEY:
        return [key.partition("@")[0] for key in source.values(shard, KEY)]
    kinds: Mapping[str, Mapping[str, Any]] = source.manifest.labels
    if name not in kinds or str(kinds[name]["type"]).startswith("list"):
        known = [label for label, kind in kinds.items() if not str(kind["type"]).startswith("list")]
        what = "is a list in each example" if name in kinds else "is no label"
        raise UsageProblem(f"'{name}' {what} of {source.folder}, so nothing was done. {nearest(name, [*known, KEY])}")
    values, classes = source.values(shard, f"label.{name}"), kinds[name].get("classes")
    if not classes:
        return values
    return [classes[value] if value in range(len(classes)) else value for value in values]


def _folders(source: Source, shard: Shard, label: str) -> list[str]:
    """What the folder of each row's value is called."""
    values = group_values(source, shard, label)
    names = {value: UNLABELLED if value is None else _folder(str(value)) for value in set(values)}
    return [names[value] for value in values]


def _folder(value: str) -> str:
    """The value where it is a plain name, else a readable form of it with a digest that keeps it unique."""
    if is_plain(value) and value[0] not in "-_" and "--" not in value:
        return value
    readable = re.sub(r"[^A-Za-z0-9-]", "_", value)[:40].lstrip("-_")
    return f"{readable or 'value'}--{sha256(value.encode(errors='surrogatepass')).hexdigest()[:12]}"


def _share(word: str) -> tuple[str, Fraction]:
    name, _, share = word.partition("=")
    try:
        if is_plain(name) and Fraction(share) > 0:
            return name, Fraction(share)
    except (ValueError, ZeroDivisionError):
        pass
    raise UsageProblem(
        f"--fractions {word} is no NAME=SHARE above 0, so nothing was done. Write, say, train=0.8 valid=0.1 test=0.1."
    )
