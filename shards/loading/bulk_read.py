"""Many reads or copies in one call that does not hold Python's lock, so that reading threads add up.

Compiled by numba on first use, in half a second; what they call are the C library's `pread`, `memcpy` and `madvise`.
os.preadv in turn gives 0.7 of the rate, since two threads then hand the lock to and fro a thousand times a batch.
"""

from collections.abc import Callable
from functools import cache
from inspect import unwrap
from mmap import PAGESIZE
from types import SimpleNamespace
from typing import Any

import numpy as np

_POPULATE_READ = 22  # of madvise(2), since Linux 5.14; refused before


def bulk_read(
    files: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, into: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Copy `sizes[i]` bytes from byte `offsets[i]` of descriptor `files[i]` to byte `places[i]` of `into` (uint8).

    Returns how many bytes came for each, fewer at the end of a file, -1 where the system refused. All int64.
    """
    _require_room(sizes, into, places)
    got = np.empty(len(files), np.int64)
    _compiled().read(files, offsets, sizes, into.ctypes.data, places, got)
    return got


def bulk_copy(addresses: np.ndarray, size: int, into: np.ndarray, places: np.ndarray) -> None:
    """Copy `size` bytes of memory from each of `addresses`, which the caller vouches for, to its place in `into`."""
    _require_room(np.array([size]), into, places)
    _compiled().copy(addresses, size, into.ctypes.data, places)


def is_present(addresses: np.ndarray, sizes: np.ndarray) -> bool:
    """Bring pieces of mapped files into memory; whether all are there.

    A touch of a page that cannot be read ends the process; this only says so.
    """
    return bool(_compiled().fetch(addresses, sizes) == 0)


def _require_room(sizes: np.ndarray, into: np.ndarray, places: np.ndarray) -> None:
    assert into.flags.c_contiguous and into.flags.writeable and into.dtype == np.uint8
    assert not len(places) or (places.min() >= 0 and sizes.min() >= 0 and (places + sizes).max() <= len(into))


@cache
def _compiled() -> SimpleNamespace:
    from numba import njit, types  # here, since most of what imports this module never reads

    i32, word, size = types.int32, types.intp, types.uint64
    i64 = types.int64[::1]
    pread = types.ExternalFunction("pread", types.int64(i32, word, size, types.int64))
    memcpy = types.ExternalFunction("memcpy", word(word, word, size))
    madvise = types.ExternalFunction("madvise", i32(word, size, i32))

    def read(files, offsets, sizes, into, places, got):  # type: ignore[no-untyped-def]
        for at in range(files.size):
            got[at] = pread(files[at], into + places[at], sizes[at], offsets[at])

    def copy(addresses, length, into, places):  # type: ignore[no-untyped-def]
        for at in range(addresses.size):
            memcpy(into + places[at], addresses[at], length)

    def fetch(addresses, sizes):  # type: ignore[no-untyped-def]
        refused = 0
        for at in range(addresses.size):
            first = addresses[at] // PAGESIZE * PAGESIZE
            refused += madvise(first, addresses[at] + sizes[at] - first, _POPULATE_READ) != 0  # type: ignore[call-overload]
        return refused

    def compiled(function: Callable, *arguments: Any) -> Callable:
        return njit(arguments, nogil=True)(unwrap(function))  # shape checkers wrap functions

    return SimpleNamespace(
        read=compiled(read, i64, i64, i64, word, i64, i64),
        copy=compiled(copy, i64, types.int64, word, i64),
        fetch=compiled(fetch, i64, i64),
    )
