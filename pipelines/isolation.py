"""One piece of work after the other, such that one that kills or hangs its process costs itself only.

All is done in this process, at full speed, under a mark in a file. Where a run finds the mark of an earlier one, that
one died in its midst: now a child process does the work, and the piece that kills it or takes too long is given up.
"""

import ctypes
import faulthandler
import math
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import psutil

from shards.problem import EnvironmentProblem
from shards.store import PARTIAL

PIECE_SECONDS = 600.0
"""Longer than any sound recording takes; then its decoder hangs."""
_START_SECONDS = 300.0  # until a child on a busy machine has imported all it needs
_MOST_RUNS = 4
_MEMORY_SHARE = 0.8  # of what is free when a child starts: who takes more is given up before the machine gives out
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG

Piece = TypeVar("Piece")
Outcome = TypeVar("Outcome")


def each(
    function: Callable[[Piece], Outcome],
    pieces: Sequence[Piece],
    *,
    mark: Path,
    given_up: Callable[[Piece, str], Outcome],
    piece_seconds: float = PIECE_SECONDS,
) -> list[Outcome]:
    """`function(piece)` of every piece, or `given_up(piece, why)` of one that kills or hangs a child process.

    The function and its values must be fit to travel to another process. Raises EnvironmentProblem when runs die
    although their pieces are isolated.
    """
    runs = _begin(mark)
    if runs > _MOST_RUNS:
        mark.unlink(missing_ok=True)
        raise EnvironmentProblem(
            f"{mark.parent} could not be made in {_MOST_RUNS} attempts: each time the whole worker was killed, with "
            "every recording decoded in a process of its own. Finished shards are kept. It probably ran out of memory: "
            "pass fewer --workers or a smaller --shard-examples, and repeat the same command."
        )
    try:
        if runs > 1:
            return _apart(function, pieces, given_up, piece_seconds)
        return list(_watched(function, pieces, piece_seconds))
    finally:
        mark.unlink(missing_ok=True)


def mark_of(folder: Path, name: str) -> Path:
    """Where the mark of a piece of work lies: among the temporary files, which the next build removes."""
    return folder / f".{name}{PARTIAL}begun"


def _begin(mark: Path) -> int:
    """Leave a mark; returns how many there are. Raises EnvironmentProblem where there is no room for one."""
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        with mark.open("ab", buffering=0) as file:
            file.write(b".")
            return file.tell()
    except OSError as error:
        raise EnvironmentProblem(
            f"Nothing can be written to {mark.parent}: {error.strerror}. Finished shards are kept. See to its disk and "
            "its permissions, then repeat the same command: it continues where it stopped."
        ) from error


def _watched(function: Callable[[Piece], Outcome], pieces: Sequence[Piece], piece_seconds: float) -> Iterator[Outcome]:
    """Ends this process when a piece takes too long: native code that hangs never lets Python speak again."""
    armed = -math.inf
    try:
        for piece in pieces:
            if time.monotonic() - armed > piece_seconds / 10:  # winding it up takes longer than computing a mel
                faulthandler.dump_traceback_later(piece_seconds, exit=True)
                armed = time.monotonic()
            yield function(piece)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _apart(
    function: Callable[[Piece], Outcome],
    pieces: Sequence[Piece],
    given_up: Callable[[Piece, str], Outcome],
    piece_seconds: float,
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    child = _Child(function)
    for piece in pieces:
        try:
            outcomes.append(child.ask(piece, piece_seconds))
        except _Lost as lost:
            outcomes.append(given_up(piece, str(lost)))
            child.end()
            child = _Child(function)
    child.end()
    return outcomes


class _Lost(Exception):
    """A child died or hung."""


class _Child:
    """A fresh process that answers one piece at a time; not a fork, which would share this one's locks."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_answer, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self._received(_START_SECONDS)

    def ask(self, piece: Any, piece_seconds: float) -> Any:
        self.pipe.send(piece)
        outcome = self._received(piece_seconds)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _received(self, seconds: float) -> Any:
        if not self.pipe.poll(seconds):
            raise _Lost(f"its decoder hung: it was not done after {seconds:g} s")
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            raise _Lost(f"its decoder crashed: {_ending(self.process.exitcode or 0)}") from None


def _answer(function: Callable[[Any], Any], pipe: Connection) -> None:
    """What the child does, until nobody asks any more."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)  # native code that hangs hears of it in no other way
    _limit_memory()
    pipe.send("ready")
    try:
        while True:
            piece = pipe.recv()
            try:
                pipe.send(function(piece))
            except Exception as error:
                pipe.send(error)
    except (EOFError, OSError):
        return


def _limit_memory() -> None:
    """An allocation that this machine has no room for fails here, instead of having the system kill whom it likes."""
    room_bytes = psutil.Process().memory_info().vms + int(_MEMORY_SHARE * psutil.virtual_memory().available)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (room_bytes if soft == resource.RLIM_INFINITY else min(room_bytes, soft), hard)
    )


def _ending(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
