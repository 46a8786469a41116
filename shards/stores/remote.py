"""Files in a store (s3://, gs://, https://, memory://): whole uploads, ranged reads, patience with a busy server.

The one module that knows fsspec. Credentials are the store's own business: its usual variables, files and roles. An
upload appears under its name when it is complete, as these stores have it: nobody ever sees a part of one.
"""

import contextlib
import errno
import hashlib
import io
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any, NamedTuple, NoReturn, TypeVar

from shards.problem import EnvironmentProblem, UsageProblem
from shards.store import sha256_of
from shards.stores import refusal

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

SCHEMES = ("gs", "http", "https", "memory", "s3")
_READ_ONLY = ("http", "https")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):([:/].*)")
_CONNECTIONS = 64
_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 20.0  # for a connection; between two pieces of an answer
_STREAM_BYTES = 8 << 20
_REMOVED_TOGETHER = 1000  # as many as S3 takes in one request
_MEMORY = threading.Lock()  # fsspec's files in memory have one position for all threads


def place_of(named: Path | str) -> Path:
    """The path that a command line names: a Url where it begins with the scheme of a store.

    Raises UsageProblem for other schemes, and for URLs that carry credentials, chains or queries.
    """
    url = url_of(named)
    return Path(named) if url is None else Url(url)


def url_of(named: Path | str) -> str | None:
    """The URL that a path stands for, or None where it lies on this machine. Raises as `place_of` does."""
    found = _SCHEME.fullmatch(str(named))
    if found is None or (found[1].lower() not in SCHEMES and Path(named).exists()):
        return None
    scheme, rest = found[1].lower(), found[2].strip("/")  # pathlib has made one slash of two
    if scheme not in SCHEMES or found[2].startswith(":"):
        raise UsageProblem(
            f"{scheme}: begins no place that is read or written here, so nothing was done. Give a path, or a URL that "
            f"begins with {', '.join(f'{name}://' for name in SCHEMES)}."
        )
    if "@" in rest.partition("/")[0] or "::" in rest or (scheme in _READ_ONLY and "?" in rest):
        raise UsageProblem(
            f"A {scheme}:// URL with a user, a query or a chain in it is not opened: it would be shown in logs, with "
            "what is secret in it. Give the plain URL, and credentials by the store's own variables or files."
        )
    return f"{scheme}://{rest}"


class Piece(NamedTuple):
    """Bytes `begin` to `end` of the file `name`."""

    name: str
    begin: int
    end: int


@dataclass(frozen=True)
class Patience:
    """How often something is tried, and the longest pauses between: doubling, each shortened at random to 0 or more."""

    attempts: int = 7
    first_seconds: float = 0.5
    most_seconds: float = 20.0
    unanswered: int = 2
    """attempts as long as this process has had no answer at all, of which a long one counts twice: a wrong address is
    to be told at once"""

    def pauses(self) -> Iterator[float]:
        for tried in range(self.attempts - 1):
            yield random.uniform(0, min(self.most_seconds, self.first_seconds * 2**tried))


PATIENCE = Patience()


@dataclass(frozen=True)
class Store:
    """All files below a URL, by their names relative to it.

    What passes (5xx, time-outs, broken connections) is tried again; then EnvironmentProblem is raised, as at once for
    what is forbidden. FileNotFoundError means that a name is not there.
    """

    url: str
    patience: Patience = PATIENCE

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0]

    def known(self) -> "Store":
        """The same store for a process that may count on its being there, since another has spoken to it."""
        return replace(self, patience=replace(self.patience, unanswered=self.patience.attempts + 1))

    def writable(self) -> "Store":
        """The store itself. Raises UsageProblem where files can only be read."""
        if self.scheme in _READ_ONLY:
            raise UsageProblem(
                f"{self.url} can only be read, so nothing was written. Write to s3://, gs:// or a folder, and let a "
                "web server show that."
            )
        return self

    def place(self, name: str) -> str:
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes:
        return self._patiently(lambda store: store.cat_file(self.place(name)), name)

    def stat(self, name: str) -> tuple[int, float]:
        """Length of a file in bytes, and when it was written, in seconds since 1970; 0 where the store does not say."""
        about = self._patiently(lambda store: store.info(self.place(name)), name)
        if about["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, "not a file", self.place(name))
        written = about.get("LastModified") or about.get("created")
        return int(about["size"]), written.timestamp() if isinstance(written, datetime) else 0.0

    def download(self, name: str, path: Path) -> None:
        """Copy a file to `path`, which is not whole before this returns."""
        self._patiently(lambda store: store.get_file(self.place(name), str(path)), name)

    def ranges(self, pieces: Sequence[Piece]) -> list[bytes]:
        """The bytes of many pieces, read side by side; fewer where a file ends before its piece does."""
        found: dict[Piece, bytes] = {}

        def fetch(store: Any) -> None:
            left = [piece for piece in pieces if piece not in found]
            names, begins, ends = ([piece[part] for piece in left] for part in range(3))
            got = store.cat_ranges([self.place(str(name)) for name in names], begins, ends, on_error="return")
            failed = []
            for piece, part in zip(left, got, strict=True):
                if isinstance(part, FileNotFoundError):
                    raise FileNotFoundError(errno.ENOENT, "not there", self.place(piece.name)) from part
                if isinstance(part, Exception) and refusal.status_of(part) != 416:
                    failed.append(part)
                else:
                    found[piece] = b"" if isinstance(part, Exception) else bytes(part)
            for error in sorted(failed, key=refusal.passes)[:1]:
                raise error

        self._patiently(fetch, pieces[0].name if pieces else "")
        return [found[piece] for piece in pieces]

    def upload(self, path: Path, name: str) -> None:
        """Store a local file under a name, and make sure that its bytes arrived. Raises as `writable` does."""
        self.writable()
        try:
            self._patiently(lambda store: self._upload(store, path, self.place(name)), name)
        except FileNotFoundError as error:
            raise EnvironmentProblem(refusal.no_bucket(self.place(name))) from error

    def remove(self, names: Sequence[str]) -> None:
        """Delete files. Raises as `writable` does, and FileNotFoundError for one that is not there."""
        self.writable()
        for first in range(0, len(names), _REMOVED_TOGETHER):
            together = [self.place(name) for name in names[first : first + _REMOVED_TOGETHER]]
            self._patiently(partial(_removed, together), names[first])

    def sizes(self, folder: str) -> dict[str, int]:
        """The length in bytes of every file below a folder, '' being all; of none where there is no such folder."""
        root = self.place(folder) if folder else self.url
        try:
            found = self._patiently(lambda store: store.find(root, detail=True), folder)
        except FileNotFoundError:
            return {}
        start = len(re.sub(r"^[^/]*//", "", root)) + 1
        return {
            f"{folder}/{name.lstrip('/')[start:]}".lstrip("/"): int(about["size"])
            for name, about in found.items()
            if about.get("type") == "file" and len(name.lstrip("/")) > start
        }

    def _upload(self, store: Any, path: Path, place: str) -> None:
        store.put_file(str(path), place)
        there = store.info(place)
        if there["size"] != path.stat().st_size or not _has_bytes(store, place, str(there.get("ETag", "")), path):
            raise OSError(errno.EIO, f"{there['size']:,} bytes lie there that are not those of the file")

    def _patiently(self, act: Callable[[Any], Answer], name: str) -> Answer:
        """What `act` returns, in as many attempts as patience allows."""
        tried, begin = 0, time.monotonic()
        pauses = self.patience.pauses()
        while True:
            try:
                with _MEMORY if self.scheme == "memory" else contextlib.nullcontext():
                    answer = act((client := _client(self.scheme, os.getpid())).files)
                client.has_answered = True
                return answer
            except Exception as raised:
                error, tried = refusal.what_happened(raised), tried + 1
                if refusal.is_an_answer(error):
                    _client(self.scheme, os.getpid()).has_answered = True
                self._raise_what_stays(error, name)
                pause = next(pauses, None)
                if pause is None:
                    seconds = time.monotonic() - begin
                    raise EnvironmentProblem(refusal.unreachable(self.place(name), error, tried, seconds)) from error
                self._raise_when_silent(error, name, tried)
                log.warning("%s: %s; attempt %d in %.1f s", self.place(name), refusal.told(error), tried + 1, pause)
                time.sleep(pause)

    def _raise_when_silent(self, error: Exception, name: str, tried: int) -> None:
        may_wait = tried + refusal.is_late(error) < self.patience.unanswered
        if not may_wait and not _client(self.scheme, os.getpid()).has_answered:
            raise EnvironmentProblem(refusal.silent(self.place(name), self.scheme, error)) from error

    def _raise_what_stays(self, error: Exception, name: str) -> None:
        if refusal.is_no_bucket(error):
            raise EnvironmentProblem(refusal.no_bucket(self.place(name))) from error
        if isinstance(error, FileNotFoundError | UsageProblem | EnvironmentProblem):
            raise error
        if not refusal.is_of_the_store(error):
            raise error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise EnvironmentProblem(
                f"There is no room on this machine for {self.place(name)} ({error.strerror}). Nothing half-written is "
                "used. Free some space, or name a folder with room: SONOGRAPH_CACHE=DIR"
            ) from error
        if refusal.is_misdirected(error):
            raise EnvironmentProblem(refusal.misdirected(self.place(name), self.scheme, error)) from error
        if not refusal.passes(error):
            raise EnvironmentProblem(refusal.refused(self.place(name), self.scheme, error)) from error


class Url(PosixPath):
    """A path in a store, to be read as any other; written with both slashes, and never to be written to."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def absolute(self) -> "Url":
        return self

    def resolve(self, strict: bool = False) -> "Url":
        return self

    def read_bytes(self) -> bytes:
        return self._store.read(self.name)

    def open(self, mode: str = "r", *args: object, **options: object) -> Any:
        if mode != "rb":
            self.mkdir()
        return Stream(self._store, self.name, self.stat().st_size)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Its length, and when it was written. Raises FileNotFoundError."""
        size, seconds = self._store.stat(self.name)
        return os.stat_result((0o100644, 0, 0, 1, 0, 0, size, seconds, seconds, seconds))

    def is_file(self) -> bool:
        try:
            return bool(self.stat())
        except FileNotFoundError:
            return False

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self.is_file()

    def is_dir(self) -> bool:
        return False

    def is_symlink(self) -> bool:
        return False

    def rglob(self, pattern: str) -> Iterator["Url"]:  # type: ignore[override]
        return (self / name for name in sorted(Store(str(self)).sizes("")) if PurePosixPath(name).match(pattern))

    def glob(self, pattern: str) -> Iterator["Url"]:  # type: ignore[override]
        depth = len(self.parts) + len(PurePosixPath(pattern).parts)
        return (found for found in self.rglob(pattern) if len(found.parts) == depth)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> NoReturn:
        raise UsageProblem(
            f"{self} lies in a store, where this command does not write, so nothing was changed there. Name a folder "
            "of this machine."
        )

    @property
    def _store(self) -> Store:
        return Store(str(self.parent))


class Stream(io.RawIOBase):
    """The bytes of a file in a store from its begin, piece after piece."""

    def __init__(self, store: Store, name: str, size: int) -> None:
        super().__init__()
        self._store, self._name, self._left = store, name, range(size)
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._piece and self._left:
            wanted, self._left = self._left[:_STREAM_BYTES], self._left[_STREAM_BYTES:]
            (found,) = self._store.ranges([Piece(self._name, wanted.start, wanted.stop)])
            self._piece = memoryview(found)
        part, self._piece = self._piece[: len(buffer)], self._piece[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _has_bytes(store: Any, place: str, tag: str, path: Path) -> bool:
    """Whether the object is the file's bytes, as far as its tag tells: it is the MD5 of what went up in one piece.

    Where objects are encrypted it looks like one and is none: then they are read back.
    """
    tag = tag.strip('"')
    if not re.fullmatch(r"[0-9a-f]{32}", tag):
        return True
    with path.open("rb") as file:
        if hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == tag:
            return True
    return hashlib.sha256(store.cat_file(place)).hexdigest() == sha256_of(path)


def _removed(places: Sequence[str], store: Any) -> None:
    store.rm(places)


@dataclass
class _Client:
    """One of fsspec's file systems, and whether anything has ever come from the other end."""

    files: Any
    has_answered: bool = False


@cache
def _client(scheme: str, process: int) -> _Client:
    """One a process: fsspec would make one a thread. Its own retries, which do not jitter, are off."""
    import fsspec

    options = {"use_listings_cache": False, "skip_instance_cache": True, **_options(scheme)}
    try:
        store = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        extra = "sonograph[s3]" if scheme == "s3" else "gcsfs"
        raise EnvironmentProblem(
            f"{scheme}:// needs a package that is not here ({error}), so nothing was read or written. Install it: "
            f"pip install '{extra}'"
        ) from error
    if scheme == "s3":
        store.retries = 1
    return _Client(store)


def _options(scheme: str) -> dict[str, Any]:
    if scheme != "s3":
        return {}
    times = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _ANSWER_SECONDS}
    return {"config_kwargs": {"retries": {"total_max_attempts": 1}, "max_pool_connections": _CONNECTIONS, **times}}
