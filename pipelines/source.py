"""The bytes of a corpus' files: a path leads to a file under the root, or through an archive to one of its members.

Links that lie in the corpus folder are the user's and are followed; paths that metadata names never leave the root.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.archive import MEMBER_BYTES_LIMIT, SUFFIXES, Archive, Member, open_archive
from pipelines.recording import Recording
from shards.problem import DataProblem

NO_SUCH_FILE = "No such file"
LEADS_OUT = "its path leads out of the corpus folder"
SOURCE_BYTES_LIMIT = MEMBER_BYTES_LIMIT
"""Larger files are refused: a source is held in memory while it is decoded."""


def paths_of(recording: Recording) -> tuple[str, ...]:
    """Every file that a recording is made of."""
    return recording.parts or (recording.path,)


def read_source(root: Path, path: str, indexes: Path | None = None) -> bytes:
    """The bytes of a file. What a pass over an archive finds is kept in the folder `indexes`.

    Raises DataProblem when the path leads out of the root, or its file is none, too large, or damaged on its way
    through an archive; OSError when it cannot be read.
    """
    inside = in_archive(root, path)
    if inside:
        return open_archive(root, inside[0], indexes).read(inside[1])
    return plain_file(root, path).read_bytes()


def plain_file(root: Path, path: str) -> Path:
    """Where a path leads that goes through no archive: to a regular file of sane size.

    Raises DataProblem when it leads out of the root or to anything else; OSError when nothing is there.
    """
    if problem := path_problem(path):
        raise DataProblem(problem)
    status = (root / path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataProblem("it is a folder, pipe or device, not a file")
    if status.st_size > SOURCE_BYTES_LIMIT:
        raise DataProblem(f"it is larger than {SOURCE_BYTES_LIMIT >> 30} GiB")
    return root / path


def in_archive(root: Path, path: str) -> tuple[str, str] | None:
    """The archive that a path leads through, and the member's name in it; None for a plain file's path."""
    if ".t" not in path or path_problem(path):
        return None
    parts = path.split("/")
    for end in range(1, len(parts)):
        if parts[end - 1].endswith(SUFFIXES) and (root / (archive := "/".join(parts[:end]))).is_file():
            return archive, "/".join(parts[end:])
    return None


def path_problem(path: str) -> str:
    """Why a path must not be opened; empty for one that stays in the folder it is relative to."""
    if not path or path.startswith("/") or "\0" in path or ".." in path.split("/"):
        return LEADS_OUT
    return ""


def names_in(root: Path, folder: str, indexes: Path | None = None) -> Iterator[tuple[str, str]]:
    """Every file of a folder, or of an archive's folder, by its name there, with its problem; in no order.

    A folder of the disk is listed by itself, without those below it; one that is not there has none. Of an archive,
    refused members whose names lead anywhere are listed too. Raises DataProblem when the archive is not whole.
    """
    inside = in_archive(root, f"{folder}/")
    if not inside:
        if (root / folder).is_dir():
            yield from ((name, "") for name in os.listdir(root / folder))  # noqa: PTH208 - names, and nothing else
        return
    prefix = inside[1] if not inside[1] or inside[1].endswith("/") else f"{inside[1]}/"
    for name, member in open_archive(root, inside[0], indexes).members.items():
        if name.startswith(prefix) and "/" not in name.removeprefix(prefix):
            yield name.removeprefix(prefix), member.problem
        elif member.problem:
            yield name, member.problem


@dataclass
class Tree:
    """What is there: each folder is listed once, when a path in it is first asked for."""

    root: Path
    indexes: Path | None = None
    _folders: dict[str, frozenset[str]] = field(default_factory=dict)
    _archives: dict[str, Archive] = field(default_factory=dict)

    def problem(self, path: str) -> str:
        """Why there is nothing to read at `path`; empty when there is."""
        if path_problem(path):
            return path_problem(path)
        folder, _, name = path.rpartition("/")
        if ".t" in folder and (member := self._member(path)) is not None:
            return member.problem
        if folder not in self._folders:
            self._folders[folder] = self._names(folder)
        return "" if name in self._folders[folder] else NO_SUCH_FILE

    def forget_folders(self) -> None:
        """Give the memory back: a folder may hold millions of names."""
        self._folders.clear()

    def order(self, path: str) -> tuple[str, int]:
        """A place to sort paths by, so that an archive is only read forwards."""
        member = self._member(path) if ".t" in path else None
        return ("", 0) if member is None else (path.partition(".t")[0], member.offset)

    def status(self, path: str) -> tuple[int, int]:
        """Bytes and time of change (ns) of what is at `path`; those of the archive it is in for the time."""
        member = self._member(path) if ".t" in path else None
        if member is not None:
            archive = in_archive(self.root, path)
            return member.bytes, (self.root / archive[0]).stat().st_mtime_ns if archive else 0
        found = (self.root / path).stat()
        return found.st_size, found.st_mtime_ns

    def _member(self, path: str) -> Member | None:
        inside = self._inside(path)
        if not inside:
            return None
        return inside[0].members.get(inside[1], Member(0, 0, NO_SUCH_FILE))

    def _inside(self, path: str) -> tuple[Archive, str] | None:
        for name, archive in self._archives.items():
            if path.startswith(f"{name}/"):
                return archive, path[len(name) + 1 :]
        inside = in_archive(self.root, path)
        if not inside:
            return None
        self._archives[inside[0]] = open_archive(self.root, inside[0], self.indexes)
        return self._archives[inside[0]], inside[1]

    def _names(self, folder: str) -> frozenset[str]:
        try:
            with os.scandir(self.root / folder) as entries:
                return frozenset(entry.name for entry in entries)
        except OSError:
            return frozenset()  # what lies in a folder that is not there, or shut, is not there
