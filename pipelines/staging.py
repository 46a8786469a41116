"""The folder that a build works in: its --out itself, or, where that is a URL, one here that stands for it.

Of a store's datasets the folder here has all small files, and in place of each tar a hole of its length. So a build
plans, continues and proves as it does in a folder. Workers upload what they make, tars first and the index last.
"""

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.headers import LISTING
from pipelines.plan import Work
from pipelines.recording import SPLITS
from shards.manifest import MANIFEST, PLAN, REJECTED, ShardRecord, column_path, index_path
from shards.problem import DataProblem, EnvironmentProblem, RunFailed, UsageProblem
from shards.store import sha256_of, whole_file
from shards.stores.cache import cache_folder
from shards.stores.remote import Store, url_of

_TABLE = r"[^/]+/[^/]+/\d{6}\.parquet"
_LOOSE = r"[^/]+\.parquet|archives/.+|[^/]+/[^/]+\.(json|parquet)|[^/]+/[^/]+/(column\.json|weights\.npz)"
_TOGETHER = 16  # files on their way at a time
_LOCK = ".driver"


@dataclass(frozen=True)
class Staging:
    """`folder` is where to work; `store` what it stands for, or None where it is the output itself."""

    folder: Path
    store: Store | None = None
    known: dict[str, str] = field(default_factory=dict)
    """Digests of what the store has of the files that no worker writes."""

    def pull(self) -> None:
        """Fetch what an earlier build left: small files as they are, a hole for each tar and whatever else is there."""
        if self.store is None:
            return
        found = {name: size for part in (*SPLITS, "archives") for name, size in self.store.sizes(part).items()}
        if unsafe := [name for name in found if not _is_plain(name)]:
            raise DataProblem(
                f"{self.store.place(unsafe[0])} is no name that a build gives, so this is no place to build in. "
                "Nothing was written. Pass another --out."
            )
        small = [LISTING, *(name for name in found if re.fullmatch(f"{_TABLE}|{_LOOSE}", name))]
        for name in found.keys() - set(small):
            _leave_a_hole(self.folder / name, found[name])
        self._fetch_all(small)

    def push(self) -> None:
        """Store what is new of the files that the driver writes: plans first, which claim a folder; manifests last."""
        if self.store is None:
            return
        names = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        loose = [name for name in names if re.fullmatch(_LOOSE, name) and not re.fullmatch(_TABLE, name)]
        order = {PLAN: 0, REJECTED: 2, MANIFEST: 3}
        for name in sorted(loose, key=lambda name: (order.get(name.rpartition("/")[2], 1), name)):
            if (digest := sha256_of(self.folder / name)) != self.known.get(name):
                self.store.upload(self.folder / name, name)
                self.known[name] = digest

    def collect(self, works: Sequence[Work]) -> None:
        """Fetch the tables that workers on other machines have made; one that is not there stays missing."""
        if self.store is None:
            return
        places = [work.folder / name for work in works for name in _tables(work)]
        missing = [path.relative_to(self.folder).as_posix() for path in places if not path.is_file()]
        self._fetch_all(missing)

    def carrying(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The function of a work, or of several, that also uploads what it made."""
        return function if self.store is None else Carrier(function, self.folder, self.store.known())

    def told(self, text: str) -> str:
        """A text about the folder here, said of the store."""
        return text if self.store is None else text.replace(str(self.folder), self.store.url)

    def _fetch_all(self, names: Sequence[str]) -> None:
        with ThreadPoolExecutor(_TOGETHER) as pool:
            for _ in pool.map(self._fetch, names):
                pass

    def _fetch(self, name: str) -> None:
        """What is not there stays missing, also where an old listing names it: the build makes what is missing."""
        assert self.store is not None
        with suppress(FileNotFoundError):
            _download(self.store, name, self.folder / name)
            self.known[name] = sha256_of(self.folder / name)


@dataclass(frozen=True)
class Carrier:
    """What a worker of any machine does: fetch the index of a shard that gets columns, make, upload, clear away."""

    function: Callable[[Any], Any]
    root: Path
    store: Store

    def __call__(self, given: Work | Sequence[Work]) -> ShardRecord | Sequence[ShardRecord]:
        works = [given] if isinstance(given, Work) else list(given)
        for work in works:
            index = work.folder / index_path(work.task.number)
            if work.has_index and not index.is_file():
                _download(self.store, index.relative_to(self.root).as_posix(), index)
        made = self.function(given)
        for work in works:
            self._carry(work)
        return made

    def _carry(self, work: Work) -> None:
        """The tars, then their tables, then the index: what is whole here is in the store, whenever this is stopped."""
        tars = [column_path(column, work.task.number, "tar") for column in work.columns]
        for name in (*tars, *_tables(work)):
            path = work.folder / name
            self.store.upload(path, path.relative_to(self.root).as_posix())
        for name in tars:
            _leave_a_hole(work.folder / name, (work.folder / name).stat().st_size)
        if not (self.root / _LOCK).is_file():  # this is not the machine of the driver, who reads the tables
            for name in (*tars, *_tables(work)):
                (work.folder / name).unlink()


@contextmanager
def staged(out: Path) -> Iterator[Staging]:
    """The place to build `out` in. What is raised and logged meanwhile speaks of `out`, wherever that is."""
    url = url_of(out)
    if url is None:
        yield Staging(out)
        return
    with _own_folder(cache_folder(os.environ).resolve() / "builds") as folder:
        staging = Staging(folder, Store(url).writable())
        with _speaking_of(staging):
            staging.pull()
            yield staging


@contextmanager
def _own_folder(builds: Path) -> Iterator[Path]:
    """A new folder, gone afterwards; those of drivers that were killed, and hold their lock no more, go now."""
    builds.mkdir(parents=True, exist_ok=True)
    with ExitStack() as kept:
        with (builds / ".lock").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            for left in builds.glob(f"*/{_LOCK}"):
                with suppress(OSError), left.open() as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left.parent, ignore_errors=True)
            folder = Path(kept.enter_context(TemporaryDirectory(dir=builds)))
            fcntl.flock(kept.enter_context((folder / _LOCK).open("w")), fcntl.LOCK_EX)
        yield folder


@contextmanager
def _speaking_of(staging: Staging) -> Iterator[None]:
    def rename(record: logging.LogRecord) -> bool:
        record.msg, record.args = staging.told(record.getMessage()), None
        return True

    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(rename)
    try:
        yield
    except (DataProblem, EnvironmentProblem, RunFailed, UsageProblem) as problem:
        raise type(problem)(staging.told(str(problem))) from problem
    finally:
        for handler in handlers:
            handler.removeFilter(rename)


def _tables(work: Work) -> list[str]:
    """The tables that a work makes, the index last."""
    tables = [column_path(column, work.task.number, "parquet") for column in work.columns]
    return tables if work.has_index else [*tables, index_path(work.task.number)]


def _download(store: Store, name: str, path: Path) -> None:
    with whole_file(path) as file:
        store.download(name, Path(file.name))


def _leave_a_hole(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def _is_plain(name: str) -> bool:
    return not name.startswith("/") and all(part not in ("", ".", "..") for part in name.split("/"))
