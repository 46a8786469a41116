"""Many positioned reads in one call that does not hold Python's lock, so that reading threads add up.

Compiled by numba on first use, in half a second; `pread` is the C library's. os.preadv in turn gives 0.7 of its rate,
since two threads then hand the lock to and fro a thousand times a batch.
"""

from collections.abc import Callable
from functools import cache
from inspect import unwrap

import numpy as np


def bulk_read(
    files: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, into: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Copy `sizes[i]` bytes from byte `offsets[i]` of descriptor `files[i]` to byte `places[i]` of `into` (uint8).

    Returns how many bytes came for each, fewer at the end of a file, -1 where the system refused. All int64.
    """
    assert into.flags.c_contiguous and into.flags.writeable and into.dtype == np.uint8
    assert not len(places) or (places.min() >= 0 and sizes.min() >= 0 and (places + sizes).max() <= len(into))
    got = np.empty(len(files), np.int64)
    _compiled()(files, offsets, sizes, into.ctypes.data, places, got)
    return got


@cache
def _compiled() -> Callable[..., None]:
    from numba import njit, types  # here, since most of what imports this module never reads

    pread = types.ExternalFunction("pread", types.int64(types.int32, types.intp, types.uint64, types.int64))

    def loop(files, offsets, sizes, into, places, got):  # type: ignore[no-untyped-def]
        for at in range(files.size):
            got[at] = pread(files[at], into + places[at], sizes[at], offsets[at])

    i64 = types.int64[::1]
    return njit((i64, i64, i64, types.intp, i64, i64), nogil=True)(unwrap(loop))  # shape checkers wrap functions
