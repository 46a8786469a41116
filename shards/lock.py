"""One writer to a folder at a time, by a lock of the system: a killed owner's is gone with it, never stale."""

import errno
import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from shards.problem import EnvironmentProblem

LOCK = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
log = logging.getLogger(__name__)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` against other commands that write there, from whatever machine shares it.

    No clock decides. Raises EnvironmentProblem, with who holds it, when another does, and when nothing can be written
    there; where the file system has no locks that is told, and nothing else happens. A folder that was made for this
    and got nothing else goes again.
    """
    is_new = not folder.exists()
    with _locked(folder) as file:
        owner = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.truncate(0)
        with suppress(OSError):  # a full disk has no room for the name of who holds the lock
            file.write(json.dumps(owner).encode())
        try:
            yield
        finally:
            file.truncate(0)
            if is_new:
                _leave_nothing(folder)


def _locked(folder: Path) -> BinaryIO:
    while True:
        file = _opened(folder)
        try:
            _lock(file, folder)
        except BaseException:
            file.close()
            raise
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # its last owner took it away after it was opened here: nobody else would meet this lock


def _lock(file: BinaryIO, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise EnvironmentProblem(_held(folder, file.read())) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        log.warning("%s  its file system has no locks: make sure that nothing else writes there", folder)


def _leave_nothing(folder: Path) -> None:
    with suppress(OSError):  # another may just have come: it finds that its lock is gone, and takes the new one
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()


def _opened(folder: Path) -> BinaryIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / LOCK).open("a+b", buffering=0)
    except OSError as error:
        raise EnvironmentProblem(
            f"Nothing can be written to {folder}: {error.strerror}. Nothing was done. Pass a folder that can be "
            "written, or see to its disk and its permissions, then repeat the same command."
        ) from error


def _held(folder: Path, said: bytes) -> str:
    try:
        owner = "process {pid} on {host}, since {since}".format(**json.loads(said))
    except (ValueError, KeyError, TypeError):
        owner = "another process"
    return (
        f"{folder} is being written by {owner}. Two at once would undo each other's unfinished files, so nothing was "
        "done. Wait for it or end it, then repeat the same command: it continues with what is there."
    )
