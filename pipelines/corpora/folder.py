"""Any tree of music: every audio file is a recording, with labels from a table of your own, if there is one.

sonograph build folder --root music --out datasets/music --labels music/labels.csv
"""

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, ClassVar

import tyro
import xxhash

from pipelines.corpus import Kind
from pipelines.music.layouts.folder import RENDERED_SIZES, finish, is_rendered, planned, render_piece
from pipelines.published.audio_files import EXTENSIONS, audio_files, path_text
from pipelines.published.label_table import LabelTable, read_label_table
from pipelines.recording import SPLITS, Label, Recording, safe_id
from shards.problem import DataProblem, UsageProblem
from shards.words import nearest

__all__ = ["RENDERED_SIZES", "Corpus", "finish", "is_rendered", "planned", "render_piece"]

log = logging.getLogger(__name__)

_SPLIT_OF = {split: split for split in SPLITS} | {
    **{"training": "train", "validation": "valid", "val": "valid", "dev": "valid", "testing": "test"}
}


@dataclass(frozen=True)
class Corpus:
    root: Path
    """folder below which the audio lies"""
    label_table: Annotated[Path | None, tyro.conf.arg(name="labels")] = None
    """table of labels (csv, tsv, jsonl, ndjson or parquet); files without a row in it are rejected"""
    path_column: str = "path"
    """column that names the file: its path relative to the root, or its name, with extension or without"""
    columns: tuple[str, ...] = ()
    """columns that are labels; by default all others. A row without a value in one of them is rejected"""
    split_column: str = "split"
    """column that says train, valid or test; a table without it is split by a hash of the relative path"""
    valid_share: float = 0.1
    """share of the files that the hash makes valid"""
    test_share: float = 0.1
    """share of the files that the hash makes test"""

    sample_rate_hz: ClassVar[int | None] = None

    def labels(self) -> Mapping[str, Kind]:
        """A label for each label column of the table, its type found from all of its values."""
        return {column: {"type": self._table.types[column], "classes": None} for column in self._label_columns}

    def events(self) -> Mapping[str, Kind]:
        return {}

    def recordings(self) -> Iterator[Recording]:
        """Every audio file, sorted by path, then the rows of the table that name none.

        Raises DataProblem when there is no audio, the table is none, or nothing is left; UsageProblem for options
        without a meaning.
        """
        self._check_options()
        paths = sorted(audio_files(self.root))
        if not paths:
            raise DataProblem(
                f"{self.root} holds no audio, so there is nothing to build. Files count that end in one of "
                f"{', '.join(EXTENSIONS)} and are neither hidden nor unfinished. Check --root."
            )
        listed = list(self._declared(paths) if self.label_table else self._undeclared(paths))
        reasons = Counter(recording.problem.partition(":")[0] for recording in listed if recording.problem)
        account = "  ".join(f"rejected {count:,}: {reason}" for reason, count in reasons.most_common())
        log.info("folder  %d audio files  %d usable  %s", len(paths), len(listed) - reasons.total(), account)
        if reasons.total() == len(listed):
            raise DataProblem(
                f"Nothing of {self.root} is left of {len(paths):,} audio files ({account}). Check that --path-column "
                f"{self.path_column} of {self.label_table} names them relative to the root, or by their names."
            )
        return iter(listed)

    @cached_property
    def _table(self) -> LabelTable:
        if self.label_table is None:
            return LabelTable(self.root, {}, ())
        return read_label_table(self.label_table)

    @cached_property
    def _label_columns(self) -> tuple[str, ...]:
        others = (self.path_column, self.split_column)
        return self.columns or tuple(column for column in self._table.types if column not in others)

    def _check_options(self) -> None:
        shares = (self.valid_share, self.test_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise UsageProblem(
                f"--valid-share {shares[0]} and --test-share {shares[1]} are no parts of a whole, so nothing was read. "
                "Pass shares of 0 or more that add up to 1 at most."
            )
        wanted = [*self.columns, *([self.path_column] if self.label_table else [])]
        wanted += [self.split_column] if self.split_column != "split" else []
        for column in wanted:
            if column not in self._table.types:
                raise UsageProblem(
                    f"{self.label_table} has no column '{column}', so its rows cannot be used as asked. "
                    f"{nearest(column, self._table.types)}"
                )

    def _undeclared(self, paths: Sequence[str]) -> Iterator[Recording]:
        for path in paths:
            yield _recording(path, self._hashed_split(path), {}, "")

    def _declared(self, paths: Sequence[str]) -> Iterator[Recording]:
        """Files with the labels of their row; whatever fits no row, or no file, has a problem."""
        named = _Names.of(paths)
        rows_of: dict[str, list[int]] = {path: [] for path in paths}
        lost: dict[int, str] = {}
        for number, row in enumerate(self._table.rows):
            path, problem = named.only(str(row.get(self.path_column, "")))
            if problem:
                lost[number] = problem
            else:
                rows_of[path].append(number)
        yield from (self._labelled(path, numbers) for path, numbers in rows_of.items())
        for number, problem in lost.items():
            split, _ = self._split(self._table.rows[number], f"row {number}")
            yield Recording(f"row-{number + 1}", self._table.path.name, split, problem=f"{problem} (row {number + 1})")

    def _labelled(self, path: str, numbers: Sequence[int]) -> Recording:
        if len(numbers) != 1:
            second = f"two rows name it: {numbers[0] + 1} and {numbers[1] + 1}" if numbers else ""
            return _recording(path, self._hashed_split(path), {}, second or "the label table has no row for it")
        row = self._table.rows[numbers[0]]
        split, problem = self._split(row, path)
        missing = [column for column in self._label_columns if column not in row]
        if missing:
            problem = problem or f"its row has no value for {missing[0]}: it is row {numbers[0] + 1}"
        return _recording(path, split, {column: row.get(column, "") for column in self._label_columns}, problem)

    def _split(self, row: Mapping[str, Label], path: str) -> tuple[str, str]:
        """The split of a row, and what is wrong with what it says of it."""
        if self.split_column not in self._table.types:
            return self._hashed_split(path), ""
        said = str(row.get(self.split_column, ""))
        split = _SPLIT_OF.get(said.strip().lower())
        return split or "train", "" if split else f"its split is {said[:40]!r}, not train, valid or test"

    def _hashed_split(self, path: str) -> str:
        place = xxhash.xxh3_64_intdigest(_composed(path).encode(errors="surrogatepass")) / 2**64
        if place < self.test_share:
            return "test"
        return "valid" if place < self.test_share + self.valid_share else "train"


@dataclass(frozen=True)
class _Names:
    """What a table may call the files of a tree: nothing outside of it can be found through them."""

    paths: Mapping[str, str]
    others: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, paths: Sequence[str]) -> "_Names":
        others: dict[str, list[str]] = {}
        for path in paths:
            file = PurePosixPath(_composed(path))
            for name in dict.fromkeys((str(file.with_suffix("")), file.name, file.stem)):
                others.setdefault(name, []).append(path)
        return cls({_composed(path): path for path in paths}, others)

    def only(self, said: str) -> tuple[str, str]:
        """The one file that is meant, and why there is none."""
        name = _composed(said.strip()).removeprefix("./")
        slashed = name.replace("\\", "/")
        found = [self.paths[key] for key in (name, slashed) if key in self.paths][:1]
        found = found or list(self.others.get(name, ())) or list(self.others.get(slashed, ()))
        if len(found) == 1:
            return found[0], ""
        if len(found) > 1:
            return "", f"more than one file is called so: {said[:80]!r} may be {found[0]} or {found[1]}"
        if ".." in slashed.split("/") or slashed.startswith("/") or PureWindowsPath(said).drive:
            return "", f"its path leads out of the folder: {said[:80]!r}"
        return "", f"there is no such file: {said[:80]!r}"


def _composed(name: str) -> str:
    """One spelling of letters with accents: file systems decompose them, editors do not."""
    return unicodedata.normalize("NFC", name)


def _recording(path: str, split: str, labels: Mapping[str, Label], problem: str) -> Recording:
    text, unreadable = path_text(path)
    problem = problem or unreadable
    return Recording(safe_id(path), text, split, {} if problem else labels, problem=problem)
