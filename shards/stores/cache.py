"""Copies of a store's files on this machine, by their SHA-256: bounded, shared by all processes, never stale.

Under SONOGRAPH_CACHE, else XDG_CACHE_HOME/sonograph, else ~/.cache/sonograph; SONOGRAPH_CACHE_GIB bounds it (20). What
was used longest ago goes first; an open file is read to its end all the same. It may be deleted at any time.
"""

import fcntl
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.problem import DataProblem, EnvironmentProblem, UsageProblem
from shards.store import sha256_of

_GIB = 1 << 30
_DEFAULT_GIB = 20.0
_SLACK = 0.9  # room is made for more than one file at a time, since finding what is oldest looks at all
_PARTIAL = re.compile(r"\.partial-(\d+)-[0-9a-f]+")
_TRIES = 2


@dataclass(frozen=True)
class Wanted:
    """A file of a store: where it lies, for messages, and what it must be."""

    place: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Cache:
    """A folder of at most `limit_bytes`, those of files on their way included."""

    folder: Path
    limit_bytes: int

    def has(self, sha256: str) -> bool:
        return self._path(sha256).is_file()

    def open(self, wanted: Wanted, fetch: Callable[[Path], None]) -> int:
        """A descriptor of the file, which `fetch` copies to a path first if it is not here. Any thread, any process.

        Raises DataProblem when what was fetched is not what it must be, and EnvironmentProblem when it has no room.
        """
        if (found := self._opened(wanted.sha256)) is not None:
            return found
        with self._locked(f"fetch-{wanted.sha256[:2]}"):  # the others wait for the one that fetches
            if (found := self._opened(wanted.sha256)) is not None:
                return found
            return self._fetched(wanted, fetch)

    def drop(self, sha256: str) -> None:
        """Forget a copy, so that the next one who wants it fetches it again."""
        self._path(sha256).unlink(missing_ok=True)

    @property
    def used_bytes(self) -> int:
        with self._locked("room"):
            return sum(size for _, size, _ in self._entries()) + sum(self._reserved().values())

    def _path(self, sha256: str) -> Path:
        return self.folder / "files" / sha256[:2] / sha256

    def _opened(self, sha256: str) -> int | None:
        try:
            file = os.open(path := self._path(sha256), os.O_RDONLY)
        except FileNotFoundError:
            return None
        status = os.fstat(file)
        with suppress(FileNotFoundError):
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))  # when it was used; who reads looks at the other
        return file

    def _fetched(self, wanted: Wanted, fetch: Callable[[Path], None]) -> int:
        problem = ""
        for _ in range(_TRIES):
            with self._reserved_file(wanted) as partial:
                fetch(partial)
                if problem := _difference(partial, wanted):
                    continue
                file = os.open(partial, os.O_RDONLY)
                os.fsync(file)
                path = self._path(wanted.sha256)
                path.parent.mkdir(parents=True, exist_ok=True)
                with self._locked("room"):  # who counts finds it under one of its names
                    partial.rename(path)
                return file
        raise DataProblem(
            f"{wanted.place} is not what its manifest lists: {problem}. Nothing of it is used. Find all damage "
            "(sonograph verify DATASET), and repeat the dataset's build command: it makes again what is not whole."
        )

    @contextmanager
    def _reserved_file(self, wanted: Wanted) -> Iterator[Path]:
        """A name to write to, for which there is room; the lock on it tells others that its writer lives."""
        path = self.folder / f".partial-{wanted.bytes}-{uuid.uuid4().hex}"
        with self._room(wanted, path):
            try:
                yield path
            finally:
                path.unlink(missing_ok=True)

    def _room(self, wanted: Wanted, path: Path) -> BinaryIO:
        """Create `path`, locked, when its bytes fit in, however many others fetch at the same time."""
        if wanted.bytes > self.limit_bytes:
            raise EnvironmentProblem(
                f"{wanted.place} has {wanted.bytes:,} bytes, {self.folder} may hold {self.limit_bytes:,}, so it cannot "
                "be read. Allow more: SONOGRAPH_CACHE_GIB=N"
            )
        while True:
            with self._locked("room") as counter:
                if self._has_room(counter, wanted.bytes):
                    file = path.open("wb")
                    fcntl.flock(file, fcntl.LOCK_EX)
                    return file
            time.sleep(0.05)  # others fill it; theirs may go when they are whole

    def _has_room(self, counter: BinaryIO, more_bytes: int) -> bool:
        """Whether so many bytes can be promised; `counter` holds a sum that is never below what is there."""
        counter.seek(0)
        counted = counter.read()
        used = int(counted) if counted.isdigit() else self.limit_bytes
        if used + more_bytes > self.limit_bytes:
            used = self._evict(more_bytes)
        if fits := used + more_bytes <= self.limit_bytes:
            used += more_bytes
        counter.seek(0)
        counter.truncate()
        counter.write(b"%d" % used)
        counter.flush()
        return fits

    def _evict(self, more_bytes: int) -> int:
        """Remove what was used longest ago until there is room and some to spare; returns the bytes that remain."""
        entries = sorted(self._entries())
        used = sum(size for _, size, _ in entries) + sum(self._reserved().values())
        wanted = min(self.limit_bytes - more_bytes, int(_SLACK * self.limit_bytes))
        if used + more_bytes <= self.limit_bytes:
            return used
        for _, size, path in entries:
            if used <= wanted:
                break
            path.unlink(missing_ok=True)
            used -= size
        return used

    def _entries(self) -> Iterator[tuple[int, int, Path]]:
        """When each whole file was used last, its bytes and its path."""
        for path in self.folder.glob("files/*/*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            yield status.st_atime_ns, status.st_size, path

    def _reserved(self) -> Mapping[Path, int]:
        """What was promised to files on their way; those whose writer is gone are removed."""
        found = {}
        for path in self.folder.glob(".partial-*"):
            if (match := _PARTIAL.fullmatch(path.name)) and not _is_abandoned(path):
                found[path] = int(match[1])
        return found

    @contextmanager
    def _locked(self, name: str) -> Iterator[BinaryIO]:
        """One thread of one process at a time; what a killed one held is free."""
        path = self.folder / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


def cache_of(environment: Mapping[str, str]) -> Cache:
    """The cache that the variables name. Raises UsageProblem for a size that is no number above 0."""
    given = environment.get("SONOGRAPH_CACHE_GIB", str(_DEFAULT_GIB))
    try:
        limit_bytes = int(float(given) * _GIB)
    except (ValueError, OverflowError):
        limit_bytes = 0
    if limit_bytes <= 0:
        raise UsageProblem(f"SONOGRAPH_CACHE_GIB is {given!r}, so nothing was read. Give a number of GiB above 0.")
    return Cache(cache_folder(environment), limit_bytes)


def cache_folder(environment: Mapping[str, str]) -> Path:
    if named := environment.get("SONOGRAPH_CACHE"):
        return Path(named).expanduser().absolute()
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sonograph"


def _difference(path: Path, wanted: Wanted) -> str:
    if (size := path.stat().st_size) != wanted.bytes:
        return f"it has {size:,} bytes, not {wanted.bytes:,}"
    return "" if sha256_of(path) == wanted.sha256 else "its bytes do not match their SHA-256"


def _is_abandoned(path: Path) -> bool:
    """Whether the process that wrote it is gone, and with it its lock; the file then goes too."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True
