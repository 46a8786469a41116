"""Files that are whole or absent, and the digests that prove it."""

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shards.problem import EnvironmentProblem

PARTIAL = ".partial-"
_BLOCK_BYTES = 1 << 20


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing under a temporary name; it gets its own name only when all bytes are on the disk.

    Raises EnvironmentProblem when the disk is full; the temporary file is removed on any failure but SIGKILL.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A process id is not enough: machines that share a disk count their own.
    partial = path.with_name(f".{path.name}{PARTIAL}{uuid.uuid4().hex[:16]}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise EnvironmentProblem(_disk_full(path, error)) from error
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON with sorted keys, whole or not at all."""
    with whole_file(path) as file:
        file.write(canonical_json(content, indent=1) + b"\n")


def canonical_json(content: object, *, indent: int | None = None) -> bytes:
    """The one spelling of a JSON value that digests are taken over: sorted keys, no NaN, UTF-8."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(
        content, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators
    )
    return text.encode()


def digest_of(content: object) -> str:
    """SHA-256 of a JSON value's canonical spelling, in hexadecimal."""
    return hashlib.sha256(canonical_json(content)).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in blocks, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def remove_partials(folder: Path) -> int:
    """Delete temporary files that killed writers left below `folder`; returns how many."""
    stale = list(folder.rglob(f".*{PARTIAL}*"))
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


def _disk_full(path: Path, error: OSError) -> str:
    filesystem = os.statvfs(path.parent)
    free_mib = filesystem.f_bavail * filesystem.f_frsize / 2**20
    return (
        f"{path} could not be written: {error.strerror} ({free_mib:,.0f} MiB are free there). Nothing half-written was "
        "kept. Free some space or lift the limit, then repeat the same command: it continues where it stopped."
    )
