"""Where a reader finds a dataset's files: in a folder, or in a store, behind the cache and by ranges."""

import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

import numpy as np

from shards.manifest import MANIFEST, Manifest, read_table, rebuild_command
from shards.problem import DataProblem
from shards.store import sha256_of
from shards.stores.cache import Cache, Wanted, cache_of
from shards.stores.remote import Piece, Store, url_of

log = logging.getLogger(__name__)
Spans = Callable[[int], np.ndarray]  # number in a list of tars -> wanted bytes, (pieces, begin and end), ascending
_TOGETHER = 16  # files fetched at a time
_WHOLE_SHARE = 0.25  # of a tar's bytes: who wants more at once gets the tar
_HELD_SHARE = 0.5  # of the cache, which more than one column may use
_GAP_BYTES = 1 << 16  # sooner read than asked for around


@runtime_checkable
class Files(Protocol):
    """What a Reader needs of the place where its dataset lies."""

    manifest: Manifest

    def tables(self, names: Sequence[str], columns: Sequence[str] | None = None) -> list:
        """Whole tables, or some of their columns. Raises DataProblem for one that is missing or damaged."""
        ...

    def opened(self, tars: Sequence[str], spans: Spans) -> Iterator[tuple[int, bool]]:
        """A descriptor of each tar, and whether it is the file itself; else it holds only what `spans` asks for."""
        ...

    def comes_in_runs(self) -> None:
        """Be told that examples are asked for shard by shard, or within a few shards at a time."""
        ...

    def remedy(self, tar: str) -> str:
        """What to do about a tar of which bytes are wrong."""
        ...


def files_of(folder: Path, column: str) -> Files:
    """Raises DataProblem when there is no finished dataset."""
    url = url_of(folder)
    return FolderFiles(folder) if url is None else StoreFiles(Store(url), cache_of(os.environ), column)


class FolderFiles:
    """A dataset in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, Manifest.read(folder)
        self._root = f"{folder}/"
        self._stored = {name: stored for shard in self.manifest.shards for name, stored in shard.files.items()}

    def tables(self, names: Sequence[str], columns: Sequence[str] | None = None) -> list:
        return [self._table(name, columns) for name in names]

    def _table(self, name: str, columns: Sequence[str] | None) -> object:
        table = read_table(self.folder / name, columns)  # says itself what is wrong where it cannot be read
        # Parquet has no checksum over its headers and its footer: a flipped bit there could mean other labels.
        if (expected := self._stored.get(name)) and sha256_of(self.folder / name) != expected.sha256:
            raise DataProblem(
                f"{self.folder / name} does not match the SHA-256 in its manifest, so its labels and places cannot be "
                f"trusted. {self.remedy(name)}"
            )
        return table

    def opened(self, tars: Sequence[str], spans: Spans) -> Iterator[tuple[int, bool]]:
        for name in tars:
            try:
                file = os.open(path := self._root + name, os.O_RDONLY)  # by text: joining paths takes longer
            except OSError as error:
                raise DataProblem(
                    f"{path} cannot be opened ({error.strerror}), so its examples are missing. Restore it, or repeat "
                    f"the build, which makes only what is missing: {rebuild_command(self.manifest)}"
                ) from error
            yield file, True

    def comes_in_runs(self) -> None:
        pass

    def remedy(self, tar: str) -> str:
        return (
            f"Find all damage and mend it: sonograph verify {self.folder} --repair, which repeats the build of what is "
            f"broken: {rebuild_command(self.manifest)}"
        )


class StoreFiles:
    """A dataset in a store. Its tables are cached, and the tars of a column for which half the cache has room.

    Of larger columns a tar is cached when much of it is wanted, and read by ranges otherwise.
    """

    def __init__(self, store: Store, cache: Cache, column: str) -> None:
        self.store, self.cache, self.column = store, cache, column
        self.manifest = manifest_in(store)
        self._stored = {name: stored for shard in self.manifest.shards for name, stored in shard.files.items()}
        tars = [stored.bytes for name, stored in self._stored.items() if re.fullmatch(rf"{column}/\d+\.tar", name)]
        self._tars, self._tar_bytes = len(tars), sum(tars)
        self._is_held = self._tar_bytes <= _HELD_SHARE * cache.limit_bytes
        self._is_in_runs = self._has_told = False

    def comes_in_runs(self) -> None:
        self._is_in_runs = True

    def remedy(self, tar: str) -> str:
        self.cache.drop(self._stored[tar].sha256)
        return (
            "If this was a copy on this machine, it has been dropped now, and the next one is fetched and checked: "
            f"repeat the command. If it comes again, build it again: {rebuild_command(self.manifest)}"
        )

    def tables(self, names: Sequence[str], columns: Sequence[str] | None = None) -> list:
        return self._side_by_side(partial(self._table, columns=columns), names)

    def _table(self, name: str, *, columns: Sequence[str] | None) -> object:
        file = self.whole(name)
        try:
            return read_table(Path(f"/dev/fd/{file}"), columns)  # which stays, whatever leaves the cache meanwhile
        except DataProblem as problem:
            raise DataProblem(f"{self.store.place(name)} is damaged. {self.remedy(name)}") from problem
        finally:
            os.close(file)

    def opened(self, tars: Sequence[str], spans: Spans) -> Iterator[tuple[int, bool]]:
        wanted = {name: spans(number) for number, name in enumerate(tars)}
        whole = [name for name, pieces in wanted.items() if self._is_worth(name, pieces)]
        self._tell(is_whole=bool(whole))
        parts = self._parts({name: pieces for name, pieces in wanted.items() if name not in whole})
        try:
            self._side_by_side(lambda name: os.close(self.whole(name)), whole)  # now they are here
            for name in tars:
                yield (parts.pop(name), False) if name in parts else (self.whole(name), True)
        finally:
            for file in parts.values():
                os.close(file)

    def _is_worth(self, name: str, pieces: np.ndarray) -> bool:
        """Whether a tar is to be fetched whole rather than in pieces."""
        stored = self._stored[name]
        if self._is_held or self.cache.has(stored.sha256):
            return True
        is_much = self._is_in_runs or int(np.diff(pieces).sum()) >= _WHOLE_SHARE * stored.bytes
        return is_much and stored.bytes <= _HELD_SHARE * self.cache.limit_bytes

    def whole(self, name: str) -> int:
        """A descriptor of any file that the manifest lists. Raises DataProblem for one that is missing or damaged."""
        stored, place = self._stored[name], self.store.place(name)
        try:
            return self.cache.open(
                Wanted(place, stored.bytes, stored.sha256), lambda path: self.store.download(name, path)
            )
        except FileNotFoundError as error:
            raise _not_there(place) from error

    def _parts(self, wanted: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Of each tar a file with holes: its wanted bytes where they lie in it."""
        pieces = [Piece(name, begin, end) for name, spans in wanted.items() for begin, end in _joined(spans)]
        try:
            got = self.store.ranges(pieces)
        except FileNotFoundError as error:
            raise _not_there(str(error.filename)) from error
        files = {}
        for name in wanted:
            with tempfile.TemporaryFile() as file:
                files[name] = os.dup(file.fileno())
        for piece, part in zip(pieces, got, strict=True):
            os.pwrite(files[piece.name], part, piece.begin)
        return files

    def _side_by_side(self, act: Callable[[str], Any], names: Sequence[str]) -> list:
        if len(names) < 2:
            return [act(name) for name in names]
        with ThreadPoolExecutor(_TOGETHER) as pool:
            return list(pool.map(act, names))

    def _tell(self, *, is_whole: bool) -> None:
        """Say once what reading costs."""
        if self._has_told:
            return
        self._has_told = True
        about, size = f"{self.store.url} {self.column}", _size(self._tar_bytes)
        if is_whole:
            log.info("%s  %d tars, %s, each fetched when first needed into %s, which may hold %s",
                     about, self._tars, size, self.cache.folder, _size(self.cache.limit_bytes))  # fmt: skip
            return
        log.info(
            "%s  read by ranges: about %s requests and %s an epoch. With SONOGRAPH_CACHE_GIB=%d each of its %d tars is "
            "fetched once for all epochs; in windowed order, once an epoch",
            about, f"{self.manifest.examples:,}", size, self._tar_bytes // _HELD_SHARE // 2**30 + 1, self._tars,
        )  # fmt: skip


def manifest_in(store: Store) -> Manifest:
    """The manifest of a dataset in a store. Raises DataProblem when there is none that is whole."""
    with TemporaryDirectory(prefix="sonograph-") as folder:
        try:
            Path(folder, MANIFEST).write_bytes(store.read(MANIFEST))
            return Manifest.read(Path(folder))
        except FileNotFoundError:
            raise DataProblem(
                f"{store.url} is no dataset, or its build has not finished: it has no {MANIFEST}, so nothing may read "
                "it. Name one split, as in …/train, or repeat its build command: what is there is kept."
            ) from None
        except DataProblem as problem:
            raise DataProblem(str(problem).replace(folder, store.url)) from problem


def _joined(spans: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pieces that lie near each other as one, from (pieces, begin and end) in ascending order."""
    starts = np.flatnonzero(np.r_[True, spans[1:, 0] - spans[:-1, 1] > _GAP_BYTES])
    ends = np.r_[starts[1:], len(spans)] - 1
    return zip(spans[starts, 0].tolist(), spans[ends, 1].tolist(), strict=True)


def _not_there(place: str) -> DataProblem:
    return DataProblem(
        f"{place} is not there, though its manifest lists it, so its examples are missing. Restore it, or repeat the "
        "dataset's build command with the same --out: it makes only what is missing."
    )


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:,.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:,.1f} MiB"
