"""The tars of a column in a folder as memory: a copy from there takes half the time of a `pread` of the same bytes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

_MOST_TARS = 8_192  # a process may have some 65,000 mappings
_SHARE_OF_MEMORY = 0.5  # a column beyond that would not stay in memory, and its page tables would grow without use

Version = tuple[int, int, int]
"""Inode, size and time of change: what tells a file from one that takes its place, or from itself when written to."""


def version_of(status: os.stat_result) -> Version:
    return status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Mapped:
    """One version of a tar; its memory lasts as long as this."""

    version: Version
    memory: np.ndarray
    address: int


class Mappings:
    """Tars mapped when they are first met, and again when others have taken their place. For any number of threads.

    No descriptor stays open. A tar that somebody cuts short in the very moment of a copy ends the process with SIGBUS,
    as does a disk that fails to give again what was read before; our own commands replace whole files only.
    """

    def __init__(self, paths: Sequence[str], sizes: Sequence[int]) -> None:
        self._paths, self._sizes = paths, sizes
        self._mapped: dict[int, Mapped] = {}

    @staticmethod
    def suit(sizes: Sequence[int]) -> bool:
        """Whether tars of so many bytes can all be mapped, and stay in memory."""
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return len(sizes) <= _MOST_TARS and sum(sizes) <= _SHARE_OF_MEMORY * memory

    def current(self, shards: Sequence[int]) -> dict[int, Mapped] | None:
        """Each of the tars as it is now, or None when one cannot be had whole: reading it will tell why."""
        try:
            return {shard: self._current(shard) for shard in shards}
        except (OSError, RuntimeError):  # torch's own for what it cannot map
            return None

    def _current(self, shard: int) -> Mapped:
        path = self._paths[shard]
        version, known = version_of(os.stat(path)), self._mapped.get(shard)  # noqa: PTH116  # a Path takes twice as long
        if known is None or known.version != version:
            memory = torch.from_file(path, shared=False, size=self._sizes[shard], dtype=torch.uint8)
            known = Mapped(version, memory.numpy(), memory.data_ptr())
            if version_of(os.stat(path)) != version:  # noqa: PTH116
                raise OSError("another file is taking its place")
            self._mapped[shard] = known
        return known
