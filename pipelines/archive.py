"""Files inside tar and tar.gz archives, read where they lie: one pass finds them, then each is a seek away.

Nothing is unpacked, and nothing in an archive is obeyed: links, names that lead out of it and members of absurd size
are listed with their problem and never read. What the pass found is kept in a folder of ours, never beside the archive.
A pass takes 9 s/GB of sound; a member of a tar.gz then costs 3 to 8 ms more than a file, less in archive order. A seek
point takes 32 KiB, and there are about 8,192 at most: 256 MiB for the largest archives, 32 MiB for one of 1 GB.
"""

import gzip
import json
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

import indexed_gzip
import xxhash

from pipelines.recording import safe_id
from shards.manifest import read_table, table_schema, write_table
from shards.problem import DataProblem
from shards.store import whole_file, write_json

SUFFIXES = (".tar", ".tar.gz", ".tgz")
MEMBER_BYTES_LIMIT = 2 << 30
_WINDOW_BYTES, _MOST_POINTS = 32 << 10, 8192
_LEAST_SPACING_BYTES = 1 << 20
_READ_BYTES = 1 << 20  # also the most that a header of a member may take
_SCHEMA = table_schema({"name": "str", "offset": "int", "bytes": "int", "problem": "str"})
_ENDS = (".seek-points", ".parquet", ".json")


@dataclass(frozen=True, slots=True)
class Member:
    """Where a file lies in the archive once inflated, or why it is not read."""

    offset: int
    bytes: int
    problem: str = ""


class Archive:
    """An archive whose members are known by name; made by `open_archive`."""

    def __init__(self, path: Path, members: dict[str, Member], inflated: IO[bytes] | None) -> None:
        self.path, self.members, self._inflated = path, members, inflated

    def read(self, name: str) -> bytes:
        """The bytes of a member. Raises DataProblem when there is no such file in it or it must not be read."""
        member = self.members.get(name)
        if member is None:
            raise DataProblem(f"No such file in {self.path.name}")
        if member.problem:
            raise DataProblem(member.problem)
        with _tar_of(self.path, self._inflated) as file:
            file.seek(member.offset)
            payload = file.read(member.bytes)
        if len(payload) != member.bytes:
            raise DataProblem(f"{len(payload):,} of its {member.bytes:,} bytes can be read from {self.path.name}")
        return payload


def open_archive(root: Path, name: str, indexes: Path | None) -> Archive:
    """The archive `name` of the folder `root`. What the first pass finds is kept in `indexes`, or forgotten with None.

    Raises DataProblem when it is damaged or not whole.
    """
    status = (root / name).stat()
    return _opened(root, name, indexes, (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=4)  # a worker reads the same archives in task after task
def _opened(root: Path, name: str, indexes: Path | None, version: tuple[int, int]) -> Archive:
    path = root / name
    kept = _Kept(indexes, name, version) if indexes else None
    members = kept.members() if kept else None
    if kept and members is not None:
        return Archive(path, members, _inflated(path, kept.seek_points))
    members = dict(_listed(path))
    inflated = _inflated(path)
    if inflated:
        inflated.build_full_index()
    if kept:
        kept.write(members, inflated)
    return Archive(path, members, inflated)


class _Kept:
    """The files in which the findings of a pass over one version of an archive are kept; a JSON file last."""

    def __init__(self, folder: Path, name: str, version: tuple[int, int]) -> None:
        self._version = {"bytes": version[0], "mtime_ns": version[1]}
        place = folder / safe_id(name)
        self.seek_points, self.table, self.proof = (place.with_name(f"{place.name}{end}") for end in _ENDS)

    def members(self) -> dict[str, Member] | None:
        """What was found in this very version, or None where it is damaged."""
        try:
            if json.loads(self.proof.read_bytes()) != self._content():
                return None
            table = read_table(self.table).to_pydict()
        except (OSError, ValueError, DataProblem):
            return None
        columns = (table[column] for column in ("name", "offset", "bytes", "problem"))
        return {name: Member(offset, size, problem) for name, offset, size, problem in zip(*columns, strict=True)}

    def write(self, members: dict[str, Member], inflated: "indexed_gzip.IndexedGzipFile | None") -> None:
        self.proof.unlink(missing_ok=True)
        self.seek_points.unlink(missing_ok=True)
        rows = [
            {"name": name, "offset": member.offset, "bytes": member.bytes, "problem": member.problem}
            for name, member in members.items()
        ]
        write_table(self.table, rows, _SCHEMA)
        if inflated:
            with whole_file(self.seek_points) as points:
                inflated.export_index(fileobj=points)
        write_json(self.proof, self._content())

    def _content(self) -> dict[str, object]:
        """Which archive this is about, and the digest of the seek points: from wrong ones wrong bytes would inflate."""
        digest = xxhash.xxh3_128()
        if self.seek_points.is_file():
            with self.seek_points.open("rb") as file:
                while block := file.read(_READ_BYTES):
                    digest.update(block)
        return {**self._version, "seek_points": digest.hexdigest()}


def _inflated(path: Path, seek_points: Path | None = None) -> "indexed_gzip.IndexedGzipFile | None":
    """The inflated bytes of a compressed tar, with random access; it is given its seek points or has none yet."""
    if path.name.endswith(".tar"):
        return None
    return indexed_gzip.IndexedGzipFile(
        str(path),
        index_file=str(seek_points) if seek_points else None,
        spacing=_spacing_bytes(path),
        window_size=_WINDOW_BYTES,
        readbuf_size=_READ_BYTES >> 2,
        buffer_size=_READ_BYTES >> 2,
    )


def _spacing_bytes(path: Path) -> int:
    """From one seek point to the next, in inflated bytes, of which sound has up to twice as many as deflated ones."""
    return max(_LEAST_SPACING_BYTES, 2 * path.stat().st_size // _MOST_POINTS)


@contextmanager
def _tar_of(path: Path, inflated: IO[bytes] | None) -> Iterator[IO[bytes]]:
    if inflated:
        yield inflated
    else:
        with path.open("rb") as file:
            yield file


def _listed(path: Path) -> Iterator[tuple[str, Member]]:
    """Every member by its name. Raises DataProblem when the archive does not end as a whole one does."""
    seen: set[str] = set()
    limit = 2 * _MOST_POINTS * _spacing_bytes(path)
    try:
        with _streamed(path) as file:
            tar = tarfile.TarFile(fileobj=_SmallReads(file), mode="r")  # type: ignore[arg-type]
            while (found := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep a kilobyte for each
                if found.isreg() and found.offset_data + found.size > limit:
                    raise DataProblem(_bomb(path, limit))
                name = found.name.removeprefix("./")
                if not found.isdir():
                    yield _unlike(name, seen), Member(found.offset_data, found.size, _problem_of(found, name in seen))
                    seen.add(name)
            _require_end(path, file, tar.offset, limit)
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        raise DataProblem(_damaged(path, str(error))) from error


def _streamed(path: Path) -> IO[bytes]:
    return path.open("rb") if path.name.endswith(".tar") else cast(IO[bytes], gzip.open(path))


class _SmallReads:
    """A file of which nothing long is read at once: a header may claim to be followed by gigabytes of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def read(self, size: int) -> bytes:
        if size > _READ_BYTES:
            raise ValueError(f"a header claims {size:,} bytes")
        return self._file.read(size)


def _unlike(name: str, seen: set[str]) -> str:
    number = 1
    while (unlike := name if number == 1 else f"{name}#{number}") in seen:
        number += 1
    return unlike


def _problem_of(found: tarfile.TarInfo, is_second: bool) -> str:
    """Why a member is not read; empty when it is a plain file in a sane place."""
    if not found.isreg() or found.issparse():
        return "it is a link or a device in the archive, not a file"
    if found.name.startswith("/") or ".." in found.name.split("/"):
        return "its name leads out of the archive"
    if found.size > MEMBER_BYTES_LIMIT:
        return f"it is larger than {MEMBER_BYTES_LIMIT >> 30} GiB"
    return "the archive holds two files of this name" if is_second else ""


def _require_end(path: Path, file: IO[bytes], end: int, limit: int) -> None:
    """A tar ends with blocks of zeros: without them it was cut, and may still be read without an error."""
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataProblem(_damaged(path, "it has no end"))
    while file.tell() < limit and file.read(_READ_BYTES):  # the checksum stands behind the last byte
        pass


def _bomb(path: Path, limit: int) -> str:
    return (
        f"{path} would inflate to more than {limit >> 30} GiB, as no music of its size does, so it was not read to its "
        "end and nothing of it was used. Download it again from its publisher, or move it away."
    )


def _damaged(path: Path, cause: str) -> str:
    return (
        f"{path} cannot be read to its end: {cause}. Its download was probably interrupted, so files are missing from "
        f"it, and none was used. Download it again, compare its size with the publisher's ({path.stat().st_size:,} "
        "bytes are here), or move it away to go on without it."
    )
